"""Directory in which a comparison trains its runs: its own directory on a disk, or a copy if that is in a store.

A comparison trains several runs and compares their metrics. The runs of a comparison in an object store train in a
temporary folder of this machine. New files are copied to the store after each run, and when the comparison ends without
an error. Checkpoints and runs that have not finished are not copied, so they are lost when the temporary folder is
removed.
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
from ple_rec.storage import Location, Remote, explain_errors, map_concurrently
from ple_rec.storage.lease import LEASE
from ple_rec.storage.store import StoredObject, objects_at


@contextmanager
def hold_comparison(where: Location, *, read_only: bool = False) -> Iterator[RunDirectory]:
    """Yield the directory in which a comparison trains its runs, and copy new files to the store after the block.

    For a comparison in a store, this is a temporary folder with the files that the store already has. The caller may
    copy new files earlier by `RunDirectory.push`; if the block raises an error, no others are copied. Other processes
    cannot change the comparison in the store meanwhile. Error messages name the address in the store instead of the
    temporary folder. For a comparison on a disk, this is its own directory, and each run is locked by itself.

    Args:
        where: Directory of the comparison, which need not exist yet.
        read_only: True to change nothing in the store, and to let other processes change the comparison.

    Raises:
        UserError: Another process holds the comparison, or the store cannot be read or written.
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
    """Copy the files of a comparison from a store to a folder, without checkpoints, lock files and leases.

    Args:
        where: Directory of the comparison in the store.
        folder: New folder for the copies.
    """
    folder.mkdir(parents=True)

    def copy(stored: StoredObject) -> None:
        file = folder / stored.name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes((where / stored.name).read_bytes())
        # The status of a run shows when its files were last changed, so the copies keep these times.
        if stored.modified is not None:
            os.utime(file, (stored.modified.timestamp(), stored.modified.timestamp()))

    map_concurrently(
        copy, [file for file in objects_at(where) if not {CHECKPOINTS, LOCK, LEASE} & set(file.name.split("/"))]
    )


def _finished_files(folder: Path, above: str = "") -> list[str]:
    """Return the paths of the files to copy to the store: all but checkpoints, lock files and unfinished runs.

    Args:
        folder: Folder to search, with its subfolders.
        above: Path of that folder relative to the directory of the comparison, with "/" at its end unless it is empty.

    Returns:
        Paths relative to the directory of the comparison.
    """
    is_folder_by_name = {path.name: path.is_dir() for path in sorted(folder.iterdir())}
    # A folder with a configuration is a run, which gets its metrics when it has finished.
    if CONFIG in is_folder_by_name and METRICS not in is_folder_by_name:
        return []
    files = []
    for name, is_folder in is_folder_by_name.items():
        if name not in (CHECKPOINTS, LOCK):
            files += _finished_files(folder / name, f"{above}{name}/") if is_folder else [f"{above}{name}"]
    return files
