"""Files of a run directory, and its lock, which one process at a time holds."""

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
    # This file exists once the run has a checkpoint. If it exists without checkpoints, these have been moved away.
    ".saved",
    # This file exists while the run is being removed and replaced.
    ".replaced",
    ".lock",
    "tensorboard",
    "mlflow.json",
    "profile",
)
# In a store, this folder replaces the lock (storage/lease.py).
LEASE = ".lease"
# This file exists for seconds, while hosts check that all of them see it.
PROBE = ".shared"
_PARTIAL = ".partial"
TEST_ROWS, ANALYSIS, ANALYSIS_PAGE, FUSION = "test_rows.npz", "analysis.json", "analysis.html", "fusion"
# Analyses of a finished run.
_ANALYSIS = {TEST_ROWS, ANALYSIS, ANALYSIS_PAGE}
# These files are out of date once the run has been resumed.
OF_RESULTS = (*sorted(_ANALYSIS), REPORT)
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
_KNOWN = _OWN | _ANALYSIS | {FUSION}
# A new run in the directory removes these files and folders.
OF_RUN = tuple(sorted(_KNOWN - {REPLACED, LOCK, LEASE, CHECKPOINTS}))
# Patterns of the names in the folders of a run.
_IN_FOLDERS = {
    CHECKPOINTS: r"step-(0|[1-9][0-9]*)|latest|best",
    TENSORBOARD: r"events\.out\.tfevents\..*",
    PROFILE: r"step\.(json|txt)|trace-rank[0-9]+\.json\.gz",
    FUSION: r"fusion\.(toml|json|html)",
}


def holds_run(path: Location) -> bool:
    """Return True if a run has results or a complete checkpoint, or has had one that was moved away.

    Raises:
        UserError: The checkpoints are in a store that cannot be read.
    """
    try:
        where = checkpoints_of(path)
    except DataError:
        # A damaged configuration names no other place.
        where = path / CHECKPOINTS
    return has_saved(path) or bool(finished_steps(where))


def has_saved(path: Location) -> bool:
    """Return True if a run has had a complete checkpoint, wherever it is now."""
    return any((path / name).is_file() for name in (SAVED, METRICS))


def checkpoints_of(run_dir: Location) -> Location:
    """Return the place of the checkpoints of a run by its configuration.

    Raises:
        UserError: The scheme of the address is unknown.
        DataError: The configuration is damaged.
    """
    file = run_dir / CONFIG
    try:
        raw = tomllib.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        path = raw.get("checkpoint", {}).get("path")
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise DataError(str(file), f"unreadable ({error})", "it is the run's configuration", "copy it again") from error
    return resolve_checkpoint_path(path, run_dir)


def resolve_checkpoint_path(path: str | None, run_dir: Location) -> Location:
    """Return the place of the checkpoints of a run.

    Args:
        path: `checkpoint.path`, in which `{run}` stands for the name of the run; None for the run directory.
        run_dir: Directory of the run.
    """
    if path is None:
        return run_dir / CHECKPOINTS
    return location(path.replace("{run}", run_dir.resolve().name if isinstance(run_dir, Path) else run_dir.name))


def strangers_in(path: Location) -> list[str]:
    """Return the names in a run directory and in its folders that no run writes."""
    strangers = [name for name in names_in(path) if name.removesuffix(_PARTIAL) not in _KNOWN]
    for folder, known in _IN_FOLDERS.items():
        names = names_in(path / folder)
        strangers += [f"{folder}/{name}" for name in names if not re.fullmatch(known, name.removesuffix(_PARTIAL))]
    return sorted(strangers)


@contextmanager
def claimed(path: Path, *, wait: float = 0.0) -> Iterator[None]:
    """Hold the lock of a run directory, which is created if it is missing.

    Args:
        path: Run directory.
        wait: Seconds to wait for another process to release the lock.

    Raises:
        UserError: Another process trains in the directory, or it cannot be created or locked.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        # The content of the lock is replaced, so it must not be a link to another file.
        lock = os.fdopen(os.open(path / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666), "r+")
    except OSError as error:
        raise UserError(
            str(path), f"cannot be made ({error.strerror})", "a run writes there", f"give another {Option.RUN_DIR}"
        ) from error
    with lock:
        try:
            # `ple-rec runs` holds the lock for microseconds to test it, so a single attempt could fail by chance.
            has_lock = take_lock(lock, wait=max(wait, 0.05))
        except OSError as error:
            raise UserError(
                str(path),
                f"cannot be locked ({error.strerror})",
                "a run's lock keeps a second process out",
                f"give a {Option.RUN_DIR} on a file system with locks",
            ) from error
        lock.seek(0)
        if not has_lock:
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
    """Remove files and folders of a run directory if they exist, and their drafts.

    Args:
        where: Run directory.
        names: Names of the files and folders.

    Raises:
        OSError: A file on a disk cannot be removed.
        StoreError: A file in a store cannot be removed.
    """
    for name in names:
        if isinstance(where, Remote):
            (where / name).unlink(missing_ok=True)
            remove_tree(where / name)
            continue
        for target in (where / name, where / (name + _PARTIAL)):
            # A symbolic link may lead to files that belong to others.
            shutil.rmtree(target) if target.is_dir() and not target.is_symlink() else target.unlink(missing_ok=True)


@contextmanager
def writing(path: Location) -> Iterator[None]:
    """Turn an error of the file system in the block into a UserError about `path`."""
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
        UserError: The disk is full or not writable, or the store cannot be written.
    """
    write_bytes(path, text.encode())


def write_bytes(path: Location, content: bytes) -> None:
    """Write a file whole or not at all; raises as `write_text` does."""
    write_stream(path, lambda file: file.write(content))


def write_stream(path: Location, write: Callable[[IO[bytes]], object]) -> None:
    """Write a file by a function, which appears under its name only when complete; raises as `write_text` does."""
    with writing(path), atomic_write(path) as file:
        write(file)


def write_json(path: Location, value: Any) -> None:
    """Write a JSON file whole or not at all; raises as `write_text` does."""
    write_text(path, json.dumps(value, indent=1) + "\n")
