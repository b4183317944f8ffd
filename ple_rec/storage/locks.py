"""Locks on files. A lock ends with the process that holds it, however the process ends.

A file with a process id would not do: containers number their processes alike, so on a shared volume an id does not
tell whether its process is alive.
"""

from __future__ import annotations

import fcntl
import math
import os
import time
from pathlib import Path
from typing import IO, TextIO


class NoLocksError(OSError):
    """Error of a file system that has no locks."""


def take_lock(file: IO[str] | IO[bytes], *, shared: bool = False, wait: float = 0.0) -> bool:
    """Lock an open file until it is closed.

    Args:
        file: File to lock. For an exclusive lock it is open for writing.
        shared: True for a lock that others may share; False for an exclusive one.
        wait: Seconds to wait for another process to release the file; `math.inf` to wait without a limit.

    Returns:
        False if another process still holds the lock.

    Raises:
        NoLocksError: The file system has no locks.
    """
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    end = time.monotonic() + wait
    try:
        while True:
            try:
                fcntl.flock(file, kind if wait == math.inf else kind | fcntl.LOCK_NB)
                return True
            except BlockingIOError:
                if time.monotonic() >= end:
                    return False
                time.sleep(0.05)
    except OSError as error:
        raise NoLocksError(error.errno, error.strerror) from error


def open_locked(path: Path) -> TextIO | None:
    """Open a file, created if needed, and lock it until it is closed.

    Returns:
        None if another process holds the lock.

    Raises:
        NoLocksError: The file system has no locks.
        OSError: The file cannot be created.
    """
    while True:
        file = path.open("a+")
        try:
            locked = take_lock(file)
            if locked and _is_at(file, path):
                return file
        except OSError:
            file.close()
            raise
        file.close()
        if not locked:
            return None


def _is_at(file: TextIO, path: Path) -> bool:
    """Return True if a path still names an open file; a process that held the lock may have removed the file."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
