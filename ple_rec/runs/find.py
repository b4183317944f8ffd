"""Search for runs: all run directories below a folder, and the run directory of a name."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from ple_rec.checkpoint.manifest import MANIFEST
from ple_rec.config.choices import recipe_names
from ple_rec.errors import UserError
from ple_rec.runs.layout import CHECKPOINTS, CONFIG, LEASE, LOCK, LOG, METRICS, PLAN
from ple_rec.runs.record import is_locked
from ple_rec.storage import Location, Remote, is_address, location, names_in
from ple_rec.text import printable
from ple_rec.text.suggest import did_you_mean

RUNS = Path("runs")
# Number of levels of folders that are searched; runs/repeat/<name>/seed-<n> is three levels below runs/.
DEPTH = 4


def is_run(path: Location) -> bool:
    """Return True for a run directory: it has a configuration and another file of a run.

    The directory of a run that has just begun has only a lock or a lease, and counts if a process holds it.

    Raises:
        StoreError: The store cannot be read.
    """
    # A folder that cannot be read counts as empty.
    return _is_run(path, set(_entries(path, []) if isinstance(path, Path) else names_in(path)))


def find_runs(directory: Location, unreadable: list[Path] | None = None) -> list[Location]:
    """Return the run directories at most `DEPTH` levels below a directory, itself included, sorted by name.

    Hidden folders and folders inside a run are not searched. A symbolic link is followed only to a run directory.

    Args:
        directory: Directory to search.
        unreadable: List to which folders are appended that cannot be read; None to ignore them.

    Raises:
        StoreError: The store cannot be read.
    """
    if isinstance(directory, Remote):
        return _runs_in_store(directory)
    runs: list[Location] = []
    unreadable_folders = [] if unreadable is None else unreadable

    def search(folder: Path, depth: int) -> None:
        entries = _entries(folder, unreadable_folders)
        if _is_run(folder, set(entries)):
            runs.append(folder)
        elif depth > 0:
            for name, entry in sorted(entries.items()):
                if not name.startswith(".") and _is_folder(entry):
                    search(folder / name, 0 if entry.is_symlink() else depth - 1)

    search(directory, DEPTH)
    return runs


def _runs_in_store(directory: Remote) -> list[Location]:
    """Return the runs at or below a prefix of a store, from a single listing of its objects."""
    from ple_rec.storage.store import objects_at

    children: dict[str, set[str]] = {"": set()}
    for stored in objects_at(directory):
        folder = ""
        for name in filter(None, stored.name.split("/")):
            children.setdefault(folder, set()).add(name)
            folder = f"{folder}/{name}"

    def search(folder: str, depth: int) -> Iterator[Location]:
        where = Remote(f"{directory}{folder}")
        if _is_run(where, children[folder]):
            yield where
        elif depth > 0:
            for name in sorted(children[folder]):
                if not name.startswith(".") and f"{folder}/{name}" in children:
                    yield from search(f"{folder}/{name}", depth - 1)

    return list(search("", DEPTH))


def is_folder(path: Location) -> bool:
    """Return True if a path leads to a directory; False if it cannot be read, or the name is too long."""
    return os.path.isdir(path) if isinstance(path, Path) else path.is_dir()  # noqa: PTH112 - Path.is_dir raises there


def path_exists(path: Location) -> bool:
    """Return True if a path leads to anything; False if it cannot be read, or the name is too long."""
    return os.path.exists(path) if isinstance(path, Path) else path.exists()  # noqa: PTH110 - Path.exists raises there


def find_run(text: str) -> Location:
    """Return the run directory of a text: a path, an address in a store, or a name under `runs/`.

    Raises:
        UserError: There is no such run, or its store cannot be read.
    """
    places = possible_places(text)
    for path in places:
        if is_run(path):
            return path
    existing = next((path for path in places if path_exists(path)), None)
    value = "no such run" if existing is None else "a directory without a run" if is_folder(existing) else "a file"
    searched = printable(f"{RUNS.absolute()}/")
    rule = f"a run is named by its directory ({CONFIG}, {LOG}, ...) or by its name under {searched}"
    raise UserError(printable(text), value, rule, _fix_of_missing_run(text.removeprefix(f"{RUNS}/")))


def possible_places(text: str) -> tuple[Location, ...]:
    """Return where a run, or a folder of runs, may be: at the path or at the name under `runs/`, or at the address.

    Raises:
        UserError: The address cannot be used.
    """
    return (location(text),) if is_address(text) else (Path(text), RUNS / text)


def find_run_and_checkpoint(text: str) -> tuple[Location, str]:
    """Return the run directory and the checkpoint of a text `RUN[:CHECKPOINT]`; without a checkpoint, `best`.

    Raises:
        UserError: There is no such run.
    """
    run, colon, checkpoint = text.rpartition(":")
    # The colon of an address such as `s3://...` names no checkpoint, and the name of a folder may have a colon.
    if not colon or checkpoint.startswith("/") or is_folder(Path(text)):
        run, checkpoint = text, "best"
    return find_run(run), checkpoint


def _fix_of_missing_run(name: str) -> str:
    if name in recipe_names():
        return f"it is a recipe that was not trained here: ple-rec train --config {name}"
    known = [str(path).removeprefix(f"{RUNS}/") for path in find_runs(RUNS)]
    if not known:
        return "no run is there; give the directory of one, or call it from the folder that holds runs/"
    hint = did_you_mean(name, known, '"', suffix=" ")
    return f"{hint}`ple-rec runs` lists them"


def _is_run(path: Location, names: set[str]) -> bool:
    # A checkpoint has a copy of the configuration of its run, but is not a run directory.
    if MANIFEST in names:
        return False
    if CONFIG in names:
        return bool(names & {LOG, CHECKPOINTS, METRICS, PLAN, LOCK})
    return names in ({LOCK}, {LEASE}) and is_locked(path)


def _entries(folder: Path, unreadable: list[Path]) -> dict[str, os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return {entry.name: entry for entry in entries}
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError:
        unreadable.append(folder)
        return {}


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        # A symbolic link may lead to itself, or to a folder that this user may not read.
        return False
