"""A dataset directory: its schema, its statistics, the footers of its parts, and its row groups.

A parsed footer is about eight times as large as its bytes (half a megabyte for 16 row groups of 37 columns), so only
the latest ones are kept. To parse one again takes a twentieth of the time of reading one of its row groups.
"""

from __future__ import annotations

import json
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ple_rec.config.base import Split
from ple_rec.config.load import load_schema
from ple_rec.config.schema import FINGERPRINT_KEY, SCHEMA_FILE, STATS_FILE, DatasetSchema, SparseFeature
from ple_rec.data.columns import DecodedRows, Selection, decode, select_columns
from ple_rec.data.integrity import Digests, read_footer
from ple_rec.errors import DataError, PleRecError, UserError
from ple_rec.storage import Location, explain_errors, location, names_in
from ple_rec.storage.arrow import open_parquet
from ple_rec.text.suggest import did_you_mean

MOST_BYTES = 16 << 20  # of the footers kept, as they stand in their files
THREADS = 8  # where files are far away, they wait rather than work


@dataclass(frozen=True)
class Part:
    """What a footer says: rows of each row group, the names of the columns, and the schema, shared by equal parts."""

    file: Location
    rows: tuple[int, ...]
    names: tuple[str, ...]
    schema: pa.Schema


class Footers:
    """The footers of a dataset; may be used by several threads.

    Args:
        digests: Digests of the dataset, to which every footer is held when it is parsed.
        most_bytes: Bytes of footers that are kept.
    """

    def __init__(self, digests: Digests, most_bytes: int = MOST_BYTES) -> None:
        self.digests, self.most_bytes = digests, most_bytes
        self._kept: OrderedDict[Location, pq.FileMetaData] = OrderedDict()
        self._schemas: list[pa.Schema] = []  # that differ
        self._bytes = 0
        self._lock = threading.Lock()

    def of(self, file: Location) -> pq.FileMetaData:
        """The footer of a file, of which no errors are caught."""
        with self._lock:
            if (footer := self._kept.get(file)) is not None:
                self._kept.move_to_end(file)
                return footer
        return self.parse(file)[0]

    def parse(self, file: Location) -> tuple[pq.FileMetaData, pa.Schema]:
        """Return the footer, which is kept, and the schema of a file, without its metadata.

        The schema is the reader's: a footer that is asked for its own refers to it and is referred to by it, and such
        pairs stay in memory until the garbage collector comes by, which of few objects, however large, is late.

        Raises:
            DataError: it is not the footer that was written.
        """
        content = read_footer(file)
        self.digests.check_footer(f"{file.parent.name}/{file.name}", content)
        with pq.ParquetFile(pa.BufferReader(content)) as parquet:
            footer, own = parquet.metadata, parquet.schema_arrow.remove_metadata()
        with self._lock:
            schema = next((known for known in self._schemas if known.equals(own)), None)
            if schema is None:
                self._schemas.append(schema := own)
            if file not in self._kept:
                self._kept[file] = footer
                self._bytes += footer.serialized_size
            while self._bytes > self.most_bytes and len(self._kept) > 1:
                self._bytes -= self._kept.popitem(last=False)[1].serialized_size
        return footer, schema

    def parts(self, files: Sequence[Location], read: Callable[[Location], Part]) -> list[Part]:
        """What the footers say, in the order of the files.

        Args:
            files: Parquet files.
            read: Gives what the footer of one says, or refuses it.

        Raises:
            DataError: what `read` raises first, in the order of the files.
        """
        pool = ThreadPoolExecutor(min(THREADS, len(files)), thread_name_prefix="footers")
        try:
            return list(pool.map(read, files))
        finally:
            pool.shutdown(cancel_futures=True)


@dataclass(frozen=True)
class RowGroup:
    """Row group `index` of a Parquet part."""

    file: Location
    index: int
    rows: int
    footers: Footers = field(repr=False, compare=False)

    @property
    def footer(self) -> pq.FileMetaData:
        """Of the part."""
        return self.footers.of(self.file)

    @property
    def place(self) -> str:
        """For messages."""
        return f"{self.file}, row group {self.index}"


