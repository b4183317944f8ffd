"""Iterators whose items are computed by other threads, a few items ahead of the consumer.

The loader prepares batches by `read_ahead`, and reads row groups from a store by `map_ahead`.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Hashable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from typing import TypeVar
from weakref import WeakValueDictionary

from ple_rec.runtime.threads import on_current_device

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


def read_ahead(items: Generator[T], ahead: int) -> Generator[T]:
    """Yield the items of a generator that runs in a thread of its own. Close the iterator to stop the thread early.

    The thread starts when the first item is requested.

    Args:
        items: Generator to run. An error that it raises is raised here, in place of the item.
        ahead: Number of items that the thread computes ahead.
    """
    ready: queue.Queue[T | _End] = queue.Queue(ahead)
    stop = threading.Event()
    thread = threading.Thread(target=on_current_device(_fill), args=(ready, stop, items), name="prefetch", daemon=True)
    thread.start()
    try:
        while not isinstance(item := ready.get(), _End):
            yield item
        if item.error is not None:
            raise item.error
    finally:
        stop.set()
        # The thread may be waiting for room in the queue, so the queue is emptied until it ends.
        while thread.is_alive():
            _drain(ready)
            thread.join(0.01)


def map_ahead(make: Callable[[K], T], keys: Iterable[K], ahead: int, ready_values: dict[K, T]) -> Generator[T]:
    """Yield the value of each key, in order. Close the iterator to stop its threads early.

    If a key occurs again, its value is computed again only if it is not pending and the consumer has dropped it.

    Args:
        make: Function that computes the value of a key, an object that supports weak references. An error that it
            raises is raised here, in place of the value.
        keys: Keys of the values; a key may occur several times.
        ahead: Number of different values that threads compute ahead; with 0, each is computed in the consumer's thread.
        ready_values: Values that are already computed, by key; each is removed when it is used.
    """
    # Values that the consumer still holds, by key.
    live_values: WeakValueDictionary[K, T] = WeakValueDictionary()
    # Futures in `waiting`, by key. An entry disappears when its last future leaves `waiting`.
    pending: WeakValueDictionary[K, Future[T]] = WeakValueDictionary()
    waiting: deque[tuple[K, Future[T]]] = deque()
    # A pool starts its threads when work is submitted, so it has no threads if `ahead` is 0.
    pool = ThreadPoolExecutor(max(1, ahead), thread_name_prefix="read ahead")

    def begin(key: K) -> None:
        future = pending.get(key)
        if future is None:
            value = ready_values.pop(key, None) or live_values.get(key)
            if value is None and ahead:
                future = pool.submit(make, key)
            else:
                future = Future()
                future.set_result(make(key) if value is None else value)
            pending[key] = future
        waiting.append((key, future))

    def take() -> T:
        key, future = waiting.popleft()
        live_values[key] = value = future.result()
        return value

    try:
        for key in keys:
            begin(key)
            while waiting and len(pending) > ahead:
                yield take()
        while waiting:
            yield take()
    finally:
        pool.shutdown(cancel_futures=True)


class _End:
    """Mark at the end of the items, with the error that the generator raised; None if it raised none."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error


def _fill(ready: queue.Queue[T | _End], stop: threading.Event, items: Generator[T]) -> None:
    try:
        with closing(items):
            for item in items:
                ready.put(item)
                if stop.is_set():
                    return
        ready.put(_End())
    except BaseException as error:
        # The error is raised in the consumer's thread.
        ready.put(_End(error))


def _drain(ready: queue.Queue[T | _End]) -> None:
    try:
        while True:
            ready.get_nowait()
    except queue.Empty:
        return
