"""Stop signals of a scheduler: one rank receives a signal, and all ranks stop at the same step."""

from __future__ import annotations

import os
import signal
import threading
import time
from types import FrameType
from typing import Any

from ple_rec.errors import Option, PreemptedError

# Schedulers send SIGTERM at the end of a job's time; Slurm can be configured to send SIGUSR1 some time earlier.
_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
# A signal within this time after the first one counts as its repetition.
_REPEAT_SECONDS = 5.0


class StopRequested(Exception):  # noqa: N818 - a request is no error
    """Raised on every rank at the same step, or batch of an evaluation, after a rank has received a stop signal."""


class Preemption:
    """Context in which SIGTERM and SIGUSR1 are recorded instead of ending the process.

    A signal within 5 s of the first one is ignored as its repetition: Slurm signals every process of a job, and
    torchrun's agent passes the signal that it gets on to the ranks. A later signal ends the process. In a thread other
    than the main thread, the context changes nothing.

    Args:
        grace_seconds: Seconds from the signal until the scheduler kills the process.
    """

    def __init__(self, grace_seconds: float) -> None:
        self.grace_seconds = grace_seconds
        self.signal: signal.Signals | None = None
        self._received_at = 0.0
        # Handlers of the caller; typeshed has no public name for their type.
        self._handlers: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Preemption:
        # Python handles signals in the main thread alone.
        if threading.current_thread() is threading.main_thread():
            self._handlers = {number: signal.signal(number, self._receive) for number in _SIGNALS}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.signal is None:
            self.signal, self._received_at = signal.Signals(number), time.monotonic()
        elif time.monotonic() - self._received_at > _REPEAT_SECONDS:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    @property
    def is_stop_requested(self) -> bool:
        """True if this rank has received a stop signal."""
        return self.signal is not None

    def seconds_left(self) -> float:
        """Return the seconds left until the process is killed; `grace_seconds` if this rank has received no signal."""
        return self.grace_seconds - (time.monotonic() - self._received_at if self.is_stop_requested else 0.0)


def preempted_error(name: str, step: int, total_steps: int, saved: str | None, reason: str) -> PreemptedError:
    """Return the error that ends a run after a stop signal.

    Args:
        name: Directory of the run.
        step: Number of steps done.
        total_steps: Number of steps of the run.
        saved: Name of the newest checkpoint; None if there is none.
        reason: Reason that the last step could not be saved; empty if it could.
    """
    checkpoint = "no checkpoint is saved" if saved is None else f"{saved} is saved"
    return PreemptedError(
        name,
        f"asked to stop at step {step:,} of {total_steps:,}" + (f", {reason}" if reason else ""),
        checkpoint,
        f"run it again with {Option.RESUME}" if saved is not None else "run it again",
    )
