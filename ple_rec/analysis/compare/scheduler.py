"""Training of trials and runs side by side, until none is left; the end of a trial may release further ones.

A run whose process was asked to stop, or whose turn comes after the time is up, has not ended: it is left for the next
call.
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
from ple_rec.runs.layout import write_text, writing
from ple_rec.runs.metrics import split_tasks
from ple_rec.runs.read import RunFiles
from ple_rec.text.units import metric_text

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ScheduledRun:
    """A run to be trained.

    Args:
        run: The run.
        name: Name of the run in a line of the log.
        on_end: Function that records the outcome, and returns it in words with the jobs that can begin now.
    """

    run: VariantRun
    name: str
    on_end: Callable[[Outcome], tuple[str, Sequence[ScheduledRun]]]


def train_jobs(
    kind: str,
    jobs: Sequence[ScheduledRun],
    workers: Workers,
    until: float | None = None,
    later: Callable[[], Sequence[str]] = list,
) -> list[str]:
    """Train jobs and those that they release; one that fails is recorded, and the others go on.

    Args:
        kind: Word for a job in the log, "trial" or "run".
        jobs: Jobs that can begin, in this order.
        workers: Workers that train them.
        until: Time (`time.monotonic`) after which no job is started.
        later: Function that returns the variant of each job that has not been released yet.

    Returns:
        Names of the jobs that were asked to stop.

    Raises:
        UserError: A file cannot be written.
    """
    waiting: dict[Future[Outcome | None], ScheduledRun] = {}
    stopped: list[str] = []
    # A job that is left releases no others of its variant.
    halted: set[str] = set()
    time_left, ended, count = TimeLeft(workers.jobs), 0, len(jobs) + len(later())

    def submit(further: Sequence[ScheduledRun]) -> None:
        for job in further:
            waiting[_submit(job.run, workers, until)] = job

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
            words, further = job.on_end(outcome)
            workers.keep()
            submit(further)
            ended += 1
            to_come = [variant for variant in later() if variant not in halted]
            eta = time_left.text({future: other.run.variant for future, other in waiting.items()}, to_come)
            logger.info(f"{kind} {ended} of {count}{eta}: {job.name}: {words}")
    if halted:
        why = f"asked to stop ({'; '.join(stopped)})" if stopped else "the time is up"
        logger.info(f"{why}: {count - ended} {kind}(s) are left for the next call")
    return stopped


def train_runs(
    tasks: Sequence[Task], runs: Sequence[VariantRun], workers: Workers, until: float | None = None
) -> list[str]:
    """Train runs; the reason of a failure goes to a file beside the run's directory.

    Args:
        tasks: Tasks of all runs.
        runs: Runs to be trained, in this order.
        workers: Workers that train them.
        until: Time (`time.monotonic`) after which no run is started.

    Returns:
        Names of the runs that were asked to stop.

    Raises:
        UserError: A file cannot be written.
    """

    def job(run: VariantRun) -> ScheduledRun:
        def on_end(outcome: Outcome) -> tuple[str, Sequence[ScheduledRun]]:
            if outcome.code:
                write_text(run.beside(FAILED), outcome.message + "\n")
            return _words(tasks, run, outcome), ()

        return ScheduledRun(run, f"{run.variant}, seed {run.seed}", on_end)

    return train_jobs("run", [job(run) for run in runs], workers, until)


def _submit(run: VariantRun, workers: Workers, until: float | None) -> Future[Outcome | None]:
    """Submit a run to the workers, with its configuration in a file beside its directory."""
    with writing(run.directory.parent):
        run.directory.parent.mkdir(parents=True, exist_ok=True)
        run.beside(FAILED).unlink(missing_ok=True)
    write_text(run.beside(".toml"), dump_toml(run.config))
    return workers.submit(run.beside(".toml"), run.directory, run.beside(".log"), until)


def _words(tasks: Sequence[Task], run: VariantRun, outcome: Outcome) -> str:
    """Return the metrics of a run, or the reason why it failed."""
    if outcome.code:
        return f"failed: {outcome.message}"
    metrics = split_tasks(RunFiles(run.directory).metrics, "test")
    values = [(task.name, METRICS[task.kind], metrics[task.name].get(METRICS[task.kind])) for task in tasks]
    return ", ".join(f"{name} {metric} {'-' if v is None else metric_text(v)}" for name, metric, v in values)
