"""Locks on files; a lock ends with the process that holds it, however that ends, and says nothing of process ids.

Containers number their processes alike, so an id tells nobody on a shared volume who is alive.
"""

from __future__ import annotations

import fcntl
import math
import os
import time
from pathlib import Path
from typing import IO, TextIO


class NoLocksError(OSError):
    """A file system that has no locks."""


def take_lock(file: IO[str] | IO[bytes], *, shared: bool = False, wait: float = 0.0) -> bool:
    """Lock an open file until it is closed.

    Args:
        file: File to lock; for a lock that is not shared, one that is open for writing.
        shared: True for a lock that others may share.
        wait: Seconds that another process has to let go of the file; `math.inf` for as long as it takes.

    Returns:
        False where another process still holds it.

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
    """Open a file, made where it is not there, and lock it until it is closed.

    Returns:
        None where another process holds it.

    Raises:
        NoLocksError: The file system has no locks.
        OSError: The file cannot be made.
    """
    while True:
        file = path.open("a+")
        try:
            taken = take_lock(file)
            if taken and _is_at(file, path):
                return file
        except OSError:
            file.close()
            raise
        file.close()
        if not taken:
            return None


def _is_at(file: TextIO, path: Path) -> bool:
    """Return whether a path still leads to an open file, which the process that held its lock may have removed."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
