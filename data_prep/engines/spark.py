"""Spark, for logs that outgrow a machine. Executors write the parts, so the rows never pass through the driver.

Executors need this package. The stage, and raw files that lie in no object store, must have the same path on every
executor.
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
from data_prep.engines.look_up import Entries, look_up_sql
from data_prep.engines.spark_remote import RemoteRead
from data_prep.failures import shortened, translated
from data_prep.sources.files import POSITION, RawFile, RawTable
from ple_rec.errors import Option, UserError
from ple_rec.storage import is_address

logger = logging.getLogger(__name__)

_NO_LIMIT = 2**62
_FILE, _ROW = "__file", "__row"
_PATTERN = "[]{}*?\\"
_LOCAL = re.compile(r"local\[(\d+)")
_STANDALONE, _SECONDS = "spark://", 10
_WRITTEN = "part int, rows bigint, row_groups int"
# These settings decide on results, so a session has them whatever spark-defaults.conf says.
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
        folder: Folder for the results of `keep`; the caller empties it.
        master: URL of the master, such as `local[*]`, `spark://host:7077` or `yarn`; None for a local one.
        memory: Bytes that the driver may use, which with a local master runs everything; None for Spark's default.
        threads: Number of threads of a local master; None for one per core.
    """

    span = 0
    streams = 1
    verifies_pages = True

    def __init__(
        self, folder: Path, *, master: str | None = None, memory: int | None = None, threads: int | None = None
    ) -> None:
        if master is not None:
            check_master(master)
        self.folder = folder / "spark"
        self.folder.mkdir(parents=True, exist_ok=True)
        self._restore = _active_session()
        self._session, self._owned = _session(master, threads, folder, memory)
        with _quiet():
            _ = ibis.pyspark  # Loading it registers options that its compiler reads.
        self._views = 0

    def scan(self, table: RawTable, columns: Sequence[str], first: int = 0, last: int | None = None) -> ir.Table:
        """Return columns of the rows of Parquet files, and `POSITION`; see `Engine.scan`."""
        last = table.rows if last is None else last
        chosen = [
            (file, start)
            for file, start in zip(table.files, table.starts, strict=True)
            if start < last and start + file.rows > first
        ] or [(table.files[0], table.starts[0])]
        local = [(file, start) for file, start in chosen if not is_address(file.path)]
        remote = [(file, start) for file, start in chosen if is_address(file.path)]
        with translated(), _quiet():
            frames = [self._read_local(table, local, columns)] if local else []
            if remote:
                frames.append(self._read_remote(table, RemoteRead.of(table, remote, columns, first, last)))
            out = reduce(type(frames[0]).unionByName, frames)
            if first > 0 or last < table.rows:
                out = out.filter((out[POSITION] >= first) & (out[POSITION] < last))
            return self._view(out)

    def _read_local(self, table: RawTable, files: Sequence[tuple[RawFile, int]], columns: Sequence[str]) -> Any:
        """Return columns and `POSITION` of files whose paths are the same on every executor."""
        from pyspark.sql import functions as f

        inside = [column for column in columns if column not in table.files[0].partitions]
        frame = self._session.read.parquet(*(_literal(file.path) for file, _ in files))
        metadata = frame.metadataColumn("_metadata")  # Spark's own, even if the files have a column of that name.
        frame = frame.select(
            *(_quoted(column) for column in inside),
            f.regexp_replace(metadata["file_path"], "^file:/+", "file:/").alias(_FILE),
            metadata["row_index"].alias(_ROW),
        )
        folders = [column for column in columns if column not in inside]
        known_files = [(self._uri(file.path), start, *(file.partitions[c] for c in folders)) for file, start in files]
        names = ", ".join([f"{_FILE} string", "__start bigint", *(f"{_quoted(c)} string" for c in folders)])
        starts = self._session.createDataFrame(known_files, names)
        joined = _checked(frame, table).join(f.broadcast(starts), _FILE)
        position = (joined["__start"] + joined[_ROW]).alias(POSITION)
        kinds = {c: "bigint" if pa.types.is_integer(table.schema.field(c).type) else "string" for c in folders}
        return joined.select(
            *(joined[_quoted(c)].cast(kinds[c]) if c in kinds else joined[_quoted(c)] for c in columns), position
        )

    def _uri(self, path: str) -> str:
        """Return a local path in the form of `_metadata.file_path`, which Hadoop's own class escapes."""
        return "file:" + str(self._session.sparkContext._jvm.org.apache.hadoop.fs.Path(path).toUri().toString())

    def _read_remote(self, table: RawTable, read: RemoteRead) -> Any:
        """Return the rows of files that executors fetch from an object store."""
        from pyspark.sql.pandas.types import from_arrow_schema

        # Each task gets consecutive units.
        tasks = read.tasks(self._session.sparkContext.defaultParallelism)
        numbers = self._session.range(0, len(read.units), 1, tasks)
        schema = from_arrow_schema(read.schema, prefer_timestamp_ntz=True)
        return _checked(numbers.mapInArrow(read.rows, schema), table)

    def read(self, files: Sequence[Path], columns: Sequence[str] | None = None, every: int = 1) -> ir.Table:
        """Read Parquet files of this machine, in any order of rows; see `Engine.read`."""
        with translated():
            rows = self._session.read.parquet(*(_literal(str(file)) for file in files))
            if every > 1:
                rows = rows.filter(rows.metadataColumn("_metadata")["row_index"] % every == 0)
            return self._view(rows if columns is None else rows.select(*map(_quoted, columns)))

    def _view(self, frame: Any) -> ir.Table:
        self._views += 1
        name = f"view_{self._views}"
        frame.createOrReplaceTempView(name)
        with _quiet():
            from pyspark.sql.pandas.types import to_arrow_schema

            schema = ibis.Schema.from_pyarrow(to_arrow_schema(frame.schema, timezone="UTC"))
        return ibis.table({column: _nullable(kind) for column, kind in schema.items()}, name=name)

    def named(self, rows: ir.Table) -> ir.Table:
        """Return `rows` under a name, not computed."""
        with translated():
            return self._view(self._frame(rows))

    def narrow(self, rows: ir.Table, columns: Sequence[str]) -> ir.Table:
        """Return some columns of a table that the engine has named."""
        with translated():
            return self._view(self._session.table(rows.get_name()).select(*map(_quoted, columns)))

    def look_up(self, rows: ir.Table, vocabularies: Mapping[str, Entries]) -> ir.Table:
        """Return `rows`, not computed, with the row of each value in its vocabulary."""
        with translated():
            sql = look_up_sql(_sql(rows), vocabularies, _quoted)
            return self._view(self._session.sql(sql))

    def keep(self, name: str, rows: ir.Table) -> ir.Table:
        """Compute `rows` and keep the result on the disk for later queries."""
        path = self.folder / name
        with translated():
            frame = self._frame(rows)
            # Some readers of Parquet refuse a name such as `side.column`, so columns are numbered.
            plain = frame.toDF(*(f"c{i}" for i in range(len(frame.columns))))
            plain.write.mode("overwrite").parquet(str(path))
            return self._view(self._session.read.parquet(str(path)).toDF(*frame.columns))

    def _frame(self, rows: ir.Table) -> Any:
        return self._session.sql(_sql(rows))

    def fetch(self, rows: ir.Table) -> pa.Table:
        """Compute a few rows and return them, in order if `rows` is ordered."""
        with translated(), _quiet():
            result: pa.Table = self._frame(rows).toArrow()
        return result.cast(rows.schema().to_pyarrow())

    def unit_rows(self, columns: int) -> int:
        """Return the most rows that a unit may have: all, since Spark divides its work itself."""
        return _NO_LIMIT

    def write_units(
        self, units: Iterable[Unit], columns: int, advance: Callable[[int], None]
    ) -> Generator[tuple[Unit, list[PartFile]]]:
        """Write the parts of units, one after another."""
        for unit in units:
            files = self._write(unit)
            advance(sum(file.rows for file in files))
            yield unit, files

    def write_parts(self, rows: ir.Table, order: Sequence[str], layout: PartSink) -> list[PartFile]:
        """Write a part for each value of `PART`, its rows sorted by `order`."""
        return self._write(Unit(rows, tuple(order), layout, 0))

    def _write(self, unit: Unit) -> list[PartFile]:
        keys = [PART, *unit.order]
        with translated(), _quiet():
            frame = reduce(lambda left, right: left.join(right, keys), map(self._frame, unit.tables()))
            parts = frame.repartition(PART).sortWithinPartitions(*keys)
            written = parts.mapInArrow(partial(_write, unit.layout), _WRITTEN).toArrow().to_pylist()
        files = [PartFile(row["part"], row["rows"], row["row_groups"]) for row in written]
        return sorted(files, key=lambda file: file.part)

    def close(self) -> None:
        """Drop the views, and stop the session or make the caller's session active again."""
        for number in range(1, self._views + 1):
            self._session.catalog.dropTempView(f"view_{number}")
        shutil.rmtree(self.folder, ignore_errors=True)
        if self._owned:
            self._session.stop()
        else:
            self._restore()


