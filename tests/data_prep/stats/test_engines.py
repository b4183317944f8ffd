"""Both engines, any number of threads and any order of rows give the same bytes."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from data_prep.engines.base import Engine
from data_prep.engines.duck import DuckEngine
from data_prep.stats import dense
from ple_rec.config.base import SPLITS
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
    monkeypatch.setattr(dense, "MOST_VALUES", 300)
    found = described(spark, feed, exact_rows=100, every=2)
    assert 8 < found["columns"]["price"]["train"]["bits"] < 16
    assert text(found) == text(described(duck, feed, exact_rows=100, every=2))


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
