"""A logger that fails, is slow or is full costs a run a line, and no time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from ple_rec.training.loggers.background import BackgroundLogger
from ple_rec.training.loggers.base import Ending, LoggerUnavailableError, Record, TimedRecord


class Fake:
    """Keeps what it hears; `trouble` is called before each call is taken."""

    name, place = "fake", "nowhere"
    recovery = "train.jsonl and metrics.json have it all"

    def __init__(self, trouble: Callable[[str], None] = lambda call: None) -> None:
        self.trouble, self.calls, self.steps = trouble, list[Any](), list[int]()

    def begin(self, step: int, past: Sequence[Record]) -> None:
        self.trouble("begin")
        self.calls.append(("begin", step, [record["step"] for record in past]))

    def log(self, records: Sequence[TimedRecord]) -> None:
        self.trouble("log")
        self.steps += [record["step"] for _, record in records]

    def end(self, ending: Ending) -> None:
        self.trouble("end")
        self.calls.append(("end", ending.status))


def record(step: int) -> dict[str, Any]:
    return {"split": "train", "step": step, "loss": 0.5, "tasks": {}}


def ended(run_logger: BackgroundLogger, seconds: float = 20) -> float:
    """End it; the seconds that took."""
    begun = time.monotonic()
    run_logger.end(Ending(0.0, "finished"))
    run_logger.wait(seconds)
    return time.monotonic() - begun


def test_a_watcher_hears_everything_in_order(capsys: pytest.CaptureFixture[str]) -> None:
    fake = Fake()
    run_logger = BackgroundLogger(fake)
    run_logger.begin(2, [record(1), record(2)])
    for step in range(3, 500):
        run_logger.log(record(step))
    ended(run_logger)
    assert fake.calls == [("begin", 2, [1, 2]), ("end", "finished")]
    assert fake.steps == list(range(3, 500))
    assert capsys.readouterr().out == ""


def test_a_run_that_fails_before_it_starts_has_an_end_too() -> None:
    fake = Fake()
    ended(BackgroundLogger(fake))
    assert fake.calls == [("end", "finished")]


def test_what_finds_it_unavailable_is_sent_later(capsys: pytest.CaptureFixture[str]) -> None:
    away = threading.Event()
    tried = threading.Semaphore(0)

    def trouble(call: str) -> None:
        if away.is_set():
            tried.release()
            raise LoggerUnavailableError("no answer")

    fake = Fake(trouble)
    run_logger = BackgroundLogger(fake, retry_seconds=0.01)
    run_logger.begin(0, [])
    run_logger.log(record(1))
    away.set()
    run_logger.log(record(2))
    for _ in range(3):
        assert tried.acquire(timeout=20)
    run_logger.log(record(3))
    away.clear()
    ended(run_logger)
    assert fake.steps == [1, 2, 3]
    said = capsys.readouterr().out
    assert said == "fake: no answer; training goes on, and the missing records are sent once it answers\n"


def test_one_that_stays_away_is_left_behind_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    def trouble(call: str) -> None:
        if call != "begin":
            raise LoggerUnavailableError("no answer")

    run_logger = BackgroundLogger(Fake(trouble), retry_seconds=60)
    run_logger.begin(0, [])
    for step in (1, 2):
        run_logger.log(record(step))
    assert ended(run_logger) < 10
    assert capsys.readouterr().out.splitlines() == [
        "fake: no answer; training goes on, and the missing records are sent once it answers",
        "fake: did not receive 2 record(s) and the end of the run; train.jsonl and metrics.json have it all",
    ]


def test_what_it_refuses_is_lost_to_it_and_counted(capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[str] = []

    def trouble(call: str) -> None:
        seen.append(call)
        if call == "begin" or (seen.count("log") in (1, 2) and call == "log"):
            raise ValueError(f"bad\n{call}")

    fake = Fake(trouble)
    run_logger = BackgroundLogger(fake)
    run_logger.begin(0, [])
    for step in (1, 2, 3):
        run_logger.log(record(step))
        while seen.count("log") < step:
            time.sleep(0.001)
    ended(run_logger)
    assert (fake.calls, fake.steps) == ([("end", "finished")], [3])
    assert capsys.readouterr().out.splitlines() == [
        "fake: ValueError: bad begin; training goes on, but some records may be missing there",
        "fake: did not receive 2 record(s); train.jsonl and metrics.json have it all",
    ]


def test_a_stuck_one_makes_nobody_wait_and_its_queue_is_bounded(capsys: pytest.CaptureFixture[str]) -> None:
    release = threading.Event()

    def trouble(call: str) -> None:
        release.wait(60)

    run_logger = BackgroundLogger(Fake(trouble), limit=5)
    run_logger.begin(0, [])
    begun = time.monotonic()
    for step in range(1000):
        run_logger.log(record(step))
    assert time.monotonic() - begun < 30  # under any load; who waited would wait for 60
    assert 0.1 < ended(run_logger, seconds=0.2) < 30
    release.set()
    assert capsys.readouterr().out == (
        "fake: did not receive 1,000 record(s) and the end of the run; train.jsonl and metrics.json have it all\n"
    )
