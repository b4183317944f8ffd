"""Pools of threads in which an operation of torch is not divided among further threads.

`torch.set_num_threads` sets the number of the calling thread, and the default that every thread takes over at its first
operation. A call that sets the number and restores it would therefore change other threads, so only the making of a
pool does.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import torch


def threads_of_one(count: int, name: str) -> ThreadPoolExecutor:
    """Return a pool whose threads have all started, and do each operation of torch alone.

    Args:
        count: Number of threads in the pool. The calling thread keeps its number of threads of torch.
        name: Prefix of the names of the threads.
    """
    before = torch.get_num_threads()
    pool = ThreadPoolExecutor(count, name, _set_one)
    started = threading.Barrier(count)
    list(pool.map(lambda _: started.wait(), range(count)))
    torch.set_num_threads(before)  # the threads of the pool have made 1 the default
    return pool


def _set_one() -> None:
    torch.get_num_threads()  # the thread takes over the default here, and not later, in the place of 1
    torch.set_num_threads(1)
