"""Pools of threads that run each operation of torch on one thread.

`torch.set_num_threads` sets the number of threads for the calling thread, and the default that every other thread takes
over at its first operation. Setting and restoring the number may therefore change other threads, so this happens only
while a pool is created.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import torch


def threads_of_one(count: int, name: str) -> ThreadPoolExecutor:
    """Return a pool whose threads have all started, and each run an operation of torch alone.

    The calling thread keeps its number of threads for torch.

    Args:
        count: Number of threads in the pool.
        name: Prefix of the names of the threads.
    """
    before = torch.get_num_threads()
    pool = ThreadPoolExecutor(count, name, _set_one)
    started = threading.Barrier(count)
    list(pool.map(lambda _: started.wait(), range(count)))
    # The threads of the pool have made 1 the default.
    torch.set_num_threads(before)
    return pool


def _set_one() -> None:
    # The thread takes over the default here, so that it does not do so later and overwrite the 1.
    torch.get_num_threads()
    torch.set_num_threads(1)