def _active_session() -> Callable[[], None]:
    """Return a function that makes the session that is active now, if any, active again.

    Spark makes a session active whenever it makes a frame, and has no public call that restores the earlier one.
    """
    with _quiet():
        from pyspark import SparkContext
        from pyspark.sql import SparkSession

    context = SparkContext._active_spark_context
    if context is None:
        return lambda: None
    spark = SparkSession._get_j_spark_session_class(context._jvm)
    active, of_jvm = SparkSession._activeSession, spark.getActiveSession()
    first, default = SparkSession._instantiatedSession, spark.getDefaultSession()

    def restore() -> None:
        SparkSession._activeSession, SparkSession._instantiatedSession = active, first
        spark.setActiveSession(of_jvm.get()) if of_jvm.isDefined() else spark.clearActiveSession()
        spark.setDefaultSession(default.get()) if default.isDefined() else spark.clearDefaultSession()

    return restore


def _checked(frame: Any, table: RawTable) -> Any:
    """Return rows whose query fails if a text is no UTF-8, which Spark does not check by itself."""
    return frame.select(*(_valid(frame, name, table) for name in frame.columns))


def _valid(frame: Any, name: str, table: RawTable) -> Any:
    from pyspark.sql import functions as f

    value = frame[_quoted(name)]
    kind = table.schema.field(name).type if name in table.schema.names else pa.null()
    if pa.types.is_string(kind):
        return f.validate_utf8(value).alias(name)
    if pa.types.is_list(kind) and pa.types.is_string(kind.value_type):
        return f.transform(value, f.validate_utf8).alias(name)
    return value


