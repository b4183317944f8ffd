"""Locks on files of this machine (`flock`). A lock ends with the process that holds it, even if the process is killed.

A file with a process id could not replace a lock: containers on a shared volume use the same ids, so an id does not
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
        file: File to lock; for an exclusive lock it must be open for writing.
        shared: True for a lock that others may share; False for an exclusive one.
        wait: Seconds to wait for another process to release the file; `math.inf` to wait without a limit.

    Returns:
        True if the file is locked, False if another process still holds a lock.

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

    If the former holder removes the file before it is locked here, the file is created and locked anew.

    Returns:
        Open and locked file; None if another process holds the lock.

    Raises:
        NoLocksError: The file system has no locks.
        OSError: The file cannot be created.
    """
    while True:
        file = path.open("a+", encoding="utf-8")
        try:
            locked = take_lock(file)
            if locked and _is_file_at(file, path):
                return file
        except OSError:
            file.close()
            raise
        file.close()
        if not locked:
            return None


def _is_file_at(file: TextIO, path: Path) -> bool:
    """Return True if a path still names the open file; the former holder of the lock may have removed it."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