class Dataset:
    """An open dataset directory.

    Args:
        path: Directory, or its address in a store, that `ple-rec prep` or `data_prep.write_tables` wrote, or somebody
            by hand as docs/data.md says.

    Raises:
        UserError: no such directory, an unfinished one, or a store that cannot be reached.
        DataError: a schema that breaks its rules, or parts of another dataset.
    """

    def __init__(self, path: str | Location) -> None:
        self.path: Location = location(path)
        self.schema: DatasetSchema = load_schema(self.path)
        self.digests = Digests.read(self.path)
        self.digests.check(SCHEMA_FILE)
        self.footers = Footers(self.digests)
        self._parts: dict[Split, list[Part]] = {}

    @cached_property
    def _stats(self) -> Any:
        """The content of `stats.json`, read once; of a file written by hand that may be anything, or nothing.

        Raises:
            DataError: the file is not the one that was prepared.
            OSError, ValueError: it cannot be read.
        """
        self.digests.check(STATS_FILE)
        return json.loads((self.path / STATS_FILE).read_text(encoding="utf-8"))

    def statistics(self) -> dict[str, Any]:
        """`stats.json`'s columns, by name."""
        file = self.path / STATS_FILE
        try:
            columns: dict[str, Any] = self._stats["columns"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            value = "no key 'columns'" if isinstance(error, KeyError) else f"unreadable ({error})"
            fix = f"write the statistics of the dense features there, as docs/data.md says, or {_AGAIN}"
            raise DataError(str(file), value, "normalisation needs it", fix) from error
        return columns

    def label_counts(self, split: Split) -> dict[str, tuple[int, int]]:
        """(samples, positives) of each binary task, as far as `stats.json` tells."""
        try:
            tasks: dict[str, Any] = self._stats["tasks"]
            counted = {task: splits[split] for task, splits in tasks.items()}
            counts = {task: (each["samples"], each.get("positives")) for task, each in counted.items()}
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            return {}
        return {task: count for task, count in counts.items() if all(isinstance(value, int) for value in count)}

    def reachable(self, split: Split) -> dict[str, dict[str, float]]:
        """The metrics, by task, of the probabilities that the labels were drawn by, where the data is synthetic."""
        try:
            tasks: dict[str, Any] = self._stats["reachable"][split]
            return {
                task: {name: float(value) for name, value in metrics.items() if isinstance(value, int | float)}
                for task, metrics in tasks.items()
            }
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            return {}

    def ids_per_sample(self, features: Sequence[SparseFeature]) -> dict[str, float]:
        """Mean ids of a training sample, by feature, as far as `stats.json` tells; 1 for a single value."""
        try:
            columns: Any = self._stats["columns"]
        except (OSError, ValueError, LookupError, TypeError):
            columns = {}
        found = {}
        for feature in features:
            try:
                length = columns[feature.name]["train"]["mean_length"] if feature.bag else 1.0
            except (LookupError, TypeError):
                continue
            if isinstance(length, int | float) and length > 0:
                found[feature.name] = float(length)
        return found

    def select(self, *, drop: Sequence[str], tasks: Sequence[str]) -> Selection:
        """What a run reads.

        Args:
            drop: Features to leave out.
            tasks: Tasks by name, in the run's order; empty for all.

        Raises:
            UserError: a name that the dataset does not have, or no feature left.
        """
        return select_columns(self.schema, str(self.path), drop, tasks)

    def row_groups(self, split: Split, columns: Sequence[str]) -> list[RowGroup]:
        """Row groups of a split, in file order.

        Args:
            split: Which.
            columns: That every part must have.

        Raises:
            UserError: a split without parts or rows.
            DataError: a part that is damaged, lacks a column, or belongs to another dataset; other rows than
                `schema.toml` says.
        """
        parts = self._parts_of(split)
        checked: set[tuple[str, ...]] = set()
        for part in parts:
            if part.names not in checked:
                self._check_columns(part.file, columns, part.names)
                checked.add(part.names)
        self._check_rows(split, sum(sum(part.rows) for part in parts))
        groups = (RowGroup(part.file, i, rows, self.footers) for part in parts for i, rows in enumerate(part.rows))
        return [group for group in groups if group.rows]

    def schemas(self, split: Split) -> dict[Location, pa.Schema]:
        """Return the schema of every part of a split that has rows, in file order; errors as of `row_groups`."""
        with_rows = {group.file for group in self.row_groups(split, [])}
        return {part.file: part.schema for part in self._parts_of(split) if part.file in with_rows}

    def files(self, split: Split) -> list[Location]:
        """Return the Parquet parts of a split, in order.

        Raises:
            UserError: its directory cannot be read.
        """
        folder = self.path / split
        with explain_errors(folder, "listed", "the parts of a split lie there"):
            return [folder / name for name in names_in(folder) if name.endswith(".parquet")]

    def _parts_of(self, split: Split) -> list[Part]:
        if (known := self._parts.get(split)) is not None:
            return known
        if not (files := self.files(split)):
            raise UserError(
                str(self.path / split),
                "no Parquet parts",
                f"this needs the {split} split",
                f"write its rows there as *.parquet, or {_AGAIN}",
            )
        parts = self._parts[split] = self.footers.parts(files, self._part)
        return parts

    def _part(self, file: Location) -> Part:
        try:
            footer, schema = self.footers.parse(file)
            names = tuple(schema.names)
        except _DAMAGE as error:
            raise _unreadable(str(file), error, "a part is a Parquet file") from error
        self._check_part(file, footer)
        rows = tuple(footer.row_group(i).num_rows for i in range(footer.num_row_groups))
        return Part(file, rows, tuple(map(sys.intern, names)), schema)

    def _check_rows(self, split: Split, found: int) -> None:
        place = str(self.path / split)
        info = self.schema.splits.get(split)
        if info is None or info.rows != found:
            promised = "no such split" if info is None else f"{info.rows} rows"
            raise DataError(
                place,
                f"{found} rows in its parts",
                f"{self.path / SCHEMA_FILE} says {promised}",
                f"copy the whole dataset directory; if these are all its rows, write rows = {found} under "
                f"[splits.{split}] of {SCHEMA_FILE}",
            )
        if not found:
            raise UserError(
                place, "no rows", f"this needs the {split} split", "prepare more data, or split it otherwise"
            )

    def _check_part(self, file: Location, metadata: pq.FileMetaData) -> None:
        found = (metadata.metadata or {}).get(FINGERPRINT_KEY, b"").decode(errors="replace")
        if found != self.schema.fingerprint:
            key = FINGERPRINT_KEY.decode()
            other = "put the parts and the schema.toml of one dataset together"
            raise DataError(
                str(file),
                f"fingerprint {found or 'missing'}",
                f"every part carries that of the dataset, {self.schema.fingerprint}",
                f"{other if found else f'write it as Parquet metadata `{key}`'}, or {_AGAIN}",
            )

    def _check_columns(self, file: Location, needed: Sequence[str], names: Sequence[str]) -> None:
        if missing := [column for column in needed if column not in names]:
            free = [name for name in names if name not in needed]
            meant = next(filter(None, (did_you_mean(column, free, end=" else ") for column in missing)), "")
            raise DataError(
                str(file),
                f"no column {', '.join(missing)}",
                f"{SCHEMA_FILE} names {'it' if len(missing) == 1 else 'them'}",
                f"{meant}write the column, or take it out of {SCHEMA_FILE}",
            )


_AGAIN = "prepare the dataset again"
_COPY = f"copy it again, or {_AGAIN}"
_DAMAGE = (OSError, ValueError, pa.ArrowException)  # what pyarrow raises on damaged files, names that are not UTF-8 too


def read_row_group(group: RowGroup, selection: Selection) -> DecodedRows:
    """Read and check one row group.

    Args:
        group: Row group of a split.
        selection: What to take of it.

    Raises:
        DataError: what `decode` finds, or a damaged file.
    """
    return decode(read_columns(group, selection.all_column_names()), selection, group.place)


def read_columns(group: RowGroup, names: Sequence[str]) -> pa.Table:
    """The given columns of one row group, unchecked.

    Raises:
        DataError: a damaged file, or one that was replaced since the dataset was opened.
        UserError: its store cannot be reached any more.
    """
    try:
        with open_parquet(group.file, group.footer) as file:
            table = file.read_row_group(group.index, columns=list(names), use_threads=False)
    except _DAMAGE as error:
        raise _unreadable(group.place, error, "a part is a whole Parquet file") from error
    if table.num_rows != group.rows:
        raise DataError(
            group.place,
            f"{table.num_rows} rows",
            f"it had {group.rows} when the dataset was opened",
            "prepare a dataset into a directory of its own while a run reads, and start again",
        )
    return table


def _unreadable(place: str, error: Exception, rule: str) -> PleRecError:
    """Return the error of a part that is damaged or gone, or whose store has failed."""
    return DataError(place, f"unreadable ({error})", rule, _COPY)
