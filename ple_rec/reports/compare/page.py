"""`compare.html`: the comparison on one page, and its figures as files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ple_rec.analysis.compare.text import GAIN_HEADS, GAP, MATCHES, cost_rows, gap_known, task_rows
from ple_rec.analysis.compare.tuning.report import OPTIMISTIC, tuning_table
from ple_rec.analysis.utilisation import gates_of
from ple_rec.reports.compare.charts import charts_of
from ple_rec.reports.compare.tasks import between_tasks, experts
from ple_rec.reports.compare.tuning import tuning_charts
from ple_rec.reports.compare.utilisation import save_utilisation
from ple_rec.reports.figures import Chart
from ple_rec.reports.numbers import page_cell
from ple_rec.reports.page import Panel, Part, render, write_document
from ple_rec.reports.run.page import REPORT_FILE
from ple_rec.runs.layout import ANALYSIS_PAGE, writing
from ple_rec.text.units import metric_text

PAGE, FIGURES = "compare.html", "figures"

Results = Mapping[str, Any]  # compare.json


class Table(NamedTuple):
    """Headings, and rows of cells of which the first is a heading too."""

    heads: list[str]
    rows: list[list[str]]


def write_page(results: Results, root: Path) -> Path:
    """Write the page and the figures of compare.json.

    Args:
        results: Content of compare.json.
        root: Directory of the comparison, whose runs have the learning curves.

    Raises:
        UserError: They cannot be written.
    """
    charts = charts_of(results, root) | {"tuning": tuning_charts(results)}
    with writing(root / FIGURES):
        (root / FIGURES).mkdir(exist_ok=True)
        for chart in (chart for group in charts.values() for chart in group):
            chart.save(root / FIGURES)
        for name, variant in results["variants"].items():
            if gates := gates_of(variant["gates"] or {}):
                save_utilisation(name, gates, root / FIGURES)
    target = root / PAGE
    write_document(
        _page(results, charts, root),
        target,
        rule="the page is a file in the directory of the comparison",
        fix="free disk space, or make the path writable; the runs are untouched",
    )
    return target


def _page(results: Results, charts: Mapping[str, list[Chart]], root: Path) -> str:
    drawn = {name: [chart.panel() for chart in charts[name]] for name in ("gains", "seesaw", "curves", "tuning")}
    matched = MATCHES[results["match"]].format(results["reference"])
    parts = [
        Part("verdict", "Verdict", results["verdict"]),
        Part("results", "Results", {task: _task(results, task) for task in results["tasks"]} or None),
        Part("gains", "Gains", drawn["gains"] or None),
        Part("seesaw", "Seesaw", drawn["seesaw"] or None),
        Part("curves", "Learning curves", drawn["curves"] or None),
        Part("tasks", "Between tasks", between_tasks(results, charts["conflict"], charts["correlation"])),
        Part("experts", "Expert utilisation", experts(results)),
        Part("tuning", "Tuning", _tuning(results, drawn["tuning"])),
        Part("cost", "Cost", _cost(results)),
        Part("runs", "Runs", _runs(results, root)),
    ]
    return render(
        "compare",
        parts,
        name=results["name"],
        variants=len(results["variants"]),
        finished=sum(len(variant["seeds"]) for variant in results["variants"].values()),
        wanted=len(results["variants"]) * len(results["seeds"]),
        data=results["data"],
        matched=matched,
        notes=_notes(results),
        seeds=results["seeds"],
    )


def _notes(results: Results) -> list[str]:
    """Return what is missing from the picture, and what was decided for the user."""
    notes = list(results["remarks"])
    for name, variant in results["variants"].items():
        notes += [f"{name}, seed {seed}, failed: {why}" for seed, why in variant["failed"].items()]
    if results["missing"]:
        notes.append(f"{results['missing']} run(s) have not been trained yet")
    return notes


def _task(results: Results, task: str) -> Table:
    about = results["tasks"][task]
    heads = ["", "seeds", f"{about['metric'].upper()}, mean \u00b1 sd", *GAIN_HEADS]
    heads += [f"{GAP} reachable, {metric_text(about['reachable'])}"] if gap_known(results, task) else []
    return Table(heads, [[name, *map(page_cell, cells)] for name, *cells in task_rows(results, task)])


def _tuning(results: Results, panels: list[Panel]) -> dict[str, Any] | None:
    if "tune" not in results:
        return None
    heads, rows = tuning_table(results)
    return {
        "metric": results["tune"]["metric"],
        "heads": heads,
        "rows": [[name, *map(page_cell, cells)] for name, *cells in rows],
        "caution": OPTIMISTIC,
        "panels": panels,
    }


def _cost(results: Results) -> Table:
    heads = ["", "layer sizes", "FLOPs a sample", "dense parameters", "samples a second", "peak memory"]
    sizes = (" ".join(map(str, variant["sizes"].values())) for variant in results["variants"].values())
    rows = zip(sizes, cost_rows(results), strict=True)
    return Table(heads, [[name, size, *map(page_cell, cells)] for size, (name, *cells) in rows])


def _runs(results: Results, root: Path) -> list[tuple[str, list[list[tuple[str, str]]]]]:
    """Return address and name of the pages of every run that are there, by variant and seed."""
    pages = (("report", REPORT_FILE), ("analysis", ANALYSIS_PAGE))
    return [
        (
            name,
            [
                [
                    (f"{name}/seed-{seed}/{page}", word)
                    for word, page in pages
                    if (root / name / f"seed-{seed}" / page).is_file()
                ]
                for seed in results["seeds"]
            ],
        )
        for name in results["variants"]
    ]
