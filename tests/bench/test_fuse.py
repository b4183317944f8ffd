"""`ple-rec bench fuse`: every way is timed, and the final lines are of what was measured."""

from __future__ import annotations

import json

import pytest

from ple_rec.bench.fuse import METRICS, figures, lines, measure
from ple_rec.cli import main


def test_every_way_has_its_turns() -> None:
    said: list[str] = []
    results = measure(600, 6, 1, 10, 2, said.append)
    assert list(results["rates"]) == ["order", *METRICS, "one by one"]
    assert all(len(rates) == 2 and min(rates) > 0 for rates in results["rates"].values())
    assert len(said) == 2
    assert results["data"]["rows_in_lists"] <= 600
    found = figures(results)
    assert found["ndcg_10_settings_per_second"].value > 0
    assert set(found) >= {"order_settings_per_second", "together_over_one_by_one"}
    assert len(lines(results)) == 1 + len(results["rates"]) + 1


def test_the_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "fuse", "--impressions", "400", "--settings", "8", "--repeats", "1", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["subject"] == "fuse"
    assert told["headline"]["unit"] == "settings/s"
