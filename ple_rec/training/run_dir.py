"""The run directory: claimed by one process at a time, never silently overwritten."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from ple_rec.checkpoint.listing import finished_steps
from ple_rec.errors import DataError, Option, UserError
from ple_rec.locks import take_lock
from ple_rec.storage import Location, Remote, location, names_in

CONFIG, INIT, PLAN, LOG, METRICS, REPORT, CHECKPOINTS, SAVED, LOCK, LEASE, TENSORBOARD, MLFLOW, PROFILE = (
    "config.toml",
    "init_from.json",
    "plan.json",
    "train.jsonl",
    "metrics.json",
    "report.html",
    "checkpoints",
    ".saved",  # there once a checkpoint is: where none is found then, they are away
    ".lock",
    ".lease",  # in the place of a lock where the directory lies in a store
    "tensorboard",
    "mlflow.json",
    "profile",
)
PROBE = ".shared"  # there for seconds, while hosts look whether all see it
_PARTIAL = ".partial"
TEST_ROWS, ANALYSIS, ANALYSIS_PAGE, FUSION = "test_rows.npz", "analysis.json", "analysis.html", "fusion"
_ANALYSIS = {TEST_ROWS, ANALYSIS, ANALYSIS_PAGE}  # of a finished run, written afterwards by who looks at it
_OWN = {CONFIG, INIT, PLAN, LOG, METRICS, REPORT, CHECKPOINTS, SAVED, LOCK, LEASE, TENSORBOARD, MLFLOW, PROFILE, PROBE}
_KNOWN = _OWN | _ANALYSIS | {FUSION}  # a fusion outlives the results that it was chosen by
_IN_FOLDERS = {  # names of what lies in the folders among them
    CHECKPOINTS: r"step-(0|[1-9][0-9]*)|latest|best",
    TENSORBOARD: r"events\.out\.tfevents\..*",
    PROFILE: r"step\.(json|txt)|trace-rank[0-9]+\.json\.gz",
    FUSION: r"fusion\.(toml|json|html)",
}


stores: dict[Path, Remote] = {}  # addresses of run directories by the folders that mirror them (mirror.py)


def holds_run(path: Path) -> bool:
    """Whether there is something to lose: results or a finished checkpoint, here or away; a refused start leaves none.

    Raises:
        UserError: its checkpoints lie in a store that cannot be read.
    """
    try:
        where = checkpoints_of(path)
    except DataError:  # what a refused start, or another version, has left there says nothing of another place
        where = path / CHECKPOINTS
    return has_saved(path) or bool(finished_steps(where))


def has_saved(path: Path) -> bool:
    """Whether a run has had a finished checkpoint, wherever that is now."""
    return any((path / name).is_file() for name in (SAVED, METRICS))


def checkpoints_of(run_dir: Path) -> Location:
    """Where the checkpoints of a run lie, as its configuration says.

    Raises:
        UserError: an address that cannot be spoken.
        DataError: its configuration is damaged.
    """
    file = run_dir / CONFIG
    try:
        raw = tomllib.loads(file.read_text()) if file.is_file() else {}
        path = raw.get("checkpoint", {}).get("path")
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise DataError(str(file), f"unreadable ({error})", "it is the run's configuration", "copy it again") from error
    return place_of(path, run_dir)


def place_of(path: str | None, run_dir: Path) -> Location:
    """Return where a run keeps its checkpoints by `checkpoint.path`; None: in its directory, or in its store."""
    if path is None:
        return stores.get(run_dir, run_dir) / CHECKPOINTS
    return location(path.replace("{run}", run_dir.resolve().name))


def known_files(run_dir: Location) -> list[str]:
    """Return the files of a run directory but for its checkpoints and its lock, by their names below it.

    Raises:
        OSError: It cannot be read.
    """
    folders = _IN_FOLDERS.keys() - {CHECKPOINTS}
    single = _KNOWN - {CHECKPOINTS, LOCK, LEASE, PROBE} - folders
    files = [name for name in names_in(run_dir) if name in single]
    return files + [f"{folder}/{name}" for folder in sorted(folders) for name in names_in(run_dir / folder)]


def strangers_in(run_dir: Path) -> list[str]:
    """Return what lies in a run directory, or in a folder of it, under a name that no run gives."""
    path = stores.get(run_dir, run_dir)
    strangers = [name for name in names_in(path) if name.removesuffix(_PARTIAL) not in _KNOWN]
    for folder, known in _IN_FOLDERS.items():
        names = names_in(path / folder)
        strangers += [f"{folder}/{name}" for name in names if not re.fullmatch(known, name.removesuffix(_PARTIAL))]
    return sorted(strangers)


@contextmanager
def claimed(path: Path, *, wait: float = 0.0) -> Iterator[None]:
    """Hold the run directory's lock; the directory is made where it is not there.

    Args:
        path: The run directory.
        wait: Seconds that another process has to let go of it.

    Raises:
        UserError: another process trains in it, or it cannot be made or locked.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        # Its content is replaced, so it is no link to another file.
        lock = os.fdopen(os.open(path / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666), "r+")
    except OSError as error:
        raise UserError(
            str(path), f"cannot be made ({error.strerror})", "a run writes there", f"give another {Option.RUN_DIR}"
        ) from error
    with lock:
        try:
            # `ple-rec runs` holds the lock for microseconds to see whether it is free, so ask twice at least.
            taken = take_lock(lock, wait=max(wait, 0.05))
        except OSError as error:
            raise UserError(
                str(path),
                f"cannot be locked ({error.strerror})",
                "a run's lock keeps a second process out",
                f"give a {Option.RUN_DIR} on a file system with locks",
            ) from error
        lock.seek(0)
        if not taken:
            raise UserError(
                str(path),
                f"in use by process {lock.read().strip() or '?'}",
                "one process at a time trains in a run directory",
                f"wait for it, stop it, or give another {Option.RUN_DIR}",
            )
        lock.truncate()
        lock.write(f"{os.getpid()} on {socket.gethostname()}")
        lock.flush()
        yield


def clear(path: Path) -> None:
    """Remove what an earlier run, or start, left in a run directory that is claimed."""
    _remove(path, _KNOWN - {LOCK})


def drop_analysis(path: Path) -> None:
    """Remove what was made of the results of a finished run, which are no more: its report and its analysis."""
    _remove(path, _ANALYSIS | {REPORT})


def _remove(path: Path, names: set[str]) -> None:
    for name in names:
        for target in (path / name, path / (name + _PARTIAL)):
            # What a link leads to is not the run's.
            shutil.rmtree(target) if target.is_dir() and not target.is_symlink() else target.unlink(missing_ok=True)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an error of the file system into a UserError about `path`."""
    try:
        yield
    except OSError as error:
        raise UserError(
            str(path),
            f"cannot be written ({error.strerror})",
            "a run needs room and permission",
            "free space or correct the permission, then run again",
        ) from error


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all.

    Raises:
        UserError: the disk is full or not writable.
    """
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all; raises as `write_text` does."""
    write_stream(path, lambda file: file.write(content))


def write_stream(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Let `write` fill a file, which appears under its name only when complete; raises as `write_text` does."""
    partial = path.with_name(path.name + _PARTIAL)
    with writing(path):
        partial.unlink(missing_ok=True)  # a link would lead the writing elsewhere
        with partial.open("wb") as file:
            write(file)
        partial.replace(path)


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file whole or not at all; raises as `write_text` does."""
    write_text(path, json.dumps(value, indent=1) + "\n")
