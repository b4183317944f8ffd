"""Spark as an engine of the data preparation, for logs that are too large for one machine.

`base.py` defines the interface of an engine and its terms. Executors write the Parquet files of a dataset (the parts),
so the rows never pass through the driver. Executors need this package. The folder in which the dataset is written, and
raw files outside of object stores, must have the same path on every executor.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import socket
import sys
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial, reduce
from pathlib import Path
from typing import Any

import ibis
import ibis.expr.datatypes as dt
import ibis.expr.types as ir
import pyarrow as pa

from data_prep.engines.base import PART, PartFile, PartSink, Unit
from data_prep.engines.look_up import LookupTable, look_up_sql
from data_prep.engines.spark_json import register_functions
from data_prep.engines.spark_remote import RemoteRead
from data_prep.failures import shorten_message, translate_failures
from data_prep.sources.files import POSITION, RawFile, RawTable
from ple_rec.errors import Option, UserError
from ple_rec.storage import is_address

logger = logging.getLogger(__name__)

_UNLIMITED_ROWS = 2**62
_FILE, _ROW = "__file", "__row"  # Columns with the file of a row, and its number in the file.
_WILDCARDS = "[]{}*?\\"  # Characters with a meaning in Hadoop's patterns of paths.
_LOCAL_MASTER = re.compile(r"local\[(\d+)")
_STANDALONE_PREFIX, _CONNECT_SECONDS = "spark://", 10
_PART_FILE_COLUMNS = "part int, rows bigint, row_groups int"
# Results, errors about damaged files and the memory of a batch depend on these settings. So they are set on every
# session, whatever spark-defaults.conf says.
_SETTINGS = {
    "spark.sql.ansi.enabled": "true",  # An integer overflow ends the query.
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.caseSensitive": "true",
    "parquet.page.verify-checksum.enabled": "true",  # Hadoop takes this setting from the session.
    "spark.sql.parquet.int96RebaseModeInRead": "CORRECTED",
    "spark.sql.sources.partitionColumnTypeInference.enabled": "false",
    "spark.sql.execution.arrow.maxRecordsPerBatch": "65536",
}


class SparkEngine:
    """Engine that runs expressions on Spark.

    Args:
        folder: Folder for the results of `materialize`, which `close` deletes, and for data of a local Spark that does
            not fit in memory, which the caller deletes.
        master: URL of the master, such as `local[*]`, `spark://host:7077` or `yarn`. None for the master of a session
            that is open in this process, or a local one.
        memory: Bytes that a local Spark which this engine starts may use, raised to 512 MiB if fewer; None for Spark's
            default. A Spark that is not local, or is open already, ignores it.
        threads: Number of threads if `master` is None and no session is open; None for one per core.

    Raises:
        UserError: Spark cannot be started, or a session of another master is open in this process.
    """

    # `Engine` explains these attributes.
    max_inner_join_span = 0  # An inner join is never faster than a left join.
    max_concurrent_units = 1
    verifies_pages = True

    def __init__(
        self, folder: Path, *, master: str | None = None, memory: int | None = None, threads: int | None = None
    ) -> None:
        if master is not None:
            check_master(master)
        self.folder = folder / "spark"
        self.folder.mkdir(parents=True, exist_ok=True)
        self._restore = _session_restorer()
        self._session, self._owned = _open_session(master, threads, folder, memory)
        with _ignore_warnings():
            _ = ibis.pyspark  # Loading it registers options that its compiler reads.
        self._views = 0

    def scan(self, table: RawTable, columns: Sequence[str], first: int = 0, stop: int | None = None) -> ir.Table:
        """Return columns of the rows of Parquet files, and `POSITION`; see `Engine.scan`."""
        stop = table.rows if stop is None else stop
        # For an empty range, one file is read for the types of its columns; the filter below removes its rows.
        chosen = [
            (file, start)
            for file, start in zip(table.files, table.starts, strict=True)
            if start < stop and start + file.rows > first
        ] or [(table.files[0], table.starts[0])]
        local = [(file, start) for file, start in chosen if not is_address(file.path)]
        remote = [(file, start) for file, start in chosen if is_address(file.path)]
        with translate_failures(), _ignore_warnings():
            frames = [self._read_local(table, local, columns)] if local else []
            if remote:
                frames.append(self._read_remote(table, RemoteRead.plan(table, remote, columns, first, stop)))
            rows = reduce(type(frames[0]).unionByName, frames)
            if first > 0 or stop < table.rows:
                rows = rows.filter((rows[POSITION] >= first) & (rows[POSITION] < stop))
            return self._view(rows)

    def _read_local(self, table: RawTable, files: Sequence[tuple[RawFile, int]], columns: Sequence[str]) -> Any:
        """Return columns and `POSITION` of files whose paths are the same on every executor."""
        from pyspark.sql import functions as f

        file_columns = [column for column in columns if column not in table.files[0].partitions]
        frame = self._session.read.parquet(*(_escape_wildcards(file.path) for file, _ in files))
        # `frame["_metadata"]` would be a column of the files if they have one of this name.
        metadata = frame.metadataColumn("_metadata")
        frame = frame.select(
            *(_quote_name(column) for column in file_columns),
            f.regexp_replace(metadata["file_path"], "^file:/+", "file:/").alias(_FILE),
            metadata["row_index"].alias(_ROW),
        )
        # Other columns have their values in the names of folders, such as `day=3`.
        folder_columns = [column for column in columns if column not in file_columns]
        # Of each file: its path, by which it is joined, the position of its first row, and the values in its folders.
        file_records = [
            (self._uri(file.path), start, *(file.partitions[c] for c in folder_columns)) for file, start in files
        ]
        names = ", ".join([f"{_FILE} string", "__start bigint", *(f"{_quote_name(c)} string" for c in folder_columns)])
        starts = self._session.createDataFrame(file_records, names)
        joined = _validate_texts(frame, table).join(f.broadcast(starts), _FILE)
        position = (joined["__start"] + joined[_ROW]).alias(POSITION)
        kinds = {c: "bigint" if pa.types.is_integer(table.schema.field(c).type) else "string" for c in folder_columns}
        return joined.select(
            *(joined[_quote_name(c)].cast(kinds[c]) if c in kinds else joined[_quote_name(c)] for c in columns),
            position,
        )

    def _uri(self, path: str) -> str:
        """Return a local path as `_metadata.file_path` has it, that is, with the escapes of Hadoop's class `Path`."""
        return "file:" + str(self._session.sparkContext._jvm.org.apache.hadoop.fs.Path(path).toUri().toString())

    def _read_remote(self, table: RawTable, read: RemoteRead) -> Any:
        """Return the rows of files that executors fetch from an object store."""
        from pyspark.sql.pandas.types import from_arrow_schema

        # Each task gets consecutive row groups.
        tasks = read.task_count(self._session.sparkContext.defaultParallelism)
        indices = self._session.range(0, len(read.row_groups), 1, tasks)
        schema = from_arrow_schema(read.schema, prefer_timestamp_ntz=True)
        return _validate_texts(indices.mapInArrow(read.read_rows, schema), table)

    def read(self, files: Sequence[Path], columns: Sequence[str] | None = None, stride: int = 1) -> ir.Table:
        """Read Parquet files that have the same path on every executor, in any order of rows; see `Engine.read`."""
        with translate_failures():
            rows = self._session.read.parquet(*(_escape_wildcards(str(file)) for file in files))
            if stride > 1:
                rows = rows.filter(rows.metadataColumn("_metadata")["row_index"] % stride == 0)
            return self._view(rows if columns is None else rows.select(*map(_quote_name, columns)))

    def _view(self, frame: Any) -> ir.Table:
        """Create a temporary view of a Spark frame, and return the view as an Ibis table."""
        self._views += 1
        name = f"view_{self._views}"
        frame.createOrReplaceTempView(name)
        with _ignore_warnings():
            from pyspark.sql.pandas.types import to_arrow_schema

            schema = ibis.Schema.from_pyarrow(to_arrow_schema(frame.schema, timezone="UTC"))
        return ibis.table({column: _nullable(kind) for column, kind in schema.items()}, name=name)

    def create_view(self, rows: ir.Table) -> ir.Table:
        """Create a temporary view of `rows` and return it; see `Engine.create_view`."""
        with translate_failures():
            return self._view(self._frame(rows))

    def select_columns(self, rows: ir.Table, columns: Sequence[str]) -> ir.Table:
        """Return a view of some columns of a view; see `Engine.select_columns`."""
        with translate_failures():
            return self._view(self._session.table(rows.get_name()).select(*map(_quote_name, columns)))

    def look_up(self, rows: ir.Table, vocabularies: Mapping[str, LookupTable]) -> ir.Table:
        """Join `rows` with vocabularies; see `Engine.look_up`."""
        with translate_failures():
            sql = look_up_sql(_sql(rows), vocabularies, _quote_name)
            return self._view(self._session.sql(sql))

    def materialize(self, name: str, rows: ir.Table) -> ir.Table:
        """Compute `rows` and store the result as Parquet for later queries; see `Engine.materialize`."""
        path = self.folder / name
        with translate_failures():
            frame = self._frame(rows)
            # Some readers of Parquet refuse a name such as `side.column`, so columns are numbered.
            renamed = frame.toDF(*(f"c{i}" for i in range(len(frame.columns))))
            renamed.write.mode("overwrite").parquet(str(path))
            return self._view(self._session.read.parquet(str(path)).toDF(*frame.columns))

    def _frame(self, rows: ir.Table) -> Any:
        return self._session.sql(_sql(rows))

    def fetch(self, rows: ir.Table) -> pa.Table:
        """Compute rows that fit in memory and return them, in order if `rows` is ordered."""
        with translate_failures(), _ignore_warnings():
            result: pa.Table = self._frame(rows).toArrow()
        return result.cast(rows.schema().to_pyarrow())

    def max_unit_rows(self, columns: int) -> int:
        """Return a number larger than the rows of any split: Spark divides a unit into tasks that fit in memory."""
        return _UNLIMITED_ROWS

    def write_units(
        self, units: Iterable[Unit], columns: int, advance: Callable[[int], None]
    ) -> Generator[tuple[Unit, list[PartFile]]]:
        """Write the parts of units, one after another."""
        for unit in units:
            files = self._write_unit(unit)
            advance(sum(file.rows for file in files))
            yield unit, files

    def write_parts(self, rows: ir.Table, order: Sequence[str], sink: PartSink) -> list[PartFile]:
        """Write a part for each value of `PART`, its rows sorted by `order`."""
        return self._write_unit(Unit(rows, tuple(order), sink, 0))  # 0: the number of rows is not used here.

    def _write_unit(self, unit: Unit) -> list[PartFile]:
        """Write the parts of a unit on executors.

        The tables of the unit have different columns of the same rows, which `PART` and the order identify.
        """
        keys = [PART, *unit.order]
        with translate_failures(), _ignore_warnings():
            frame = reduce(lambda left, right: left.join(right, keys), map(self._frame, unit.tables()))
            parts = frame.repartition(PART).sortWithinPartitions(*keys)
            written = parts.mapInArrow(partial(_write_partition, unit.sink), _PART_FILE_COLUMNS).toArrow().to_pylist()
        files = [PartFile(row["part"], row["rows"], row["row_groups"]) for row in written]
        return sorted(files, key=lambda file: file.part)

    def close(self) -> None:
        """Drop the views and stored results, and stop Spark or make the caller's session active again."""
        for number in range(1, self._views + 1):
            self._session.catalog.dropTempView(f"view_{number}")
        shutil.rmtree(self.folder, ignore_errors=True)
        if self._owned:
            self._session.stop()
        else:
            self._restore()


