"""What the terminal and the page tell of a tuning."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from ple_rec.reports.compare.page import best_so_far, tuning_charts, write_page
from ple_rec.reports.compare.text import tuning_text
from ple_rec.reports.svg import LIGHT, panel_axes

VALUES: dict[str, list[float | None]] = {
    "single_task": [0.71, 0.72, None, 0.70],
    "ple": [None, 0.73, 0.75, 0.74],
    "mmoe": [None, None, None, None],
}
TUNED = {
    "single_task": {"model.dropout": 0.125, "train.epochs": 3, "model.activation": "silu"},
    "ple": {"model.dropout": 0.25, "train.epochs": 2, "model.tower.hidden": [8, 4]},
    "mmoe": None,
}


def results() -> dict[str, Any]:
    """compare.json of three variants without tasks."""
    found: dict[str, Any] = {}
    for name, values in VALUES.items():
        known = [value for value in values if value is not None]
        trials = {"number": len(values), "failed": len(values) - len(known), "first": values[0], "values": values}
        cost = {"flops_per_sample": 1, "dense_parameters": 1, "samples_per_second": None, "peak_bytes": None}
        found[name] = {
            **{"model": name, "sizes": {}, "cost": cost, "seeds": [], "failed": {}, "gates": None, "tasks": {}},
            **{
                "conflict": [],
                "sharing": [],
                "tuned": TUNED[name],
                "trials": trials | {"best": max(known, default=None)},
            },
        }
    space = {
        "model.dropout": {"low": 0.0, "high": 0.5},
        "train.epochs": {},
        "model.activation": {},
        "model.tower.hidden": {},
    }
    return {
        **{"name": "cmp", "data": "data", "match": "none", "reference": "ple", "baseline": "single_task", "seeds": [0]},
        **{
            "label_correlations": [],
            "missing": 0,
            "remarks": [],
            "tasks": {},
            "verdict": {"sentences": [], "rule": ""},
            "variants": found,
        },
        "tune": {"metric": "mean.auc", "trials": 4, "space": space},
    }


def test_the_table_has_what_was_found_and_says_that_it_flatters() -> None:
    lines = tuning_text(results()).splitlines()
    assert re.split(r"  +", lines[0])[:5] == [
        "tuning, mean.auc on validation",
        "trials",
        "failed",
        "as written",
        "best",
    ]
    assert lines[1].split() == ["single_task", "4", "1", "0.7100", "0.7200", "0.125", "3", '"silu"', "-"]
    assert lines[2].split() == ["ple", "4", "1", "-", "0.7500", "0.25", "2", "-", "[8,", "4]"]
    assert lines[3].split() == ["mmoe", "4", "4", *"------"]
    assert "so it is too good for that trial" in lines[4]


def test_the_page_has_the_same_and_a_chart(tmp_path: Path) -> None:
    page = write_page(results(), tmp_path).read_text()
    section = page[page.index('id="tuning"') :]
    assert "<td>0.7500</td>" in section
    assert "so it is too good for that trial" in section
    assert "<svg" in section
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {"tuning.svg", "tuning.png"}


def test_a_trial_that_all_but_diverged_leaves_the_others_their_room() -> None:
    found = results()
    found["tune"]["metric"] = "loss"
    found["variants"]["ple"]["trials"]["values"] = [0.75, 0.74, 90.0, 0.73]
    (chart,) = tuning_charts(found)
    with panel_axes(300, 520, LIGHT) as axes:
        chart.draw(axes, lambda colour: LIGHT.get(colour, colour))
        low, high = axes.get_ylim()
    assert low < 0.70
    assert 0.75 < high < 1.0


def test_nothing_is_told_where_nothing_was_tuned(tmp_path: Path) -> None:
    untuned = {key: value for key, value in results().items() if key != "tune"}
    assert (tuning_text(untuned), tuning_charts(untuned)) == ("", [])
    assert 'id="tuning"' not in write_page(untuned, tmp_path).read_text()


@pytest.mark.parametrize(
    ("higher", "expected"), [(True, [(1, 0.73), (2, 0.75), (3, 0.75)]), (False, [(1, 0.73), (2, 0.73), (3, 0.73)])]
)
def test_the_best_so_far_begins_where_a_trial_finished(higher: bool, expected: list[tuple[int, float]]) -> None:
    assert best_so_far(VALUES["ple"], higher=higher) == expected
