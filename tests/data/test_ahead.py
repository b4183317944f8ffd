"""Items that a thread makes ahead: their order, where an error comes, and an early end."""

from __future__ import annotations

import threading
from collections.abc import Generator

import pytest

from ple_rec.data.ahead import map_ahead, read_ahead
from tests.runtime.cuda_threads import record_device_selections


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


def test_the_thread_selects_the_gpu_of_its_rank_before_the_first_item(monkeypatch: pytest.MonkeyPatch) -> None:
    selections = record_device_selections(monkeypatch, device=5)

    def items() -> Generator[list[tuple[str, int]]]:
        yield list(selections)

    assert list(read_ahead(items(), 1)) == [[("prefetch", 5)]] == [selections]


class Value:
    """What a key is made into."""

    def __init__(self, key: int) -> None:
        self.key = key


@pytest.mark.parametrize("ahead", [0, 1, 3])
def test_values_come_in_the_order_of_their_keys(ahead: int) -> None:
    made: list[int] = []

    def make(key: int) -> Value:
        made.append(key)
        return Value(key)

    keys = [0, 1, 0, 2, 3, 3, 4, 5, 6, 0]
    values = map_ahead(make, keys, ahead, {1: Value(-1)})
    assert next(values).key == 0
    assert len(made) <= 1 + ahead
    held = [each.key for each in values]
    assert held == [-1 if key == 1 else key for key in keys[1:]]
    assert made.count(0) >= 1
    assert made.count(3) == 1
    assert 1 not in made


def test_a_value_that_is_held_is_not_made_again() -> None:
    values = map_ahead(Value, [0, 1, 2, 0], 1, {})
    first, *_, last = values
    assert first is last


@pytest.mark.parametrize("ahead", [0, 1, 3])
def test_what_making_raises_comes_at_its_value(ahead: int) -> None:
    def make(key: int) -> Value:
        if key == 2:
            raise ValueError("at 2")
        return Value(key)

    values = map_ahead(make, range(9), ahead, {})
    assert [next(values).key, next(values).key] == [0, 1]
    with pytest.raises(ValueError, match="at 2"):
        next(values)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("read ahead")]


def test_closing_ends_the_threads() -> None:
    made: list[int] = []

    def make(key: int) -> Value:
        made.append(key)
        return Value(key)

    values = map_ahead(make, range(10**6), 4, {})
    assert next(values).key == 0
    values.close()
    assert len(made) <= 6
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("read ahead")]
