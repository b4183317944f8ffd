import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from ple_rec.runs.read import RunFiles
from tests.reports.runs import Page, section


def run_with(weights: Mapping[str, Sequence[float | None]], config: dict[str, Any] | None = None) -> RunFiles:
    run = RunFiles(Path("run"))
    run.config = config or {}
    for index in range(max(map(len, weights.values()))):
        tasks = {task: {"weight": values[index]} for task, values in weights.items()}
        run.log.add({"split": "train", "step": 100 * (index + 1), "tasks": tasks})
    return run


def weights(values: Mapping[str, Sequence[float | None]], config: dict[str, Any] | None = None) -> Page:
    return section(run_with(values, config), "weights")


def labels(page: Page) -> list[str]:
    svg = page.svgs()[0]
    return [node.text or "" for node in svg.iter("{http://www.w3.org/2000/svg}text")]


def colours(page: Page) -> set[str]:
    return {name for name in ("train", "valid", "test", "best", "ink") if f"stroke: var(--{name})" in page.source}


def test_weights_that_are_all_one_take_no_room() -> None:
    assert weights({"a": [1.0, 1.0], "b": [1.0, 1.0]}).source == ""
    assert section(RunFiles(Path("run")), "weights").source == ""


def test_constant_weights_are_a_list_without_a_chart() -> None:
    page = weights({"a": [1.0, 1.0], "b": [0.25, 0.25]})
    assert page.text == "Constant over the run. a 1 b 0.25"


def test_changing_weights_are_lines_that_carry_their_names() -> None:
    page = weights({"a": [1.0, 0.9, 0.81], "b": [0.5, 0.5, 0.5]})
    assert labels(page)[-2:] == ["a", "b"]
    assert "task first last a 1 0.81 b 0.5 0.5" in page.text
    assert "in the sum that is trained, by its schedule." in page.text
    assert {"train", "valid"} <= colours(page)
    assert "stroke-dasharray" in page.source


def test_learned_weights_say_so() -> None:
    config = {"train": {"loss_weighting": "uncertainty"}}
    assert "learned from the tasks' uncertainty" in weights({"a": [1.0, 1.5]}, config).text


def test_equal_weights_share_a_line_and_a_label() -> None:
    values = {f"task_{index}": [1.0, 2.0] for index in range(30)} | {"alone": [2.0, 1.0]}
    page = weights(values)
    assert labels(page)[-2:] == ["30 tasks", "alone"]
    assert "31 tasks, first and last weight" in page.text


def test_the_labels_of_many_tasks_do_not_lie_on_each_other() -> None:
    values = {f"task_{index}": [1.0, 0.5 + index / 1000] for index in range(24)}
    page = weights(values)
    svg = page.svgs()[0]
    nodes = [node for node in svg.iter("{http://www.w3.org/2000/svg}text") if (node.text or "").startswith("task_")]
    heights = sorted(float(node.get("y") or 0) for node in nodes)
    assert len(heights) == 24
    assert min(b - a for a, b in itertools.pairwise(heights)) > 12
    assert len(colours(page)) == 5


@pytest.mark.parametrize(("last", "tick"), [(0.01, "0.1"), (0.5, "0.50")])
def test_a_large_range_gets_a_logarithmic_axis(last: float, tick: str) -> None:
    page = weights({"a": [1.0, last], "b": [1.0, 1.0]})
    ticks = labels(page)[labels(page).index("step") + 1 : -2]
    assert tick in ticks
    assert ("0" in ticks) is (last == 0.5)


@pytest.mark.parametrize(("last", "zoomed"), [(0.9904, True), (0.81, True), (0.79, False)])
def test_weights_that_hardly_differ_fill_the_axis_and_it_says_so(last: float, zoomed: bool) -> None:
    page = weights({"a": [1.0, last], "b": [1.0, 1.0]})
    ticks = [float(label) for label in labels(page)[labels(page).index("step") + 1 : -2]]
    assert len(set(ticks)) == len(ticks) >= 3
    assert (min(ticks) > 0.9 * last) is zoomed
    assert ("at each report step; the axis does not start at 0" in page.text) is zoomed


def test_a_change_of_a_millionth_looks_like_none() -> None:
    page = weights({"a": [1.0, 1.000001]})
    ticks = labels(page)[labels(page).index("step") + 1 : -1]
    assert len(set(ticks)) == len(ticks)
    assert max(map(float, ticks)) - min(map(float, ticks)) >= 0.001


@pytest.mark.parametrize("values", [[2.0], [None, 3.0], [0.0, 0.0], [0.0, 1.0], [-1.0, 2.0]])
def test_odd_series_draw_without_a_warning(values: list[float | None]) -> None:
    assert "a" in weights({"a": values}).text
