"""Both engines, any number of threads and any order of rows give the same bytes."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.engines.base import Engine
from data_prep.engines.duck import DuckEngine
from data_prep.stats import dense, ids
from data_prep.stats.cells import Pair, Tally, fetch_cells, sum_by_value
from ple_rec.config.base import SPLITS
from ple_rec.config.schema import Task
from tests.data_prep.stats.conftest import described
from tests.data_prep.stats.feed import Feed


def text(stats: dict[str, Any]) -> str:
    return json.dumps(stats, indent=1, allow_nan=False)


@pytest.fixture(scope="module")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    from data_prep.engines.spark import SparkEngine

    engine = SparkEngine(tmp_path_factory.mktemp("spark"), threads=2, memory=1 << 30)
    yield engine
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        engine.close()


@pytest.mark.slow
@pytest.mark.spark
def test_spark_gives_the_same_bytes_of_rounded_values_too(
    spark: Engine, duck: DuckEngine, feed: Feed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dense, "MAX_VALUES", 300)
    monkeypatch.setattr(ids, "MAX_CELLS", 0)
    found = described(spark, feed, exact_rows=100, slice_stride=2)
    assert 8 < found["columns"]["price"]["train"]["bits"] < 16
    assert text(found) == text(described(duck, feed, exact_rows=100, slice_stride=2))


def test_order_and_threads_make_no_difference(stats: dict[str, Any], feed: Feed, tmp_path: Path) -> None:
    random = np.random.default_rng(9)
    for split in SPLITS:
        (tmp_path / split).mkdir()
        table = feed.tables[split]
        pq.write_table(table.take(random.permutation(len(table))), tmp_path / split / "one.parquet", row_group_size=77)
    for file in feed.vocabularies.values():
        (tmp_path / "vocab").mkdir(exist_ok=True)
        (tmp_path / "vocab" / file.name).write_bytes(file.read_bytes())
    engine = DuckEngine(tmp_path, memory=1 << 30, threads=1)
    assert text(described(engine, Feed(tmp_path, feed.schema, feed.tables))) == text(stats)
    engine.close()


@pytest.mark.parametrize("name", ["duck", pytest.param("spark", marks=[pytest.mark.spark, pytest.mark.slow])])
def test_sums_of_labels_are_exact_beyond_64_bits(name: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    engine: Engine = request.getfixturevalue(name)
    rows = 40_000  # of squares of 2^48
    labels = {"a": np.ones(rows, np.float32), "b": np.where(np.arange(rows) % 3, -1, 0.3).astype(np.float32)}
    pq.write_table(pa.table(labels), tmp_path / "rows.parquet")
    tasks = [Task(name=label, kind="regression", label=label) for label in labels]
    found = fetch_cells(engine, engine.read([tmp_path / "rows.parquet"]), tasks, {"a": 24, "b": 24}, [])
    tally = Tally()
    tally.add(tasks, sum_by_value(found, None)[None])
    a, b = ([round(2**24 * y) for y in values.tolist()] for values in labels.values())
    assert tally.pairs["a", "b"] == Pair(
        samples=rows,
        a=sum(a),
        b=sum(b),
        aa=sum(y * y for y in a),
        bb=sum(y * y for y in b),
        ab=sum(x * y for x, y in zip(a, b, strict=True)),
    )
    assert tally.pairs["a", "b"].aa > 2**63
