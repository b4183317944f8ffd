"""Tables of DuckDB have the types of their files, and rows keep their order, fetched and in parts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.engines.base import PART, PartFile, Unit
from data_prep.engines.duck import DuckEngine

ROWS = 200_000  # More than a row group of DuckDB, 122,880, so that two threads share the rows.


class Collected:
    """Sink that keeps the rows it is given."""

    schema = pa.schema({"row": pa.int64(), "twice": pa.int64()})

    def __init__(self, folder: Path) -> None:
        self.folder, self.rows = folder, list[pa.Table]()

    def write(self, batches: Iterable[pa.RecordBatch]) -> Iterator[PartFile]:
        self.rows.append(pa.Table.from_batches(batches))
        yield PartFile(0, self.rows[-1].num_rows, 1)


@pytest.fixture(scope="module")
def shuffled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of the numbers from 0 in a random order."""
    file = tmp_path_factory.mktemp("shuffled") / "rows.parquet"
    pq.write_table(pa.table({"row": np.random.default_rng(0).permutation(ROWS)}), file)
    return file


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[DuckEngine]:
    engine = DuckEngine(tmp_path, threads=2)
    yield engine
    engine.close()


def test_a_table_has_the_types_of_its_file(engine: DuckEngine, tmp_path: Path) -> None:
    types = [
        pa.bool_(),
        *(pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()),
        *(pa.float32(), pa.float64(), pa.decimal128(10, 2), pa.decimal128(38, 0), pa.string(), pa.binary()),
        *(pa.date32(), pa.timestamp("us"), pa.timestamp("ns"), pa.timestamp("us", "UTC")),
        *(pa.list_(pa.float32()), pa.list_(pa.string()), pa.list_(pa.list_(pa.int64()))),
    ]
    schema = pa.schema([(str(kind), kind) for kind in types])
    pq.write_table(schema.empty_table(), tmp_path / "types.parquet")
    found = engine.read([tmp_path / "types.parquet"]).schema().to_pyarrow()
    assert {name: kind for name, kind in zip(schema.names, found.types, strict=True) if str(kind) != name} == {}


def test_rows_are_fetched_in_the_order_that_is_asked_for(engine: DuckEngine, shuffled: Path) -> None:
    rows = engine.read([shuffled]).order_by("row")
    rows = rows.select("row").mutate(twice=rows["row"] * 2)  # Queries around the one with the order.
    fetched = engine.fetch(rows)
    assert np.array_equal(fetched["row"].to_numpy(), np.arange(ROWS))
    assert np.array_equal(fetched["twice"].to_numpy(), 2 * np.arange(ROWS))


def test_columns_of_two_queries_meet_in_the_rows_of_a_part(engine: DuckEngine, shuffled: Path, tmp_path: Path) -> None:
    rows = engine.read([shuffled])
    part = (rows["row"] * 2 >= ROWS).ifelse(1, 0).name(PART)
    sink = Collected(tmp_path)
    unit = Unit(rows.select("row", part), ("row",), sink, ROWS, (rows.select("row", part, twice=rows["row"] * 2),))
    assert [files for _, files in engine.write_units([unit], 2, lambda _: None)] == [[PartFile(0, ROWS, 1)]]
    (written,) = sink.rows
    assert np.array_equal(written["row"].to_numpy(), np.arange(ROWS))
    assert np.array_equal(written["twice"].to_numpy(), 2 * np.arange(ROWS))
