"""Shares of a comparison: they end together, and wait for nobody who is lost."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from ple_rec.analysis.compare import shares
from ple_rec.analysis.compare.shares import hold_share
from tests.messages import logged


def test_the_first_to_end_waits_for_the_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shares, "_BEAT_SECONDS", 0.05)
    go = threading.Event()
    left: list[int] = []
    said: list[str] = []

    def train(index: int) -> None:
        with hold_share(tmp_path, index, 2, patience=1.0):
            if index:
                go.wait()
        left.append(index)

    threads = [threading.Thread(target=train, args=(i,)) for i in range(2)]
    with logged(said.append):
        for thread in threads:
            thread.start()
        time.sleep(1.3)  # longer than it would wait for one that gives no sign
        assert left == []
        go.set()
        for thread in threads:
            thread.join()
    assert sorted(left) == [0, 1]
    assert said == ["this share has ended; waiting for 1/2"]


def test_a_share_that_fails_says_that_it_has_ended(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), hold_share(tmp_path, 1, 2, patience=0.1):
        raise ZeroDivisionError
    with hold_share(tmp_path, 0, 2, patience=60.0):
        pass


def test_a_share_that_is_lost_is_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shares, "_BEAT_SECONDS", 0.05)
    lost = threading.Event()
    said: list[str] = []

    def say(text: str) -> None:
        if threading.current_thread() is not other:
            said.append(text)
        if "wrote nothing" in text:
            lost.set()

    def train() -> None:
        with hold_share(tmp_path, 2, 3, patience=0.0):
            lost.wait()

    other = threading.Thread(target=train)
    with logged(say):
        other.start()
        with hold_share(tmp_path, 0, 3, patience=1.0):  # share 1 never comes
            pass
    other.join()
    assert said == [
        "this share has ended; waiting for 1/3, 2/3",
        "share 1/3 wrote nothing for 1 s: no longer waited for",
    ]


def test_nothing_is_written_of_a_single_share(tmp_path: Path) -> None:
    with hold_share(tmp_path, 0, 1):
        assert list(tmp_path.iterdir()) == []
