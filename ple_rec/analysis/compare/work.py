"""What is left of a comparison: trials of its variants where they are tuned, and runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ple_rec.analysis.compare.matrix import Matrix, Variant
from ple_rec.analysis.compare.runs import Done, Run, done_of, left_of, runs_of
from ple_rec.analysis.compare.tuning.sampler import space_of
from ple_rec.analysis.compare.tuning.study import Study
from ple_rec.analysis.compare.tuning.tune import tuned
from ple_rec.config.compare import TuneConfig
from ple_rec.errors import Option, UserError
from ple_rec.runs.layout import holds_run

Share = tuple[int, int]  # (i, n): only every n-th from the i-th


@dataclass(frozen=True)
class Work:
    """What there is to do.

    Args:
        matrix: The comparison, with the tuned values of the variants whose trials have ended.
        studies: The trials by variant; none where nothing is tuned.
        runs: Every run.
        left: Those that have not finished.
        share: Which are this host's.
    """

    matrix: Matrix
    studies: Mapping[str, Study]
    runs: Sequence[Run]
    left: Sequence[Run]
    share: Share

    def here(self, variant: str, seed: int = 0) -> bool:
        """Whether a run is this host's; of tuned variants all runs are that host's which tunes them."""
        index, of = self.share
        place = list(self.matrix.variants).index(variant)
        return (place if self.studies else place + seed) % of == index

    @property
    def own(self) -> list[Run]:
        """The runs that are left for this host."""
        return [run for run in self.left if self.here(run.variant, run.seed)]

    @property
    def variants(self) -> list[Variant]:
        """The variants that this host has trials or runs of."""
        names = [study.variant.name for study in self.own_studies if study.left] + [run.variant for run in self.own]
        return [self.matrix.variants[name] for name in dict.fromkeys(names)]

    @property
    def ready(self) -> list[Run]:
        """Of these, the runs that need not wait for trials."""
        return [run for run in self.own if not self.waits(run.variant)]

    @property
    def own_studies(self) -> list[Study]:
        """The studies of this host."""
        return [study for name, study in self.studies.items() if self.here(name)]

    @property
    def trials(self) -> int:
        """How many trials are left for this host."""
        return sum(study.left for study in self.own_studies)

    def waits(self, variant: str) -> bool:
        """Whether a variant's trials have not all ended."""
        return variant in self.studies and self.studies[variant].left > 0

    def done(self) -> Done:
        """What there is of every run; those of a variant whose trials have not ended are missing."""
        done = done_of(self.matrix, [run for run in self.runs if not self.waits(run.variant)])
        done.missing += sum(self.waits(run.variant) for run in self.runs)
        return done

    def describe(self, root: str, jobs: int) -> str:
        """Return a line that says how much there is to do."""
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
    """What is left of a comparison.

    What other hosts have is read while they train, so one file may be newer than another: each refuses its own alone.

    Args:
        matrix: The comparison as it is written, its cost made equal.
        studies: Of `studies_of`; they are read anew.
        root: Its directory.
        share: Of this host.
        overwrite: Whether trials and runs of other settings may be replaced; those count as left.
        remove: Remove those of this host.

    Raises:
        UserError: this host has trials or runs of other settings, without `overwrite`.
    """
    untuned = Work(matrix, studies, [], [], share)
    for name, study in studies.items():
        own = untuned.here(name)
        study.read(overwrite=overwrite or not own, remove=remove and own)
    found = tuned(matrix, studies)
    runs = runs_of(found, root)
    left = []
    for run in runs:
        own = untuned.here(run.variant, run.seed)
        if untuned.waits(run.variant):
            if own and not overwrite:
                _check_unused(studies[run.variant], run)
            left.append(run)
        else:
            left += left_of(found, [run], overwrite=overwrite or not own, remove=remove and own)
    return Work(found, studies, runs, left, share)


def studies_of(matrix: Matrix, tune: TuneConfig, root: Path) -> dict[str, Study]:
    """The trials of every variant, as yet unread; none where nothing is tuned.

    Args:
        matrix: The comparison as it is written, its cost made equal.
        tune: How many trials, and of what space.
        root: Directory of the comparison.

    Raises:
        UserError: a space that cannot be.
    """
    if not tune.trials:
        return {}
    space = space_of(matrix, tune)
    return {
        name: Study(variant, space, tune.trials, matrix.seeds[0], matrix.dataset, root / name)
        for name, variant in matrix.variants.items()
    }


def _check_unused(study: Study, run: Run) -> None:
    """Refuse, before hours of trials, those that may choose other values than a run which is there was trained with."""
    if holds_run(run.directory):
        raise UserError(
            str(run.directory),
            f"holds a run, and {study.left} of the {study.trials} trials of {run.variant} have not ended",
            "they may choose other values, and a run is never overwritten unasked",
            f"give {Option.OVERWRITE}: trials that have ended are kept, and so are runs of the values that they "
            f"choose; or another {Option.RUNS.to('DIR')}",
        )
