"""Training of the runs of a comparison in parallel.

A job is one run: a variant (model configuration) trained with one seed, or a trial, which tunes a variant. The end of a
trial may release further trials, whose values depend on its result. A run that was stopped by a signal, or that would
start after the deadline, stays unfinished, and the next call trains it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

from ple_rec.analysis.compare.gain import METRICS
from ple_rec.analysis.compare.runs import VariantRun
from ple_rec.analysis.compare.time_left import TimeLeft
from ple_rec.analysis.compare.workers import Outcome, Workers, wait_for_some
from ple_rec.analysis.series import FAILED
from ple_rec.config.load import dump_toml
from ple_rec.config.schema import Task
from ple_rec.errors import PreemptedError
from ple_rec.runs.layout import explain_write_errors, write_text
from ple_rec.runs.metrics import split_tasks
from ple_rec.runs.read import RunFiles
from ple_rec.text.units import metric_text

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ScheduledRun:
    """Job: a run to be trained.

    Args:
        run: The run.
        name: Name of the run for the log.
        on_end: Function that records the outcome of the run. It returns a text about the outcome for the log, and the
            jobs that can begin now.
    """

    run: VariantRun
    name: str
    on_end: Callable[[Outcome], tuple[str, Sequence[ScheduledRun]]]


def train_jobs(
    kind: str,
    jobs: Sequence[ScheduledRun],
    workers: Workers,
    deadline: float | None = None,
    variants_to_come: Callable[[], Sequence[str]] = list,
) -> list[str]:
    """Train jobs, and the jobs that they release. A failed job is recorded, and the others go on.

    Args:
        kind: Word for a job in the log, "trial" or "run".
        jobs: Jobs that can begin, in the order in which they do.
        workers: Workers that train them.
        deadline: Time (`time.monotonic`) after which no job is started; None for no limit.
        variants_to_come: Function that returns the variant of each job that has not been released yet.

    Returns:
        Names of the jobs that a signal stopped.

    Raises:
        UserError: A file cannot be written.
    """
    waiting: dict[Future[Outcome | None], ScheduledRun] = {}
    stopped: list[str] = []
    # Variants with a job that was stopped or not started. Such a job releases no further jobs of its variant.
    halted: set[str] = set()
    time_left, ended, count = TimeLeft(workers.parallel_runs), 0, len(jobs) + len(variants_to_come())

    def submit(further: Sequence[ScheduledRun]) -> None:
        for job in further:
            waiting[_submit(job.run, workers, deadline)] = job

    submit(jobs)
    time_left.note_running(waiting)
    while waiting:
        for future in wait_for_some(waiting):
            job, outcome = waiting.pop(future), future.result()
            if outcome is None or outcome.code == PreemptedError.exit_code:
                halted.add(job.run.variant)
                stopped += [] if outcome is None else [job.name]
                continue
            time_left.note_ended(job.run.variant, outcome)
            outcome_text, released = job.on_end(outcome)
            workers.save_files()
            submit(released)
            ended += 1
            to_come = [variant for variant in variants_to_come() if variant not in halted]
            eta = time_left.text({future: other.run.variant for future, other in waiting.items()}, to_come)
            logger.info(f"{kind} {ended} of {count}{eta}: {job.name}: {outcome_text}")
    if halted:
        why = f"asked to stop ({'; '.join(stopped)})" if stopped else "the time is up"
        logger.info(f"{why}: {count - ended} {kind}(s) are left for the next call")
    return stopped


def train_runs(
    tasks: Sequence[Task], runs: Sequence[VariantRun], workers: Workers, deadline: float | None = None
) -> list[str]:
    """Train runs, and write the reason of each failure to a file beside the directory of the run.

    Args:
        tasks: Tasks of all runs.
        runs: Runs to be trained, in this order.
        workers: Workers that train them.
        deadline: Time (`time.monotonic`) after which no run is started; None for no limit.

    Returns:
        Names of the runs that a signal stopped.

    Raises:
        UserError: A file cannot be written.
    """

    def job(run: VariantRun) -> ScheduledRun:
        def on_end(outcome: Outcome) -> tuple[str, Sequence[ScheduledRun]]:
            if outcome.code:
                write_text(run.sibling_file(FAILED), outcome.message + "\n")
            return _run_text(tasks, run, outcome), ()

        return ScheduledRun(run, f"{run.variant}, seed {run.seed}", on_end)

    return train_jobs("run", [job(run) for run in runs], workers, deadline)


def _submit(run: VariantRun, workers: Workers, deadline: float | None) -> Future[Outcome | None]:
    """Write the configuration of a run to a file beside its directory, and submit the run to the workers."""
    with explain_write_errors(run.directory.parent):
        run.directory.parent.mkdir(parents=True, exist_ok=True)
        run.sibling_file(FAILED).unlink(missing_ok=True)
    write_text(run.sibling_file(".toml"), dump_toml(run.config))
    return workers.submit(run.sibling_file(".toml"), run.directory, run.sibling_file(".log"), deadline)


def _run_text(tasks: Sequence[Task], run: VariantRun, outcome: Outcome) -> str:
    """Return a text for the log: the metrics of a run, or the reason why it failed."""
    if outcome.code:
        return f"failed: {outcome.message}"
    metrics = split_tasks(RunFiles(run.directory).metrics, "test")
    values = [(task.name, METRICS[task.kind], metrics[task.name].get(METRICS[task.kind])) for task in tasks]
    return ", ".join(f"{name} {metric} {'-' if v is None else metric_text(v)}" for name, metric, v in values)
