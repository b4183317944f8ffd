"""Loggers of a run, TensorBoard and MLflow, which receive the same records as the log `train.jsonl`.

Each logger is a module of this package. A `BackgroundLogger` calls it on a thread, so once a run has begun,
a slow or broken logger never delays or ends its steps. Only rank 0 has loggers.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from ple_rec.config.run import RunConfig, WatchConfig
from ple_rec.distributed.collectives import run_on_rank_zero
from ple_rec.errors import PreemptedError
from ple_rec.runs.directory import RunDirectory
from ple_rec.runs.layout import TENSORBOARD
from ple_rec.training.loggers import mlflow, tensorboard
from ple_rec.training.loggers.background import BackgroundLogger
from ple_rec.training.loggers.base import Ending, Record, RunLogger

__all__ = ["Loggers", "RunLogger", "check_installed", "check_reachable", "open_loggers"]

# Seconds that `end` waits at most until all records are sent: after a finished run, and after any other run.
_FINISHED_SECONDS, _FAILED_SECONDS = 30.0, 2.0


def check_installed(config: WatchConfig) -> None:
    """Refuse a required logger whose package is not installed, without a connection to any server.

    TensorBoard is required if `tensorboard` is true, MLflow if it is configured.

    Raises:
        UserError: A package is not installed.
    """
    tensorboard.check_installed(config.tensorboard)
    if config.mlflow is not None:
        mlflow.check_installed()


def check_reachable(config: WatchConfig) -> None:
    """Refuse a configured MLflow server that does not answer within a few seconds.

    Raises:
        UserError: The server does not answer, or the package of a required logger is not installed.
    """
    check_installed(config)
    if config.mlflow is not None:
        mlflow.connect(config.mlflow)


class Loggers:
    """All loggers of a run on this rank. No method raises an error of a logger, and only `end` and `finish` wait.

    Args:
        loggers: Loggers of rank 0; empty on the other ranks.
        not_installed: Names of loggers that are left out because their packages are not installed.
    """

    def __init__(self, loggers: Sequence[RunLogger] = (), not_installed: Sequence[str] = ()) -> None:
        self.not_installed = tuple(not_installed)
        self._loggers = [BackgroundLogger(run_logger) for run_logger in loggers]
        self._ended = False

    def describe(self) -> str:
        """Return a line with the name of each logger and the folder or page of its values."""
        parts = [f"{background.run_logger.name} {background.run_logger.place}" for background in self._loggers]
        parts += [f"{name} not installed" for name in self.not_installed]
        return f"watched by: {', '.join(parts) or 'none'}"

    def begin(self, step: int, past_records: Sequence[Record]) -> None:
        """Tell the loggers that the run begins, or that it goes on after some steps.

        Args:
            step: Number of steps done before.
            past_records: Records of `train.jsonl` up to that step.
        """
        for background in self._loggers:
            background.begin(step, past_records)

    def log(self, record: Record) -> None:
        """Pass a record of `train.jsonl` to the loggers."""
        for background in self._loggers:
            background.log(record)

    def end(self, ending: Ending) -> None:
        """Tell the loggers how the run ended, and wait a limited time until all records are sent.

        The terminal shows how many records were not sent in this time. A second call does nothing.

        Args:
            ending: End of the run.
        """
        if self._ended:
            return
        self._ended = True
        for background in self._loggers:
            background.end(ending)
        deadline = time.monotonic() + (_FINISHED_SECONDS if ending.status == "finished" else _FAILED_SECONDS)
        for background in self._loggers:
            background.wait(deadline - time.monotonic())

    def finish(self, metrics: Mapping[str, Any], files: Mapping[str, str]) -> None:
        """Tell the loggers that the run has finished, with its results, and wait as `end` does.

        Args:
            metrics: Content of `metrics.json`.
            files: Texts to store with the results, by file name.
        """
        self.end(Ending(time.time(), "finished", metrics, files))


def make_loggers(config: RunConfig, run: RunDirectory, *, resume: bool) -> Loggers:
    """Return the configured loggers of a run; only rank 0 calls this.

    Args:
        config: Configuration of the run.
        run: Directory of the run.
        resume: True if the run goes on from a checkpoint.

    Raises:
        UserError: A package is not installed, or the MLflow server does not answer or refuses the run.
    """
    check_installed(config.watch)
    run_loggers: list[RunLogger] = []
    not_installed = []
    # Unless the configuration says true or false, TensorBoard is used if it is installed.
    if config.watch.tensorboard is not False:
        if tensorboard.is_installed():
            run_loggers.append(tensorboard.TensorBoard(run.folder / TENSORBOARD, config, str(run / TENSORBOARD)))
        else:
            not_installed.append("tensorboard")
    if config.watch.mlflow is not None:
        run_loggers.append(mlflow.Mlflow(config, run, resume=resume))
    return Loggers(run_loggers, not_installed)


@contextmanager
def open_loggers(config: RunConfig, run: RunDirectory, *, resume: bool) -> Iterator[Loggers]:
    """Yield the loggers of a run, and tell them how the run ended; every rank has to call this.

    The block calls `Loggers.finish` if the run has finished. Without this call, the run counts as preempted after a
    PreemptedError, as stopped after KeyboardInterrupt or SystemExit, and else as failed.

    Args:
        config: Configuration of the run.
        run: Directory of the run.
        resume: True if the run goes on from a checkpoint.

    Raises:
        UserError: A package is not installed, or the MLflow server does not answer or refuses the run. Ranks other than
            0 raise a PeerError instead.
    """
    loggers = run_on_rank_zero(lambda: make_loggers(config, run, resume=resume)) or Loggers()
    try:
        yield loggers
    except PreemptedError:
        loggers.end(Ending(time.time(), "preempted"))
        raise
    except BaseException as error:
        stopped = isinstance(error, KeyboardInterrupt | SystemExit)
        loggers.end(Ending(time.time(), "stopped" if stopped else "failed"))
        raise
    # A run whose block did not call `finish` has failed. After `finish`, this call does nothing.
    loggers.end(Ending(time.time(), "failed"))
