"""What this package sets in torch for all of a process, put back: a notebook has work of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ple_rec.errors import UserError
from ple_rec.imports import need_torch


@contextmanager
def torch_undisturbed(*, with_group: bool = True) -> Iterator[None]:
    """Import torch; behind the block its number of threads and its random numbers are as before.

    Args:
        with_group: Flag that the block makes a process group, as all do that train or evaluate.

    Raises:
        UserError: torch is missing, or the process is in a group already.
    """
    need_torch(alone=False)
    import torch

    if with_group and torch.distributed.is_initialized():
        raise UserError(
            "this process",
            "is in a process group of torch already",
            "a call makes one of its own, and there is one at a time",
            "wait for the call of the other thread, or leave the group by torch.distributed.destroy_process_group()",
        )
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    of_gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_rng_state(state)
        if of_gpus:
            torch.cuda.set_rng_state_all(of_gpus)
