"""An engine that runs out of memory says so, and not that a file is bad."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.engines.duck import DuckEngine
from data_prep.failures import translate_failures
from ple_rec.errors import DataError, UserError

FIX = r"Fix: give more, twice as much to begin with, or fewer --threads; finished steps are kept for the next run$"


def test_duckdb_without_enough_memory(tmp_path: Path) -> None:
    pq.write_table(pa.table({"x": range(2_000_000)}), tmp_path / "x.parquet")
    engine = DuckEngine(tmp_path, memory=16 << 20, threads=1)
    rows = engine.read([tmp_path / "x.parquet"])
    said = r"DuckDB ran out of memory \(Out of Memory Error: [^()]* \([\d.]+ MiB/12\.0 MiB used\)\); the largest step"
    with pytest.raises(UserError, match=rf"^prep --memory: {said} .*{FIX}") as caught:
        engine.fetch(rows.aggregate(all=rows.x.collect()))  # one value, which cannot be spilled
    engine.close()
    assert caught.value.exit_code == 2


def test_pyarrow_without_enough_memory() -> None:
    with (
        pytest.raises(UserError, match=rf"^prep --memory: this process ran out of memory \(malloc .*{FIX}"),
        translate_failures(),
    ):
        pa.allocate_buffer(1 << 60)


class SparkError(Exception):
    """What Spark raises, whose message is the traceback of an executor."""


SparkError.__module__ = "pyspark.errors"


@pytest.mark.parametrize(
    ("text", "kind", "said"),
    [
        (
            "Traceback:\nple_rec.errors.DataError: s3://a/b: cannot be read; it must. Fix: check it\n",
            DataError,
            r"^s3://a/b: cannot be read; it must\. Fix: check it$",
        ),
        (
            "ModuleNotFoundError: No module named 'data_prep'",
            UserError,
            r"^the executors of Spark: ModuleNotFoundError",
        ),
        (
            "PermissionError: [Errno 13] denied",
            DataError,
            r"^an executor of Spark: PermissionError: \[Errno 13\] denied;",
        ),
        (
            "java.lang.OutOfMemoryError: Java heap",
            UserError,
            r"^prep --engine spark: out of memory \(java\.lang\.OutOf",
        ),
        ("OSError: [Errno 28] No space left on device", UserError, r"^prep --out: no space left"),
        ("a page of '/raw/a.parquet' is bad", DataError, r"^/raw/a\.parquet: a page of"),
    ],
)
def test_what_spark_tells_of_its_executors(text: str, kind: type[Exception], said: str) -> None:
    """Which texts real executors give, slow tests in `test_engines_remote` show."""
    with pytest.raises(kind, match=said), translate_failures():
        raise SparkError(text)


def test_a_path_that_duckdb_would_take_apart(tmp_path: Path) -> None:
    """It reads options behind a question mark."""
    folder = tmp_path / "what?"
    folder.mkdir()
    with pytest.raises(UserError, match=r"what\?: has a \? in its path; .* Fix: use a folder without one"):
        DuckEngine(folder)
