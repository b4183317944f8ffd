"""A run directory is one process's at a time, and only what a run wrote there is ever removed."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from ple_rec.errors import UserError
from ple_rec.reports.page import write_document
from ple_rec.runs.checkpoints import prepare_directory
from ple_rec.runs.directory import RunDirectory
from ple_rec.runs.layout import hold_lock, write_json, write_text
from ple_rec.runs.state import decide_action, inspect_directory
from tests.training.small import small_config

HOLD = """
import sys
from pathlib import Path
from ple_rec.runs.layout import hold_lock
with hold_lock(Path(sys.argv[1])):
    print("claimed", flush=True)
    sys.stdin.read()
"""


def _check(path: Path, *, resume: bool = False, overwrite: bool = False) -> None:
    config = small_config(path.parent / "data")
    decide_action(inspect_directory(config, path), config, resume=resume, overwrite=overwrite)


def _refusal(path: Path, *, resume: bool = False, overwrite: bool = False) -> str:
    with pytest.raises(UserError) as caught:
        _check(path, resume=resume, overwrite=overwrite)
    assert caught.value.exit_code == 2
    return str(caught.value)


def _run(path: Path) -> Path:
    (path / "checkpoints" / "step-3").mkdir(parents=True)
    for name in (".lock", "config.toml", "plan.json", "train.jsonl", "metrics.json", "report.html", "test_rows.npz"):
        (path / name).write_text("old")
    (path / "tensorboard").mkdir()
    return path


def test_a_second_process_is_refused_until_the_first_is_gone(tmp_path: Path, repository: Path) -> None:
    path = tmp_path / "run"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=repository,
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "claimed\n"
        with pytest.raises(UserError) as caught, hold_lock(path):
            pass
        assert str(caught.value) == (
            f"{path}: in use by process {holder.pid} on {socket.gethostname()}; one process at a time trains in a run "
            "directory. Fix: wait for it, stop it, or give another --run-dir"
        )
        threading.Timer(0.3, holder.kill).start()  # no goodbye: the lock is the kernel's
        with hold_lock(path, wait=20):
            assert (path / ".lock").read_text() == f"{os.getpid()} on {socket.gethostname()}"
    with hold_lock(path):
        pass


def test_overwriting_removes_what_a_run_wrote(tmp_path: Path) -> None:
    path = _run(tmp_path / "run")
    (path / "config.toml.partial").touch()  # of a run that was killed while it wrote
    _check(path, overwrite=True)
    with hold_lock(path):
        pass
    assert (path / "train.jsonl").read_text() == "old"
    with hold_lock(path):
        prepare_directory(small_config(path.parent / "data"), RunDirectory(path, path), resuming=False)
        assert [entry.name for entry in path.iterdir()] == [".lock"]


def test_overwriting_spares_what_no_run_wrote(tmp_path: Path) -> None:
    path = _run(tmp_path / "run")
    for name in ("thesis.tex", "a.txt", "b.txt", "c.txt"):
        (path / name).write_text("mine")
    expected = (
        f"{path}: holds a.txt, b.txt, c.txt, which no run wrote; a run directory is empty or a run's. Fix: give "
        "another --run-dir"
    )
    assert _refusal(path, overwrite=True) == expected
    assert _refusal(path) == expected
    with hold_lock(path):
        prepare_directory(small_config(path.parent / "data"), RunDirectory(path, path), resuming=False)
        assert (path / "thesis.tex").read_text() == "mine"


@pytest.mark.parametrize(
    "name", ["checkpoints/epoch1.pt", "checkpoints/step-1-raw", "tensorboard/mine", "profile/notes", "fusion/old.toml"]
)
def test_what_no_run_wrote_into_its_folders_is_spared(name: str, tmp_path: Path) -> None:
    path = tmp_path / "run"
    (path / name).parent.mkdir(parents=True)
    (path / name).touch()
    for overwrite in (False, True):
        assert f"{path}: holds {name}, which no run wrote" in _refusal(path, overwrite=overwrite)


def test_all_that_is_made_of_a_run_can_be_replaced(tmp_path: Path) -> None:
    path = _run(tmp_path / "run")
    for name in ("fusion/fusion.toml", "profile/step.json.partial", "profile/trace-rank12.json.gz", "checkpoints/best"):
        (path / name).parent.mkdir(exist_ok=True)
        (path / name).touch()
    for name in ("tensorboard/events.out.tfevents.1700000000.host.1.0", "checkpoints/latest.partial", ".saved"):
        (path / name).touch()
    with pytest.MonkeyPatch.context() as patch:  # a draft that stays
        patch.setattr(Path, "replace", _refuse)
        patch.setattr(Path, "unlink", _refuse)
        with pytest.raises(UserError, match=r"cannot be written \(Read-only file system\)"):
            write_document("page", path / "report.html", "a rule", "a fix")
    _check(path, overwrite=True)
    prepare_directory(small_config(path.parent / "data"), RunDirectory(path, path), resuming=False)
    assert [entry.name for entry in path.iterdir()] == [".lock"]


def _refuse(*_: object, **__: object) -> None:
    raise OSError(errno.EROFS, os.strerror(errno.EROFS))


def test_links_lead_no_writing_and_no_removal_elsewhere(tmp_path: Path) -> None:
    path, mine = tmp_path / "run", tmp_path / "mine"
    path.mkdir()
    mine.write_text("mine")
    for name in (".lock", "config.toml.partial"):
        (path / name).symlink_to(mine)
    with pytest.raises(UserError, match="cannot be created"), hold_lock(path):
        pass
    write_text(path / "config.toml", "new")
    assert mine.read_text() == "mine"
    assert not (path / "config.toml").is_symlink()

    scratch = tmp_path / "scratch"
    (scratch / "step-3").mkdir(parents=True)
    (path / "checkpoints").symlink_to(scratch)
    prepare_directory(small_config(path.parent / "data"), RunDirectory(path, path), resuming=False)
    assert (scratch / "step-3").is_dir()
    assert not (path / "checkpoints").is_symlink()


def test_a_run_is_never_overwritten_unasked(tmp_path: Path) -> None:
    path = _run(tmp_path / "run")
    assert _refusal(path) == (
        f"{path}: already holds a run; a run is never overwritten unasked. Fix: go on with --resume, replace it with "
        "--overwrite, or give another --run-dir"
    )


def test_a_free_directory_is_accepted_and_not_resumed(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "locked").mkdir()
    (tmp_path / "locked" / ".lock").touch()
    for name in ("absent", "empty", "locked"):
        _check(tmp_path / name)
        assert _refusal(tmp_path / name, resume=True) == (
            f"{tmp_path / name}: holds no run; --resume goes on with one. Fix: start it without --resume"
        )
    assert not (tmp_path / "absent").exists()


def test_a_file_in_its_place_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "run"
    file.write_text("")
    assert _refusal(file) == f"{file}: is a file; a run needs a directory. Fix: give another --run-dir"
    with pytest.raises(UserError) as caught, hold_lock(file / "below"):
        pass
    assert str(caught.value) == (
        f"{file}/below: cannot be created (Not a directory); a run writes its files there. Fix: give another --run-dir"
    )


def test_a_file_system_without_locks_is_not_taken_for_a_second_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with pytest.raises(UserError) as caught, hold_lock(tmp_path / "run"):
        pass
    assert str(caught.value) == (
        f"{tmp_path}/run: cannot be locked (No locks available); a run's lock keeps a second process out. Fix: give a "
        "--run-dir on a file system with locks"
    )


def test_files_are_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "plan.json"
    write_json(file, {"version": 1})
    assert json.loads(file.read_text()) == {"version": 1}
    write_text(file, "new")
    assert [entry.name for entry in tmp_path.iterdir()] == ["plan.json"]

    def full(self: Path, target: Path) -> Path:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(UserError) as caught:
        write_text(file, "newer")
    assert str(caught.value) == (
        f"{file}: cannot be written (No space left on device); a run needs room and permission. Fix: free space or "
        "correct the permission, then run again"
    )
    assert file.read_text() == "new"


def test_what_a_refused_start_has_left_is_no_run(tmp_path: Path) -> None:
    path = tmp_path / "run"
    (path / "checkpoints" / "step-5").mkdir(parents=True)  # not finished: it has no manifest
    for name in ("config.toml", "plan.json", "train.jsonl"):
        (path / name).write_text("left")
    _check(path)
    (path / "checkpoints" / "step-5" / "manifest.json").write_text("{}")
    assert "already holds a run" in _refusal(path)
    (path / "checkpoints" / "step-5" / "manifest.json").unlink()
    (path / ".saved").touch()  # its checkpoints are away
    assert "already holds a run" in _refusal(path)
