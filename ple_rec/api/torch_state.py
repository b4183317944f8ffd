"""What this package sets in torch for all of a process, put back: a notebook has work of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ple_rec.imports import need_torch


@contextmanager
def torch_undisturbed() -> Iterator[None]:
    """Import torch; behind the block its number of threads and its random numbers are as before."""
    need_torch(alone=False)
    import torch

    threads, state = torch.get_num_threads(), torch.get_rng_state()
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_rng_state(state)
