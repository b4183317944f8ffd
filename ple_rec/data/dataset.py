"""Dataset directory: its schema, its statistics, the footers of its parts, and its row groups.

A part is one of the Parquet files of a split (train, valid or test). `DatasetDirectory` opens a dataset and lists the
row groups of a split; `read_row_group` reads one of them as checked arrays.

A parsed footer takes about eight times the memory of its bytes (half a megabyte for 16 row groups of 37 columns), so
only the most recently used ones are cached. Parsing a footer takes a twentieth of the time of reading one row group.
"""

from __future__ import annotations

import json
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ple_rec.config.base import Split
from ple_rec.config.load import load_schema
from ple_rec.config.schema import FINGERPRINT_KEY, SCHEMA_FILE, STATS_FILE, DatasetSchema, SparseFeature
from ple_rec.data.columns import DecodedRows, Selection, decode, select_columns
from ple_rec.data.histories import HistoryEvents
from ple_rec.data.integrity import Digests, read_footer
from ple_rec.data.vectors import FrozenTable
from ple_rec.errors import DataError, PleRecError, UserError
from ple_rec.storage import Location, explain_errors, location, names_in
from ple_rec.storage.arrow import open_parquet
from ple_rec.text.suggest import did_you_mean

# Limit of the footer cache, in bytes of the footers in their files, that is, before they are parsed.
MAX_BYTES = 16 << 20
# Number of threads that read footers. From a store they mostly wait, so there may be more of them than cores.
_THREADS = 8


@dataclass(frozen=True)
class PartFooter:
    """Content of a part's footer.

    Args:
        file: Parquet file.
        rows: Number of rows of each row group.
        names: Names of the columns.
        schema: Arrow schema. Parts with equal schemas share one object.
    """

    file: Location
    rows: tuple[int, ...]
    names: tuple[str, ...]
    schema: pa.Schema


class Footers:
    """Cache of the footers of a dataset, which several threads may use.

    Args:
        digests: Digests of the dataset, with which every footer is compared when it is parsed.
        max_bytes: Limit of the cache, in bytes of the footers before they are parsed.
    """

    def __init__(self, digests: Digests, max_bytes: int = MAX_BYTES) -> None:
        self.digests, self.max_bytes = digests, max_bytes
        self._footers: OrderedDict[Location, pq.FileMetaData] = OrderedDict()
        self._distinct_schemas: list[pa.Schema] = []
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, file: Location) -> pq.FileMetaData:
        """Return the footer of a file. If it is no longer cached, it is parsed again, with the errors of `parse`."""
        with self._lock:
            if (footer := self._footers.get(file)) is not None:
                self._footers.move_to_end(file)
                return footer
        return self.parse(file)[0]

    def parse(self, file: Location) -> tuple[pq.FileMetaData, pa.Schema]:
        """Parse the footer of a file and cache it.

        The schema is taken from the reader and not from the footer. A footer and its own schema refer to each other, so
        only the garbage collector could free them. It runs after a number of new objects, whatever their size, so a few
        large ones would stay for long.

        Returns:
            Footer, and the Arrow schema without its metadata.

        Raises:
            DataError: The footer differs from its digest.
            OSError, ValueError, pa.ArrowException: The file cannot be read or is not a Parquet file.
        """
        content = read_footer(file)
        self.digests.check_footer(f"{file.parent.name}/{file.name}", content)
        with pq.ParquetFile(pa.BufferReader(content)) as parquet:
            footer, parsed_schema = parquet.metadata, parquet.schema_arrow.remove_metadata()
        with self._lock:
            schema = next((other for other in self._distinct_schemas if other.equals(parsed_schema)), None)
            if schema is None:
                self._distinct_schemas.append(schema := parsed_schema)
            if file not in self._footers:
                self._footers[file] = footer
                self._bytes += footer.serialized_size
            while self._bytes > self.max_bytes and len(self._footers) > 1:
                self._bytes -= self._footers.popitem(last=False)[1].serialized_size
        return footer, schema

    def read_parts(self, files: Sequence[Location], read: Callable[[Location], PartFooter]) -> list[PartFooter]:
        """Call `read` for several files in threads, and return its results in the order of the files.

        Args:
            files: Parquet files.
            read: Function that returns the content of a file's footer or raises an error.

        Raises:
            Exception: `read` raised it. Of several errors, that of the first file in order is raised.
        """
        pool = ThreadPoolExecutor(min(_THREADS, len(files)), thread_name_prefix="footers")
        try:
            return list(pool.map(read, files))
        finally:
            pool.shutdown(cancel_futures=True)


