"""Items of an iterator made by a thread of their own, a few ahead of who takes them."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator
from contextlib import closing
from typing import TypeVar

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
