"""No process that an agent started outlives it: what it leaves is found by its environment, and killed."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

STALLED = "stalled"  # a file of the folder of `SAID`: a rank has named one that stands still, which the agent kills
SAID = "PLE_REC_SAID"  # environment of ranks and their children: a folder of the agent that started them
_PATIENCE_SECONDS = 5.0  # a process that waits in the kernel, for a device, may not die at once


def started_by(said: str) -> list[int]:
    """Processes of the agent whose folder is `said`, however they detached themselves; this one is not among them."""
    entry, found = f"{SAID}={said}".encode(), []
    for file in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):  # it has ended, or is another user's
            if entry in file.read_bytes().split(b"\0") and (process := int(file.parent.name)) != os.getpid():
                found.append(process)
    return found


def reap(said: str) -> None:
    """Kill all processes of an agent, and wait until they are gone."""
    end = time.monotonic() + _PATIENCE_SECONDS
    while (left := started_by(said)) and time.monotonic() < end:
        for process in left:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(process, signal.SIGKILL)
        time.sleep(0.05)