@dataclass(frozen=True)
class RowGroup:
    """Row group of a part.

    Args:
        file: Parquet file.
        index: Index of the row group in the file.
        rows: Number of rows.
        footers: Cache with the footer of the file.
    """

    file: Location
    index: int
    rows: int
    footers: Footers = field(repr=False, compare=False)

    @property
    def footer(self) -> pq.FileMetaData:
        """Footer of the part."""
        return self.footers.get(self.file)

    @property
    def place(self) -> str:
        """File and index of the row group, for messages."""
        return f"{self.file}, row group {self.index}"


class DatasetDirectory:
    """Open dataset directory.

    Args:
        path: Directory or its address in a store, written by `ple-rec prep`, by `data_prep.write_tables`, or by hand as
            docs/data.md describes.

    Raises:
        UserError: The directory is missing, or cannot be read.
        DataError: The dataset is incomplete, `schema.toml` breaks its rules or differs from its digest, or `_SUCCESS`
            is damaged. The parts are checked when they are read.
    """

    def __init__(self, path: str | Location) -> None:
        self.path: Location = location(path)
        self.schema: DatasetSchema = load_schema(self.path)
        self.digests = Digests.read(self.path)
        self.digests.check(SCHEMA_FILE)
        self.footers = Footers(self.digests)
        self._parts: dict[Split, list[PartFooter]] = {}

    @cached_property
    def _stats(self) -> Any:
        """Content of `stats.json`, read once. A file that was written by hand may contain any JSON value.

        Raises:
            DataError: The file differs from its digest.
            OSError, ValueError: The file cannot be read.
        """
        self.digests.check(STATS_FILE)
        return json.loads((self.path / STATS_FILE).read_text(encoding="utf-8"))

    def statistics(self) -> dict[str, Any]:
        """Return the statistics of the columns, by name and split, as `stats.json` has them under `columns`.

        Raises:
            DataError: The file differs from its digest, cannot be read, or has no key `columns`.
        """
        file = self.path / STATS_FILE
        try:
            columns: dict[str, Any] = self._stats["columns"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            value = "no key 'columns'" if isinstance(error, KeyError) else f"unreadable ({error})"
            fix = f"write the statistics of the dense features there, as docs/data.md says, or {_PREPARE_AGAIN}"
            raise DataError(str(file), value, "the normalisation of dense features needs it", fix) from error
        return columns

    def label_counts(self, split: Split) -> dict[str, tuple[int, int]]:
        """Return the numbers of samples and of positives of each binary task, by task name.

        Tasks without one of these numbers are left out. The result is empty if `stats.json` cannot be read, or lacks
        the split for some task.

        Raises:
            DataError: `stats.json` differs from its digest.
        """
        try:
            tasks: dict[str, Any] = self._stats["tasks"]
            statistics = {task: splits[split] for task, splits in tasks.items()}
            counts = {task: (each["samples"], each.get("positives")) for task, each in statistics.items()}
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            return {}
        return {task: count for task, count in counts.items() if all(isinstance(value, int) for value in count)}

    def reachable_metrics(self, split: Split) -> dict[str, dict[str, float]]:
        """Return the best metrics that a model can reach on synthetic data, by task and metric; empty for other data.

        They are those of a model that predicts the expected values from which the labels were drawn.

        Raises:
            DataError: `stats.json` differs from its digest.
        """
        try:
            tasks: dict[str, Any] = self._stats["reachable"][split]
            return {
                task: {name: float(value) for name, value in metrics.items() if isinstance(value, int | float)}
                for task, metrics in tasks.items()
            }
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            return {}

    def ids_per_sample(self, features: Sequence[SparseFeature]) -> dict[str, float]:
        """Return the mean number of ids per training sample, by feature name.

        It is 1 for single-valued features. Bags whose mean length is not in `stats.json` are left out. Columns of a
        history without a mean length there have the largest length of the history.

        Args:
            features: Sparse features and columns of histories.

        Raises:
            DataError: `stats.json` differs from its digest.
        """
        try:
            columns: Any = self._stats["columns"]
        except (OSError, ValueError, LookupError, TypeError):
            columns = {}
        histories = {column.name: history for history in self.schema.histories for column in history.columns()}
        mean_ids = {}
        for feature in features:
            history = histories.get(feature.name)
            name = feature.name if history is None else history.name
            try:
                length = columns[name]["train"]["mean_length"] if feature.bag else 1.0
            except (LookupError, TypeError):
                length = None if history is None else history.length
            if isinstance(length, int | float) and length > 0:
                mean_ids[feature.name] = float(length)
        return mean_ids

    def select(self, *, drop: Sequence[str], tasks: Sequence[str], vectors: Sequence[str] | None = None) -> Selection:
        """Return the selection of columns that a run reads.

        Args:
            drop: Names of features to leave out.
            tasks: Names of tasks in the run's order; empty for all tasks.
            vectors: Names of the vector features to read; None for all.

        Raises:
            UserError: The dataset has no feature or task of such a name, or no feature is left.
        """
        selection = select_columns(self.schema, str(self.path), drop, tasks, vectors)
        return replace(selection, vector_tables=self.vector_tables, history_events=self.history_events)

    @cached_property
    def vector_tables(self) -> dict[str, FrozenTable]:
        """Frozen tables by name of the vector feature; a table is read when it is first used, once for all threads."""
        frozen = (vector for vector in self.schema.vectors if vector.table is not None)
        return {vector.name: FrozenTable(self.digests, vector) for vector in frozen}

    @cached_property
    def history_events(self) -> dict[str, HistoryEvents]:
        """Events by name of the history; a file is mapped when it is first used, once for all threads."""
        rows = self.schema.table_rows()
        return {history.name: HistoryEvents(self.digests, history, rows) for history in self.schema.histories}

    def row_groups(self, split: Split, columns: Sequence[str]) -> list[RowGroup]:
        """Return the row groups of a split that have rows, in file order.

        Args:
            split: Split of the dataset.
            columns: Names of columns that every part must have.

        Raises:
            UserError: The split has no parts or no rows.
            DataError: A part is damaged, lacks a column, or has the fingerprint of another dataset; or the number of
                rows differs from `schema.toml`.
        """
        parts = self._part_footers(split)
        checked: set[tuple[str, ...]] = set()
        for part in parts:
            if part.names not in checked:
                self._check_columns(part.file, columns, part.names)
                checked.add(part.names)
        self._check_rows(split, sum(sum(part.rows) for part in parts))
        groups = (RowGroup(part.file, i, rows, self.footers) for part in parts for i, rows in enumerate(part.rows))
        return [group for group in groups if group.rows]

    def schemas(self, split: Split) -> dict[Location, pa.Schema]:
        """Return the schema of every part of a split that has rows, in file order.

        Raises:
            UserError: The split has no parts or no rows.
            DataError: A part is damaged, or the parts do not belong to the dataset, as in `row_groups`.
        """
        with_rows = {group.file for group in self.row_groups(split, [])}
        return {part.file: part.schema for part in self._part_footers(split) if part.file in with_rows}

    def files(self, split: Split) -> list[Location]:
        """Return the parts of a split, which are the files `*.parquet` of its directory, sorted by name.

        Raises:
            UserError: The directory of the split exists but cannot be read.
        """
        folder = self.path / split
        with explain_errors(folder, "listed", "the parts of a split lie there"):
            return [folder / name for name in names_in(folder) if name.endswith(".parquet")]

    def _part_footers(self, split: Split) -> list[PartFooter]:
        if (parts := self._parts.get(split)) is not None:
            return parts
        if not (files := self.files(split)):
            raise UserError(
                str(self.path / split),
                "no Parquet parts",
                f"the {split} split is needed here",
                f"write its rows there as *.parquet, or {_PREPARE_AGAIN}",
            )
        parts = self._parts[split] = self.footers.read_parts(files, self._read_part)
        return parts

    def _read_part(self, file: Location) -> PartFooter:
        try:
            footer, schema = self.footers.parse(file)
            names = tuple(schema.names)
        except _DAMAGE_ERRORS as error:
            raise _unreadable(str(file), error, "a part is a Parquet file") from error
        self._check_part(file, footer)
        rows = tuple(footer.row_group(i).num_rows for i in range(footer.num_row_groups))
        return PartFooter(file, rows, tuple(map(sys.intern, names)), schema)

    def _check_rows(self, split: Split, actual: int) -> None:
        place = str(self.path / split)
        info = self.schema.splits.get(split)
        if info is None or info.rows != actual:
            expected = "no such split" if info is None else f"{info.rows} rows"
            raise DataError(
                place,
                f"{actual} rows in its parts",
                f"{self.path / SCHEMA_FILE} says {expected}",
                f"copy the whole dataset directory; if these are all its rows, write rows = {actual} under "
                f"[splits.{split}] of {SCHEMA_FILE}",
            )
        if not actual:
            raise UserError(
                place, "no rows", f"the {split} split is needed here", "prepare more data, or split it differently"
            )

    def _check_part(self, file: Location, metadata: pq.FileMetaData) -> None:
        actual = (metadata.metadata or {}).get(FINGERPRINT_KEY, b"").decode(errors="replace")
        if actual != self.schema.fingerprint:
            key = FINGERPRINT_KEY.decode()
            other = "put the parts and the schema.toml of one dataset together"
            raise DataError(
                str(file),
                f"fingerprint {actual or 'missing'}",
                f"every part must have the fingerprint of the dataset, {self.schema.fingerprint}",
                f"{other if actual else f'write it as Parquet metadata `{key}`'}, or {_PREPARE_AGAIN}",
            )

    def _check_columns(self, file: Location, needed: Sequence[str], names: Sequence[str]) -> None:
        if missing := [column for column in needed if column not in names]:
            free = [name for name in names if name not in needed]
            suggestion = next(filter(None, (did_you_mean(column, free, suffix=" else ") for column in missing)), "")
            raise DataError(
                str(file),
                f"no column {', '.join(missing)}",
                f"{SCHEMA_FILE} lists {'it' if len(missing) == 1 else 'them'}",
                f"{suggestion}write the column, or remove it from {SCHEMA_FILE}",
            )


_PREPARE_AGAIN = "prepare the dataset again"
_COPY = f"copy it again, or {_PREPARE_AGAIN}"
# Errors that pyarrow raises for damaged files, and for column names that are not UTF-8.
_DAMAGE_ERRORS = (OSError, ValueError, pa.ArrowException)


def read_row_group(group: RowGroup, selection: Selection) -> DecodedRows:
    """Read and check one row group.

    Args:
        group: Row group of a split.
        selection: Columns to read.

    Raises:
        DataError: The file is damaged, or `decode` refuses a value.
    """
    return decode(read_columns(group, selection.all_column_names()), selection, group.place)


def read_columns(group: RowGroup, names: Sequence[str]) -> pa.Table:
    """Return columns of one row group, without checking their values.

    Raises:
        DataError: The file is damaged, or was replaced since the dataset was opened.
        UserError: The store of the file cannot be reached.
    """
    try:
        with open_parquet(group.file, group.footer) as file:
            table = file.read_row_group(group.index, columns=list(names), use_threads=False)
    except _DAMAGE_ERRORS as error:
        raise _unreadable(group.place, error, "a part is a whole Parquet file") from error
    if table.num_rows != group.rows:
        raise DataError(
            group.place,
            f"{table.num_rows} rows",
            f"it had {group.rows} when the dataset was opened",
            "start again, and do not write to a dataset directory while a run reads it",
        )
    return table


def _unreadable(place: str, error: Exception, rule: str) -> PleRecError:
    """Return the error for a part that is damaged or missing."""
    return DataError(place, f"unreadable ({error})", rule, _COPY)
