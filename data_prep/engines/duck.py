"""DuckDB in this process: out of core, no server."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from pathlib import Path

import duckdb
import ibis
import ibis.expr.types as ir
import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.engines.base import Unit
from data_prep.engines.failures import OutOfMemoryError, translated
from data_prep.engines.streams import Streams
from data_prep.output.parts import PART, PartFile, PartLayout
from data_prep.sources.files import POSITION, RawFile, RawTable
from data_prep.vocabulary.lookup import Entries, look_up_sql
from ple_rec.errors import UserError
from ple_rec.storage import is_address

_SHARE = 0.75  # of the memory of a run, that is DuckDB's; the rest is for batches, Parquet writers and Python
_ALONE, _TOGETHER = 0.5, 0.6  # of DuckDB's, for the rows of one unit, of several, which can fall back to running alone
_MOST_STREAMS = 8  # units at a time, each of which ends in a single thread that writes
_APART = 64  # files of a range, up to which each is a read of its own
_CELL_BYTES = 5  # of a column in a sort, about


class DuckEngine:
    """DuckDB.

    Args:
        folder: For what does not fit in memory; emptied by the caller.
        memory: Bytes that the process may use, about; None for most of the machine's.
        threads: None for all cores.
        once: Whether files are read once, so that DuckDB need not keep what it has read of them in memory.
    """

    verifies_pages = False
    span = 2**20  # DuckDB's limit for a perfect hash join, which only inner joins are

    def __init__(
        self, folder: Path, *, memory: int | None = None, threads: int | None = None, once: bool = False
    ) -> None:
        if "?" in str(folder):
            rule = "DuckDB, which works there, takes what follows a ? for options"
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
        self._kept: dict[str, str] = {}

    def scan(self, table: RawTable, columns: Sequence[str], first: int = 0, last: int | None = None) -> ir.Table:
        """The rows of Parquet files: the given columns, and `POSITION`, an `int64` that counts the rows of all files.

        Args:
            table: The files.
            columns: Which.
            first: Position of the first row.
            last: Position after the last row.
        """
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
            else:  # DuckDB reads only the row groups that the range touches
                reads.append(self._read(table, [(file, start)], columns, max(first - start, 0), last - start))
        if everything or len(whole) > _APART:
            reads += [self._read(table, whole, columns)] if whole else []
        else:  # DuckDB knows the least and greatest value of a column of one file, without which no join is an array
            reads += [self._read(table, [one], columns) for one in whole]
        return self._view(" UNION ALL ".join(reads) or self._read(table, [], columns))

    def named(self, rows: ir.Table) -> ir.Table:
        """`rows` under a name, not computed."""
        return self._view(_sql(rows))

    def narrow(self, rows: ir.Table, columns: Sequence[str]) -> ir.Table:
        """Return some columns of a table that the engine has named."""
        return self._view(f"SELECT {', '.join(map(_name, columns))} FROM {_name(rows.get_name())}")

    def look_up(self, rows: ir.Table, vocabularies: Mapping[str, Entries]) -> ir.Table:
        """Return `rows`, not computed, with the row of each value in its vocabulary."""
        return self._view(look_up_sql(_sql(rows), vocabularies, _name))

    def _view(self, sql: str) -> ir.Table:
        """A query as a table of its own name."""
        self._views += 1
        name = f"view_{self._views}"
        with translated():
            self._duck.execute(f"CREATE OR REPLACE VIEW {name} AS {sql}")
        return self._table(name)

    def _table(self, name: str) -> ir.Table:
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
        if not files:
            files = [(table.files[0], 0)]
            first = last = 0
        if any(is_address(file.path) for file, _ in files):
            self._open_remote()
        # Under their own names, columns of a file would hide DuckDB's `file_row_number` and `file_index`.
        aliases = {f"c{i}": name for i, (name, _) in enumerate(files[0][0].columns)}
        inside = {name: alias for alias, name in aliases.items()}
        parts = []
        for column in columns:
            if column in table.files[0].partitions:
                kind = "BIGINT" if pa.types.is_integer(table.schema.field(column).type) else "VARCHAR"
                values = ", ".join(_text(file.partitions[column]) for file, _ in files)
                parts.append(f"list_extract([{values}], (file_index + 1)::BIGINT)::{kind} AS {_name(column)}")
            else:
                parts.append(f"{inside[column]} AS {_name(column)}")
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
        """Read Parquet files of this machine, in any order of rows; of each file every so many-th row."""
        paths = ", ".join(_text(_literal(str(file))) for file in files)
        scan = f"read_parquet([{paths}], hive_partitioning = false)"
        if every == 1 and columns is None:
            return self._view(f"SELECT * FROM {scan}")
        aliases = {name: f"c{i}" for i, name in enumerate(pq.read_schema(files[0]).names)}
        names = ", ".join(f"{aliases[name]} AS {_name(name)}" for name in columns or aliases)
        where = "" if every == 1 else f" WHERE file_row_number % {every} = 0"
        return self._view(f"SELECT {names} FROM {scan} AS file({', '.join(aliases.values())}){where}")

    def keep(self, name: str, rows: ir.Table) -> ir.Table:
        """Compute `rows` once and keep the result on disk for all that reads it later."""
        sql = _sql(rows)
        table = self._kept.setdefault(name, f"kept_{len(self._kept)}")  # DuckDB takes no difference in case for one
        with translated():
            self._duck.execute(f"CREATE OR REPLACE TABLE {table} AS {sql}")
        return self._table(table)

    def fetch(self, rows: ir.Table) -> pa.Table:
        """Compute `rows`, a few at most, and hand them over, in order where `rows` has one."""
        with translated():
            found = self._duck.cursor().execute(_sql(rows, fused=True)).to_arrow_table()
        # A sum of integers comes as a decimal, whatever the expression says.
        return found.cast(rows.schema().to_pyarrow())

    def unit_rows(self, columns: int) -> int:
        """Rows of a unit: so many units as run at a time share the memory."""
        return max(1, self._rows_at_once(columns) // self.streams)

    def _rows_at_once(self, columns: int) -> int:
        (limit,) = self._duck.execute("SELECT value FROM duckdb_settings() WHERE name = 'memory_limit'").fetchone() or (
            "",
        )
        share = _ALONE if self.streams == 1 else _TOGETHER
        return max(1, int(_bytes(limit) * share / (_CELL_BYTES * columns)))

    def write_units(
        self, units: Iterable[Unit], columns: int, advance: Callable[[int], None]
    ) -> Generator[tuple[Unit, list[PartFile]]]:
        """Write the parts of units: one is sorted while another, by then a single stream, goes to its files."""
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
        """The next unit that is done. Where memory was too little for several, it is left for later, to run alone."""
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

    def write_parts(self, rows: ir.Table, order: Sequence[str], layout: PartLayout) -> list[PartFile]:
        """Write `rows` as parts: one for each value of `PART`, its rows in the given order."""
        with Streams(self._duck, 1, lambda _: None) as streams:
            unit = Unit(rows, tuple(order), layout, 0)
            streams.start(unit, _ordered(unit))
            return streams.next()[1].result()

    def close(self) -> None:
        """End what the engine holds."""
        self._duck.close()


def _sql(rows: ir.Table, *, fused: bool = False) -> str:
    """`rows` as SQL. DuckDB merges selects itself, in no time; ibis takes as long for that as for all the rest.

    Fused, an order that is not the last of its steps stays the order of the whole.
    """
    before, ibis.options.sql.fuse_selects = ibis.options.sql.fuse_selects, fused
    try:
        return str(ibis.to_sql(rows, dialect="duckdb"))
    finally:
        ibis.options.sql.fuse_selects = before


def _ordered(unit: Unit) -> list[str]:
    """Return the queries of a unit, whose rows come in the same order."""
    return [_sql(rows.order_by([PART, *unit.order])) for rows in unit.tables()]


def _name(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


def _literal(path: str) -> str:
    """A path that DuckDB takes for no pattern."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in path)


def _text(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _bytes(text: str) -> float:
    """`7.4 GiB` as DuckDB prints it."""
    number, unit = text.split()
    return float(number) * 1024.0 ** ("bytes", "KiB", "MiB", "GiB", "TiB").index(unit)
