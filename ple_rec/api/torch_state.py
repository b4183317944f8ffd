"""Context manager that restores the process-wide state of torch after a call of the API.

The calling process, such as a notebook, may use torch for work of its own.
"""

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
def preserve_torch_state(*, with_group: bool = True) -> Iterator[None]:
    """Import torch, and restore the process-wide state after the block.

    That state is torch's number of threads, the states of its random number generators (those of the GPUs if CUDA is in
    use already), the hook for uncaught exceptions, and the handlers of the root logger. Only one thread at a time may
    be in such blocks, which it may nest.

    Args:
        with_group: True if the block creates a torch.distributed process group, as training and evaluation do.

    Raises:
        UserError: torch is missing, another thread is in such a block, or `with_group` is True and the process already
            has a process group.
    """
    if not _LOCK.acquire(blocking=False):
        raise UserError(
            "this process",
            "a call of ple_rec runs in another thread",
            "only one call at a time can run, since it uses the random numbers and process group of the whole process",
            "wait for that call, or use another process",
        )
    hook, handlers = sys.excepthook, logging.root.handlers[:]
    try:
        # The process belongs to the caller, so its objects are not excluded from garbage collection.
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
            "has a process group of torch.distributed already",
            "the call creates one of its own, and a process can have only one",
            "call torch.distributed.destroy_process_group() first, or use another process",
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
