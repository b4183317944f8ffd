"""Remaining work of a comparison: trials of its variants if they are tuned, and runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ple_rec.analysis.compare.matrix import Matrix, Variant
from ple_rec.analysis.compare.runs import RunOutcomes, VariantRun, left_of, outcomes_of, runs_of
from ple_rec.analysis.compare.tuning.sampler import space_of
from ple_rec.analysis.compare.tuning.study import Study
from ple_rec.analysis.compare.tuning.tune import with_best_trials
from ple_rec.config.compare import TuneConfig
from ple_rec.errors import Option, UserError
from ple_rec.runs.layout import holds_run

# (i, n) stands for every n-th run from the i-th.
Share = tuple[int, int]


@dataclass(frozen=True)
class Work:
    """Trials and runs of a comparison, and those that are left.

    Args:
        matrix: The comparison, with the tuned values of the variants whose trials have ended.
        studies: Study of each variant; empty without tuning.
        runs: Every run.
        left: Runs that have not finished.
        share: Share of this host.
    """

    matrix: Matrix
    studies: Mapping[str, Study]
    runs: Sequence[VariantRun]
    left: Sequence[VariantRun]
    share: Share

    def is_own(self, variant: str, seed: int = 0) -> bool:
        """Return True if this host trains a run; with tuning, one host tunes a variant and trains all its runs."""
        index, of = self.share
        place = list(self.matrix.variants).index(variant)
        return (place if self.studies else place + seed) % of == index

    @property
    def own(self) -> list[VariantRun]:
        """Runs that are left for this host."""
        return [run for run in self.left if self.is_own(run.variant, run.seed)]

    @property
    def variants(self) -> list[Variant]:
        """Variants of which this host has trials or runs left."""
        names = [study.variant.name for study in self.own_studies if study.left] + [run.variant for run in self.own]
        return [self.matrix.variants[name] for name in dict.fromkeys(names)]

    @property
    def ready(self) -> list[VariantRun]:
        """Runs that are left for this host and need not wait for trials."""
        return [run for run in self.own if not self.waits(run.variant)]

    @property
    def own_studies(self) -> list[Study]:
        """Studies of this host."""
        return [study for name, study in self.studies.items() if self.is_own(name)]

    @property
    def trials(self) -> int:
        """Number of trials that are left for this host."""
        return sum(study.left for study in self.own_studies)

    def waits(self, variant: str) -> bool:
        """Return True if some trials of a variant have not ended."""
        return variant in self.studies and self.studies[variant].left > 0

    def outcomes(self) -> RunOutcomes:
        """Return the outcomes of all runs; runs of a variant whose trials have not ended are missing."""
        outcomes = outcomes_of(self.matrix, [run for run in self.runs if not self.waits(run.variant)])
        outcomes.missing += sum(self.waits(run.variant) for run in self.runs)
        return outcomes

    def describe(self, root: str, jobs: int) -> str:
        """Return the numbers of trials and runs, and how many are left here, as a line of the log each."""
        variants, seeds = len(self.matrix.variants), len(self.matrix.seeds)
        own = len(self.own)
        text = (
            f"{len(self.runs)} runs ({variants} variants x {seeds} seeds) in {root}: "
            f"{len(self.runs) - len(self.left)} finished, {own} to train here, "
            f"{min(jobs, max(own, self.trials)) or 1} side by side"
        )
        if not self.studies:
            return text
        each = next(iter(self.studies.values())).trials
        ended = sum(study.trials - study.left for study in self.studies.values())
        return (
            f"{variants * each} trials ({variants} variants x {each}) first, on the validation split: {ended} ended, "
            f"{self.trials} to train here\n{text}"
        )


def work_of(
    matrix: Matrix,
    studies: Mapping[str, Study],
    root: Path,
    share: Share = (0, 1),
    *,
    overwrite: bool = False,
    remove: bool = False,
) -> Work:
    """Read the state of all trials and runs from the directory of a comparison.

    Other hosts write while this one reads, so their files may contradict each other. A host therefore refuses foreign
    trials and runs of its own share alone.

    Args:
        matrix: The comparison as it is written, with equal cost.
        studies: Result of `studies_of`; the studies are read again.
        root: Directory of the comparison.
        share: Share of this host.
        overwrite: True to replace trials and runs of other settings; they count as left.
        remove: True to remove those of this host now.

    Raises:
        UserError: This host has trials or runs of other settings, without `overwrite`.
    """
    untuned = Work(matrix, studies, [], [], share)
    for name, study in studies.items():
        own = untuned.is_own(name)
        study.read(overwrite=overwrite or not own, remove=remove and own)
    matrix = with_best_trials(matrix, studies)
    runs = runs_of(matrix, root)
    left = []
    for run in runs:
        own = untuned.is_own(run.variant, run.seed)
        if untuned.waits(run.variant):
            if own and not overwrite:
                _check_unused(studies[run.variant], run)
            left.append(run)
        else:
            left += left_of(matrix, [run], overwrite=overwrite or not own, remove=remove and own)
    return Work(matrix, studies, runs, left, share)


def studies_of(matrix: Matrix, tune: TuneConfig, root: Path) -> dict[str, Study]:
    """Return the study of every variant, which is not read yet; empty without tuning.

    Args:
        matrix: The comparison as it is written, with equal cost.
        tune: Number of trials, and the space that they search.
        root: Directory of the comparison.

    Raises:
        UserError: The space has a key or value that a variant refuses.
    """
    if not tune.trials:
        return {}
    space = space_of(matrix, tune)
    return {
        name: Study(variant, space, tune.trials, matrix.seeds[0], matrix.dataset, root / name)
        for name, variant in matrix.variants.items()
    }


def _check_unused(study: Study, run: VariantRun) -> None:
    """Refuse a run whose directory holds one already, since the trials may choose other values than it has."""
    if holds_run(run.directory):
        raise UserError(
            str(run.directory),
            f"holds a run, and {study.left} of the {study.trials} trials of {run.variant} have not ended",
            "they may choose other values, and a run is never overwritten unasked",
            f"give {Option.OVERWRITE}: trials that have ended are kept, and so are runs of the values that they "
            f"choose; or another {Option.RUNS.to('DIR')}",
        )
