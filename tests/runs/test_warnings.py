"""Warnings of a training run: it becomes slow, or one task is nearly the whole loss."""

from __future__ import annotations

import pytest

from ple_rec.runs import warnings as run_warnings
from ple_rec.runs.warnings import SlowdownMonitor, dominance_warning


def warnings(*reports: tuple[float, float], data_wait: float = 0.0, threads: int = 2) -> list[str | None]:
    """Return what a monitor says of reports of (samples per second, seconds)."""
    monitor, until, found = SlowdownMonitor(threads), 0.0, []
    for rate, seconds in reports:
        until += seconds
        record = {"samples_per_second": rate, "seconds": until, "data_wait": data_wait}
        found.append(monitor.warning(record))
    return found


def test_a_fall_by_half_is_told_once_and_again_after_it_has_risen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.getloadavg", lambda: (9.0, 0.0, 0.0))
    monkeypatch.setattr(run_warnings, "usable_cores", lambda: 2)
    found = warnings((900, 2), (1000, 2), (499, 2), (400, 2), (700, 2), (300, 2))
    assert [bool(each) for each in found] == [False, False, True, False, False, True]
    assert found[2] == (
        "warning: 499 samples/s, after 1,000: other programs use the cores (load 9.0 on 2); end them, or train with "
        "runtime.threads = 1, which is slowed least by them"
    )


def test_one_thread_is_not_proposed_to_who_has_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.getloadavg", lambda: (9.0, 0.0, 0.0))
    monkeypatch.setattr(run_warnings, "usable_cores", lambda: 2)
    assert warnings((1000, 2), (400, 2), threads=1)[1] == (
        "warning: 400 samples/s, after 1,000: other programs use the cores (load 9.0 on 2); end them, or train when "
        "they have ended"
    )


def test_a_short_report_says_nothing() -> None:
    assert warnings((1000, 2), (10, 0.5), (9000, 0.5), (1000, 2)) == [None] * 4


def test_the_cause_is_data_where_ranks_wait_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.getloadavg", lambda: (9.0, 0.0, 0.0))
    *_, last = warnings((1000, 2), (400, 2), data_wait=0.8)
    assert last is not None
    assert last.endswith(": 80% of the time ranks wait for data; look at the storage, or raise data.prefetch")


def test_without_a_cause_the_profile_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.getloadavg", lambda: (0.1, 0.0, 0.0))
    *_, last = warnings((1000, 2), (400, 2))
    assert last is not None
    assert last.endswith("`train --profile` shows what takes the time of a step")


def record(**parts: tuple[float, float]) -> dict[str, object]:
    return {"tasks": {name: {"loss": loss, "weight": weight} for name, (loss, weight) in parts.items()}}


def test_a_label_in_seconds_is_named_with_its_share() -> None:
    assert dominance_warning(record(click=(0.67, 1.0), watch=(14592.2, 1.0))) == (
        "warning: watch is 100.00% of the loss; the other tasks hardly learn. Fix: prepare its label in a larger unit, "
        "so that its size is near 1, or train it with a smaller weight (tasks.weight)"
    )


def test_a_weight_a_small_share_and_a_single_task_are_no_fault() -> None:
    assert dominance_warning(record(click=(0.67, 1.0), watch=(14592.2, 1e-4))) is None
    assert dominance_warning(record(click=(0.67, 1.0), watch=(9.0, 1.0))) is None
    assert dominance_warning(record(watch=(14592.2, 1.0))) is None
    assert dominance_warning(record(a=(0.0, 1.0), b=(0.0, 1.0))) is None
