"""Training of the trials of all variants side by side; a batch of a variant starts when its previous one has ended.

compare.json has these results of them:

    {"tune": {"metric", "trials", "space"},
     "variants": {name: {.., "tuned": {key: value} | None,
                         "trials": {"number", "failed", "first", "best", "values"}}}}

`number` counts the trials that have ended. `first` and `best` are the metrics of the configuration as written and of
the best trial, `values` those of every trial (None if it failed, or has not ended). `tuned` is None until all trials
have ended.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

from ple_rec.analysis.compare.equal_cost import cost_of
from ple_rec.analysis.compare.matrix import Matrix, Variant
from ple_rec.analysis.compare.runs import VariantRun
from ple_rec.analysis.compare.scheduler import ScheduledRun, train_jobs
from ple_rec.analysis.compare.tuning.study import FOLDER, Study, space_record, tuned_config
from ple_rec.analysis.compare.workers import Outcome, Workers
from ple_rec.data.dataset import DatasetDirectory
from ple_rec.errors import Option, UserError
from ple_rec.runs.layout import claimed
from ple_rec.text.units import metric_text
from ple_rec.training.checks import select
from ple_rec.training.model import first_layer


def tune(studies: Sequence[Study], workers: Workers, until: float | None = None) -> list[str]:
    """Train the trials that are left; one that fails counts as a trial, and the others go on.

    Args:
        studies: Study of each variant, which has been read.
        workers: Workers that train the trials.
        until: Time (`time.monotonic`) after which no trial is started.

    Returns:
        Names of the trials that were asked to stop.

    Raises:
        UserError: A file cannot be written, or another process tunes one of these variants.
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
    """Lock a variant's trials, since a trial whose directory is in use would count as failed forever."""
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
    """Return the trials that can begin; the last of them to end releases the next batch."""

    def job(number: int, run: VariantRun) -> ScheduledRun:
        def on_end(outcome: Outcome) -> tuple[str, Sequence[ScheduledRun]]:
            study.end(number, outcome)
            return _words(study, number), _jobs(study)

        return ScheduledRun(run, f"{run.variant}, trial {number}", on_end)

    return [job(number, run) for number, run in study.next_runs()]


def with_best_trials(matrix: Matrix, studies: Mapping[str, Study]) -> Matrix:
    """Return the comparison with the values of the best trial in each variant whose trials have ended."""
    variants = {
        name: _with_best_trial(matrix, variant, studies[name])
        if name in studies and not studies[name].left
        else variant
        for name, variant in matrix.variants.items()
    }
    return replace(matrix, variants=variants)


def _with_best_trial(matrix: Matrix, variant: Variant, study: Study) -> Variant:
    config = tuned_config(study)
    # If costs are equal, the space has no key that changes them.
    if matrix.match != "none":
        return replace(variant, config=config)
    width, _ = first_layer(config, select(config, DatasetDirectory(config.data.path)))
    return replace(variant, config=config, cost=cost_of(config, [task.name for task in matrix.tasks], width))


def _words(study: Study, number: int) -> str:
    value, best = study.value(number), study.best
    if value is None:
        return f"failed: {study.failed(number)}"
    best_value = study.value(best) if best is not None else None
    return f"{study.metric} {metric_text(value)}" + ("" if best_value is None else f", best {metric_text(best_value)}")


def with_tuning(results: dict[str, Any], studies: Mapping[str, Study]) -> dict[str, Any]:
    """Return the content of compare.json with the results of the trials; it is unchanged without tuning."""
    if not studies:
        return results
    for name, variant in results["variants"].items():
        variant.update(_record(studies[name]))
    first = next(iter(studies.values()))
    return results | {"tune": {"metric": first.metric, "trials": first.trials, "space": space_record(first.space)}}


def _record(study: Study) -> dict[str, Any]:
    results, best = study.results, study.best
    return {
        "tuned": None if study.left else study.tuned(),
        "trials": {
            "number": sum(result is not None for result in results),
            "failed": sum(result is not None and result.score is None for result in results),
            "first": study.value(0),
            "best": None if best is None else study.value(best),
            "values": [study.value(n) for n in range(study.trials)],
        },
    }
