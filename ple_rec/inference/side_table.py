"""Side tables of a model, such as one of users or of videos, in which a server looks up columns of requests by keys.

`publish_tables` writes a version of a side table into the folder of the model. `SideTable` is a version in memory.

    tables/<side>/v<N>/
      table.parquet   a row for each key, with the key columns and the columns that features of the model read; for a
                      history, lists of the times and of the raw values of each item of its events, the oldest first
      table.json      description of the table (`ple_rec.config.side_table`)
      manifest.json   sizes and checksums of the other files, written last
    tables/<side>/latest    name of the version to serve

Shape suffixes: N keys of one look-up.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ple_rec.config.raw_form import EVENT_TIME, RAW_FILE, RawForm, RawSide, RawType
from ple_rec.config.side_table import INFO_FILE, TABLE_FILE, SideTableInfo, SideValues
from ple_rec.config.words import spelling_hint
from ple_rec.data.vocabulary_index import is_text
from ple_rec.errors import DataError, Option, UserError
from ple_rec.inference.key_index import UNKNOWN, KeyIndex, sort_by_hash
from ple_rec.inference.manifest import explain_unreadable
from ple_rec.inference.model_dir import SIDE_TABLES, latest_table, latest_version, new_table
from ple_rec.inference.raw_values import arrow_type
from ple_rec.inference.remote_model import checked_version
from ple_rec.storage import Location

logger = logging.getLogger(__name__)

PUBLISH_AGAIN = "publish the table again with `ple-rec tables`"
_ROW_GROUP_ROWS = 1 << 20
# Errors that are raised if files of a version do not fit each other.
_INCONSISTENT = (LookupError, TypeError, ValueError, AttributeError, OSError, pa.ArrowException)


# Function that reads a side table. Its arguments are the folder of a version of the model, the names of the model's
# features, the side table, and its source: the folder of its raw files, or the directory of a dataset for rates. It
# returns a table with a row for each key, which has the key columns and the columns that features read; and the
# description of its values.
ReadSide = Callable[[Location, Collection[str], RawSide, str], tuple[pa.Table, SideValues]]


@dataclass(frozen=True)
class TableSources:
    """Places from which side tables are read.

    Args:
        files: Folder of raw files, for the side tables of `prep.toml`; None to publish none of them.
        dataset: Directory of a dataset, for the rates that prep has counted and the events of histories; None to
            publish none of them.
    """

    files: str | None = None
    dataset: str | None = None

    def of(self, side: RawSide) -> str | None:
        """Return the place from which a side table is read."""
        return self.dataset if side.is_from_dataset else self.files


@dataclass(frozen=True)
class PublishedTable:
    """Version of a side table that `publish_tables` has written.

    Args:
        folder: Folder of the version.
        info: Description of the table.
    """

    folder: Location
    info: SideTableInfo

    def __str__(self) -> str:
        info = self.info
        day = "" if info.latest_day is None else f", newest day {info.latest_day}"
        day += "" if info.as_of is None else f", as of {info.as_of}"
        return f"{info.name}: {info.rows:,} rows, {info.bytes:,} bytes in memory{day}: {self.folder}"


def publish_tables(
    model_dir: Location, names: Sequence[str], sources: TableSources, read_side: ReadSide
) -> list[PublishedTable]:
    """Write new versions of side tables for the version of a model that `latest` names.

    Args:
        model_dir: Folder of the model.
        names: Names of the side tables; empty for all that have a source.
        sources: Places from which they are read.
        read_side: Function that reads a side table, `data_prep.inputs.side_tables.read_side_table`.

    Raises:
        UserError: There is no model, it has no raw form, its features read no such table, a table has no source, files
            are not found, or the dataset does not fit the model's.
        DataError: Files do not fit the preparation of the model's dataset, or a key occurs in several rows.
    """
    version = latest_version(model_dir)
    form = _read_raw_form(version)
    sides = choose_sides(form, names, sources, str(version))
    assert form is not None  # `choose_sides` refuses None.
    return write_tables(model_dir, version, form, sides, sources, read_side)


def write_tables(
    model_dir: Location,
    version: Location,
    form: RawForm,
    sides: Sequence[RawSide],
    sources: TableSources,
    read_side: ReadSide,
    *,
    keep_newer: bool = False,
) -> list[PublishedTable]:
    """Write new versions of side tables for a version of a model, which need not be published yet.

    Args:
        model_dir: Folder of the model.
        version: Folder of the version.
        form: Raw form of the version.
        sides: Side tables, each of which has a source.
        sources: Places from which they are read.
        read_side: Function that reads a side table.
        keep_newer: True to keep a published table of the same rates or history as of a later day.
    """
    features = {feature for column in form.columns for feature in column.features}
    kinds = {column.name: column.type for column in form.columns}
    published = []
    for side in sides:
        source = sources.of(side)
        assert source is not None
        rows, values = read_side(version, features, side, source)
        newer = _newer_values(model_dir, side, values)
        if newer is not None and keep_newer:
            published.append(newer)
            continue
        if newer is not None:
            message = "%s: %s as of %s replace newer ones, as of %s. Fix: publish those of the newer dataset again"
            kind = "rates" if side.rates else "events"
            logger.warning(message, side.name, kind, values.as_of, newer.info.as_of)
        columns = {name: "string" if is_text(rows[name].type) else "int64" for name in side.key_columns}
        columns |= {name: kinds[f"{side.name}.{name}"] for name in side.columns}
        if side.history is not None:
            columns |= {name: _list_type(rows[name].type) for name in (EVENT_TIME, *side.history.items)}
        table = pa.table(sort_by_hash(_with_types(rows, columns, side.key_columns), side.key_columns))
        info = SideTableInfo(
            name=side.name,
            key_columns=side.key_columns,
            columns=columns,
            rows=table.num_rows,
            bytes=table.nbytes,
            **dict(values),
        )
        with new_table(model_dir, side.name) as folder:
            pq.write_table(table, folder / TABLE_FILE, row_group_size=_ROW_GROUP_ROWS)
            (folder / INFO_FILE).write_text(
                info.model_dump_json(indent=1, exclude_defaults=True) + "\n", encoding="utf-8"
            )
        published.append(PublishedTable(model_dir / SIDE_TABLES / side.name / folder.name, info))
    return published


def _list_type(kind: pa.DataType) -> RawType:
    """Return the type of a column with the lists of times, or of the values of an item, of a history."""
    if is_text(kind.value_type):
        return "list<string>"
    return "list<double>" if pa.types.is_floating(kind.value_type) else "list<int64>"


def _newer_values(model_dir: Location, side: RawSide, values: SideValues) -> PublishedTable | None:
    """Return the newest published table if it has the rates or events of a model as of a later day than other values.

    Args:
        model_dir: Folder of the model.
        side: Side table as the model reads it.
        values: Description of the other values.
    """
    if values.as_of is None:
        return None
    try:
        folder = latest_table(model_dir, side.name)
        if folder is None:
            return None
        with explain_unreadable(folder):
            info = SideTableInfo.model_validate_json((folder / INFO_FILE).read_text(encoding="utf-8"))
    except (DataError, FileNotFoundError, ValueError):  # A damaged table is replaced by one of any day.
        return None
    has_same_source = (info.rates, info.history) == (side.rates, side.history)
    is_newer = has_same_source and info.as_of is not None and info.as_of > values.as_of
    return PublishedTable(folder, info) if is_newer and info.columns.keys() >= set(side.columns) else None


def choose_sides(form: RawForm | None, names: Sequence[str], sources: TableSources, place: str) -> list[RawSide]:
    """Return the side tables that are to be published.

    Args:
        form: Raw form of the model; None if it has none.
        names: Names of side tables; empty for all that have a source.
        sources: Places from which they are read.
        place: Name of the model in messages.

    Raises:
        UserError: The model has no raw form, its features read no such table, or a table has no source.
    """
    if form is None:
        rule = "side tables fill raw columns of requests, and this model has no raw form"
        raise UserError(place, f"has no {RAW_FILE}", rule, "prepare the dataset again, train and export")
    sides = {side.name: side for side in form.sides}
    if not sides:
        rule = "a table that no feature reads is not served"
        raise UserError(Option.TABLES, "the model's features read no side table", rule, "leave it out")
    for name in names:
        if name not in sides:
            rule = f"side tables that the model's features read: {', '.join(sides)}"
            raise UserError(
                Option.TABLES, f"got {name!r}", rule, spelling_hint(name, list(sides)) or "name one of them"
            )
    chosen = [sides[name] for name in dict.fromkeys(names)] if names else list(sides.values())
    with_source = [side for side in chosen if sources.of(side) is not None]
    if with_source and (not names or with_source == chosen):
        return with_source
    if next(side for side in chosen if sources.of(side) is None).is_from_dataset:
        rates = ", ".join(side.name for side in chosen if side.rates)
        events = ", ".join(side.name for side in chosen if side.history is not None)
        kinds = [f"{kind} ({names})" for kind, names in (("rates", rates), ("events", events)) if names]
        rule = f"{' and '.join(kinds)} are read from a dataset"
        raise UserError(Option.DATASET, "missing", rule, "give the newest dataset that days were appended to")
    rule = "side tables are read from raw files, as prep reads them"
    raise UserError(Option.SOURCE, "missing", rule, "give the folder that prep read, or one with newer files")


def _read_raw_form(version: Location) -> RawForm | None:
    with explain_unreadable(version):
        try:
            return RawForm.model_validate_json((version / RAW_FILE).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None


def _with_types(rows: pa.Table, columns: Mapping[str, RawType], key_columns: Sequence[str]) -> dict[str, pa.Array]:
    """Return the columns of a table with the types of requests, but with integers as narrow as in the raw files.

    Args:
        rows: Rows of a side table, as its reader returns them.
        columns: Types of its columns, by name.
        key_columns: Names of the key columns, whose integers become int64.
    """
    arrays = {}
    for name, kind in columns.items():
        column = rows[name]
        is_narrow = pa.types.is_signed_integer(column.type) and name not in key_columns
        # Large lists have more values than offsets of 32 bits can number.
        has_type = is_narrow or pa.types.is_large_list(column.type)
        arrays[name] = _single_chunk(column if has_type else column.cast(arrow_type(kind), safe=False))
    return arrays


def _single_chunk(column: pa.ChunkedArray) -> pa.Array:
    """Return a column as one array, from which rows can be taken fast."""
    if column.num_chunks == 1:  # `combine_chunks` would copy it.
        return column.chunk(0)
    try:
        return column.combine_chunks()
    except pa.ArrowInvalid:  # More than 2 GiB of text, or 2^31 values of lists, need offsets of 64 bits.
        kind = column.type
        wide = pa.large_list(kind.value_type) if pa.types.is_list(kind) else pa.large_string()
        return column.cast(wide).combine_chunks()


def _check_type(name: str, kind: pa.DataType, info: SideTableInfo) -> None:
    """Raise a ValueError unless a column of `table.parquet` has the type that `table.json` names."""
    expected = arrow_type(info.columns[name])
    is_narrow = pa.types.is_signed_integer(kind) and pa.types.is_signed_integer(expected)
    is_wide = kind == pa.large_string() or pa.types.is_large_list(kind)
    narrow = pa.list_(kind.value_type) if pa.types.is_large_list(kind) else pa.string() if is_wide else kind
    if narrow != expected and (name in info.key_columns or not is_narrow):
        raise ValueError(f"column {name} is {kind}, not {expected}")


class SideTable:
    """Version of a side table in memory. Versions of a model and several threads may share it.

    Args:
        folder: Folder of the version, whose files have been verified.

    Attributes:
        version: Name of the version.
        info: Description of the table.
        bytes: Number of bytes of the columns and the index of the keys.

    Raises:
        ValueError: The files do not fit each other.
    """

    def __init__(self, folder: Path) -> None:
        self.version = folder.name
        self.info = SideTableInfo.model_validate_json((folder / INFO_FILE).read_text(encoding="utf-8"))
        table = pq.read_table(folder / TABLE_FILE, memory_map=False)
        if table.num_rows != self.info.rows:
            raise ValueError(f"{table.num_rows} rows, not {self.info.rows}")
        columns = {}
        for name in self.info.columns:
            columns[name] = _single_chunk(table[name])
            _check_type(name, columns[name].type, self.info)
            table = table.drop_columns(name)  # Its chunks are freed before the next column is copied.
        self._columns: dict[str, pa.Array] = sort_by_hash(columns, self.info.key_columns)
        self._index = KeyIndex([self._columns[name] for name in self.info.key_columns])
        # Otherwise Arrow would keep the memory of the file's pages for later arrays.
        pa.default_memory_pool().release_unused()
        self.bytes = self._index.nbytes + sum(column.nbytes for column in self._columns.values())

    def find(self, keys: Sequence[pa.Array]) -> NDArray[np.int64]:
        """Return the row of each key, or `key_index.UNKNOWN` or `key_index.NULL_KEY`.

        Args:
            keys: Values of each key column, int64 or text.
        """
        return self._index.find(keys)

    def take(self, column: str, rows_N: NDArray[np.int64]) -> pa.Array:
        """Return values of a column, in the type that requests have, for the rows that `find` has returned.

        The value for an unknown key is the column's default, else null; the value for a null key is null.
        """
        kind = arrow_type(self.info.columns[column])
        values = self._columns[column].take(pa.array(rows_N, mask=rows_N < 0)).cast(kind)
        if (default := self.info.defaults.get(column)) is None:
            return values
        return pc.if_else(pa.array(rows_N == UNKNOWN), pa.scalar(default, kind), values)

    def describe(self) -> dict[str, Any]:
        """Return name, version, rows, bytes and the days of the values, for logs and for `/v1/model`."""
        info = self.info
        return {
            "name": info.name,
            "version": self.version,
            "rows": info.rows,
            "bytes": self.bytes,
            "latest_day": info.latest_day,
            "as_of": info.as_of,
        }


def load_table(version: Location, name: str) -> SideTable:
    """Return a version of a side table in memory, after its files have been verified.

    Args:
        version: Folder of the version; a version in a store is copied to this machine.
        name: Name of the side table.

    Raises:
        DataError: A file is missing or has changed, the files do not fit each other, or are another table's.
        UnavailableError: The version is in a store that cannot be read.
    """
    try:
        table = SideTable(checked_version(version))
    except DataError as error:
        raise DataError(error.place, error.value, error.rule, PUBLISH_AGAIN) from error
    except _INCONSISTENT as error:
        value = f"cannot be loaded ({type(error).__name__}: {' '.join(str(error).split())[:200]})"
        rule = "the files of a version are those of one table"
        raise DataError(str(version), value, rule, PUBLISH_AGAIN) from error
    if table.info.name != name:
        raise DataError(str(version), f"holds the table {table.info.name!r}", f"it must be {name!r}", PUBLISH_AGAIN)
    return table
