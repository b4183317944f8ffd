"""Names of the files of a run directory, functions that write them, and the lock of the directory.

All names here are relative to the run directory, which is on a disk or in an object store. The checkpoints may be
elsewhere, if `checkpoint.path` names another place. A process holds the lock while it trains in the directory; in a
store, where files cannot be locked, `storage/lease.py` replaces the lock.
"""

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
    # This file exists since the first checkpoint. If it exists without checkpoints, somebody has moved them away.
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
# Rank 0 writes this file for some seconds. If all hosts see it, they share the directory.
PROBE = ".shared"
# Suffix of a file that is being written.
_PARTIAL = ".partial"
TEST_ROWS, ANALYSIS, ANALYSIS_PAGE, FUSION = "test_rows.npz", "analysis.json", "analysis.html", "fusion"
# Files with analyses of a finished run.
_ANALYSIS = {TEST_ROWS, ANALYSIS, ANALYSIS_PAGE}
# Files that describe the results in metrics.json. At its end, a run removes old ones before it writes new results.
NAMES_OF_RESULTS = (*sorted(_ANALYSIS), REPORT)
# Files and folders that training writes.
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
# Files and folders that a new run in the directory removes; it removes checkpoints and REPLACED separately.
NAMES_OF_RUN = tuple(sorted(_KNOWN - {REPLACED, LOCK, LEASE, CHECKPOINTS}))
# Patterns of the names in the folders of a run, by folder.
_FOLDER_PATTERNS = {
    CHECKPOINTS: r"step-(0|[1-9][0-9]*)|latest|best",
    TENSORBOARD: r"events\.out\.tfevents\..*",
    PROFILE: r"step\.(json|txt)|trace-rank[0-9]+\.json\.gz",
    FUSION: r"fusion\.(toml|json|html)",
}


def holds_run(path: Location) -> bool:
    """Return True if the run of a directory has results or a complete checkpoint, or has had a checkpoint.

    Raises:
        UserError: The checkpoints are in a store that cannot be read.
    """
    try:
        where = configured_checkpoint_place(path)
    except DataError:
        # The configuration is damaged, so checkpoints can only be found in the run directory.
        where = path / CHECKPOINTS
    return has_saved(path) or bool(finished_steps(where))


def has_saved(path: Location) -> bool:
    """Return True if a run has results, or has had a complete checkpoint, even if it is no longer there."""
    return any((path / name).is_file() for name in (SAVED, METRICS))


def configured_checkpoint_place(run_dir: Location) -> Location:
    """Return the place of the checkpoints of a run by its `config.toml`; without one, the default in the directory.

    Raises:
        UserError: The address of the place is not valid.
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
        path: `checkpoint.path`, in which `{run}` stands for the name of the run directory; None for the folder
            `checkpoints` in that directory.
        run_dir: Directory of the run.

    Raises:
        UserError: The address is not valid.
    """
    if path is None:
        return run_dir / CHECKPOINTS
    return location(path.replace("{run}", run_dir.resolve().name if isinstance(run_dir, Path) else run_dir.name))


def foreign_names(path: Location) -> list[str]:
    """Return the names in a run directory and in its folders that no run writes."""
    names_of_others = [name for name in names_in(path) if name.removesuffix(_PARTIAL) not in _KNOWN]
    for folder, known in _FOLDER_PATTERNS.items():
        names = names_in(path / folder)
        names_of_others += [
            f"{folder}/{name}" for name in names if not re.fullmatch(known, name.removesuffix(_PARTIAL))
        ]
    return sorted(names_of_others)


@contextmanager
def hold_lock(path: Path, *, wait: float = 0.0) -> Iterator[None]:
    """Hold the lock of a run directory, which is created if it is missing.

    Args:
        path: Run directory.
        wait: Seconds to wait for another process to release the lock.

    Raises:
        UserError: Another process trains in the directory, or it cannot be created or locked.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        # The content of the lock file is overwritten, so the file must not be a link to another one.
        lock = os.fdopen(os.open(path / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666), "r+", encoding="utf-8")
    except OSError as error:
        raise UserError(
            str(path),
            f"cannot be created ({error.strerror})",
            "a run writes its files there",
            f"give another {Option.RUN_DIR}",
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
    """Remove files and folders of a run directory if they exist; on a disk, also what was only partly written of them.

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
def explain_write_errors(path: Location) -> Iterator[None]:
    """Turn an OSError inside the block into a UserError which says that `path` cannot be written."""
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
    """Write a file, which appears under its name only when complete.

    Raises:
        UserError: The disk is full or not writable, or the store cannot be written.
    """
    write_bytes(path, text.encode())


def write_bytes(path: Location, content: bytes) -> None:
    """Write a file of bytes; raises as `write_text` does."""
    write_stream(path, lambda file: file.write(content))


def write_stream(path: Location, write: Callable[[IO[bytes]], object]) -> None:
    """Write a file by a function, which gets the open file; raises as `write_text` does."""
    with explain_write_errors(path), atomic_write(path) as file:
        write(file)


def write_json(path: Location, value: Any) -> None:
    """Write a JSON file; raises as `write_text` does."""
    write_text(path, json.dumps(value, indent=1) + "\n")
