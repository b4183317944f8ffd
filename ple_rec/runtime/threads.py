"""Threads for operations of torch: their CUDA device, and pools whose threads run each operation on one thread.

`torch.set_num_threads` sets the number for the calling thread, and the default that every other thread uses from its
first operation on. Changing the number for a moment may therefore affect other threads, so the number is changed only
while a pool is created.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import wraps
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
T = TypeVar("T")


def on_current_device(function: Callable[P, T]) -> Callable[P, T]:
    """Return the function for a new thread, where it first selects the CUDA device that is current now.

    Every thread begins on GPU 0. Without the selection, a thread of another rank that pins memory or waits for its GPU
    would open a context on GPU 0, which takes hundreds of megabytes there for each rank.

    Args:
        function: Function that the thread runs.
    """
    if not torch.cuda.is_initialized():
        return function
    device = torch.cuda.current_device()

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        torch.cuda.set_device(device)
        return function(*args, **kwargs)

    return run


def single_threaded_pool(count: int, name: str) -> ThreadPoolExecutor:
    """Return a pool of started threads, each of which runs its operations of torch on one thread.

    The calling thread keeps its number of threads for torch.

    Args:
        count: Number of threads in the pool.
        name: Prefix of the names of the threads.
    """
    before = torch.get_num_threads()
    pool = ThreadPoolExecutor(count, name, _use_one_thread)
    started = threading.Barrier(count)
    list(pool.map(lambda _: started.wait(), range(count)))
    # The threads of the pool have set the default to 1, so it is restored here.
    torch.set_num_threads(before)
    return pool


def _use_one_thread() -> None:
    # This call makes the thread read the default now, so that it does not later overwrite the 1.
    torch.get_num_threads()
    torch.set_num_threads(1)
