from typing import Any

import pytest

from ple_rec.train.report.slices import slices
from tests.train.report.runs import Page, in_memory

WHOLE = {"ctr": {"auc": 0.7, "ne": 0.9, "samples": 5000}, "ratio": {"mse": 0.04, "rmse": 0.2, "samples": 5000}}


def value(name: Any, auc: float | None = 0.75, samples: int = 2000, **more: Any) -> dict[str, Any]:
    return {"value": name, "samples": samples, "tasks": {"ctr": {"auc": auc, "ne": 0.8}}, **more}


def shown(*values: dict[str, Any], columns: int = 1) -> Page:
    recorded = [{"column": f"c{index}" if index else "sex", "values": list(values)} for index in range(columns)]
    return Page(slices(in_memory(test={"tasks": WHOLE, "slices": recorded})))


def dots(page: Page) -> list[tuple[str, float]]:
    strips = page.svgs('svg class="strip" ')
    return [(dot.get("class", ""), float(dot.get("cx", ""))) for strip in strips for dot in strip.iter("circle")]


def test_a_row_per_value_beside_the_whole_split() -> None:
    page = shown(value("Female", 0.75), value("Male", 0.65, 3000))
    assert "On the test split." in page.text
    assert "By sex ctr sex samples AUC 0.644 0.756 NE Female 2,000 0.7500" in page.text
    assert page.text.endswith("whole split 5,000 0.7000 0.9000")
    (_, female), (_, male) = dots(page)
    guides = {line.get("x1") for strip in page.svgs('svg class="strip" ') for line in strip.iter("line")}
    assert male < 80 < female
    assert "80.0" in guides


def test_the_rest_and_the_missing_are_named() -> None:
    page = shown(value("a"), value(None, other=True), value(None, missing=True), value(""), value(0), value(True))
    rows = [word for word in page.words if word in {"a", "all other values", "missing", "empty text", "0", "true"}]
    assert rows == ["a", "all other values", "missing", "empty text", "0", "true"]


@pytest.mark.parametrize(
    ("changes", "caution"),
    [
        ({"samples": 99}, "few samples"),
        ({"auc": None}, "AUC undefined"),
        ({"tasks": {"ctr": {"auc": None, "positives": 0, "samples": 60}}}, "one class only"),
        ({"tasks": {"ctr": {"auc": None, "positives": 0, "samples": 0}}}, "no samples"),
    ],
)
def test_slices_that_say_little_are_grey_and_say_why(changes: dict[str, Any], caution: str) -> None:
    auc = changes.pop("auc", 0.75)
    page = shown(value("a"), value("b", auc) | changes)
    rows = [attributes.get("class") for tag, attributes in page.elements if tag == "tr"]
    assert rows == [None, None, "faint", None]
    assert caution in page.text.partition("By sex")[2]


def test_a_small_slice_does_not_set_the_axis_and_is_hollow() -> None:
    page = shown(value("a", 0.75), value("b", 0.65), value("tiny", 1.0, 12))
    assert "AUC 0.644 0.756 NE" in page.text
    triangles = [path for strip in page.svgs('svg class="strip" ') for path in strip.iter("path")]
    assert [triangle.get("class") for triangle in triangles] == ["faint"]
    assert [kind for kind, _ in dots(page)] == ["dot", "dot"]


def test_a_task_counts_its_own_samples_where_it_has_a_sample_space() -> None:
    page = shown(value("a") | {"tasks": {"ctr": {"auc": 0.75, "samples": 321}}})
    assert "a 321 0.7500" in page.text


def test_a_regression_is_drawn_by_its_rmse() -> None:
    page = shown({"value": "a", "samples": 200, "tasks": {"ratio": {"mse": 0.0625, "rmse": 0.25}}})
    assert "ratio sex samples RMSE 0.197 0.253 MSE a 200 0.2500" in page.text


def test_many_tables_are_folded_by_column_the_first_open() -> None:
    page = shown(value("a"), columns=7)
    folds = [attributes for tag, attributes in page.elements if tag == "details"]
    assert folds == [{"open": None}, *[{}] * 6]
    assert "By c6 1 values, 1 tasks ctr c6 samples" in page.text


def test_none_asked_for_and_none_recorded_are_told_apart() -> None:
    run = in_memory(test={"tasks": WHOLE})
    assert "None asked for: <code>evaluation.slices</code> names the columns to slice by." in slices(run)
    run.config = {"evaluation": {"slices": ["sex"]}}
    assert slices(run) == '<p class="absent">Not recorded.</p>'


@pytest.mark.parametrize("odd", [[None], [{"values": [None]}], [{"column": 1, "values": [{"tasks": {"ctr": None}}]}]])
def test_odd_entries_do_not_stop_the_section(odd: list[Any]) -> None:
    assert slices(in_memory(test={"tasks": WHOLE, "slices": odd}))
