"""Locks on files between processes; those who use them test what they say of them."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from ple_rec.storage import locks
from ple_rec.storage.locks import open_locked, take_lock


def test_shared_locks_stand_beside_one_another_and_an_exclusive_one_alone(tmp_path: Path) -> None:
    file = tmp_path / "lock"
    with file.open("w") as one, file.open() as two, file.open("w") as three:
        assert take_lock(one, shared=True)
        assert take_lock(two, shared=True)
        assert not take_lock(three)
        one.close()
        two.close()
        assert take_lock(three)


@pytest.mark.parametrize("wait", [20.0, float("inf")])
def test_one_that_waits_has_the_lock_once_it_is_free(wait: float, tmp_path: Path) -> None:
    with open_locked(tmp_path / "lock") as held, (tmp_path / "lock").open("w") as file:  # type: ignore[union-attr]
        assert not take_lock(file, wait=0.06)
        threading.Timer(0.1, held.close).start()
        assert take_lock(file, wait=wait)


def test_a_file_that_its_holder_removes_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else two processes hold a lock each, one on a file that is no more."""

    def late(file: object) -> bool:
        monkeypatch.undo()
        (tmp_path / "lock").unlink()
        return True

    monkeypatch.setattr(locks, "take_lock", late)
    with open_locked(tmp_path / "lock") as _, (tmp_path / "lock").open("w") as other:  # type: ignore[union-attr]
        assert not take_lock(other)
