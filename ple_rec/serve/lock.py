"""A lock on a file; it ends with the process that holds it, however that ends, and says nothing of process ids.

Containers number their processes alike, so an id tells nobody on a shared volume who is alive.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import TextIO

from ple_rec.errors import UserError


def try_lock(path: Path) -> TextIO | None:
    """Open a file, made where it is not there, and lock it until it is closed.

    Args:
        path: Of the file.

    Returns:
        None where another one holds the lock, or has removed the file or its folder meanwhile.

    Raises:
        UserError: the file system has no locks.
        OSError: the file cannot be made.
    """
    try:
        file = path.open("a+")
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(file.fileno()), path.stat()):
            return file
    except (BlockingIOError, FileNotFoundError):
        pass
    except OSError as error:
        file.close()
        raise UserError(
            str(path),
            f"cannot be locked ({error.strerror})",
            "a lock keeps other processes from what one of them writes",
            "give an --out on a file system with locks",
        ) from error
    file.close()
    return None
