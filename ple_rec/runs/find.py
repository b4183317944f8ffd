"""Where runs lie: every run directory below a folder, and the one that a name means."""

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
DEPTH = 4  # folders below the one that is searched: runs/repeat/<name>/seed-<n> is three below runs/


def is_run(path: Location) -> bool:
    """Return True for a run directory: it has a configuration, and something that a run wrote beside it.

    A run that has just begun, and holds nothing but its lock or its lease, is one too.

    Raises:
        StoreError: Its store cannot be read.
    """
    return _is_run(path, set(_entries(path, []) if isinstance(path, Path) else names_in(path)))


def find_runs(directory: Location, unreadable: list[Path] | None = None) -> list[Location]:
    """Return every run directory in a directory, itself included, at most `DEPTH` folders below it, by name.

    Hidden folders, what lies inside a run, and folders behind a symbolic link, unless it leads to a run, are left out.

    Args:
        directory: Directory that is searched.
        unreadable: List to which folders that cannot be read are added.

    Raises:
        StoreError: The store cannot be read.
    """
    if isinstance(directory, Remote):
        return _runs_in_store(directory)
    found: list[Location] = []
    closed = [] if unreadable is None else unreadable

    def look(folder: Path, depth: int) -> None:
        entries = _entries(folder, closed)
        if _is_run(folder, set(entries)):
            found.append(folder)
        elif depth > 0:
            for name, entry in sorted(entries.items()):
                if not name.startswith(".") and _is_folder(entry):
                    look(folder / name, 0 if entry.is_symlink() else depth - 1)

    look(directory, DEPTH)
    return found


def _runs_in_store(directory: Remote) -> list[Location]:
    """Return the runs at or below a prefix, by one listing of all that lies there."""
    from ple_rec.storage.store import objects_at

    children: dict[str, set[str]] = {"": set()}
    for found in objects_at(directory):
        folder = ""
        for name in filter(None, found.name.split("/")):
            children.setdefault(folder, set()).add(name)
            folder = f"{folder}/{name}"

    def look(folder: str, depth: int) -> Iterator[Location]:
        where = Remote(f"{directory}{folder}")
        if _is_run(where, children[folder]):
            yield where
        elif depth > 0:
            for name in sorted(children[folder]):
                if not name.startswith(".") and f"{folder}/{name}" in children:
                    yield from look(f"{folder}/{name}", depth - 1)

    return list(look("", DEPTH))


def is_folder(path: Location) -> bool:
    """Return True if a path leads to a directory; False if nobody may look, or the name is too long."""
    return os.path.isdir(path) if isinstance(path, Path) else path.is_dir()  # noqa: PTH112 - Path.is_dir raises there


def is_there(path: Location) -> bool:
    """Return True if a path leads to anything; False if nobody may look, or the name is too long."""
    return os.path.exists(path) if isinstance(path, Path) else path.exists()  # noqa: PTH110 - Path.exists raises there


def named_run(text: str) -> Location:
    """Return the run directory that a text means: its path, its address in a store, or its name under `runs/`.

    Raises:
        UserError: there is none, or its store cannot be read.
    """
    places = places_of(text)
    for path in places:
        if is_run(path):
            return path
    there = next((path for path in places if is_there(path)), None)
    value = "no such run" if there is None else "a directory without a run" if is_folder(there) else "a file"
    searched = printable(f"{RUNS.absolute()}/")
    rule = f"a run is named by its directory ({CONFIG}, {LOG}, ...) or by its name under {searched}"
    raise UserError(printable(text), value, rule, _way_to_a_run(text.removeprefix(f"{RUNS}/")))


def places_of(text: str) -> tuple[Location, ...]:
    """Return where a run, or a folder of runs, of that name may lie: at the path or below `runs/`, or at the address.

    Raises:
        UserError: the address cannot be used.
    """
    return (location(text),) if is_address(text) else (Path(text), RUNS / text)


def named_checkpoint(text: str) -> tuple[Location, str]:
    """Return the run directory and the checkpoint that `RUN[:CHECKPOINT]` means; `best` if it names none.

    Raises:
        UserError: there is no such run.
    """
    run, colon, checkpoint = text.rpartition(":")
    if not colon or checkpoint.startswith("/") or is_folder(Path(text)):
        run, checkpoint = text, "best"
    return named_run(run), checkpoint


def _way_to_a_run(name: str) -> str:
    """What to do where there is no run of that name."""
    if name in recipe_names():
        return f"it is a recipe that was not trained here: ple-rec train --config {name}"
    known = [str(path).removeprefix(f"{RUNS}/") for path in find_runs(RUNS)]
    if not known:
        return "no run is there; give the directory of one, or call it from the folder that holds runs/"
    hint = did_you_mean(name, known, '"', end=" ")
    return f"{hint}`ple-rec runs` lists them"


def _is_run(path: Location, names: set[str]) -> bool:
    if MANIFEST in names:  # a checkpoint, which has the run's configuration too
        return False
    if CONFIG in names:
        return bool(names & {LOG, CHECKPOINTS, METRICS, PLAN, LOCK})
    return names in ({LOCK}, {LEASE}) and locked(path)


def _entries(folder: Path, unreadable: list[Path]) -> dict[str, os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return {entry.name: entry for entry in entries}
    except (FileNotFoundError, NotADirectoryError):  # gone since, or never there
        return {}
    except OSError:
        unreadable.append(folder)
        return {}


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself, or to where nobody may look
        return False
