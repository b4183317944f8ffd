"""Spark, for logs that outgrow a machine. Executors write the parts, so the rows never pass through the driver.

The stage must lie on storage that every executor sees under the same path, and executors need this package.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import ibis
import ibis.expr.types as ir
import pyarrow as pa

from data_prep.engines.failures import translated
from data_prep.parts import PART, PartFile, PartLayout, write_stream
from data_prep.sources.files import POSITION, RawTable

logger = logging.getLogger(__name__)

_NO_LIMIT = 2**62
_FILE, _ROW = "__file", "__row"
_PLAIN = "/:@!$&'()*+,;=-._~"  # what a path of a URI may hold as it is
_PATTERN = "[]{}*?\\"
_LOCAL = re.compile(r"local\[(\d+)")
_WRITTEN = "part int, rows bigint, row_groups int"


class SparkEngine:
    """Spark.

    Args:
        folder: For results that are kept; emptied by the caller.
        master: `local[*]`, `spark://host:7077`, `yarn`, ...; None for a local one.
        memory: Bytes of the driver, which is everything where the master is local.
        threads: Of a local master; None for all cores.
    """

    def __init__(
        self, folder: Path, *, master: str | None = None, memory: int | None = None, threads: int | None = None
    ) -> None:
        self.folder = folder / "spark"
        self.folder.mkdir(parents=True, exist_ok=True)
        self._session = _session(master or f"local[{threads or '*'}]", folder, memory)
        with _quiet():
            _ = ibis.pyspark  # its compiler reads options that only loading it registers
        self._views = 0

    def scan(self, table: RawTable, columns: Sequence[str], first: int = 0, last: int | None = None) -> ir.Table:
        """The rows of Parquet files: the given columns, and `POSITION`, which counts the rows of all files."""
        from pyspark.sql import functions as f

        last = table.rows if last is None else last
        chosen = [
            (file, start)
            for file, start in zip(table.files, table.starts, strict=True)
            if start < last and start + file.rows > first
        ] or [(table.files[0], table.starts[0])]
        inside = [column for column in columns if column not in table.files[0].partitions]
        with translated():
            frame = self._session.read.parquet(*(_literal(file.path) for file, _ in chosen))
            frame = frame.select(
                *(_checked(frame, column, table.schema.field(column).type) for column in inside),
                f.regexp_replace(f.col("_metadata.file_path"), "^file:/+", "file:/").alias(_FILE),
                f.col("_metadata.row_index").alias(_ROW),
            )
            folders = [column for column in columns if column not in inside]
            known = [(_uri(file.path), start, *(file.partitions[c] for c in folders)) for file, start in chosen]
            names = ", ".join([f"{_FILE} string", "__start bigint", *(f"{_quoted(c)} string" for c in folders)])
            with _quiet():
                starts = self._session.createDataFrame(known, names)
            joined = frame.join(f.broadcast(starts), _FILE)
            position = (joined["__start"] + joined[_ROW]).alias(POSITION)
            kinds = {c: "bigint" if pa.types.is_integer(table.schema.field(c).type) else "string" for c in folders}
            out = joined.select(
                *(joined[_quoted(c)].cast(kinds[c]) if c in kinds else joined[_quoted(c)] for c in columns), position
            )
            if first > 0 or last < table.rows:
                out = out.filter((out[POSITION] >= first) & (out[POSITION] < last))
            return self._view(out)

    def read(self, files: Sequence[Path]) -> ir.Table:
        """The rows of Parquet files of this machine, in any order, all columns."""
        with translated():
            return self._view(self._session.read.parquet(*(_literal(str(file)) for file in files)))

    def _view(self, frame: Any) -> ir.Table:
        self._views += 1
        name = f"view_{self._views}"
        frame.createOrReplaceTempView(name)
        with _quiet():
            from pyspark.sql.pandas.types import to_arrow_schema

            return ibis.table(ibis.Schema.from_pyarrow(to_arrow_schema(frame.schema)), name=name)

    def named(self, rows: ir.Table) -> ir.Table:
        """`rows` under a name, not computed."""
        with translated():
            return self._view(self._frame(rows))

    def keep(self, name: str, rows: ir.Table) -> ir.Table:
        """Compute `rows` once and keep the result on disk for all that reads it later."""
        path = self.folder / name
        with translated():
            frame = self._frame(rows)
            # Parquet takes no odd letter in a name, which side.column is to some readers: number them.
            plain = frame.toDF(*(f"c{i}" for i in range(len(frame.columns))))
            plain.write.mode("overwrite").parquet(str(path))
            return self._view(self._session.read.parquet(str(path)).toDF(*frame.columns))

    def _frame(self, rows: ir.Table) -> Any:
        return self._session.sql(str(ibis.to_sql(rows, dialect="pyspark")))

    def fetch(self, rows: ir.Table) -> pa.Table:
        """Compute `rows`, a few at most, and hand them over, in order where `rows` has one."""
        with translated(), _quiet():
            found: pa.Table = self._frame(rows).toArrow()
        return found.cast(rows.schema().to_pyarrow())

    def unit_rows(self, columns: int) -> int:
        """Rows of so many columns that `write_parts` should get at a time: all, for Spark cuts its work itself."""
        return _NO_LIMIT

    def write_parts(
        self, rows: ir.Table, order: Sequence[str], layout: PartLayout, advance: Callable[[int], None] | None = None
    ) -> list[PartFile]:
        """Write `rows` as parts: one for each value of `PART`, its rows in the given order."""
        columns = list(dict.fromkeys([PART, *layout.schema.names, *order]))
        with translated(), _quiet():
            frame = self._frame(rows.select(columns))
            parts = frame.repartition(PART).sortWithinPartitions(PART, *order)
            written = parts.mapInArrow(partial(_write, layout), _WRITTEN).toArrow().to_pylist()
        files = [PartFile(row["part"], row["rows"], row["row_groups"]) for row in written]
        if advance is not None:
            advance(sum(file.rows for file in files))
        return sorted(files, key=lambda file: file.part)

    def close(self) -> None:
        """End what the engine holds."""
        for number in range(1, self._views + 1):
            self._session.catalog.dropTempView(f"view_{number}")
        shutil.rmtree(self.folder, ignore_errors=True)
        self._session.stop()


def _checked(frame: Any, column: str, kind: pa.DataType) -> Any:
    """A column whose texts are UTF-8, or the query fails; Spark does not look by itself."""
    from pyspark.sql import functions as f

    value = frame[_quoted(column)]
    if pa.types.is_string(kind):
        return f.validate_utf8(value).alias(column)
    if pa.types.is_list(kind) and pa.types.is_string(kind.value_type):
        return f.transform(value, f.validate_utf8).alias(column)
    return value


def _write(layout: PartLayout, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """On an executor: the parts of one partition."""
    files = list(write_stream(batches, layout))
    columns = {
        "part": pa.array([file.part for file in files], pa.int32()),
        "rows": pa.array([file.rows for file in files], pa.int64()),
        "row_groups": pa.array([file.row_groups for file in files], pa.int32()),
    }
    yield pa.RecordBatch.from_pydict(columns)


def _session(master: str, folder: Path, memory: int | None) -> Any:
    """A Spark session whose arithmetic, time zone and names are those that the pipeline means."""
    if master.startswith("local"):
        os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
        os.environ.setdefault("PYSPARK_PYTHON", sys.executable)  # else whichever python3 is first on PATH
    with _quiet():
        from pyspark.sql import SparkSession

        builder = SparkSession.builder.appName("ple-rec prep").master(master)
        settings = {
            "spark.sql.session.timeZone": "UTC",
            "spark.sql.caseSensitive": "true",
            "spark.sql.parquet.int96RebaseModeInRead": "CORRECTED",
            "spark.sql.sources.partitionColumnTypeInference.enabled": "false",
            "spark.sql.execution.arrow.maxRecordsPerBatch": "65536",
            "spark.ui.showConsoleProgress": "false",
            "spark.log.level": "ERROR",
            "spark.sql.shuffle.partitions": "200",
        }
        if master.startswith("local"):
            cores = int(found[1]) if (found := _LOCAL.search(master)) else len(os.sched_getaffinity(0))
            settings |= {
                "spark.ui.enabled": "false",
                "spark.local.dir": str(folder / "spill"),
                "spark.sql.shuffle.partitions": str(max(2 * cores, 4)),
            }
            if memory is not None:
                settings["spark.driver.memory"] = f"{max(memory >> 20, 512)}m"
        for key, value in settings.items():
            builder = builder.config(key, value)
        return builder.getOrCreate()


@contextmanager
def _quiet() -> Iterator[None]:
    """PySpark warns about a pandas that it does not need here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _uri(path: str) -> str:
    """A path as `_metadata.file_path` gives it: letters beyond ASCII stand as they are."""
    if "://" in path:
        return path
    return "file:" + "".join(letter if letter > "\x7f" else quote(letter, safe=_PLAIN) for letter in path)


def _literal(path: str) -> str:
    """A path whose letters are no pattern to Spark."""
    return "".join(f"\\{letter}" if letter in _PATTERN else letter for letter in path)


def _quoted(name: str) -> str:
    return "`" + name.replace("`", "``") + "`"
