"""Where runs lie: every run directory below a folder, and the one that a name means."""

from __future__ import annotations

import os
from pathlib import Path

from ple_rec.analysis.run_record import locked
from ple_rec.checkpoint.manifest import MANIFEST
from ple_rec.config.catalog import recipe_names
from ple_rec.errors import UserError
from ple_rec.storage import is_address, location
from ple_rec.text import printable
from ple_rec.text.suggest import did_you_mean
from ple_rec.training.mirror import local_run
from ple_rec.training.run_dir import CHECKPOINTS, CONFIG, LOCK, LOG, METRICS, PLAN

RUNS = Path("runs")
DEPTH = 4  # folders below the one that is searched: runs/repeat/<name>/seed-<n> is three below runs/


def is_run(path: Path) -> bool:
    """Whether `path` is a run directory: a configuration and something that a run wrote beside it.

    A run that has just begun, and holds nothing but its lock, is one too.
    """
    return _is_run(path, set(_entries(path, [])))


def find_runs(directory: Path, unreadable: list[Path] | None = None) -> list[Path]:
    """Every run directory in `directory`, itself included, at most `DEPTH` folders below it, by name.

    Hidden folders, what lies inside a run, and folders behind a symbolic link, unless it leads to a run, are left out.

    Args:
        directory: Where to look.
        unreadable: Gets the folders that cannot be read.
    """
    found: list[Path] = []
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


def is_folder(path: Path) -> bool:
    """Whether `path` leads to a directory; False, too, where nobody may look, or the name is too long."""
    return os.path.isdir(path)  # noqa: PTH112 - Path.is_dir raises there


def is_there(path: Path) -> bool:
    """Whether `path` leads to anything; False, too, where nobody may look, or the name is too long."""
    return os.path.exists(path)  # noqa: PTH110 - Path.exists raises there


def named_run(text: str) -> Path:
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


def places_of(text: str) -> tuple[Path, ...]:
    """Return where a run, or a folder of runs, of that name may lie: at the path or below `runs/`, or at the address.

    Raises:
        UserError: the store of an address cannot be read.
    """
    return (local_run(location(text)),) if is_address(text) else (Path(text), RUNS / text)


def named_checkpoint(text: str) -> tuple[Path, str]:
    """The run directory and the checkpoint that `RUN[:CHECKPOINT]` means; `best` where it names none.

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
    known = [str(path.relative_to(RUNS)) for path in find_runs(RUNS)]
    if not known:
        return "no run is there; give the directory of one, or call it from the folder that holds runs/"
    hint = did_you_mean(name, known, '"', end=" ")
    return f"{hint}`ple-rec runs` lists them"


def _is_run(path: Path, names: set[str]) -> bool:
    if MANIFEST in names:  # a checkpoint, which has the run's configuration too
        return False
    if CONFIG in names:
        return bool(names & {LOG, CHECKPOINTS, METRICS, PLAN, LOCK})
    return names == {LOCK} and locked(path)


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
