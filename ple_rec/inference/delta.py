"""Delta of an exported model: a version that has only what differs from an older version, its base.

A delta has the files of a whole version (`export.py`), except that

    model.json                           has the entry `delta` (`DeltaInfo`), and of each table the number `changed`
    tables/<table>.<precision>.delta     stands for the table: numbers of the changed rows (int32, little-endian,
                                         ascending), then these rows as they are stored
    vocab/<table>.delta.parquet          stands for the vocabulary: a line for each row whose value differs from that of
                                         the base, with `row` (int32, ascending), `raw` (null: the row is free now) and
                                         `previous` (null: the row had no value)
    vectors/<feature>.parquet            is left out if its bytes are those of the base

The base may be a delta, too, so a version is a chain of folders that begins with a whole version. Each delta has the
SHA-256 of the manifest of its base, so no folder of a chain can be replaced by another one.

Shape suffixes: E changed rows, P bytes of a stored row.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from ple_rec.config.choices import TablePrecision
from ple_rec.data.vocabulary_changes import VocabularyChanges
from ple_rec.errors import DataError
from ple_rec.inference.manifest import EXPORT_AGAIN, MODEL_FILE, explain_unreadable, read_manifest
from ple_rec.inference.publish import VERSION_NAME
from ple_rec.inference.tables import ChangedRows, read_bytes, row_bytes
from ple_rec.storage import Location

_ROW_NUMBER = np.dtype("<i4")
_CHANGES_SCHEMA = ("row", "raw", "previous")


class MissingBaseError(DataError):
    """The base of a delta is missing, or another version has its name; a later attempt may find it."""


@dataclass(frozen=True)
class DeltaInfo:
    """Entry `delta` of `model.json`.

    Args:
        base: Name of the version to which the changes apply.
        manifest: SHA-256 of the manifest of that version, in hexadecimal digits.
        share: Bytes that a server holds besides the whole version, by the bytes of the whole tables and vocabularies
            (`VersionArrays.overlay_bytes`, `VersionArrays.whole_bytes`).
    """

    base: str
    manifest: str
    share: float

    @classmethod
    def of_description(cls, description: dict[str, Any]) -> Self | None:
        """Return the entry of the content of `model.json`; None for a whole version.

        Raises:
            ValueError: The entry is damaged.
        """
        if (entry := description.get("delta")) is None:
            return None
        try:
            info = cls(str(entry["base"]), str(entry["manifest"]), float(entry["share"]))
        except (LookupError, TypeError) as error:
            raise ValueError(f"the entry delta is {entry!r}") from error
        # The name becomes part of a path, so a forged one could lead to another folder.
        if not VERSION_NAME.fullmatch(info.base):
            raise ValueError(f"the base of the delta is {info.base[:80]!r}")
        return info


def delta_info(version: Location) -> DeltaInfo | None:
    """Return the entry `delta` of a version; None for a whole version.

    Raises:
        DataError: `model.json` is missing or damaged.
        UnavailableError: The version is in a store that cannot be read.
    """
    file = version / MODEL_FILE
    with explain_unreadable(version):
        try:
            return DeltaInfo.of_description(json.loads(file.read_text(encoding="utf-8")))
        except (FileNotFoundError, NotADirectoryError, ValueError, AttributeError, RecursionError) as error:
            rule = "it describes an exported model"
            raise DataError(str(file), f"unreadable ({error})", rule, EXPORT_AGAIN) from error


def manifest_digest(version: Location) -> str:
    """Return the SHA-256 of the manifest of a version, in hexadecimal digits.

    Raises:
        DataError: There is no manifest, or this user may not read it.
        UnavailableError: The version is in a store that cannot be read.
    """
    with explain_unreadable(version):
        return hashlib.sha256(read_manifest(version)).hexdigest()


def version_chain(version: Location) -> list[Location]:
    """Return the folders of which a version consists: a whole version, then deltas, of which it is the last.

    Raises:
        MissingBaseError: A base is missing, or has another manifest than the one from which the delta was made.
        DataError: A base has no manifest, or `model.json` is damaged.
        UnavailableError: The version is in a store that cannot be read.
    """
    chain = [version]
    while (info := delta_info(chain[0])) is not None:
        base = chain[0].parent / info.base
        if not (base / MODEL_FILE).is_file():
            raise MissingBaseError(
                str(base),
                "is missing",
                f"{chain[0].name} has only what differs from it",
                f"put {info.base} back, or let `latest` name a version that is whole",
            )
        check_base(chain[0], info, base.name, manifest_digest(base))
        chain.insert(0, base)
    return chain


def check_base(delta: Location, info: DeltaInfo, name: str, manifest: str | None) -> None:
    """Refuse to put a delta on a version from which it was not made.

    Args:
        delta: Folder of the delta.
        info: Entry `delta` of its `model.json`.
        name: Name of the version on which it would be put.
        manifest: SHA-256 of the manifest of that version; None if it has none yet.

    Raises:
        MissingBaseError: The delta was made from another version.
    """
    if info.manifest != manifest:
        other = f"{name} with {'no manifest' if manifest is None else _manifest_text(manifest)}"
        raise MissingBaseError(
            str(delta),
            f"was made from {info.base} with {_manifest_text(info.manifest)}, not from {other}",
            "a delta fits only the version from which it was made",
            "put that version back, or export the delta again, or a whole version",
        )


def _manifest_text(digest: str) -> str:
    return f"the manifest {digest[:16]}..."


def changed_rows_file(table: str, precision: TablePrecision) -> str:
    """Return the name of the file with the changed rows of a table, in the folder `tables`."""
    return f"{table}.{precision}.delta"


def vocabulary_changes_file(table: str) -> str:
    """Return the name of the file with the changes of a table's vocabulary, in the folder `vocab`."""
    return f"{table}.delta.parquet"


