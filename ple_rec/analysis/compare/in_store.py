"""A comparison in an object store: its files are worked on in a folder of this machine, and put there as runs finish.

Checkpoints, and runs that have not finished, stay in the folder of this machine.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from ple_rec.errors import PleRecError
from ple_rec.runs.directory import RunDirectory, hold_prefix
from ple_rec.runs.layout import CHECKPOINTS, CONFIG, LOCK, METRICS
from ple_rec.storage import Location, Remote, at_once, explain_errors
from ple_rec.storage.lease import LEASE
from ple_rec.storage.store import Object, objects_at


@contextmanager
def hold_comparison(where: Location, *, read_only: bool = False) -> Iterator[RunDirectory]:
    """Give a directory to work on a comparison; what the block has written there is in the store at its end.

    On a disk that is the directory itself, whose runs are held one by one. Errors name the directory.

    Args:
        where: Directory of the comparison, new or not.
        read_only: True to change nothing in a store, and to hold nothing there.

    Raises:
        UserError: Another process holds it, or the store cannot be read or written.
    """
    if isinstance(where, Path):
        yield RunDirectory(where, where)
        return
    with tempfile.TemporaryDirectory(prefix="ple-rec-", ignore_cleanup_errors=True) as name:
        folder = Path(name) / where.name
        try:
            with nullcontext() if read_only else hold_prefix(where) as lease:
                with explain_errors(folder, "written", f"files of {where} are worked on there"):
                    _fetch(where, folder)
                comparison = RunDirectory(where, folder, [] if lease is None else [lease], _finished_files)
                yield comparison
                comparison.push()
        except PleRecError as error:
            raise error.reworded(lambda part: part.replace(str(folder), str(where))) from error


def _fetch(where: Remote, folder: Path) -> None:
    """Copy the files of a comparison in a store but for checkpoints."""
    folder.mkdir(parents=True)

    def copy(stored: Object) -> None:
        file = folder / stored.name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes((where / stored.name).read_bytes())
        if stored.modified is not None:
            os.utime(file, (stored.modified.timestamp(), stored.modified.timestamp()))

    at_once(copy, [file for file in objects_at(where) if not {CHECKPOINTS, LOCK, LEASE} & set(file.name.split("/"))])


def _finished_files(folder: Path, above: str = "") -> list[str]:
    """Return the files below a folder but those of runs that have not finished, whose checkpoints stay here."""
    names = {path.name: path.is_dir() for path in sorted(folder.iterdir())}
    if CONFIG in names and METRICS not in names:
        return []
    files = []
    for name, is_folder in names.items():
        if name not in (CHECKPOINTS, LOCK):
            files += _finished_files(folder / name, f"{above}{name}/") if is_folder else [f"{above}{name}"]
    return files
