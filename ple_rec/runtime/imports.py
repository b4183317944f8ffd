"""Imports of large packages, without the garbage collector; torch, or what to do about it."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from ple_rec.errors import UserError


@contextmanager
def large_imports() -> Iterator[None]:
    """Collect nothing in the block, which imports, and look at what it made in no collection to come.

    Torch and torchrec make some 300,000 objects that stay. While they are loaded the collector goes through them again
    and again, a sixth of the time, and later every full collection does once more, on each rank at a moment of its own:
    the other ranks wait for it.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if collects:
            gc.enable()


def import_torch(*, alone: bool) -> None:
    """Import torch and torchrec.

    Args:
        alone: Flag that the process is this program's, so that no later collection need look at what is there now. In
            somebody else's, garbage of that moment would stay for ever.

    Raises:
        UserError: they are missing, or do not fit.
    """
    if sys.modules.get("torchrec") is not None:
        return
    try:
        with large_imports() if alone else nullcontext():
            import torch  # noqa: F401
            import torchrec  # noqa: F401
    except (ImportError, OSError) as error:
        raise UserError(
            "torch and torchrec",
            f"cannot be loaded ({error})",
            "training and evaluation need them",
            "run `ple-rec doctor`, which says what to install",
        ) from error