def write_changed_rows(file: Path, changes: ChangedRows) -> None:
    """Write the changed rows of a table."""
    with file.open("wb") as out:
        out.write(changes.rows_E.numpy().astype(_ROW_NUMBER, copy=False).data)
        out.write(changes.stored_EP.contiguous().numpy().data)


def read_changed_rows(file: Path, changed: int, rows: int, dim: int, precision: TablePrecision) -> ChangedRows:
    """Read the changed rows of a table.

    Args:
        file: File that `write_changed_rows` wrote.
        changed: Number of changed rows.
        rows: Number of rows of the table.
        dim: Number of columns.
        precision: Precision of the table.

    Raises:
        DataError: The file has another size, or its row numbers do not ascend or exceed the table.
    """
    width = row_bytes(dim, precision)
    size, expected = file.stat().st_size, changed * (_ROW_NUMBER.itemsize + width)
    if size != expected:
        rule = f"{changed} changed rows of {dim} columns in {precision} take {expected}"
        raise DataError(str(file), f"has {size} bytes", rule, EXPORT_AGAIN)
    content = read_bytes(file, size)
    rows_E = content[: changed * _ROW_NUMBER.itemsize].view(_ROW_NUMBER).astype(np.int32)
    # Neighbours are compared, since their difference may be beyond int32.
    descends = rows_E[1:] <= rows_E[:-1]
    if descends.any():
        i = int(descends.argmax())
        value = f"row {rows_E[i + 1]} after row {rows_E[i]}"
        raise DataError(str(file), value, "the numbers of changed rows ascend", EXPORT_AGAIN)
    if changed and not (rows_E[0] >= 0 and rows_E[-1] < rows):
        row = rows_E[0] if rows_E[0] < 0 else rows_E[-1]
        raise DataError(str(file), f"row {row}", f"the table has the rows 0 to {rows - 1}", EXPORT_AGAIN)
    stored_EP = torch.from_numpy(content[changed * _ROW_NUMBER.itemsize :]).view(changed, width)
    return ChangedRows(torch.from_numpy(rows_E), stored_EP)


def write_vocabulary_changes(file: Path, changes: VocabularyChanges) -> None:
    """Write the changes of a vocabulary."""
    columns = [pa.array(changes.rows_E), changes.raw_E, changes.previous_E]
    pq.write_table(pa.table(columns, names=_CHANGES_SCHEMA), file)


def read_vocabulary_changes(file: Path) -> VocabularyChanges:
    """Read the changes of a vocabulary.

    Raises:
        DataError: The file is damaged, has other columns, or rows that do not ascend.
    """
    try:
        table = pq.read_table(file, columns=list(_CHANGES_SCHEMA), memory_map=False).combine_chunks()
        row, raw, previous = (
            table[name].chunk(0) if table.num_rows else pa.array([], table[name].type) for name in _CHANGES_SCHEMA
        )
        if row.type != pa.int32():
            raise ValueError(f"the rows are {row.type}, not int32")
        return VocabularyChanges(row.to_numpy(zero_copy_only=True), raw, previous)
    except (OSError, ValueError, LookupError, pa.ArrowException) as error:
        rule = "it has the rows of a vocabulary whose values have changed"
        raise DataError(str(file), f"unreadable ({error})", rule, EXPORT_AGAIN) from error
