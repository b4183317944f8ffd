"""Items that a thread makes ahead: their order, where an error comes, and an early end."""

from __future__ import annotations

import threading
from collections.abc import Generator

import pytest

from ple_rec.data.ahead import read_ahead


def numbers(stop: int, made: list[int], ended: threading.Event) -> Generator[int]:
    try:
        for i in range(stop):
            made.append(i)
            yield i
    finally:
        ended.set()


def test_items_come_in_order_and_none_is_lost() -> None:
    made: list[int] = []
    assert list(read_ahead(numbers(1000, made, threading.Event()), 3)) == list(range(1000)) == made


def test_an_item_may_be_none() -> None:
    assert list(read_ahead((each for each in (None, 1, None)), 2)) == [None, 1, None]


def test_what_is_raised_comes_where_it_was() -> None:
    def until_two() -> Generator[int]:
        yield 0
        yield 1
        raise ValueError("at 2")

    items = read_ahead(until_two(), 1)
    assert [next(items), next(items)] == [0, 1]
    with pytest.raises(ValueError, match="at 2"):
        next(items)


def test_closing_ends_thread_and_generator_a_few_items_ahead() -> None:
    made: list[int] = []
    ended = threading.Event()
    items = read_ahead(numbers(10**6, made, ended), 4)
    assert next(items) == 0
    items.close()
    assert ended.wait(5)
    assert len(made) < 20
    assert not [thread for thread in threading.enumerate() if thread.name == "prefetch"]
