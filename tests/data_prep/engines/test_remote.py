"""Raw files in an object store: both engines read the same rows, and say what they cannot read.

What executors of Spark run is tried in this process; that Spark calls it is a slow test.
"""

from __future__ import annotations

import importlib
import io
import warnings
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.engines.duck import DuckEngine
from data_prep.engines.spark import SparkEngine
from data_prep.engines.spark_remote import RemoteRead
from data_prep.failures import translate_failures
from data_prep.run import EngineName, Options, prepare
from data_prep.sources.files import POSITION, RawTable, discover
from ple_rec.config.prep import FilesConfig
from ple_rec.errors import DataError, UserError
from ple_rec.storage.client import arrow_client
from tests.data_prep.feed_logs import digests, write_logs, write_toml
from tests.object_store import object_store, put, put_folder, put_table, use_store

pytest.importorskip("moto", reason="needs moto[server]")


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with object_store("feed") as url:
        yield url


@pytest.fixture
def store(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    use_store(endpoint, monkeypatch)
    return "s3://feed"


@pytest.fixture(scope="module")
def spark(tmp_path_factory: pytest.TempPathFactory, endpoint: str) -> Iterator[SparkEngine]:
    with pytest.MonkeyPatch.context() as patch:
        use_store(endpoint, patch)  # executors have the environment of their start
        engine = SparkEngine(tmp_path_factory.mktemp("work"), threads=2)
    yield engine
    engine.close()


def rows(first: int) -> pa.Table:
    """Six rows of all that Spark has not as Arrow has it, and of what it reads without a look."""
    times = [datetime(1969, 12, 31, 23, 59, 59, 999_999 - i) for i in range(first, first + 6)]
    return pa.table(
        {
            "time": pa.array(times, pa.timestamp("us")),
            "milli": pa.array(range(first, first + 6), pa.timestamp("ms", "UTC")),
            "byte": pa.array([250, None, *range(4)], pa.uint8()),
            "big": pa.array([2**64 - 1, None, *range(4)], pa.uint64()),
            "text": pa.array(["a", None, *"bcde"]).dictionary_encode(),
            "bag": pa.array([["x"], None, [], ["y", "z"], ["x"], ["y"]], pa.large_list(pa.large_string())),
            "odd.name `": pa.array(range(first, first + 6), pa.float32()),
        }
    )


def look(root: str, staging: Path) -> RawTable:
    return discover("log", FilesConfig(files=("log",)), root, staging)


def typed(store: str, staging: Path) -> RawTable:
    """Two files of two row groups each, in folders whose names hold columns."""
    for day in (1, 2):
        with arrow_client().open_output_stream(f"feed/types/log/day={day}/kind=k{day}/a b.parquet") as out:
            pq.write_table(rows(6 * day), out, row_group_size=4)
    return look(f"{store}/types", staging)


def by_duckdb(table: RawTable, folder: Path, first: int, last: int | None) -> pa.Table:
    duck = DuckEngine(folder, threads=1)
    found = duck.fetch(duck.scan(table, table.schema.names, first, last).order_by(POSITION))
    duck.close()
    return found


def by_executors(table: RawTable, columns: Sequence[str], first: int, last: int) -> pa.Table:
    """What executors read, in whole row groups."""
    files = list(zip(table.files, table.starts, strict=True))
    read = RemoteRead.plan(table, files, columns, first, last)
    assert 1 <= read.task_count(cores=1) <= max(1, len(read.row_groups))
    numbers = pa.RecordBatch.from_pydict({"id": range(len(read.row_groups))})
    return pa.Table.from_batches(read.read_rows(iter([numbers])), read.schema)


@pytest.mark.parametrize(("first", "last", "read"), [(0, 12, range(12)), (3, 10, range(10)), (5, 5, range(4, 6))])
def test_executors_read_the_rows_that_duckdb_does(
    store: str, tmp_path: Path, first: int, last: int, read: range
) -> None:
    table = typed(store, tmp_path)
    found = by_executors(table, table.schema.names, first, last)
    assert found[POSITION].to_pylist() == list(read)
    wanted = [row for row in found.to_pylist() if first <= row[POSITION] < last]
    assert wanted == by_duckdb(table, tmp_path, first, last).to_pylist()


@pytest.mark.spark
@pytest.mark.slow
@pytest.mark.parametrize(("first", "last"), [(0, None), (3, 10), (5, 5)])
def test_both_engines_read_the_same_rows(
    store: str, spark: SparkEngine, tmp_path: Path, first: int, last: int | None
) -> None:
    table = typed(store, tmp_path)
    columns = table.schema.names
    found = spark.fetch(spark.scan(table, columns, first, last).order_by(POSITION))
    assert found.column_names == [*columns, POSITION]
    assert found.to_pylist() == by_duckdb(table, tmp_path, first, last).to_pylist()
    assert found[POSITION].to_pylist() == list(range(first, 12 if last is None else last))
    if last is None:
        assert found["kind"].to_pylist() == ["k1"] * 6 + ["k2"] * 6


def unreadable(store: str, staging: Path, content: bytes | None) -> tuple[RawTable, str]:
    """A table whose only file is lost or damaged after its footer was read, and the file's key."""
    key = "feed/gone/log/a.parquet"
    put_table(key, rows(0))
    table = look(f"{store}/gone", staging)
    if content is None:
        arrow_client().delete_file(key)
    else:
        put(key, content)
    return table, key


UNREADABLE = [
    (b"PAR1 and no more", r"an executor cannot read it \(Parquet "),
    (None, r"an executor cannot read it \(.*Path does not exist"),
]


@pytest.mark.parametrize(("content", "said"), UNREADABLE)
def test_a_file_that_an_executor_cannot_read(store: str, tmp_path: Path, content: bytes | None, said: str) -> None:
    table, key = unreadable(store, tmp_path, content)
    with pytest.raises(DataError, match=f"^s3://{key}: {said}.*; executors read the store directly.* Fix: check"):
        by_executors(table, ["byte"], 0, 6)


def test_executors_compare_pages_with_their_checksums(store: str, tmp_path: Path) -> None:
    """Spark's own reader does so, of files that lie in no store."""
    key, written = "feed/damaged/log/a.parquet", io.BytesIO()
    table = pa.table({"x": pa.array(range(1000), pa.int64())})
    pq.write_table(table, written, compression="none", use_dictionary=False, write_page_checksum=True)
    content = bytearray(written.getvalue())
    content[content.index((500).to_bytes(8, "little"))] ^= 1
    put(key, bytes(content))
    with pytest.raises(DataError, match=f"^s3://{key}: an executor cannot read it .*CRC checksum verification failed"):
        by_executors(look(f"{store}/damaged", tmp_path), ["x"], 0, 1000)


@pytest.mark.spark
@pytest.mark.slow
@pytest.mark.parametrize(("content", "said"), UNREADABLE)
def test_spark_tells_which_file_an_executor_cannot_read(
    store: str, spark: SparkEngine, tmp_path: Path, content: bytes | None, said: str
) -> None:
    table, key = unreadable(store, tmp_path, content)
    with pytest.raises(DataError, match=f"^s3://{key}: {said}.*; executors read the store directly.* Fix: check"):
        spark.fetch(spark.scan(table, ["byte"]))


def lacking(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    importlib.import_module("a_package_that_is_not_there")
    yield from batches


def failing(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    raise PermissionError(13, "Permission denied", "/shared/part-0")


def too_large(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    pa.allocate_buffer(1 << 60)
    yield from batches


@pytest.mark.spark
@pytest.mark.slow
def test_what_python_raises_on_an_executor_is_told_in_one_line(spark: SparkEngine) -> None:
    lacks = r"the executors of Spark: ModuleNotFoundError: No module named 'a_package_that_is_not_there'; they need"
    fails = r"an executor of Spark: PermissionError: \[Errno 13\] Permission denied: '/shared/part-0'; it could"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PySpark's, of a pandas that it does not need here
        frames = [spark._session.range(1).mapInArrow(raising, "id long") for raising in (lacking, failing, too_large)]
    with pytest.raises(UserError, match=f"^{lacks}"), translate_failures():
        frames[0].collect()
    with pytest.raises(DataError, match=f"^{fails}"), translate_failures():
        frames[1].collect()
    with (
        pytest.raises(UserError, match=r"^prep --engine spark: out of memory \(.*MemoryError: malloc"),
        translate_failures(),
    ):
        frames[2].collect()


@pytest.mark.spark
@pytest.mark.slow
def test_both_engines_write_the_same_bytes(store: str, tmp_path: Path) -> None:
    put_folder(write_logs(tmp_path / "raw"), "feed/raw")
    toml = write_toml(tmp_path / "feed.toml")
    engines: tuple[EngineName, EngineName] = ("duckdb", "spark")
    for engine in engines:
        prepare(str(toml), tmp_path / engine, Options(source=f"{store}/raw", engine=engine, threads=2))
    assert digests(tmp_path / "spark") == digests(tmp_path / "duckdb")
