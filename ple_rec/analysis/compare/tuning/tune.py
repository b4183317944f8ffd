"""The trials of all variants, trained side by side; the next batch of a variant starts when its last one has ended."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace

from ple_rec.analysis.compare.equal_cost import cost_of
from ple_rec.analysis.compare.matrix import Matrix, Variant
from ple_rec.analysis.compare.runs import Run
from ple_rec.analysis.compare.scheduler import ScheduledRun, train_jobs
from ple_rec.analysis.compare.tuning.study import FOLDER, Study, tuned_config
from ple_rec.analysis.compare.workers import Outcome, Workers
from ple_rec.data.dataset import Dataset
from ple_rec.errors import Option, UserError
from ple_rec.runs.layout import claimed
from ple_rec.text.units import metric_text
from ple_rec.training.checks import select
from ple_rec.training.model import first_layer


def tune(studies: Sequence[Study], workers: Workers, until: float | None = None) -> list[str]:
    """Train the trials that are left; one that fails counts as a trial, and the others go on.

    Args:
        studies: Trials of each variant, as they were read.
        workers: Workers that train them.
        until: Time (`time.monotonic`) after which none is started.

    Returns:
        Names of the trials that were asked to stop.

    Raises:
        UserError: a file cannot be written, or another process tunes one of these variants.
    """
    with ExitStack() as locks:
        for study in studies:
            if study.left:
                locks.enter_context(_lock(study))

        def later() -> list[str]:
            return [study.variant.name for study in studies for _ in range(study.later)]

        return train_jobs("trial", [job for study in studies for job in _jobs(study)], workers, until, later)


@contextmanager
def _lock(study: Study) -> Iterator[None]:
    """Keep other processes from a variant's trials: a trial that one finds in use would count as failed, for good."""
    with ExitStack() as lock:
        try:
            lock.enter_context(claimed(study.folder / FOLDER))
        except UserError as error:
            raise UserError(
                error.place,
                error.value,
                "one process at a time tunes a variant",
                f"wait for it, stop it, or give another {Option.RUNS.to('DIR')}",
            ) from error
        yield


def _jobs(study: Study) -> list[ScheduledRun]:
    """Return the trials that can begin; the last of them to end brings the next batch."""

    def job(number: int, run: Run) -> ScheduledRun:
        def on_end(outcome: Outcome) -> tuple[str, Sequence[ScheduledRun]]:
            study.end(number, outcome)
            return _words(study, number), _jobs(study)

        return ScheduledRun(run, f"{run.variant}, trial {number}", on_end)

    return [job(number, run) for number, run in study.next_runs()]


def tuned(matrix: Matrix, studies: Mapping[str, Study]) -> Matrix:
    """The comparison with the values of the best trial in each variant whose trials have ended."""
    variants = {
        name: _tuned(matrix, variant, studies[name]) if name in studies and not studies[name].left else variant
        for name, variant in matrix.variants.items()
    }
    return replace(matrix, variants=variants)


def _tuned(matrix: Matrix, variant: Variant, study: Study) -> Variant:
    config = tuned_config(study)
    if matrix.match != "none":  # the space has no key that changes the cost
        return replace(variant, config=config)
    width, _ = first_layer(config, select(config, Dataset(config.data.path)))
    return replace(variant, config=config, cost=cost_of(config, [task.name for task in matrix.tasks], width))


def _words(study: Study, number: int) -> str:
    value, best = study.value(number), study.best
    if value is None:
        return f"failed: {study.failed(number)}"
    among = study.value(best) if best is not None else None
    return f"{study.metric} {metric_text(value)}" + ("" if among is None else f", best {metric_text(among)}")
