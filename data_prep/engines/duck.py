"""DuckDB as an engine of the data preparation: it runs Ibis expressions and writes the Parquet files of a split.

DuckDB runs in this process, and writes to the disk what does not fit in memory. `base.py` defines the interface of an
engine. A split is, for example, the training data of a dataset. Other terms:

    part      one Parquet file of a split
    PART      column `__part` with the number of the part that a row goes to
    unit      one or more parts of a split that are sorted and written together
    POSITION  column `__position` with the number of a row over all raw files of its table
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from pathlib import Path

import duckdb
import ibis
import ibis.expr.types as ir
import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.engines.base import PART, PartFile, PartSink, Unit
from data_prep.engines.look_up import Entries, look_up_sql
from data_prep.engines.streams import Streams
from data_prep.failures import OutOfMemoryError, translated
from data_prep.sources.files import POSITION, RawFile, RawTable
from ple_rec.errors import UserError
from ple_rec.storage import is_address

_SHARE = 0.75  # DuckDB gets this share of the memory of a run; Arrow batches, Parquet writers and Python get the rest.
# Share of DuckDB's memory for the rows that are sorted at the same time: those of a unit if only one is written at a
# time, and those of all units otherwise. The second share may be larger, since a unit that runs out of memory beside
# others is written again alone.
_ALONE, _TOGETHER = 0.5, 0.6
# At most this many units are written at the same time. DuckDB sorts a unit on all cores, but a single thread writes its
# sorted rows to Parquet. If only one unit were written at a time, the other cores would be idle meanwhile.
_MOST_STREAMS = 8
# If a range of rows covers at most this many whole files, the query reads each of them in a scan of its own.
_APART = 64
_CELL_BYTES = 5  # A value in a sort takes about this many bytes.


class DuckEngine:
    """Engine that runs expressions on DuckDB.

    Args:
        folder: Folder of the database file and of data that does not fit in memory; the caller empties it.
        memory: Approximate number of bytes that the process may use; None for most of the machine's memory.
        threads: Number of threads of DuckDB; None for one per core.
        once: True if the run reads every file only once, so that a cache of files in memory would not help.

    Attributes:
        streams: Most units that are written at the same time.
    """

    verifies_pages = False
    # If the integer keys of an inner join lie in a range of at most this width, DuckDB can use a perfect hash join,
    # which is faster than other joins.
    span = 2**20

    def __init__(
        self, folder: Path, *, memory: int | None = None, threads: int | None = None, once: bool = False
    ) -> None:
        if "?" in str(folder):
            rule = "DuckDB works there, and takes the text after a ? for options"
            raise UserError(str(folder), "has a ? in its path", rule, "use a folder without one")
        settings: dict[str, str | bool | int | float | list[str]] = {
            "temp_directory": str(folder / "spill"),
            "preserve_insertion_order": False,
        }
        if once:
            settings["enable_external_file_cache"] = False
        if memory is not None:
            settings["memory_limit"] = f"{int(memory * _SHARE)}B"
        if threads is not None:
            settings["threads"] = threads
        with translated():
            self._duck = duckdb.connect(str(folder / "engine.duckdb"), config=settings)
        self._duck.execute("SET enable_progress_bar = false; SET TimeZone = 'UTC'")
        cores = len(os.sched_getaffinity(0)) if threads is None else threads
        self.streams = min(_MOST_STREAMS, cores)
        self._remote = False
        self._views = 0
        self._table_names: dict[str, str] = {}

    def scan(self, table: RawTable, columns: Sequence[str], first: int = 0, last: int | None = None) -> ir.Table:
        """Return columns of the rows of raw Parquet files, and `POSITION`; see `Engine.scan`."""
        everything = last is None
        last = table.rows if last is None else last
        whole: list[tuple[RawFile, int]] = []
        reads = []
        for file, start in zip(table.files, table.starts, strict=True):
            stop = start + file.rows
            if stop <= first or start >= last:
                continue
            if start >= first and stop <= last:
                whole.append((file, start))
            else:  # DuckDB reads only the row groups that the range touches.
                reads.append(self._read(table, [(file, start)], columns, max(first - start, 0), last - start))
        if everything or len(whole) > _APART:
            reads += [self._read(table, whole, columns)] if whole else []
        else:  # A perfect hash join needs the range of the key, which DuckDB knows only in a scan of a single file.
            reads += [self._read(table, [one], columns) for one in whole]
        return self._view(" UNION ALL ".join(reads) or self._read(table, [], columns))

    def named(self, rows: ir.Table) -> ir.Table:
        """Create a view of `rows`, which computes nothing, and return it as a table; see `Engine.named`."""
        return self._view(_sql(rows))

    def narrow(self, rows: ir.Table, columns: Sequence[str]) -> ir.Table:
        """Return some columns of a table that `named` has returned; see `Engine.narrow`."""
        return self._view(f"SELECT {', '.join(map(_name, columns))} FROM {_name(rows.get_name())}")

    def look_up(self, rows: ir.Table, vocabularies: Mapping[str, Entries]) -> ir.Table:
        """Return `rows` with a column for each vocabulary that holds the vocabulary's row of the value.

        Nothing is computed yet; see `Engine.look_up`.
        """
        return self._view(look_up_sql(_sql(rows), vocabularies, _name))

    def _view(self, sql: str) -> ir.Table:
        """Create a view of a query, and return the view as an Ibis table."""
        self._views += 1
        name = f"view_{self._views}"
        with translated():
            self._duck.execute(f"CREATE OR REPLACE VIEW {name} AS {sql}")
        return self._table(name)

    def _table(self, name: str) -> ir.Table:
        """Return a table or view of the database as an Ibis table, with the types that DuckDB has given its columns."""
        with translated():
            empty = self._duck.execute(f"SELECT * FROM {_name(name)} LIMIT 0").to_arrow_table()
        return ibis.table(ibis.Schema.from_pyarrow(empty.schema), name=name)

    def _read(
        self,
        table: RawTable,
        files: Sequence[tuple[RawFile, int]],
        columns: Sequence[str],
        first: int | None = None,
        last: int | None = None,
    ) -> str:
        """Return a query of raw files in one scan, with the columns and `POSITION`.

        Args:
            table: Table of the files.
            files: Files to read, each with the position of its first row; if there are none, the query has no rows.
            columns: Names of the columns.
            first: First row to read of each file, counted from its start; None to read all rows.
            last: Row after the last one to read of each file; it is used only with `first`.
        """
        if not files:
            files = [(table.files[0], 0)]
            first = last = 0
        if any(is_address(file.path) for file, _ in files):
            self._open_remote()
        # DuckDB adds columns `file_row_number` and `file_index`. A column of the file with the same name would hide
        # them, so all columns of the file get aliases.
        aliases = {f"c{i}": name for i, (name, _) in enumerate(files[0][0].columns)}
        alias_of = {name: alias for alias, name in aliases.items()}
        parts = []
        for column in columns:
            if column in table.files[0].partitions:
                kind = "BIGINT" if pa.types.is_integer(table.schema.field(column).type) else "VARCHAR"
                values = ", ".join(_text(file.partitions[column]) for file, _ in files)
                parts.append(f"list_extract([{values}], (file_index + 1)::BIGINT)::{kind} AS {_name(column)}")
            else:
                parts.append(f"{alias_of[column]} AS {_name(column)}")
        starts = ", ".join(str(start) for _, start in files)
        parts.append(f"list_extract([{starts}], (file_index + 1)::BIGINT) + file_row_number AS {_name(POSITION)}")
        paths = ", ".join(_text(file.path if is_address(file.path) else _literal(file.path)) for file, _ in files)
        scan = f"read_parquet([{paths}], hive_partitioning = false) AS file({', '.join(aliases)})"
        sql = f"SELECT {', '.join(parts)} FROM {scan}"
        return sql if first is None else f"{sql} WHERE file_row_number >= {first} AND file_row_number < {last}"

    def _open_remote(self) -> None:
        if not self._remote:
            from ple_rec.storage.fsspec_files import AddressFileSystem

            self._duck.register_filesystem(AddressFileSystem())
            self._remote = True

    def read(self, files: Sequence[Path], columns: Sequence[str] | None = None, every: int = 1) -> ir.Table:
        """Return the rows of local Parquet files, in any order; see `Engine.read`."""
        paths = ", ".join(_text(_literal(str(file))) for file in files)
        scan = f"read_parquet([{paths}], hive_partitioning = false)"
        if every == 1 and columns is None:
            return self._view(f"SELECT * FROM {scan}")
        aliases = {name: f"c{i}" for i, name in enumerate(pq.read_schema(files[0]).names)}
        names = ", ".join(f"{aliases[name]} AS {_name(name)}" for name in columns or aliases)
        where = "" if every == 1 else f" WHERE file_row_number % {every} = 0"
        return self._view(f"SELECT {names} FROM {scan} AS file({', '.join(aliases.values())}){where}")

    def keep(self, name: str, rows: ir.Table) -> ir.Table:
        """Compute `rows` and keep the result on the disk for later queries."""
        sql = _sql(rows)
        # DuckDB ignores the case of table names, so two of our names might collide; each gets a number instead.
        table = self._table_names.setdefault(name, f"kept_{len(self._table_names)}")
        # DuckDB returns a sum of int64 values as HUGEINT, although the expression's type is int64.
        columns = ", ".join(
            f"{_name(column)}{'::BIGINT' if kind.is_int64() else ''} AS {_name(column)}"
            for column, kind in rows.schema().items()
        )
        with translated():
            self._duck.execute(f"CREATE OR REPLACE TABLE {table} AS SELECT {columns} FROM ({sql})")
        return self._table(table)

    def fetch(self, rows: ir.Table) -> pa.Table:
        """Compute a few rows and return them, in order if `rows` is ordered."""
        with translated():
            result = self._duck.cursor().execute(_sql(rows, fused=True)).to_arrow_table()
        # DuckDB returns a sum of integers as a decimal, although the expression's type is an integer.
        return result.cast(rows.schema().to_pyarrow())

    def unit_rows(self, columns: int) -> int:
        """Return the largest number of rows of a unit, so that `streams` units fit in memory together.

        Args:
            columns: Number of columns of a part.
        """
        return max(1, self._rows_at_once(columns) // self.streams)

    def _rows_at_once(self, columns: int) -> int:
        """Return the largest number of rows, of all units together, that may be sorted at the same time.

        Args:
            columns: Number of columns of a part.
        """
        (limit,) = self._duck.execute("SELECT value FROM duckdb_settings() WHERE name = 'memory_limit'").fetchone() or (
            "",
        )
        share = _ALONE if self.streams == 1 else _TOGETHER
        return max(1, int(_bytes(limit) * share / (_CELL_BYTES * columns)))

    def write_units(
        self, units: Iterable[Unit], columns: int, advance: Callable[[int], None]
    ) -> Generator[tuple[Unit, list[PartFile]]]:
        """Write the parts of units, several units at a time if their rows fit in memory; see `Engine.write_units`.

        DuckDB sorts one unit on all cores while a thread writes the sorted rows of another. A unit that runs out of
        memory beside others is written again, alone, after all other units.
        """
        limit = self._rows_at_once(columns)
        again: list[Unit] = []
        with Streams(self._duck, self.streams, advance) as streams:
            for unit in units:
                while streams.running and (streams.full or streams.rows + unit.count > limit):
                    yield from self._written(streams, again)
                streams.start(unit, _ordered(unit))
            while streams.running:
                yield from self._written(streams, again)
            for unit in again:
                streams.start(unit, _ordered(unit))
                yield from self._written(streams, None)

    def _written(self, streams: Streams, again: list[Unit] | None) -> Generator[tuple[Unit, list[PartFile]]]:
        """Wait for one unit, and yield it with its parts.

        Args:
            streams: Units that are being written.
            again: List that gets a unit that ran out of memory beside others; None to raise its error instead.
        """
        unit, done = streams.next()
        try:
            files = done.result()
        except OutOfMemoryError:
            if again is None or self.streams == 1:
                raise
            streams.most = 1
            again.append(unit)
        else:
            yield unit, files

    def write_parts(self, rows: ir.Table, order: Sequence[str], layout: PartSink) -> list[PartFile]:
        """Write one part for each value of `PART`, with its rows sorted by `order`; see `Engine.write_parts`."""
        with Streams(self._duck, 1, lambda _: None) as streams:
            unit = Unit(rows, tuple(order), layout, 0)
            streams.start(unit, _ordered(unit))
            return streams.next()[1].result()

    def close(self) -> None:
        """Close the database."""
        self._duck.close()


def _sql(rows: ir.Table, *, fused: bool = False) -> str:
    """Return the SQL of an expression.

    Args:
        rows: Expression to compile.
        fused: True to let Ibis merge nested SELECTs into one. Without it, DuckDB may lose an ORDER BY that a nested
            SELECT contains. It is False elsewhere, because it doubles the time of compilation, and DuckDB merges
            SELECTs quickly itself.
    """
    before, ibis.options.sql.fuse_selects = ibis.options.sql.fuse_selects, fused
    try:
        return str(ibis.to_sql(rows, dialect="duckdb"))
    finally:
        ibis.options.sql.fuse_selects = before


def _ordered(unit: Unit) -> list[str]:
    """Return a query for each table of a unit (`Unit.tables`), all with their rows in the same order."""
    return [_sql(rows.order_by([PART, *unit.order])) for rows in unit.tables()]


def _name(text: str) -> str:
    """Return a name as an SQL identifier in double quotes."""
    return '"' + text.replace('"', '""') + '"'


def _literal(path: str) -> str:
    """Return a path with its wildcards escaped, so that DuckDB takes it literally."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in path)


def _text(text: str) -> str:
    """Return a text as an SQL string in single quotes."""
    return "'" + text.replace("'", "''") + "'"


def _bytes(text: str) -> float:
    """Return the number of bytes of a size in DuckDB's notation, such as `7.4 GiB`."""
    number, unit = text.split()
    return float(number) * 1024.0 ** ("bytes", "KiB", "MiB", "GiB", "TiB").index(unit)
