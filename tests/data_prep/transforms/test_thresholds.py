"""Thresholds are quantiles of the training rows that a task counts."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import ibis
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.engines.duck import DuckEngine
from data_prep.output.parent import Parent
from data_prep.transforms.quantiles import quantile_edges, quantiles_by_bin
from ple_rec.config.prep import ThresholdValues
from tests.data_prep.feed_logs import read
from tests.data_prep.plain_logs import DAY_ROWS, TOML, Logs, day_of, with_column

SPACE = "price >= 5"  # of rows 0, 1, 2, ... price is 0, .25, .5, ...: all but the first 20 of 48
LABEL = 'label = "duration_ms > threshold"\nspace = "{space}"\nthreshold = {{value = "duration_ms", {how}}}'


def logs_of(root: Path, how: str, space: str = SPACE) -> Logs:
    return Logs(root, TOML.replace('label = "is_like"', LABEL.format(space=space, how=how)))


def quantile(values: list[Any], share: float) -> Any:
    return sorted(values)[math.ceil(share * len(values)) - 1]


def threshold_of(logs: Logs) -> ThresholdValues:
    return Parent.read(logs.out).config.found.thresholds["like"]


def train() -> list[dict[str, Any]]:
    return [row for day in (1, 2) for row in day_of(day).to_pylist()]


def test_rows_outside_the_space_do_not_count(tmp_path: Path) -> None:
    logs = logs_of(tmp_path, "quantile = 0.5")
    logs.prepare()
    inside = [row["duration_ms"] for row in train() if row["price"] >= 5]
    threshold = threshold_of(logs)
    assert threshold.values == (quantile(inside, 0.5),) == (3300.0,)
    labels = read(logs.out, "train")
    assert (
        sum(
            x
            for x, counts in zip(labels["label_like"].to_pylist(), labels["space_like"].to_pylist(), strict=True)
            if counts
        )
        == len(inside) / 2
    )


def test_nor_do_they_for_the_parts(tmp_path: Path) -> None:
    logs = logs_of(tmp_path, 'quantile = 0.25, by = "price", bins = 2')
    logs.prepare()
    inside = [row for row in train() if row["price"] >= 5]
    half = quantile([row["price"] for row in inside], 0.5)
    edge = min(row["price"] for row in inside if row["price"] > half)
    parts = [[r["duration_ms"] for r in inside if (r["price"] >= edge) == upper] for upper in (False, True)]
    threshold = threshold_of(logs)
    assert threshold.edges == (edge,)
    assert threshold.values == tuple(quantile(part, 0.25) for part in parts)


def test_a_space_that_is_unknown_is_outside(tmp_path: Path) -> None:
    logs = logs_of(tmp_path, "quantile = 0.99", "price < 2")
    logs.write(1, with_column(day_of(1), "price", [1.0] * 4 + [None] * (DAY_ROWS - 4)))
    logs.prepare()
    threshold = threshold_of(logs)
    assert threshold.values == (300.0,)


def test_a_space_without_training_rows(tmp_path: Path) -> None:
    said = logs_of(tmp_path, "quantile = 0.5", "price < 0").refusal()
    assert "tasks[0].threshold.value: no training row has a value of duration_ms; a threshold" in said


@pytest.mark.parametrize(
    "share", [pytest.param(0.1, marks=pytest.mark.slow), 0.5, pytest.param(0.9, marks=pytest.mark.slow)]
)
def test_without_a_space_all_training_rows_count(share: float, tmp_path: Path) -> None:
    logs = logs_of(tmp_path, f"quantile = {share}", "true")
    logs.prepare()
    threshold = threshold_of(logs)
    assert threshold.values == (quantile([row["duration_ms"] for row in train()], share),)


def test_two_values_of_the_same_frequency_are_two_parts(tmp_path: Path) -> None:
    """Each part has a threshold of its own, so that the label does not follow from the part."""
    logs = logs_of(tmp_path, 'quantile = 0.5, by = "price", bins = 2', "true")
    for day in (1, 2, 3, 4):
        rows = [i + (day - 1) * DAY_ROWS for i in range(DAY_ROWS)]
        table = with_column(day_of(day), "price", [float(i % 2) for i in rows])
        logs.write(day, with_column(table, "duration_ms", [i + 1000 * (i % 2) for i in rows]))
    logs.prepare()
    assert threshold_of(logs).edges == (1.0,)
    like = read(logs.out, "train")
    shares = {
        price: [x for x, p in zip(like["label_like"].to_pylist(), like["price"].to_pylist(), strict=True) if p == price]
        for price in (0.0, 1.0)
    }
    assert [sum(labels) / len(labels) for labels in shares.values()] == [0.5, 0.5]


def test_rows_without_what_cuts_them_are_a_part_of_their_own(tmp_path: Path) -> None:
    logs = logs_of(tmp_path, 'quantile = 0.5, by = "price", bins = 2', "true")
    logs.write(1, with_column(day_of(1), "price", {row: None for row in range(0, DAY_ROWS, 2)}))
    logs.write(4, with_column(day_of(4), "price", {0: None}))
    logs.prepare()
    without = [row["duration_ms"] for row in day_of(1).to_pylist()[::2]]
    threshold = threshold_of(logs)
    assert threshold.missing == quantile(without, 0.5) == 1000.0
    assert threshold.missing < threshold.values[0]
    rows = read(logs.out, "train")
    labels = [x for x, p in zip(rows["label_like"].to_pylist(), rows["price"].to_pylist(), strict=True) if p is None]
    assert labels == [float(x > 1000) for x in without]


def test_the_threshold_of_a_part_that_only_later_days_have_is_that_of_all_rows(tmp_path: Path) -> None:
    logs = logs_of(tmp_path, 'quantile = 0.5, by = "price", bins = 2', "true")
    logs.write(4, with_column(day_of(4), "price", {0: None}))
    logs.prepare()
    assert threshold_of(logs).missing == quantile([row["duration_ms"] for row in train()], 0.5)


def test_infinite_numbers_move_no_edge_and_no_threshold(tmp_path: Path) -> None:
    how = 'threshold = {value = "price", quantile = 0.5, by = "price", bins = 2}'
    toml = TOML.replace('"price"', '"duration_ms"').replace('"is_like"', f'"price > threshold"\n{how}')
    logs = Logs(tmp_path, toml + '\n[[sparse]]\nname = "b"\nvalue = "price"\nquantiles = 2\n')
    for day in range(1, 5):
        prices = [math.inf] * 8 + [-math.inf] * 8 + [1.0, 2.0] * 4
        logs.write(day, with_column(day_of(day), "price", prices, pa.float64()))
    logs.prepare()
    threshold = threshold_of(logs)
    assert (threshold.edges, threshold.values) == ((2.0,), (1.0, 2.0))
    assert Parent.read(logs.out).config.found.edges["b"] == (2.0,)
    assert read(logs.out, "train")["b"].to_pylist() == ([2] * 8 + [1] * 8 + [1, 2] * 4) * 2


def test_a_part_without_a_value_is_named(tmp_path: Path) -> None:
    logs = logs_of(tmp_path, 'quantile = 0.5, by = "price", bins = 2', "true")
    for day in (1, 2):
        logs.write(day, with_column(day_of(day), "price", pa.nulls(DAY_ROWS, pa.float64())))
    assert "no training row has a value of duration_ms where price lies in bin 1 of 1; a threshold" in logs.refusal()


@pytest.mark.parametrize("prices", [[1.0] * DAY_ROWS, [None] * DAY_ROWS])
def test_a_column_of_one_value_or_none_has_no_edge(prices: list[float | None], tmp_path: Path) -> None:
    buckets = TOML + '\n[[sparse]]\nname = "length"\nvalue = "price"\nquantiles = 2\n'
    logs = Logs(tmp_path, buckets)
    for day in (1, 2):
        logs.write(day, with_column(day_of(day), "price", prices, pa.float64()))
    said = logs.refusal()
    assert "sparse[1].quantiles: the training rows do not have two values of price" in said
    assert "Fix: remove the feature, or give `edges` in place of `quantiles`" in said
    logs.toml.write_text(buckets.replace("quantiles = 2", "edges = [1.0]"))
    logs.prepare()
    assert read(logs.out, "train")["length"].to_pylist() == [0 if price is None else 2 for price in prices] * 2


@pytest.mark.parametrize(
    ("share", "count", "value"),
    [
        (0.28, 25, 7),  # 0.28 * 25 is more than 7 in floats
        (0.07, 100, 7),
        (0.55, 100, 55),
        (0.29, 100, 29),
        (0.123456, 1000, 124),
        (1e-9, 10, 1),
        (0.9999999, 10, 10),
    ],
)
def test_a_threshold_is_the_smallest_value_that_its_share_does_not_exceed(
    share: float, count: int, value: float, tmp_path: Path
) -> None:
    values = [float(x) for x in range(count, 0, -1)]
    pq.write_table(pa.table({"x": pa.array(values, pa.float64())}), tmp_path / "x.parquet")
    engine = DuckEngine(tmp_path, threads=1)
    rows = engine.read([tmp_path / "x.parquet"])
    assert quantiles_by_bin(engine, rows, "x", ibis.literal(0), share) == {0: value}
    engine.close()


@pytest.mark.parametrize(
    ("values", "bins", "edges"),
    [
        ([7] * 4 + [60] * 4, 2, [60]),
        ([15, 30, 60, 120] * 2, 4, [30, 60, 120]),
        (list(range(10)), 10, list(range(1, 10))),
        ([0] * 5 + [1] * 5, 2, [1]),
        ([0] * 499 + [1] * 501, 2, [1]),
        ([0] * 501 + [1] * 499, 2, [1]),
        (list(range(100)), 100, list(range(1, 100))),  # 0.07 * 100 is more than 7 in floats
        ([0] * 6 + [1, 2, 3, 4], 5, [1, 3]),
        ([1] + [2] * 8 + [3], 4, [3]),
        ([3.0] * 5 + [4.0, 5.0, 5.0, 7.0, None, math.nan], 4, [4.0, 7.0]),
        ([5, 5, 5], 4, []),
        ([None, None], 4, []),
    ],
)
def test_edges(
    values: list[Any], bins: int, edges: list[float], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """An edge is the first value that has its share of the rows below it; where none has, it is the largest."""
    pq.write_table(pa.table({"x": pa.array(values, pa.float64())}), tmp_path / "x.parquet")
    engine = DuckEngine(tmp_path, threads=1)
    assert quantile_edges(engine, engine.read([tmp_path / "x.parquet"]), "x", bins, "a.toml: sparse[0].quantiles") == (
        *edges,
    )
    engine.close()
    few = any(x is not None for x in values) and len(edges) + 1 < bins
    said = f"a.toml: sparse[0].quantiles: {bins} bins of equal size are configured, but the training rows give"
    assert [record.message.startswith(said) for record in caplog.records] == [True] * few
