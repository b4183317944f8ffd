"""The thread that writes a checkpoint while training goes on, with collectives of its own."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from datetime import timedelta

import torch.distributed as dist


class Background:
    """One piece of work at a time, in a thread; made by all ranks together (a collective).

    Its group is of gloo, whatever the default group is: its collectives never mix with those of the training step.

    Args:
        timeout_seconds: For which its collectives wait for another rank.
    """

    def __init__(self, timeout_seconds: float) -> None:
        timeout = timedelta(seconds=timeout_seconds)
        self.group: dist.ProcessGroup | None = dist.new_group(backend="gloo", timeout=timeout)
        self._thread: threading.Thread | None = None
        self._failed: BaseException | None = None

    @property
    def pending(self) -> bool:
        """Whether there is work that `wait` has not seen the end of."""
        return self._thread is not None

    @property
    def alive(self) -> bool:
        """Whether the thread still works."""
        return self._thread is not None and self._thread.is_alive()

    def start(self, work: Callable[[], None]) -> None:
        """Begin; `wait` must have seen the end of what was begun before."""
        assert self._thread is None

        def run() -> None:
            try:
                work()
            except BaseException as error:  # raised by `wait`
                self._failed = error

        self._thread = threading.Thread(target=run, name="checkpoint", daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Return when the work is done; raises what it raised."""
        if self._thread is None:
            return
        self._thread.join()
        self._thread = None
        failed, self._failed = self._failed, None
        if failed is not None:
            raise failed

    def close(self) -> None:
        """`wait`; what the work raised is said and not raised."""
        try:
            self.wait()
        except Exception as error:
            sys.stderr.write(f"ple-rec: the last checkpoint was not written: {error}\n")
