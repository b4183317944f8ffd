"""Who hears what a run reports, beside `train.jsonl` and the terminal: TensorBoard, an MLflow server.

Each listener is one file here and stands behind a `Background`; only rank 0 has any.
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

# Seconds to wait at the end for what is still to be sent, with results and without.
_FINISHED_SECONDS, _FAILED_SECONDS = 30.0, 2.0


def check_installed(config: WatchConfig) -> None:
    """Refuse what is asked for and not installed; a server is not spoken to.

    Raises:
        UserError: a package is missing.
    """
    tensorboard.check_installed(config.tensorboard)
    if config.mlflow is not None:
        mlflow.check_installed()


def check_reachable(config: WatchConfig) -> None:
    """Refuse a server that does not answer within a few seconds.

    Raises:
        UserError: it does not, or a package is missing.
    """
    check_installed(config)
    if config.mlflow is not None:
        mlflow.connect(config.mlflow)


class Loggers:
    """All that watch a run on this rank; no call raises, and none but `end` waits.

    Args:
        loggers: None of them on any rank but 0.
        absent: What would watch, were it installed.
    """

    def __init__(self, loggers: Sequence[RunLogger] = (), absent: Sequence[str] = ()) -> None:
        self.absent = tuple(absent)
        self._all = [BackgroundLogger(run_logger) for run_logger in loggers]
        self._ended = False

    def describe(self) -> str:
        """A line on who watches and where."""
        parts = [f"{one.run_logger.name} {one.run_logger.place}" for one in self._all]
        parts += [f"{name} not installed" for name in self.absent]
        return f"watched by: {', '.join(parts) or 'none'}"

    def begin(self, step: int, past: Sequence[Record]) -> None:
        """The run starts after `step` steps, of which `train.jsonl` says `past`."""
        for one in self._all:
            one.begin(step, past)

    def log(self, record: Record) -> None:
        """Take a record of `train.jsonl`."""
        for one in self._all:
            one.log(record)

    def end(self, ending: Ending) -> None:
        """Hand over what is left within a bounded time, and say what was not taken; a second call does nothing."""
        if self._ended:
            return
        self._ended = True
        for one in self._all:
            one.end(ending)
        last = time.monotonic() + (_FINISHED_SECONDS if ending.status == "finished" else _FAILED_SECONDS)
        for one in self._all:
            one.wait(last - time.monotonic())

    def finish(self, metrics: Mapping[str, Any], files: Mapping[str, str]) -> None:
        """End with results and with files worth keeping beside them."""
        self.end(Ending(time.time(), "finished", metrics, files))


def make_loggers(config: RunConfig, run: RunDirectory, *, resume: bool) -> Loggers:
    """Those of a configuration, for rank 0.

    Raises:
        UserError: a package is missing, or a server does not answer or refuses the run.
    """
    check_installed(config.watch)
    chosen: list[RunLogger] = []
    absent = []
    if config.watch.tensorboard is not False:
        if tensorboard.installed():
            chosen.append(tensorboard.TensorBoard(run.folder / TENSORBOARD, config, str(run / TENSORBOARD)))
        else:
            absent.append("tensorboard")
    if config.watch.mlflow is not None:
        chosen.append(mlflow.Mlflow(config, run, resume=resume))
    return Loggers(chosen, absent)


@contextmanager
def open_loggers(config: RunConfig, run: RunDirectory, *, resume: bool) -> Iterator[Loggers]:
    """Give the loggers of a run, which are told of its end whatever that is (a collective).

    Raises:
        UserError: as `make_loggers`; a PeerError on the other ranks.
    """
    chosen = run_on_rank_zero(lambda: make_loggers(config, run, resume=resume)) or Loggers()
    try:
        yield chosen
    except PreemptedError:
        chosen.end(Ending(time.time(), "preempted"))
        raise
    except BaseException as error:
        stopped = isinstance(error, KeyboardInterrupt | SystemExit)
        chosen.end(Ending(time.time(), "stopped" if stopped else "failed"))
        raise
    chosen.end(Ending(time.time(), "failed"))  # unless it has finished
