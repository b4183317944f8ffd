"""Protection of torch's process-wide state, since the caller, such as a notebook, has work of its own."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from ple_rec.errors import UserError
from ple_rec.runtime.versions import import_torch

_LOCK = threading.RLock()


@contextmanager
def torch_undisturbed(*, with_group: bool = True) -> Iterator[None]:
    """Import torch, and restore the process-wide state after the block.

    That state is torch's number of threads and its random numbers, the hook for uncaught exceptions, and the handlers
    of the root logger. Only one thread at a time may be in such a block.

    Args:
        with_group: True if the block makes a process group, as every training or evaluation does.

    Raises:
        UserError: torch is missing, another thread is in such a block, or the process already is in a group.
    """
    if not _LOCK.acquire(blocking=False):
        raise UserError(
            "this process",
            "a call of ple_rec runs in another thread",
            "there is one at a time, since torch's random numbers and process group are those of the whole process",
            "wait for it, or use another process",
        )
    hook, handlers = sys.excepthook, logging.root.handlers[:]
    try:
        import_torch(own_process=False)
        # The import adds a handler, which would repeat the log lines of the calling program.
        logging.root.handlers[:] = handlers
        with _torch_state(with_group=with_group):
            yield
    finally:
        sys.excepthook, logging.root.handlers[:] = hook, handlers
        _LOCK.release()


@contextmanager
def _torch_state(*, with_group: bool) -> Iterator[None]:
    import torch

    if with_group and torch.distributed.is_initialized():
        raise UserError(
            "this process",
            "is in a process group of torch already",
            "a call makes one of its own, and there is one at a time",
            "leave the group by torch.distributed.destroy_process_group(), or use another process",
        )
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    gpu_states = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_rng_state(state)
        if gpu_states:
            torch.cuda.set_rng_state_all(gpu_states)
