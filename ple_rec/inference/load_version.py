"""Loading of an exported version of a model and of its side tables, for the server and the Python API.

`load_ranker` lets the version answer a request before it returns it, so that files which do not fit each other are
noticed before a client sends a request.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from ple_rec.config.raw_form import RawForm, RawSide
from ple_rec.errors import DataError
from ple_rec.inference.arrays import VersionArrays
from ple_rec.inference.delta import manifest_digest, version_chain
from ple_rec.inference.manifest import MANIFEST, explain_unreadable
from ple_rec.inference.model_dir import VERSIONS, latest_table, latest_version, publish_command
from ple_rec.inference.ranker import Ranker
from ple_rec.inference.remote_model import checked_version
from ple_rec.inference.request_error import RequestError, shorten
from ple_rec.inference.side_table import SideTable, load_table
from ple_rec.storage import Location, stamp_of

# Errors that files which do not fit each other may raise.
_INCONSISTENT = (LookupError, TypeError, ValueError, AttributeError, RuntimeError, OSError, RequestError)
_EXPORT_AGAIN = "export the run again"
# Number of items of the request that a version answers before it is returned.
_TESTED_ITEMS = 40


def load_ranker(version: Location, threads: int | None = None, *, older: Ranker | None = None) -> Ranker:
    """Return a version in memory, ready to answer requests, after its files have been verified.

    The ranker has answered one request already, since the first one takes longer than others. For a delta, the versions
    from which it was made are read, too.

    Args:
        version: Folder of the version; a version in a store is copied to this machine.
        threads: Number of threads of the dense layers; None for torch's number of threads.
        older: Version in memory. If the new version was made from it by deltas, only these are read, and the new ranker
            shares its arrays.

    Raises:
        UserError: The fusion does not fit the model, or a configuration is wrong.
        DataError: A file is missing or has changed since the export, or the files do not fit each other.
        UnavailableError: The version is in a store that cannot be read.
    """
    folder = checked_version(version)
    arrays, bases = _split_chain(version_chain(version), older)
    folders = [*(checked_version(base) for base in bases), folder]
    try:
        for each in folders:
            arrays = VersionArrays.read(each) if arrays is None else arrays.with_delta(each)
        ranker = Ranker(folder, threads, checked=True, arrays=arrays)
        ranker.answer([ranker.read_rank({"items": [{}] * _TESTED_ITEMS})])
    except _INCONSISTENT as error:
        why = shorten(" ".join(str(error).split()))
        value = f"cannot be loaded ({type(error).__name__}: {why})"
        raise DataError(str(version), value, "the files of a version are those of one export", _EXPORT_AGAIN) from error
    return ranker


def _split_chain(chain: Sequence[Location], older: Ranker | None) -> tuple[VersionArrays | None, Sequence[Location]]:
    """Return the arrays of a chain that are in memory, and the folders to be read after them, without the last one.

    Args:
        chain: Folders of which the new version consists (`version_chain`).
        older: Version in memory; None if there is none.
    """
    if older is not None:
        # The last folder is read in any case: if it is that of `older`, it was copied anew, and its files may differ.
        for i, folder in enumerate(chain[:-1]):
            if folder.name == older.arrays.version and manifest_digest(folder) == older.arrays.manifest:
                return older.arrays, chain[i + 1 : -1]
    return None, chain[:-1]


@dataclass(frozen=True)
class VersionStamp:
    """Identity of a version: its folder, and the stamp of its manifest, which differs if the folder is replaced.

    Args:
        path: Folder of the version.
        written: Stamp of the manifest; None if there is no manifest.
    """

    path: Location
    written: str | None

    @classmethod
    def of_folder(cls, path: Location) -> Self:
        """Return the identity of the version in a folder.

        Raises:
            DataError: This user may not read the folder.
            UnavailableError: The folder is in a store that cannot be read.
        """
        with explain_unreadable(path):
            try:
                return cls(path, stamp_of(path / MANIFEST))
            except FileNotFoundError:
                # Loading the version raises an error that explains this.
                return cls(path, None)

    @classmethod
    def of_latest(cls, model_dir: Location) -> Self:
        """Return the identity of the version that `latest` names now.

        Raises:
            UserError: The folder has no exported model.
            DataError: The file `latest` is damaged or names no version, or this user may not read it.
            UnavailableError: The model is in a store that cannot be read.
        """
        return cls.of_folder(latest_version(model_dir))

    @classmethod
    def of_table(cls, model_dir: Location, side: str) -> Self | None:
        """Return the identity of the newest version of a side table; None if the model has no such table.

        Raises:
            DataError: The table's file `latest` is damaged or names no version, or this user may not read it.
            UnavailableError: The model is in a store that cannot be read.
        """
        folder = latest_table(model_dir, side)
        return None if folder is None else cls.of_folder(folder)


def sides_of(form: RawForm | None) -> tuple[RawSide, ...]:
    """Return the side tables that a model reads."""
    return () if form is None else form.sides


def load_side_tables(ranker: Ranker, version: Location) -> tuple[Ranker, list[str]]:
    """Return a version with the side tables below its model, and a message for each table that does not fit it.

    Args:
        ranker: Version in memory.
        version: Folder of the version, `MODEL_DIR/versions/v<N>`; any other folder has no side tables.

    Raises:
        DataError: A table is damaged.
        UnavailableError: The model is in a store that cannot be read.
    """
    tables: dict[str, SideTable] = {}
    misfits: list[str] = []
    model_dir = version.parent.parent
    for side in sides_of(ranker.raw_form) if version.parent.name == VERSIONS else ():
        folder = latest_table(model_dir, side.name)
        if folder is None:
            continue
        table = load_table(folder, side.name)
        if (misfit := ranker.find_misfit(table.info)) is None:
            tables[side.name] = table
        else:
            command = publish_command(model_dir, side.name, from_dataset=side.is_from_dataset)
            misfits.append(f"{folder} is not used: {misfit}. Fix: {command}")
    return ranker.with_side_tables(tables) if tables else ranker, misfits
