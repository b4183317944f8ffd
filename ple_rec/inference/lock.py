"""The lock of a process that exports or predicts."""

from __future__ import annotations

from pathlib import Path
from typing import TextIO

from ple_rec.errors import Option, UserError
from ple_rec.storage.locks import NoLocksError, open_locked


def try_lock(path: Path) -> TextIO | None:
    """Open a file, made where it is not there, and lock it until it is closed.

    Returns:
        None where another process holds it, or has removed its folder meanwhile.

    Raises:
        UserError: The file system has no locks.
        OSError: The file cannot be made.
    """
    try:
        return open_locked(path)
    except FileNotFoundError:
        return None
    except NoLocksError as error:
        raise UserError(
            str(path),
            f"cannot be locked ({error.strerror})",
            "a lock keeps other processes from what one of them writes",
            f"give an {Option.OUT} on a file system with locks",
        ) from error
