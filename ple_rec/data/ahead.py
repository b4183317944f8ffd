"""Items made by threads of their own, a few ahead of who takes them."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Hashable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from typing import TypeVar
from weakref import WeakValueDictionary

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


def read_ahead(items: Generator[T], ahead: int) -> Generator[T]:
    """The items, in order. Close the iterator to stop its thread early.

    Args:
        items: Made in the thread; what it raises is raised here, at the item where it was.
        ahead: Items kept ready.
    """
    ready: queue.Queue[T | _End] = queue.Queue(ahead)
    stop = threading.Event()
    thread = threading.Thread(target=_fill, args=(ready, stop, items), name="prefetch", daemon=True)
    thread.start()
    try:
        while not isinstance(item := ready.get(), _End):
            yield item
        if item.error is not None:
            raise item.error
    finally:
        stop.set()
        while thread.is_alive():  # the thread may wait for room in the queue
            _drain(ready)
            thread.join(0.01)


def map_ahead(make: Callable[[K], T], keys: Iterable[K], ahead: int, made: dict[K, T]) -> Generator[T]:
    """Yield the value of each key, in order. Close the iterator to stop its threads early.

    A value that somebody still holds, or that is being made, is not made again.

    Args:
        make: Function that makes the value of a key; what it raises is raised here, at the value where it was.
        keys: Keys of the values.
        ahead: Different values that threads make before their turn, at most; with 0 each is made here at its turn.
        made: Values that are there already; each is taken out at its turn.
    """
    held: WeakValueDictionary[K, T] = WeakValueDictionary()
    coming: WeakValueDictionary[K, Future[T]] = WeakValueDictionary()  # those that wait, by their keys
    waiting: deque[tuple[K, Future[T]]] = deque()
    pool = ThreadPoolExecutor(max(1, ahead), thread_name_prefix="read ahead")  # starts its threads when it has work

    def begin(key: K) -> None:
        future = coming.get(key)
        if future is None:
            value = made.pop(key, None) or held.get(key)
            if value is None and ahead:
                future = pool.submit(make, key)
            else:
                future = Future()
                future.set_result(make(key) if value is None else value)
            coming[key] = future
        waiting.append((key, future))

    def take() -> T:
        key, future = waiting.popleft()
        held[key] = value = future.result()
        return value

    try:
        for key in keys:
            begin(key)
            while waiting and len(coming) > ahead:
                yield take()
        while waiting:
            yield take()
    finally:
        pool.shutdown(cancel_futures=True)


class _End:
    """Behind the last item: the error that came in the place of the next, if one did."""

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
    except BaseException as error:  # handed to the consumer, which raises it
        ready.put(_End(error))


def _drain(ready: queue.Queue[T | _End]) -> None:
    try:
        while True:
            ready.get_nowait()
    except queue.Empty:
        return
