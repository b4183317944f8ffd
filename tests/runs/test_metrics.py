"""Parts of `metrics.json` are read as far as they are what they should be."""

from __future__ import annotations

import math
from typing import Any

import pytest

from ple_rec.runs.metrics import GateLevel, RecordedCurves, TableHealth


@pytest.mark.parametrize("value", [None, 3, "text", [], {}])
def test_what_is_no_part_is_an_empty_one(value: Any) -> None:
    assert TableHealth.read(value) == TableHealth()
    assert GateLevel.read_all(value) == []


def test_a_field_that_is_not_what_it_should_be_has_its_default() -> None:
    health = TableHealth.read({"table": 3, "rows": "many", "dim": math.nan, "lookups": 7, "norms": [1], "later": 1})
    assert health == TableHealth(lookups=7)
    assert TableHealth.read({"norms": {"0.5": 1, "1": None}}).norms == {0.5: 1.0, 1.0: None}
    level = GateLevel.read({"level": 2, "outputs": ["a", 3], "mean": [[1, None, "x"], 3], "std": {}})
    assert level == GateLevel(level=2, outputs=["a", "3"], mean=[[1.0, None, None], []])


def test_of_a_damaged_list_the_rest_is_read() -> None:
    curves = RecordedCurves.read(
        {"calibration": [3, {"weight": 1}], "roc": [[0, 0], [1], "x", [0.5, math.inf], [1, 1]]}
    )
    assert [each.weight for each in curves.calibration] == [None, 1.0]
    assert curves.roc_points == [[0.0, 0.0], [1.0, 1.0]]
