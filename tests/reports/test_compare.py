"""compare.html, its figures and its text: every chart and file is there."""

from __future__ import annotations

import copy
import re
from pathlib import Path

import pytest

from ple_rec.analysis.result import parse_gates
from ple_rec.reports.cells import page_cell
from ple_rec.reports.compare.charts import charts_by_section, panel_rows
from ple_rec.reports.compare.page import write_page
from ple_rec.reports.compare.text import cost_rows, format_results, task_rows
from tests.analysis.compare.told import PAIRS, TASKS, told

ROW = r'<tr><th class="text" scope="row">(\w+)</th>(.*?)</tr>'


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With the pages of one run, of which the analysis is missing in the other seed."""
    root = tmp_path_factory.mktemp("told")
    for seed, names in ((0, ("report.html", "analysis.html")), (1, ("report.html",))):
        (root / "ple" / f"seed-{seed}").mkdir(parents=True)
        for name in names:
            (root / "ple" / f"seed-{seed}" / name).touch()
    write_page(told(), root)
    return root


def test_every_figure_is_a_file_of_both_kinds(root: Path) -> None:
    stems = {
        *(f"gain-{task}" for task in TASKS),
        *(f"{kind}-{a}-{b}" for a, b in PAIRS for kind in ("seesaw", "conflict-inputs", "conflict-parameters")),
        "gain-correlation-auc",
        "utilisation-ple",
    }
    assert {file.name for file in (root / "figures").iterdir()} == {f"{s}.{e}" for s in stems for e in ("svg", "png")}


def test_the_page_has_the_numbers_and_links_what_there_is(root: Path) -> None:
    page = (root / "compare.html").read_text(encoding="utf-8")
    row = r'<th class="text" scope="row">(\w*)</th><td class="text">click / finish</td>(.*?)</tr>'
    cells = re.findall(row, page)
    assert {name: re.findall("<td>(.*?)</td>", found) for name, found in cells} == {
        "single_task": ["\u2013", "0.000 \u00b1 0.020", "\u2013", "\u2013"],
        "hard_sharing": ["-0.050 \u00b1 0.010", "-0.030 \u00b1 0.020", "\u2013", "\u2013"],
        "ple": ["0.250 \u00b1 0.010", "0.060 \u00b1 0.020", "\u2013, \u2013", "0.100, 0.200"],
    }
    assert re.findall('href="([^#:]*?)"', page) == [
        "ple/seed-0/report.html",
        "ple/seed-0/analysis.html",
        "ple/seed-1/report.html",
    ]


def test_the_page_has_the_cells_of_the_terminal(root: Path) -> None:
    results, page = told(), (root / "compare.html").read_text(encoding="utf-8")
    rows = [[name, *re.findall("<td>(.*?)</td>", cells)] for name, cells in re.findall(ROW, page)]
    for task in TASKS:
        for name, *cells in task_rows(results, task):
            assert [name, *map(page_cell, cells)] in rows
    for name, *cells in cost_rows(results):
        assert [name, *map(page_cell, cells)] in [[row[0], *row[2:]] for row in rows]  # beside the sizes of its layers
    assert page_cell("-0.050 +- 0.010, -") == "-0.050 \u00b1 0.010, \u2013"


def test_charts_show_the_gains_and_who_shares_nothing() -> None:
    charts = charts_by_section(told(), Path("nowhere"))
    assert [chart.note for chart in charts["conflict"][:2]] == [
        "mean over seeds",
        "mean over seeds; none in single_task",
    ]
    svg = charts["conflict"][1].to_panel().svg
    assert "> ple</text>" in svg or ">ple</text>" in svg.replace("> ple", ">ple")
    assert "single_task" not in svg
    (chart,) = charts["correlation"]
    svg = chart.to_panel().svg
    assert "click / finish" in svg
    assert "finish / like" in svg
    assert "click / like" not in svg  # one of the labels does not vary


def test_tasks_of_different_metrics_have_no_mean_gain() -> None:
    results = told()
    results["tasks"]["like"]["metric"] = "mse"
    (chart,) = charts_by_section(results, Path("nowhere"))["correlation"]
    assert chart.key == "gain-correlation-auc"
    assert "finish / like" not in chart.to_panel().svg


def test_the_text_has_the_pair_that_agrees_least() -> None:
    results = told()
    results["variants"]["ple"]["conflict"][2]["inputs"][-1] = -0.5
    lines = format_results(results).splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("between tasks"))
    assert lines[start + 1].split() == ["single_task", "click", "/", "finish", "-", "0.000", "+-", "0.020", "-"]
    assert " ".join(lines[start + 3].split()) == "ple finish / like 0.250 +- 0.010 -0.500 +- 0.020 0.100, 0.200"


def test_a_comparison_that_recorded_nothing_between_tasks_has_the_rest(tmp_path: Path) -> None:
    results = copy.deepcopy(told())
    results["label_correlations"] = None
    for variant in results["variants"].values():
        variant |= {"conflict": [], "sharing": [], "gates": None}
    assert "between tasks" not in format_results(results)
    charts = charts_by_section(results, tmp_path)
    assert (charts["conflict"], charts["correlation"]) == ([], [])
    assert len(charts["gains"]) == 3


def test_a_row_of_gates_for_each_level_and_where_one_is_full() -> None:
    rows = panel_rows(parse_gates(told()["variants"]["ple"]["gates"]))
    assert [[(gate.level, gate.output) for gate in row] for row in rows] == [
        [(1, "click"), (1, "finish"), (1, "like")],
        [(1, "shared")],
        [(2, "click"), (2, "finish"), (2, "like")],
    ]
