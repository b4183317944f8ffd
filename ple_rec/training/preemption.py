"""A scheduler's wish that the job stops: received by any rank, agreed on by all, saved if the time is enough."""

from __future__ import annotations

import os
import signal
import threading
import time
from types import FrameType
from typing import Any

from ple_rec.errors import Option, PreemptedError

_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)  # schedulers send the one at the end, Slurm the other ahead if asked to
_SAME_WISH_SECONDS = 5.0


class StopRequested(Exception):  # noqa: N818 - a request is no error
    """Exception on every rank, at the same step or batch of an evaluation, after one rank received a stop signal."""


class Preemption:
    """Receives SIGTERM and SIGUSR1 while it is entered, instead of ending at once.

    A second signal ends the process as it would have done without, unless it follows so soon that it is the same wish:
    Slurm signals every process of a job, and the agent passes on to the ranks what it gets.

    Args:
        grace_seconds: Seconds from the signal to the end of the process by force.
    """

    def __init__(self, grace_seconds: float) -> None:
        self.grace_seconds = grace_seconds
        self.signal: signal.Signals | None = None
        self._received_at = 0.0
        self._before: dict[signal.Signals, Any] = {}  # typeshed gives what signal() returned no name

    def __enter__(self) -> Preemption:
        if threading.current_thread() is threading.main_thread():  # only there can a signal be handled
            self._before = {number: signal.signal(number, self._receive) for number in _SIGNALS}
        return self

    def __exit__(self, *error: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.signal is None:
            self.signal, self._received_at = signal.Signals(number), time.monotonic()
        elif time.monotonic() - self._received_at > _SAME_WISH_SECONDS:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    @property
    def received(self) -> bool:
        """True once this rank has received a stop signal."""
        return self.signal is not None

    def seconds_left(self) -> float:
        """Return the rest of the grace period; all of it if another rank has received the signal."""
        return self.grace_seconds - (time.monotonic() - self._received_at if self.received else 0.0)


def preempted(name: str, step: int, total_steps: int, saved: str | None, why_not: str) -> PreemptedError:
    """The error that ends a run that was asked to stop.

    Args:
        name: Of the run's directory.
        step: That is done.
        total_steps: Of the run.
        saved: The newest checkpoint, or None without any.
        why_not: Why the last step is not saved; empty where it is.
    """
    kept = "no checkpoint is saved" if saved is None else f"{saved} is saved"
    return PreemptedError(
        name,
        f"asked to stop at step {step:,} of {total_steps:,}" + (f", {why_not}" if why_not else ""),
        kept,
        f"run it again with {Option.RESUME}" if saved is not None else "run it again",
    )
