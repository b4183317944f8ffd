from typing import Any

import pytest

from ple_rec.runs.results import slice_name
from tests.reports.runs import Page, in_memory, section

WHOLE = {"ctr": {"auc": 0.7, "ne": 0.9, "samples": 5000}, "ratio": {"mse": 0.04, "rmse": 0.2, "samples": 5000}}


def value(name: Any, auc: float | None = 0.75, samples: int = 2000, **more: Any) -> dict[str, Any]:
    return {"value": name, "samples": samples, "tasks": {"ctr": {"auc": auc, "ne": 0.8}}, **more}


def shown(*values: dict[str, Any], columns: int = 1) -> Page:
    recorded = [{"column": f"c{index}" if index else "sex", "values": list(values)} for index in range(columns)]
    return section(in_memory(test={"tasks": WHOLE, "slices": recorded}), "slices")


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
    names = ["a", "(other)", "(missing)", "(empty text)", "0", "true"]
    assert [word for word in page.words if word in names] == names
    assert page.source.count("<i>") == 3
    assert "such figures say little. (other): all values that are not shown." in page.text
    assert "(other)" not in shown(value("a")).text


@pytest.mark.parametrize(
    ("entry", "name"),
    [
        ({"value": "NL"}, "NL"),
        ({"value": True}, "true"),
        ({"value": 0}, "0"),
        ({"value": ""}, "(empty text)"),
        ({"value": None}, "(no value)"),
        ({"value": None, "missing": True}, "(missing)"),
        ({"value": None, "other": True}, "(other)"),
    ],
)
def test_the_report_names_a_slice_as_the_terminal_does(entry: dict[str, Any], name: str) -> None:
    assert slice_name(entry) == name
    assert f"calibration {name} 2,000" in shown(value("x") | entry | {"tasks": {"ctr": {"calibration": 1.0}}}).text


@pytest.mark.parametrize(
    ("changes", "caution"),
    [
        ({"samples": 99}, "few samples"),
        ({"auc": None}, "AUC undefined"),
        ({"tasks": {"ctr": {"auc": None, "positives": 0, "samples": 60}}}, "one class only"),
        ({"tasks": {"ctr": {"auc": None, "positives": 0, "samples": 0}}}, "no samples"),
        ({"tasks": {"ctr": {"auc": 0.75, "positives": 19, "samples": 5000}}}, "few samples: 19 positives"),
        ({"tasks": {"ctr": {"auc": 0.75, "positives": 4999, "samples": 5000}}}, "few samples: 1 negative"),
    ],
)
def test_slices_that_say_little_are_grey_and_say_why(changes: dict[str, Any], caution: str) -> None:
    auc = changes.pop("auc", 0.75)
    page = shown(value("a"), value("b", auc) | changes)
    rows = [attributes.get("class") for tag, attributes in page.elements if tag == "tr"]
    assert rows == [None, None, "faint", None]
    samples = (changes.get("tasks") or {"ctr": changes})["ctr"].get("samples", 2000)
    assert f" b {caution} {samples:,} " in page.text  # under the value's name, where no width cuts it off


@pytest.mark.parametrize(
    "task",
    [
        {"samples": 100},
        {"samples": 100, "positives": 20},
        {"samples": 5000, "positives": 20},
        {"samples": 5000, "positives": 4980},
    ],
)
def test_slices_at_the_thresholds_are_trusted(task: dict[str, Any]) -> None:
    page = shown(value("a") | {"tasks": {"ctr": {"auc": 0.75, **task}}})
    assert "faint" not in page.attributes("class")


@pytest.mark.parametrize(
    ("auc", "ends"), [((1.0, 0.65), "0.629 1.000"), ((0.0, 0.75), "0.000 0.795"), ((1.0, 0.0), "0.000 1.000")]
)
def test_the_axis_of_auc_stays_within_what_auc_can_be(auc: tuple[float, float], ends: str) -> None:
    page = shown(*map(value, "ab", auc))
    assert f"AUC {ends} NE" in page.text
    assert len(dots(page)) == 2  # a dot on the end of the axis, not a triangle beyond it


def test_the_axis_of_an_error_starts_at_zero_at_least() -> None:
    page = shown({"value": "a", "samples": 200, "tasks": {"ratio": {"rmse": 0.001}}})
    assert "RMSE 0.000 0.212" in page.text


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
    assert folds == [{}, {"open": None}, *[{}] * 6]  # the first one says what the figures mean
    assert "By c6 1 values, 1 tasks ctr c6 samples" in page.text


def test_none_asked_for_and_none_recorded_are_told_apart() -> None:
    run = in_memory(test={"tasks": WHOLE})
    assert (
        "None asked for: <code>evaluation.slices</code> names the columns to slice by." in section(run, "slices").source
    )
    run.config = {"evaluation": {"slices": ["sex"]}}
    assert section(run, "slices").source == '<p class="absent">Not recorded.</p>'


@pytest.mark.parametrize("odd", [[None], [{"values": [None]}], [{"column": 1, "values": [{"tasks": {"ctr": None}}]}]])
def test_odd_entries_do_not_stop_the_section(odd: list[Any]) -> None:
    assert section(in_memory(test={"tasks": WHOLE, "slices": odd}), "slices").text
