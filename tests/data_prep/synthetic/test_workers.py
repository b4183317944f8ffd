"""Processes that share a list of tasks: results, errors, and children that die."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from data_prep.synthetic.files import run_shares
from ple_rec.errors import UserError


def _work(factor: int, tasks: list[int]) -> Iterator[int]:
    for task in tasks:
        if task < 0:
            raise UserError("place", "value", "rule", f"fix {factor}")
        if task == 99:
            os.kill(os.getpid(), signal.SIGKILL)
        yield task * factor


def test_one_process_is_this_one() -> None:
    assert list(run_shares(_work, (10,), [2, 0, 1], 1)) == [20, 0, 10]
    assert list(run_shares(_work, (10,), [], 4)) == []


def test_results_and_an_error_of_several() -> None:
    found: list[int] = []
    with pytest.raises(UserError) as caught:
        found.extend(run_shares(_work, (10,), [1, 2, 3, 4, 5, -1], 2))
    assert str(caught.value) == "place: value; rule. Fix: fix 10"
    assert {20, 40} <= set(found) <= {10, 20, 30, 40, 50}


def test_a_child_that_is_killed() -> None:
    with pytest.raises(RuntimeError) as caught:
        list(run_shares(_work, (10,), [1, 99], 2))
    assert str(caught.value) == "a worker ended with exit code -9"
