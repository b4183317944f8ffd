"""Thresholds are quantiles of the training rows that a task counts."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import ibis.expr.types as ir
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.engines.duck import DuckEngine
from data_prep.numbers import edges_of
from data_prep.parent import Parent
from tests.data_prep.feed_logs import read
from tests.data_prep.plain_logs import DAY_ROWS, TOML, Logs, day_of, with_column

SPACE = "price >= 5"  # of rows 0, 1, 2, ... price is 0, .25, .5, ...: all but the first 20 of 48
LABEL = 'label = "duration_ms > threshold"\nspace = "{space}"\nthreshold = {{value = "duration_ms", {how}}}'


def logs_of(root: Path, how: str, space: str = SPACE) -> Logs:
    return Logs(root, TOML.replace('label = "is_like"', LABEL.format(space=space, how=how)))


def quantile(values: list[Any], share: float) -> Any:
    return sorted(values)[math.ceil(share * len(values)) - 1]


def train() -> list[dict[str, Any]]:
    return [row for day in (1, 2) for row in day_of(day).to_pylist()]


def test_rows_outside_the_space_do_not_count(tmp_path: Path) -> None:
    logs = logs_of(tmp_path, "quantile = 0.5")
    logs.prepare()
    inside = [row["duration_ms"] for row in train() if row["price"] >= 5]
    (task,) = Parent.read(logs.out).config.tasks
    assert task.threshold is not None
    assert task.threshold.values == (quantile(inside, 0.5),) == (3300.0,)
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
    edge = quantile([row["price"] for row in inside], 0.5)
    parts = [[r["duration_ms"] for r in inside if (r["price"] >= edge) == upper] for upper in (False, True)]
    (task,) = Parent.read(logs.out).config.tasks
    assert task.threshold is not None
    assert task.threshold.edges == (edge,)
    assert task.threshold.values == tuple(quantile(part, 0.25) for part in parts)


def test_a_space_that_is_unknown_is_outside(tmp_path: Path) -> None:
    logs = logs_of(tmp_path, "quantile = 0.99", "price < 2")
    logs.write(1, with_column(day_of(1), "price", [1.0] * 4 + [None] * (DAY_ROWS - 4)))
    logs.prepare()
    (task,) = Parent.read(logs.out).config.tasks
    assert task.threshold is not None
    assert task.threshold.values == (300.0,)


def test_a_space_without_training_rows(tmp_path: Path) -> None:
    said = logs_of(tmp_path, "quantile = 0.5", "price < 0").refusal()
    assert "tasks[0].threshold.value: no training row has a value of duration_ms to tell apart" in said


@pytest.mark.parametrize(
    "share", [pytest.param(0.1, marks=pytest.mark.slow), 0.5, pytest.param(0.9, marks=pytest.mark.slow)]
)
def test_without_a_space_all_training_rows_count(share: float, tmp_path: Path) -> None:
    logs = logs_of(tmp_path, f"quantile = {share}", "true")
    logs.prepare()
    (task,) = Parent.read(logs.out).config.tasks
    assert task.threshold is not None
    assert task.threshold.values == (quantile([row["duration_ms"] for row in train()], share),)


def test_edges_take_one_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The least value is no edge: no row lies below it."""
    values = [3.0] * 5 + [4.0, 5.0, 5.0, 7.0, None, math.nan]
    pq.write_table(pa.table({"x": values}), tmp_path / "x.parquet")
    engine = DuckEngine(tmp_path, threads=1)
    fetch, fetched = engine.fetch, []

    def counted(rows: ir.Table) -> pa.Table:
        fetched.append(rows)
        return fetch(rows)

    monkeypatch.setattr(engine, "fetch", counted)
    assert edges_of(engine, engine.read([tmp_path / "x.parquet"]), "x", 4) == (5.0,)
    assert len(fetched) == 1
    engine.close()
