"""Threads that each do operations of torch alone, so that several work side by side and do not wait for each other."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch


def threads_of_one(count: int, name: str) -> ThreadPoolExecutor:
    """A pool of so many threads, all started, in which no operation of torch is divided.

    Args:
        count: How many; the calling thread goes on with as many as it had.
        name: What theirs begin with.
    """
    before = torch.get_num_threads()
    pool = ThreadPoolExecutor(count, name, _divide_nothing)
    started = threading.Barrier(count)
    list(pool.map(lambda _: started.wait(), range(count)))
    torch.set_num_threads(before)  # theirs has become the default of every thread to come
    return pool


@contextmanager
def one_thread() -> Iterator[None]:
    """In the block, no operation of torch that the calling thread begins is divided."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _divide_nothing() -> None:
    torch.get_num_threads()  # a thread takes over the default at its first operation, and this is one
    torch.set_num_threads(1)
