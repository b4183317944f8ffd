"""DuckDB as an engine of the data preparation: it runs Ibis expressions and writes the Parquet files of a split.

DuckDB runs in this process, and writes to the disk what does not fit in memory. `base.py` defines the interface of an
engine. A split is, for example, the training data of a dataset. Other terms:

    part      one Parquet file of a split
    PART      column `__part` with the number of the part that a row goes to
    unit      consecutive parts of a split that are sorted and written together
    POSITION  column `__position` with the number of a row over all raw files of its table
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path

import duckdb
import ibis
import ibis.expr.types as ir
import pyarrow as pa
import pyarrow.parquet as pq
from ibis.backends.sql.datatypes import DuckDBType

from data_prep.engines.base import PART, PartFile, PartSink, Unit
from data_prep.engines.look_up import LookupTable, look_up_sql
from data_prep.engines.streams import Streams
from data_prep.failures import OutOfMemoryError, translate_failures
from data_prep.sources.files import POSITION, RawFile, RawTable
from ple_rec.errors import UserError
from ple_rec.storage import is_address

# DuckDB gets this share of the memory of a run; Arrow batches, Parquet writers and Python get the rest.
_MEMORY_SHARE = 0.75
# Share of DuckDB's memory for the rows that are sorted at the same time, if one unit or if several units are written at
# a time. The second share may be larger, since a unit that runs out of memory beside others is written again alone.
_SORT_SHARE_ALONE, _SORT_SHARE_CONCURRENT = 0.5, 0.6
# At most this many units are written at the same time. DuckDB sorts a unit on all cores, but a single thread writes its
# sorted rows to Parquet. If only one unit were written at a time, the other cores would be idle meanwhile.
_MAX_CONCURRENT_UNITS = 8
# If a range of rows covers at most this many whole files, the query reads each of them in a scan of its own.
_MAX_SEPARATE_SCANS = 64
_CELL_BYTES = 5  # A value in a sort takes about this many bytes.
_ibis_type = cache(DuckDBType.from_string)  # Returns the Ibis type of a DuckDB type, given by its name.


class DuckEngine:
    """Engine that runs expressions on DuckDB.

    Args:
        folder: Folder of the database file and of data that does not fit in memory; the caller empties it.
        memory: Approximate number of bytes that the process may use; None for DuckDB's default, 80 % of the machine's
            memory.
        threads: Number of threads of DuckDB; None for one per core.
        reads_once: True if the run reads every file only once, so that a cache of files in memory would not help.

    Attributes:
        max_concurrent_units: Largest number of units that are written at the same time.
    """

    verifies_pages = False  # `Engine` explains this attribute.
    # If the integer keys of an inner join lie in a range of at most this width, DuckDB can use a perfect hash join,
    # which is faster than other joins.
    max_inner_join_span = 2**20

    def __init__(
        self, folder: Path, *, memory: int | None = None, threads: int | None = None, reads_once: bool = False
    ) -> None:
        if "?" in str(folder):
            rule = "DuckDB works there, and takes the text after a ? for options"
            raise UserError(str(folder), "has a ? in its path", rule, "use a folder without one")
        settings: dict[str, str | bool | int | float | list[str]] = {
            "temp_directory": str(folder / "spill"),
            "preserve_insertion_order": False,
        }
        if reads_once:
            settings["enable_external_file_cache"] = False
        if memory is not None:
            settings["memory_limit"] = f"{int(memory * _MEMORY_SHARE)}B"
        if threads is not None:
            settings["threads"] = threads
        with translate_failures():
            self._duck = duckdb.connect(str(folder / "engine.duckdb"), config=settings)
        self._duck.execute("SET enable_progress_bar = false; SET TimeZone = 'UTC'")
        cores = len(os.sched_getaffinity(0)) if threads is None else threads
        self.max_concurrent_units = min(_MAX_CONCURRENT_UNITS, cores)
        self._remote = False
        self._views = 0
        self._table_names: dict[str, str] = {}

    def scan(self, table: RawTable, columns: Sequence[str], first: int = 0, stop: int | None = None) -> ir.Table:
        """Return columns of the rows of raw Parquet files, and `POSITION`; see `Engine.scan`."""
        is_open_ended = stop is None
        stop = table.rows if stop is None else stop
        whole_files: list[tuple[RawFile, int]] = []
        scans = []
        for file, start in zip(table.files, table.starts, strict=True):
            end = start + file.rows
            if end <= first or start >= stop:
                continue
            if start >= first and end <= stop:
                whole_files.append((file, start))
            else:  # DuckDB reads only the row groups that the range touches.
                scans.append(self._scan_sql(table, [(file, start)], columns, max(first - start, 0), stop - start))
        if is_open_ended or len(whole_files) > _MAX_SEPARATE_SCANS:
            scans += [self._scan_sql(table, whole_files, columns)] if whole_files else []
        else:  # A perfect hash join needs the range of the key, which DuckDB knows only in a scan of a single file.
            scans += [self._scan_sql(table, [file_and_start], columns) for file_and_start in whole_files]
        return self._view(" UNION ALL ".join(scans) or self._scan_sql(table, [], columns))

    def create_view(self, rows: ir.Table) -> ir.Table:
        """Create a view of `rows` and return it as a table; see `Engine.create_view`."""
        return self._view(_sql(rows))

    def select_columns(self, rows: ir.Table, columns: Sequence[str]) -> ir.Table:
        """Return some columns of a table that `create_view` has returned; see `Engine.select_columns`."""
        return self._view(f"SELECT {', '.join(map(_quote_name, columns))} FROM {_quote_name(rows.get_name())}")

    def look_up(self, rows: ir.Table, vocabularies: Mapping[str, LookupTable]) -> ir.Table:
        """Join `rows` with vocabularies, which map raw values to rows of embedding tables; see `Engine.look_up`."""
        return self._view(look_up_sql(_sql(rows), vocabularies, _quote_name))

    def _view(self, sql: str) -> ir.Table:
        """Create a view of a query, and return the view as an Ibis table."""
        self._views += 1
        name = f"view_{self._views}"
        with translate_failures():
            self._duck.execute(f"CREATE OR REPLACE VIEW {name} AS {sql}")
        return self._table(name)

    def _table(self, name: str) -> ir.Table:
        """Return a table or view of the database as an Ibis table, with the types that DuckDB has given its columns.

        The types come from the catalog. For a query over a view of many columns, even one for no rows, DuckDB plans all
        expressions of the view, and of the views below it, which takes seconds.
        """
        with translate_failures():
            columns = self._duck.execute("SELECT name, type FROM pragma_table_info(?)", [name]).fetchall()
        return ibis.table({column: _ibis_type(kind) for column, kind in columns}, name=name)

    def _scan_sql(
        self,
        table: RawTable,
        files: Sequence[tuple[RawFile, int]],
        columns: Sequence[str],
        first: int | None = None,
        stop: int | None = None,
    ) -> str:
        """Return the SQL of one scan of raw files, with the columns and `POSITION`.

        Args:
            table: Table of the files.
            files: Files to read, each with the position of its first row; if there are none, the query has no rows.
            columns: Names of the columns.
            first: First row to read of each file, counted from its start; None to read all rows.
            stop: Row after the last one to read of each file; it is used only with `first`.
        """
        if not files:
            files = [(table.files[0], 0)]
            first = stop = 0
        if any(is_address(file.path) for file, _ in files):
            self._register_store_access()
        # DuckDB adds columns `file_row_number` and `file_index`. A column of the file with the same name would hide
        # them, so all columns of the file get aliases.
        aliases = {f"c{i}": name for i, (name, _) in enumerate(files[0][0].columns)}
        aliases_by_name = {name: alias for alias, name in aliases.items()}
        selected = []
        for column in columns:
            if column in table.files[0].partitions:
                kind = "BIGINT" if pa.types.is_integer(table.schema.field(column).type) else "VARCHAR"
                values = ", ".join(_quote_text(file.partitions[column]) for file, _ in files)
                selected.append(f"list_extract([{values}], (file_index + 1)::BIGINT)::{kind} AS {_quote_name(column)}")
            else:
                selected.append(f"{aliases_by_name[column]} AS {_quote_name(column)}")
        starts = ", ".join(str(start) for _, start in files)
        selected.append(
            f"list_extract([{starts}], (file_index + 1)::BIGINT) + file_row_number AS {_quote_name(POSITION)}"
        )
        paths = ", ".join(
            _quote_text(file.path if is_address(file.path) else _escape_wildcards(file.path)) for file, _ in files
        )
        scan = f"read_parquet([{paths}], hive_partitioning = false) AS file({', '.join(aliases)})"
        sql = f"SELECT {', '.join(selected)} FROM {scan}"
        return sql if first is None else f"{sql} WHERE file_row_number >= {first} AND file_row_number < {stop}"

    def _register_store_access(self) -> None:
        if not self._remote:
            from ple_rec.storage.fsspec_files import AddressFileSystem

            self._duck.register_filesystem(AddressFileSystem())
            self._remote = True

    def read(self, files: Sequence[Path], columns: Sequence[str] | None = None, stride: int = 1) -> ir.Table:
        """Return the rows of local Parquet files, in any order; see `Engine.read`."""
        paths = ", ".join(_quote_text(_escape_wildcards(str(file))) for file in files)
        scan = f"read_parquet([{paths}], hive_partitioning = false)"
        if stride == 1 and columns is None:
            return self._view(f"SELECT * FROM {scan}")
        # As in `_scan_sql`, aliases keep a column of the file from hiding DuckDB's `file_row_number`.
        aliases = {name: f"c{i}" for i, name in enumerate(pq.read_schema(files[0]).names)}
        names = ", ".join(f"{aliases[name]} AS {_quote_name(name)}" for name in columns or aliases)
        where = "" if stride == 1 else f" WHERE file_row_number % {stride} = 0"
        return self._view(f"SELECT {names} FROM {scan} AS file({', '.join(aliases.values())}){where}")

    def materialize(self, name: str, rows: ir.Table) -> ir.Table:
        """Compute `rows` and store the result in a table of the database; see `Engine.materialize`."""
        sql = _sql(rows)
        # DuckDB ignores the case of table names, so two of our names might collide; each gets a number instead.
        table = self._table_names.setdefault(name, f"kept_{len(self._table_names)}")
        # DuckDB returns a sum of int64 values as HUGEINT, although the expression's type is int64.
        columns = ", ".join(
            f"{_quote_name(column)}{'::BIGINT' if kind.is_int64() else ''} AS {_quote_name(column)}"
            for column, kind in rows.schema().items()
        )
        with translate_failures():
            self._duck.execute(f"CREATE OR REPLACE TABLE {table} AS SELECT {columns} FROM ({sql})")
        return self._table(table)

    def fetch(self, rows: ir.Table) -> pa.Table:
        """Compute rows that fit in memory and return them, in order if `rows` is ordered."""
        with translate_failures():
            result = self._duck.cursor().execute(_sql(rows, fused=True)).to_arrow_table()
        # DuckDB returns a sum of integers as HUGEINT, a decimal in Arrow, although the expression's type is an integer.
        return result.cast(rows.schema().to_pyarrow())

    def max_unit_rows(self, columns: int) -> int:
        """Return the largest number of rows of a unit, so that `max_concurrent_units` units fit in memory together.

        Args:
            columns: Number of columns of a part.
        """
        return max(1, self._max_sorted_rows(columns) // self.max_concurrent_units)

    def _max_sorted_rows(self, columns: int) -> int:
        """Return the largest number of rows, of all units together, that may be sorted at the same time.

        Args:
            columns: Number of columns of a part.
        """
        (limit,) = self._duck.execute("SELECT value FROM duckdb_settings() WHERE name = 'memory_limit'").fetchone() or (
            "",
        )
        share = _SORT_SHARE_ALONE if self.max_concurrent_units == 1 else _SORT_SHARE_CONCURRENT
        return max(1, int(_parse_size(limit) * share / (_CELL_BYTES * columns)))

    def write_units(
        self, units: Iterable[Unit], columns: int, advance: Callable[[int], None]
    ) -> Generator[tuple[Unit, list[PartFile]]]:
        """Write the parts of units, several units at a time if their rows fit in memory; see `Engine.write_units`.

        DuckDB sorts one unit on all cores while a thread writes the sorted rows of another. If a unit runs out of
        memory, the following units are written one at a time, and that unit again after all others.
        """
        limit = self._max_sorted_rows(columns)
        to_retry: list[Unit] = []
        with Streams(self._duck, self.max_concurrent_units, advance) as streams:
            for unit in units:
                while streams.running and (streams.is_full or streams.running_rows + unit.row_count > limit):
                    yield from self._wait_for_unit(streams, to_retry)
                streams.start(unit, _sorted_queries(unit))
            while streams.running:
                yield from self._wait_for_unit(streams, to_retry)
            for unit in to_retry:
                streams.start(unit, _sorted_queries(unit))
                yield from self._wait_for_unit(streams, None)

    def _wait_for_unit(self, streams: Streams, to_retry: list[Unit] | None) -> Generator[tuple[Unit, list[PartFile]]]:
        """Wait for the next unit to end, and yield it with its parts unless it has to be written again.

        After a unit has run out of memory, `streams` starts units one at a time.

        Args:
            streams: Units that are being written.
            to_retry: List to which a unit is added that ran out of memory. Its error is raised instead if this is None,
                or if the engine writes one unit at a time anyway.
        """
        unit, future = streams.wait_next()
        try:
            files = future.result()
        except OutOfMemoryError:
            if to_retry is None or self.max_concurrent_units == 1:
                raise
            streams.max_running = 1
            to_retry.append(unit)
        else:
            yield unit, files

    def write_parts(self, rows: ir.Table, order: Sequence[str], sink: PartSink) -> list[PartFile]:
        """Write one part for each value of `PART`, with its rows sorted by `order`; see `Engine.write_parts`."""
        with Streams(self._duck, 1, lambda _: None) as streams:
            unit = Unit(rows, tuple(order), sink, 0)  # 0: the number of rows is not used here.
            streams.start(unit, _sorted_queries(unit))
            return streams.wait_next()[1].result()

    def close(self) -> None:
        """Close the database."""
        self._duck.close()


def _sql(rows: ir.Table, *, fused: bool = False) -> str:
    """Return the SQL of an expression.

    Args:
        rows: Expression to compile.
        fused: True to let Ibis merge nested SELECTs into one. A caller that needs the order of the rows passes True,
            since DuckDB may lose an ORDER BY inside a nested SELECT. The default is False, because merging doubles the
            time of compilation, and DuckDB merges SELECTs quickly itself.
    """
    before, ibis.options.sql.fuse_selects = ibis.options.sql.fuse_selects, fused
    try:
        return str(ibis.to_sql(rows, dialect="duckdb", pretty=False))
    finally:
        ibis.options.sql.fuse_selects = before


def _sorted_queries(unit: Unit) -> list[str]:
    """Return the SQL of a query for each table of a unit (`Unit.tables`); all queries give their rows in one order."""
    return [_sql(rows.order_by([PART, *unit.order])) for rows in unit.tables()]


def _quote_name(text: str) -> str:
    """Return a name as an SQL identifier in double quotes."""
    return '"' + text.replace('"', '""') + '"'


def _escape_wildcards(path: str) -> str:
    """Return a path with its wildcards escaped, so that DuckDB takes it literally."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in path)


def _quote_text(text: str) -> str:
    """Return a text as an SQL string literal in single quotes."""
    return "'" + text.replace("'", "''") + "'"


def _parse_size(text: str) -> float:
    """Return the number of bytes of a size in DuckDB's notation, such as `7.4 GiB`."""
    number, unit = text.split()
    return float(number) * 1024.0 ** ("bytes", "KiB", "MiB", "GiB", "TiB").index(unit)
