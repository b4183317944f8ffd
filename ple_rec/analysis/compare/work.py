"""State of a comparison's work: its runs and trials, which of them have finished, and the host that trains each.

A run is one training of a variant with one seed. A trial is a run that tunes a variant on the validation split. The
files in the comparison's directory are the only state, so `read_work` can be called at any time and on any host.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ple_rec.analysis.compare.matrix import Matrix, Variant
from ple_rec.analysis.compare.runs import RunOutcomes, VariantRun, list_runs, read_outcomes, unfinished_runs
from ple_rec.analysis.compare.tuning.sampler import build_space
from ple_rec.analysis.compare.tuning.study import Study
from ple_rec.analysis.compare.tuning.tune import with_best_trials
from ple_rec.config.compare import TuneConfig
from ple_rec.errors import Option, UserError
from ple_rec.runs.layout import holds_run

# Share (i, n) of host i, from 0, of n hosts: the runs with (index of the variant + seed) % n == i. With tuning, all
# trials and runs of the variants with (index of the variant) % n == i.
Share = tuple[int, int]


@dataclass(frozen=True)
class Work:
    """Trials and runs of a comparison, finished or not.

    Args:
        matrix: The comparison, with the tuned values of the variants whose trials have ended.
        studies: Study of each variant, which holds its trials; empty without tuning.
        runs: Every run.
        unfinished_runs: Runs that have not finished.
        share: Share of this host.
    """

    matrix: Matrix
    studies: Mapping[str, Study]
    runs: Sequence[VariantRun]
    unfinished_runs: Sequence[VariantRun]
    share: Share

    def is_own(self, variant: str, seed: int = 0) -> bool:
        """Return True if this host trains the run of a variant with a seed.

        With tuning, the seed does not matter: one host trains all trials and runs of a variant.
        """
        index, hosts = self.share
        position = list(self.matrix.variants).index(variant)
        return (position if self.studies else position + seed) % hosts == index

    @property
    def own_runs(self) -> list[VariantRun]:
        """Unfinished runs of this host."""
        return [run for run in self.unfinished_runs if self.is_own(run.variant, run.seed)]

    @property
    def variants_left(self) -> list[Variant]:
        """Variants of which this host has unfinished trials or runs."""
        names = [study.variant.name for study in self.own_studies if study.trials_left] + [
            run.variant for run in self.own_runs
        ]
        return [self.matrix.variants[name] for name in dict.fromkeys(names)]

    @property
    def ready_runs(self) -> list[VariantRun]:
        """Unfinished runs of this host whose variant has no unfinished trials."""
        return [run for run in self.own_runs if not self.waits_for_trials(run.variant)]

    @property
    def own_studies(self) -> list[Study]:
        """Studies of the variants that this host tunes."""
        return [study for name, study in self.studies.items() if self.is_own(name)]

    @property
    def trials_left(self) -> int:
        """Number of unfinished trials of this host."""
        return sum(study.trials_left for study in self.own_studies)

    def waits_for_trials(self, variant: str) -> bool:
        """Return True if some trials of a variant have not ended."""
        return variant in self.studies and self.studies[variant].trials_left > 0

    def outcomes(self) -> RunOutcomes:
        """Return the outcomes of all runs. Runs of a variant whose trials have not ended count as missing."""
        outcomes = read_outcomes(self.matrix, [run for run in self.runs if not self.waits_for_trials(run.variant)])
        outcomes.missing += sum(self.waits_for_trials(run.variant) for run in self.runs)
        return outcomes

    def describe(self, root: str, jobs: int) -> str:
        """Return a line with the number of runs: all, finished ones, those to train on this host, and those at a time.

        With tuning, a line about the trials comes before it, and the number at a time is the larger one of trials and
        runs, since a host trains its trials before its runs.

        Args:
            root: Directory of the comparison.
            jobs: Largest number of runs in parallel.
        """
        variants, seeds = len(self.matrix.variants), len(self.matrix.seeds)
        own = len(self.own_runs)
        text = (
            f"{len(self.runs)} runs ({variants} variants x {seeds} seeds) in {root}: "
            f"{len(self.runs) - len(self.unfinished_runs)} finished, {own} to train here, "
            f"{min(jobs, max(own, self.trials_left)) or 1} side by side"
        )
        if not self.studies:
            return text
        count = next(iter(self.studies.values())).trials
        ended = sum(study.trials - study.trials_left for study in self.studies.values())
        return (
            f"{variants * count} trials ({variants} variants x {count}) first, on the validation split: {ended} ended, "
            f"{self.trials_left} to train here\n{text}"
        )


def read_work(
    matrix: Matrix,
    studies: Mapping[str, Study],
    root: Path,
    share: Share = (0, 1),
    *,
    overwrite: bool = False,
    remove: bool = False,
) -> Work:
    """Read the state of all trials and runs from the directory of a comparison.

    Trials and runs of other settings (another configuration, search space or dataset) are an error only in the share of
    this host. The files of other hosts may change while they are read, and then seem to have other settings.

    Args:
        matrix: The comparison before tuning; its variants have equal cost, unless `match` is "none".
        studies: Result of `create_studies`; this call updates the studies.
        root: Directory of the comparison.
        share: Share of this host.
        overwrite: True to count trials and runs of other settings as unfinished.
        remove: True to remove files now, in the share of this host: checkpoints of finished trials, and, if `overwrite`
            is set, trials and runs of other settings.

    Raises:
        UserError: `overwrite` is False, and the share of this host has trials or runs of other settings, or a run of a
            variant whose trials have not ended.
    """
    # This object without runs says only which host does what, and which variants have unfinished trials.
    work_without_runs = Work(matrix, studies, [], [], share)
    for name, study in studies.items():
        is_own = work_without_runs.is_own(name)
        study.read(overwrite=overwrite or not is_own, remove=remove and is_own)
    matrix = with_best_trials(matrix, studies)
    runs = list_runs(matrix, root)
    left = []
    for run in runs:
        is_own = work_without_runs.is_own(run.variant, run.seed)
        if work_without_runs.waits_for_trials(run.variant):
            if is_own and not overwrite:
                _check_unused(studies[run.variant], run)
            left.append(run)
        else:
            left += unfinished_runs(matrix, [run], overwrite=overwrite or not is_own, remove=remove and is_own)
    return Work(matrix, studies, runs, left, share)


def create_studies(matrix: Matrix, tune: TuneConfig, root: Path) -> dict[str, Study]:
    """Return a study for every variant, which `read_work` fills with its trials; empty without tuning.

    Args:
        matrix: The comparison before tuning; its variants have equal cost, unless `match` is "none".
        tune: Number of trials, and their search space.
        root: Directory of the comparison.

    Raises:
        UserError: `build_space` refuses the search space.
    """
    if not tune.trials:
        return {}
    space = build_space(matrix, tune)
    return {
        name: Study(variant, space, tune.trials, matrix.seeds[0], matrix.dataset_fingerprint, root / name)
        for name, variant in matrix.variants.items()
    }


def _check_unused(study: Study, run: VariantRun) -> None:
    """Refuse an existing run of a variant with unfinished trials, which may choose other values than the run has.

    Raises:
        UserError: The directory of the run holds one.
    """
    if holds_run(run.directory):
        raise UserError(
            str(run.directory),
            f"holds a run, and {study.trials_left} of the {study.trials} trials of {run.variant} have not ended",
            "the trials may choose other values than those of the run, and a run is never overwritten unasked",
            f"give {Option.OVERWRITE}, which keeps finished trials and runs with the values that the trials choose; "
            f"or another {Option.RUNS.with_value('DIR')}",
        )
