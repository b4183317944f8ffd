"""Training of the trials of all variants in parallel, and their results in compare.json.

A variant is one model configuration. A trial is one training of it with values that sampler.py proposes in batches. The
next batch of a variant starts when the previous one has ended. compare.json has these results:

    {"tune": {"metric", "trials", "space"},
     "variants": {name: {.., "tuned": {key: value} | None,
                         "trials": {"number", "failed", "first", "best", "values"}}}}

In `trials`, `number` is the number of trials that have ended. `first` and `best` are the metrics of trial 0, the
configuration before tuning, and of the best trial; `values` are the metrics of all trials. A metric is None if the
trial failed, or has not ended. `tuned` holds the values of the best trial (of trial 0 if all failed), and is None until
all trials have ended.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

from ple_rec.analysis.compare.equal_cost import compute_cost
from ple_rec.analysis.compare.matrix import Matrix, Variant
from ple_rec.analysis.compare.runs import VariantRun
from ple_rec.analysis.compare.scheduler import ScheduledRun, train_jobs
from ple_rec.analysis.compare.tuning.study import FOLDER, Study, best_config, space_record
from ple_rec.analysis.compare.workers import Outcome, Workers
from ple_rec.data.dataset import DatasetDirectory
from ple_rec.errors import Option, UserError
from ple_rec.runs.layout import hold_lock
from ple_rec.text.units import metric_text
from ple_rec.training.checks import select_run_columns
from ple_rec.training.model import first_layer_shape


def tune(studies: Sequence[Study], workers: Workers, deadline: float | None = None) -> list[str]:
    """Train the trials that have not ended. A failed trial has ended, and the others go on.

    Args:
        studies: Study of each variant, which `Study.read` has filled.
        workers: Workers that train the trials.
        deadline: Time (`time.monotonic`) after which no trial is started; None for no limit.

    Returns:
        Names of the trials that a signal stopped.

    Raises:
        UserError: A file cannot be written, or another process tunes one of these variants.
    """
    with ExitStack() as locks:
        for study in studies:
            if study.trials_left:
                locks.enter_context(_lock(study))

        def variants_to_come() -> list[str]:
            return [study.variant.name for study in studies for _ in range(study.trials_to_begin)]

        return train_jobs(
            "trial", [job for study in studies for job in _jobs(study)], workers, deadline, variants_to_come
        )


@contextmanager
def _lock(study: Study) -> Iterator[None]:
    """Lock the trials of a variant, since a trial whose directory another process uses would be recorded as failed."""
    with ExitStack() as lock:
        try:
            lock.enter_context(hold_lock(study.folder / FOLDER))
        except UserError as error:
            raise UserError(
                error.place,
                error.value,
                "one process at a time tunes a variant",
                f"wait for it, stop it, or give another {Option.RUNS.with_value('DIR')}",
            ) from error
        yield


def _jobs(study: Study) -> list[ScheduledRun]:
    """Return a job for each trial that can begin now. The job that ends last releases the next batch."""

    def job(number: int, run: VariantRun) -> ScheduledRun:
        def on_end(outcome: Outcome) -> tuple[str, Sequence[ScheduledRun]]:
            study.record_outcome(number, outcome)
            return _trial_text(study, number), _jobs(study)

        return ScheduledRun(run, f"{run.variant}, trial {number}", on_end)

    return [job(number, run) for number, run in study.next_runs()]


def with_best_trials(matrix: Matrix, studies: Mapping[str, Study]) -> Matrix:
    """Return the comparison, with each variant whose trials have all ended changed to the values of its best trial."""
    variants = {
        name: _with_best_trial(matrix, variant, studies[name])
        if name in studies and not studies[name].trials_left
        else variant
        for name, variant in matrix.variants.items()
    }
    return replace(matrix, variants=variants)


def _with_best_trial(matrix: Matrix, variant: Variant, study: Study) -> Variant:
    config = best_config(study)
    # If costs were made equal, the space has no key that changes them, so the cost of the variant stays.
    if matrix.match != "none":
        return replace(variant, config=config)
    width, _ = first_layer_shape(config, select_run_columns(config, DatasetDirectory(config.data.path)))
    return replace(variant, config=config, cost=compute_cost(config, [task.name for task in matrix.tasks], width))


def _trial_text(study: Study, number: int) -> str:
    value, best = study.metric_value(number), study.best
    if value is None:
        return f"failed: {study.failure_reason(number)}"
    best_value = study.metric_value(best) if best is not None else None
    return f"{study.metric} {metric_text(value)}" + ("" if best_value is None else f", best {metric_text(best_value)}")


def add_tuning_results(results: dict[str, Any], studies: Mapping[str, Study]) -> dict[str, Any]:
    """Return the content of compare.json with the results of the trials; without tuning, return it unchanged."""
    if not studies:
        return results
    for name, variant in results["variants"].items():
        variant.update(_record(studies[name]))
    first = next(iter(studies.values()))
    return results | {"tune": {"metric": first.metric, "trials": first.trials, "space": space_record(first.space)}}


def _record(study: Study) -> dict[str, Any]:
    results, best = study.results, study.best
    return {
        "tuned": None if study.trials_left else study.best_values(),
        "trials": {
            "number": sum(result is not None for result in results),
            "failed": sum(result is not None and result.score is None for result in results),
            "first": study.metric_value(0),
            "best": None if best is None else study.metric_value(best),
            "values": [study.metric_value(n) for n in range(study.trials)],
        },
    }