def _session_restorer() -> Callable[[], None]:
    """Return a function that makes the session that is active now, if any, active again.

    Spark makes a session active whenever it makes a frame, and has no public call that restores the earlier one.
    """
    with _ignore_warnings():
        from pyspark import SparkContext
        from pyspark.sql import SparkSession

    context = SparkContext._active_spark_context
    if context is None:
        return lambda: None
    spark = SparkSession._get_j_spark_session_class(context._jvm)
    active, jvm_active = SparkSession._activeSession, spark.getActiveSession()
    instantiated, jvm_default = SparkSession._instantiatedSession, spark.getDefaultSession()

    def restore() -> None:
        SparkSession._activeSession, SparkSession._instantiatedSession = active, instantiated
        spark.setActiveSession(jvm_active.get()) if jvm_active.isDefined() else spark.clearActiveSession()
        spark.setDefaultSession(jvm_default.get()) if jvm_default.isDefined() else spark.clearDefaultSession()

    return restore


def _validate_texts(frame: Any, table: RawTable) -> Any:
    """Return rows whose query fails if a text is not UTF-8, which Spark does not check by itself."""
    return frame.select(*(_validate_column(frame, name, table) for name in frame.columns))


def _validate_column(frame: Any, name: str, table: RawTable) -> Any:
    from pyspark.sql import functions as f

    value = frame[_quote_name(name)]
    kind = table.schema.field(name).type if name in table.schema.names else pa.null()
    if pa.types.is_string(kind):
        return f.validate_utf8(value).alias(name)
    if pa.types.is_list(kind) and pa.types.is_string(kind.value_type):
        return f.transform(value, f.validate_utf8).alias(name)
    return value


