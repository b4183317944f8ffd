"""Search for runs: all run directories below a folder, and the run directory of a name."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from ple_rec.checkpoint.manifest import MANIFEST
from ple_rec.config.choices import recipe_names
from ple_rec.errors import UserError
from ple_rec.runs.layout import CHECKPOINTS, CONFIG, LEASE, LOCK, LOG, METRICS, PLAN
from ple_rec.runs.record import locked
from ple_rec.storage import Location, Remote, is_address, location, names_in
from ple_rec.text import printable
from ple_rec.text.suggest import did_you_mean

RUNS = Path("runs")
# Number of levels that are searched; runs/repeat/<name>/seed-<n> is three levels below runs/.
DEPTH = 4


def is_run(path: Location) -> bool:
    """Return True for a run directory, which has a configuration and another file of a run.

    The directory of a run that has just begun, which has only a lock or a lease, is one too.

    Raises:
        StoreError: The store cannot be read.
    """
    return _is_run(path, set(_entries(path, []) if isinstance(path, Path) else names_in(path)))


def find_runs(directory: Location, unreadable: list[Path] | None = None) -> list[Location]:
    """Return the run directories at most `DEPTH` levels below a directory, itself included, by name.

    Hidden folders and folders inside a run are not searched. A symbolic link is followed only to a run directory.

    Args:
        directory: Directory to search.
        unreadable: List that folders that cannot be read are appended to; None to ignore them.

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
    """Return the runs at or below a prefix, by one listing of all its objects."""
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


def named_run(text: str) -> Location:
    """Return the run directory of a text: a path, an address in a store, or a name under `runs/`.

    Raises:
        UserError: There is no such run, or its store cannot be read.
    """
    places = places_of(text)
    for path in places:
        if is_run(path):
            return path
    existing = next((path for path in places if path_exists(path)), None)
    value = "no such run" if existing is None else "a directory without a run" if is_folder(existing) else "a file"
    searched = printable(f"{RUNS.absolute()}/")
    rule = f"a run is named by its directory ({CONFIG}, {LOG}, ...) or by its name under {searched}"
    raise UserError(printable(text), value, rule, _fix_of_missing_run(text.removeprefix(f"{RUNS}/")))


def places_of(text: str) -> tuple[Location, ...]:
    """Return the possible places of a run, or of a folder of runs: the path and a path below `runs/`, or the address.

    Raises:
        UserError: The address cannot be used.
    """
    return (location(text),) if is_address(text) else (Path(text), RUNS / text)


def named_checkpoint(text: str) -> tuple[Location, str]:
    """Return the run directory and the checkpoint of a text `RUN[:CHECKPOINT]`; without a checkpoint, `best`.

    Raises:
        UserError: There is no such run.
    """
    run, colon, checkpoint = text.rpartition(":")
    if not colon or checkpoint.startswith("/") or is_folder(Path(text)):
        run, checkpoint = text, "best"
    return named_run(run), checkpoint


def _fix_of_missing_run(name: str) -> str:
    if name in recipe_names():
        return f"it is a recipe that was not trained here: ple-rec train --config {name}"
    known = [str(path).removeprefix(f"{RUNS}/") for path in find_runs(RUNS)]
    if not known:
        return "no run is there; give the directory of one, or call it from the folder that holds runs/"
    hint = did_you_mean(name, known, '"', end=" ")
    return f"{hint}`ple-rec runs` lists them"


def _is_run(path: Location, names: set[str]) -> bool:
    # A checkpoint has a copy of the run's configuration, but is no run.
    if MANIFEST in names:
        return False
    if CONFIG in names:
        return bool(names & {LOG, CHECKPOINTS, METRICS, PLAN, LOCK})
    return names in ({LOCK}, {LEASE}) and locked(path)


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
        # A link may lead to itself, or to a folder that this user may not read.
        return False
