"""The run directory: claimed by one process at a time, never silently overwritten."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import tomllib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from ple_rec.checkpoint.listing import finished_steps
from ple_rec.errors import DataError, Option, UserError
from ple_rec.storage import Location, Remote, atomic_write, location, names_in, remove_tree
from ple_rec.storage.locks import take_lock

CONFIG, INIT, PLAN, LOG, METRICS, REPORT, CHECKPOINTS, SAVED, REPLACED, LOCK, TENSORBOARD, MLFLOW, PROFILE = (
    "config.toml",
    "init_from.json",
    "plan.json",
    "train.jsonl",
    "metrics.json",
    "report.html",
    "checkpoints",
    ".saved",  # there once a checkpoint is: where none is found then, they are away
    ".replaced",  # there while the run is removed to make room for another
    ".lock",
    "tensorboard",
    "mlflow.json",
    "profile",
)
LEASE = ".lease"  # Folder in the place of a lock where the directory lies in a store (storage/lease.py).
PROBE = ".shared"  # there for seconds, while hosts look whether all see it
_PARTIAL = ".partial"
TEST_ROWS, ANALYSIS, ANALYSIS_PAGE, FUSION = "test_rows.npz", "analysis.json", "analysis.html", "fusion"
_ANALYSIS = {TEST_ROWS, ANALYSIS, ANALYSIS_PAGE}  # Made of the results of a finished run by whoever looks at it.
OF_RESULTS = (*sorted(_ANALYSIS), REPORT)  # Files that are stale once the run has gone on.
_OWN = {
    CONFIG,
    INIT,
    PLAN,
    LOG,
    METRICS,
    REPORT,
    CHECKPOINTS,
    SAVED,
    REPLACED,
    LOCK,
    LEASE,
    TENSORBOARD,
    MLFLOW,
    PROFILE,
    PROBE,
}
_KNOWN = _OWN | _ANALYSIS | {FUSION}  # a fusion outlives the results that it was chosen by
OF_RUN = tuple(sorted((_OWN | _ANALYSIS | {FUSION}) - {REPLACED, LOCK, LEASE, CHECKPOINTS}))  # A new run removes them.
_IN_FOLDERS = {  # names of what lies in the folders among them
    CHECKPOINTS: r"step-(0|[1-9][0-9]*)|latest|best",
    TENSORBOARD: r"events\.out\.tfevents\..*",
    PROFILE: r"step\.(json|txt)|trace-rank[0-9]+\.json\.gz",
    FUSION: r"fusion\.(toml|json|html)",
}


def holds_run(path: Location) -> bool:
    """Return True if a run has something to lose: results or a finished checkpoint, here or away.

    Raises:
        UserError: its checkpoints lie in a store that cannot be read.
    """
    try:
        where = checkpoints_of(path)
    except DataError:  # what a refused start, or another version, has left there says nothing of another place
        where = path / CHECKPOINTS
    return has_saved(path) or bool(finished_steps(where))


def has_saved(path: Location) -> bool:
    """Return True if a run has had a finished checkpoint, wherever that is now."""
    return any((path / name).is_file() for name in (SAVED, METRICS))


def checkpoints_of(run_dir: Location) -> Location:
    """Return the place of the checkpoints of a run, as its configuration says.

    Raises:
        UserError: an address that cannot be spoken.
        DataError: its configuration is damaged.
    """
    file = run_dir / CONFIG
    try:
        raw = tomllib.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        path = raw.get("checkpoint", {}).get("path")
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise DataError(str(file), f"unreadable ({error})", "it is the run's configuration", "copy it again") from error
    return place_of(path, run_dir)


def place_of(path: str | None, run_dir: Location) -> Location:
    """Return where a run keeps its checkpoints by `checkpoint.path`; None: in its directory, or in its store."""
    if path is None:
        return run_dir / CHECKPOINTS
    return location(path.replace("{run}", run_dir.resolve().name if isinstance(run_dir, Path) else run_dir.name))


def strangers_in(path: Location) -> list[str]:
    """Return what lies in a run directory, or in a folder of it, under a name that no run gives."""
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


def remove_names(where: Location, names: Iterable[str]) -> None:
    """Remove files and folders of a run directory that are there, and drafts of them.

    Raises:
        OSError, StoreError: One cannot be removed.
    """
    for name in names:
        if isinstance(where, Remote):
            (where / name).unlink(missing_ok=True)
            remove_tree(where / name)
            continue
        for target in (where / name, where / (name + _PARTIAL)):
            # What a link leads to is not the run's.
            shutil.rmtree(target) if target.is_dir() and not target.is_symlink() else target.unlink(missing_ok=True)


@contextmanager
def writing(path: Location) -> Iterator[None]:
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


def write_text(path: Location, text: str) -> None:
    """Write a file whole or not at all.

    Raises:
        UserError: the disk is full or not writable, or the store cannot be written.
    """
    write_bytes(path, text.encode())


def write_bytes(path: Location, content: bytes) -> None:
    """Write a file whole or not at all; raises as `write_text` does."""
    write_stream(path, lambda file: file.write(content))


def write_stream(path: Location, write: Callable[[IO[bytes]], object]) -> None:
    """Let `write` fill a file, which appears under its name only when complete; raises as `write_text` does."""
    with writing(path), atomic_write(path) as file:
        write(file)


def write_json(path: Location, value: Any) -> None:
    """Write a JSON file whole or not at all; raises as `write_text` does."""
    write_text(path, json.dumps(value, indent=1) + "\n")