def _write_partition(sink: PartSink, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Write the parts of one partition, on an executor."""
    files = list(sink.write(batches))
    columns = {
        "part": pa.array([file.part for file in files], pa.int32()),
        "rows": pa.array([file.rows for file in files], pa.int64()),
        "row_groups": pa.array([file.row_groups for file in files], pa.int32()),
    }
    yield pa.RecordBatch.from_pydict(columns)


def _open_session(master: str | None, threads: int | None, folder: Path, memory: int | None) -> tuple[Any, bool]:
    """Return a Spark session with the settings of the pipeline, and whether this call has started Spark.

    If the caller has a session open already, the new one runs beside it on the same executors.
    """
    with _ignore_warnings():
        from pyspark import SparkContext
        from pyspark.sql import SparkSession

        context = SparkContext._active_spark_context
        if context is None:
            session = _start_session(master or f"local[{threads or '*'}]", folder, memory)
        elif master is None or master == context.master:
            session = SparkSession.builder.getOrCreate().newSession()
        else:
            raise UserError(
                f"prep {Option.MASTER} {master}",
                f"a Spark session of {context.master} is open in this process",
                "a process can use one Spark master at a time",
                "stop that session, or leave the master out to use that session",
            )
    for key, value in _SETTINGS.items():
        session.conf.set(key, value)
    register_functions(session)
    return session, context is None


def _start_session(master: str, folder: Path, memory: int | None) -> Any:
    """Start Spark, and return its session."""
    if master.startswith("local"):
        os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
        os.environ.setdefault("PYSPARK_PYTHON", sys.executable)  # The default is the first python3 on PATH.
    with _ignore_warnings():
        from pyspark.sql import SparkSession

        builder = SparkSession.builder.appName("ple-rec prep").master(master)
        settings = {"spark.ui.showConsoleProgress": "false", "spark.log.level": "ERROR"}
        if master.startswith("local"):
            cores = int(match[1]) if (match := _LOCAL_MASTER.search(master)) else len(os.sched_getaffinity(0))
            settings |= {
                "spark.ui.enabled": "false",
                "spark.local.dir": str(folder / "spill"),
                "spark.sql.shuffle.partitions": str(max(2 * cores, 4)),
            }
            # Workers inherit the environment of the JVM, which may have been started before these variables were set.
            settings |= {f"spark.executorEnv.{key}": text for key, text in os.environ.items() if key.startswith("AWS_")}
            if memory is not None:
                settings["spark.driver.memory"] = f"{max(memory >> 20, 512)}m"
        for key, value in settings.items():
            builder = builder.config(key, value)
        try:
            return builder.getOrCreate()
        except Exception as error:  # The errors of py4j and PySpark have no common class.
            raise UserError(
                f"prep {Option.MASTER} {master}",
                f"Spark cannot be started ({shorten_message(error)})",
                "a session needs a master that answers, and a driver address that the executors can reach",
                "see Spark's messages above; SPARK_LOCAL_IP sets the driver's address, SPARK_CONF_DIR its settings",
            ) from error


def check_master(master: str) -> None:
    """Refuse a standalone master if none of its hosts listens within ten seconds; Spark itself would try for a minute.

    Args:
        master: URL `spark://host:port`, or several hosts separated by commas; any other URL is not checked.

    Raises:
        UserError: No host listens.
    """
    if not master.startswith(_STANDALONE_PREFIX):
        return
    reasons = []
    for host in master.removeprefix(_STANDALONE_PREFIX).split(","):
        name, _, port = host.rpartition(":")
        try:
            with socket.create_connection((name, int(port)), _CONNECT_SECONDS):
                return
        except (OSError, ValueError) as error:
            reasons.append(f"{host}: {error}")
    raise UserError(
        f"prep {Option.MASTER} {master}",
        f"no master answers ({', '.join(reasons)})",
        "a standalone master is named spark://HOST:PORT, as its web page shows it; the default port is 7077",
        "start the master, or correct host and port",
    )


@contextmanager
def _ignore_warnings() -> Iterator[None]:
    """Suppress all warnings in the block; PySpark warns about pandas, although this engine does not use it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _nullable(kind: dt.DataType) -> dt.DataType:
    """Return a type that may be null, also inside arrays, since to Ibis a type without nulls is another type."""
    if isinstance(kind, dt.Array):
        return dt.Array(_nullable(kind.value_type))
    return kind.copy(nullable=True)


def _sql(rows: ir.Table) -> str:
    return str(ibis.to_sql(rows, dialect="pyspark", pretty=False))


def _escape_wildcards(path: str) -> str:
    """Return a path with its wildcards escaped for Spark."""
    return "".join(f"\\{letter}" if letter in _WILDCARDS else letter for letter in path)


def _quote_name(name: str) -> str:
    return "`" + name.replace("`", "``") + "`"