def _write(layout: PartSink, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Write the parts of one partition, on an executor."""
    files = list(layout.write(batches))
    columns = {
        "part": pa.array([file.part for file in files], pa.int32()),
        "rows": pa.array([file.rows for file in files], pa.int64()),
        "row_groups": pa.array([file.row_groups for file in files], pa.int32()),
    }
    yield pa.RecordBatch.from_pydict(columns)


def _session(master: str | None, threads: int | None, folder: Path, memory: int | None) -> tuple[Any, bool]:
    """Return a Spark session with the settings of the pipeline, and whether this engine owns its executors.

    If the caller has a session open already, the new one runs beside it on the same executors.
    """
    with _quiet():
        from pyspark import SparkContext
        from pyspark.sql import SparkSession

        context = SparkContext._active_spark_context
        if context is None:
            session = _started(master or f"local[{threads or '*'}]", folder, memory)
        elif master is None or master == context.master:
            session = SparkSession.builder.getOrCreate().newSession()
        else:
            raise UserError(
                f"prep {Option.MASTER} {master}",
                f"a Spark session of {context.master} is open in this process",
                "a process has one Spark at a time",
                "stop that session, or leave the master out to use it",
            )
    for key, value in _SETTINGS.items():
        session.conf.set(key, value)
    return session, context is None


def _started(master: str, folder: Path, memory: int | None) -> Any:
    """Start Spark, and return its session."""
    if master.startswith("local"):
        os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
        os.environ.setdefault("PYSPARK_PYTHON", sys.executable)  # The default is the first python3 on PATH.
    with _quiet():
        from pyspark.sql import SparkSession

        builder = SparkSession.builder.appName("ple-rec prep").master(master)
        settings = {"spark.ui.showConsoleProgress": "false", "spark.log.level": "ERROR"}
        if master.startswith("local"):
            cores = int(match[1]) if (match := _LOCAL.search(master)) else len(os.sched_getaffinity(0))
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
                f"Spark does not start there ({shortened(error)})",
                "a session needs a master that answers, and a driver that its executors can reach",
                "see what Spark says above; SPARK_LOCAL_IP is the driver's address, SPARK_CONF_DIR its configuration",
            ) from error


def check_master(master: str) -> None:
    """Refuse a standalone master of which no host listens, since Spark itself would try for a minute.

    Args:
        master: URL `spark://host:port`, or several hosts separated by commas; any other URL is not checked.

    Raises:
        UserError: No host listens.
    """
    if not master.startswith(_STANDALONE):
        return
    reasons = []
    for host in master.removeprefix(_STANDALONE).split(","):
        name, _, port = host.rpartition(":")
        try:
            with socket.create_connection((name, int(port)), _SECONDS):
                return
        except (OSError, ValueError) as error:
            reasons.append(f"{host}: {error}")
    raise UserError(
        f"prep {Option.MASTER} {master}",
        f"no master answers ({', '.join(reasons)})",
        "it is spark://HOST:PORT as the page of the master says, 7077 by default",
        "start the master, or mend host and port",
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the warnings of PySpark about pandas, which is not needed here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _nullable(kind: dt.DataType) -> dt.DataType:
    """Return a type that may be null, since Spark's types without nulls are other types to Ibis."""
    if isinstance(kind, dt.Array):
        return dt.Array(_nullable(kind.value_type))
    return kind.copy(nullable=True)


def _sql(rows: ir.Table) -> str:
    return str(ibis.to_sql(rows, dialect="pyspark"))


def _literal(path: str) -> str:
    """Return a path with its wildcards escaped for Spark."""
    return "".join(f"\\{letter}" if letter in _PATTERN else letter for letter in path)


def _quoted(name: str) -> str:
    return "`" + name.replace("`", "``") + "`"
