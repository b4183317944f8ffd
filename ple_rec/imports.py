"""Imports of large packages, without the garbage collector."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


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
