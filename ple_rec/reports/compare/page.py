"""Page of a comparison, `compare.html`, and its figures as SVG and PNG files.

A comparison trains variants of a model with several seeds, and writes its results to compare.json. At its end it calls
`report_comparison`; `ple-rec report` calls `write_page` for a comparison that is already there.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from ple_rec.analysis.result import parse_gates
from ple_rec.config.compare import MATCHES
from ple_rec.config.metrics import is_higher_better
from ple_rec.reports.cells import DASH, mean_with_sd, page_cell
from ple_rec.reports.compare.charts import axis_limit, charts_by_section, save_utilisation
from ple_rec.reports.compare.text import (
    GAIN_HEADS,
    GAP_HEAD,
    GRADIENT_KINDS,
    TUNING_CAUTION,
    cost_rows,
    distances_text,
    format_results,
    gauc_table,
    gauc_tasks,
    has_gap,
    last_cosine,
    task_rows,
    tuning_table,
)
from ple_rec.reports.gate_bars import gate_bars
from ple_rec.reports.lines import Curve, draw_lines, line_styles
from ple_rec.reports.page import Panel, Section, render_page, write_document
from ple_rec.reports.run.page import REPORT_FILE
from ple_rec.reports.svg import Chart, Paint
from ple_rec.runs.directory import RunDirectory
from ple_rec.runs.layout import ANALYSIS_PAGE, explain_write_errors
from ple_rec.text.units import metric_text

logger = logging.getLogger(__name__)

# A table with more rows is folded away.
_FEW_ROWS = 24

# Content of compare.json.
Results = Mapping[str, Any]


def between_tasks(results: Results, conflict: Sequence[Chart], correlation: Sequence[Chart]) -> dict[str, Any] | None:
    """Return the view of the relations between tasks; None without any.

    Args:
        results: Content of compare.json.
        conflict: Charts of the cosines of the tasks' gradients.
        correlation: Charts of the gain against the correlation of labels.
    """
    rows = _relation_rows(results)
    labels = [
        (" / ".join(each["tasks"]), DASH if each["value"] is None else f"{each['value']:.3f}", f"{each['rows']:,}")
        for each in results["label_correlations"] or ()
    ]
    if not conflict and not rows and not labels:
        return None
    return {
        "conflict": [chart.to_panel() for chart in conflict],
        "rows": rows,
        "folded": len(rows) > _FEW_ROWS,
        "labels": labels,
        "correlation": [chart.to_panel() for chart in correlation],
    }


def experts(results: Results) -> dict[str, list[Panel]] | None:
    """Draw, for each variant, the mean weights of its gates as in Fig. 8 of the PLE paper; None without gates.

    The weights are those of the first seed that finished, over the test split.
    """
    panels = {}
    for name, variant in results["variants"].items():
        if gates := parse_gates(variant["gates"] or {}):
            limit = axis_limit(gates)
            panels[name] = [
                Panel(f"level {gate.level}, {gate.output}", "", gate_bars(f"gate-{name}-{i}", gate, limit))
                for i, gate in enumerate(gates)
            ]
    return panels or None


def _relation_rows(results: Results) -> list[tuple[str, str, list[str]]]:
    """Return a row for each variant and pair of tasks with a recorded conflict or distance."""
    rows = []
    for name, variant in results["variants"].items():
        pairs = dict.fromkeys(tuple(each["tasks"]) for each in (*variant["conflict"], *variant["sharing"]))
        for place, pair in enumerate(pairs):
            cells = [
                *(mean_with_sd(**last_cosine(variant, pair, kind)) for kind in GRADIENT_KINDS),
                *(distances_text(variant, pair, reading) for reading in ("among_shared", "shared_and_own")),
            ]
            rows.append((name if place == 0 else "", " / ".join(pair), list(map(page_cell, cells))))
    return rows


# The axis may leave out this share of the trials, the worst ones.
_WORST_SHARE = 0.2


def tuning_charts(results: Results) -> list[Chart]:
    """Draw the metric of every trial, and the best so far as a line for each variant; empty without finished trials."""
    if "tune" not in results:
        return []
    metric = results["tune"]["metric"]
    is_higher = is_higher_better(metric)
    trials = {name: variant["trials"]["values"] for name, variant in results["variants"].items()}
    all_values = [value for values in trials.values() for value in values if value is not None]
    if not all_values:
        return []

    def draw(axes: Axes, paint: Paint) -> None:
        curves: dict[str, Curve] = {}
        axis_values = [float(np.quantile(all_values, _WORST_SHARE if is_higher else 1 - _WORST_SHARE))]
        for (name, values), style in zip(trials.items(), line_styles(), strict=False):
            known = [np.nan if value is None else value for value in values]
            axes.plot(range(len(values)), known, ".", color=paint(style.colour), alpha=0.4)
            best = best_so_far(values, higher=is_higher)
            curves[name] = np.array([n for n, _ in best], float), np.array([value for _, value in best])
            axis_values += [value for _, value in best]
        room = 0.05 * max(max(axis_values) - min(axis_values), 1e-5)
        # One trial that nearly diverged would flatten all others.
        axes.set_ylim(min(axis_values) - room, max(axis_values) + room)
        draw_lines(axes, paint, curves)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set(xlabel="trial, 0 as written", ylabel=f"{metric} on the validation split")

    note = f"points: trials, of which up to {_WORST_SHARE:.0%} may lie beyond the axis; lines: the best so far"
    return [Chart("tuning", "Trials", note, draw, (460, 280))]


def best_so_far(values: Sequence[float | None], *, higher: bool) -> list[tuple[int, float]]:
    """Return pairs of a trial's number and the best metric up to it, beginning with the first finished trial."""
    best: list[tuple[int, float]] = []
    for number, value in enumerate(values):
        if value is not None:
            better = max if higher else min
            best.append((number, better(value, best[-1][1]) if best else value))
        elif best:
            best.append((number, best[-1][1]))
    return best


PAGE_FILE, FIGURES_FOLDER = "compare.html", "figures"


class TableView(NamedTuple):
    """Headings of a table, and its rows, whose first cell is a heading too."""

    heads: list[str]
    rows: list[list[str]]


def report_comparison(results: Results, directory: RunDirectory) -> None:
    """Write the page and the figures of a comparison, and log its text.

    Args:
        results: Content of compare.json.
        directory: Directory of the comparison.

    Raises:
        UserError: The files cannot be written.
    """
    page = write_page(results, directory.folder)
    logger.info(f"\n{format_results(results)}\n\nreport: {directory.address / page.name}")


def write_page(results: Results, root: Path) -> Path:
    """Write the page and the figures of a comparison, and return the path of the page.

    Args:
        results: Content of compare.json.
        root: Directory of the comparison, whose runs have the learning curves.

    Raises:
        UserError: The files cannot be written.
    """
    charts = charts_by_section(results, root) | {"tuning": tuning_charts(results)}
    with explain_write_errors(root / FIGURES_FOLDER):
        (root / FIGURES_FOLDER).mkdir(exist_ok=True)
        for chart in (chart for group in charts.values() for chart in group):
            chart.save(root / FIGURES_FOLDER)
        for name, variant in results["variants"].items():
            if gates := parse_gates(variant["gates"] or {}):
                save_utilisation(name, gates, root / FIGURES_FOLDER)
    target = root / PAGE_FILE
    write_document(
        _page(results, charts, root),
        target,
        rule="the page is a file in the directory of the comparison",
        fix="free disk space, or make the path writable; the runs are untouched",
    )
    return target


def _page(results: Results, charts: Mapping[str, list[Chart]], root: Path) -> str:
    panels = {name: [chart.to_panel() for chart in charts[name]] for name in ("gains", "seesaw", "curves", "tuning")}
    matched = MATCHES[results["match"]].format(results["reference"])
    sections = [
        Section("verdict", "Verdict", results["verdict"]),
        Section("results", "Results", {task: _result_tables(results, task) for task in results["tasks"]} or None),
        Section("gains", "Gains", panels["gains"] or None),
        Section("seesaw", "Seesaw", panels["seesaw"] or None),
        Section("curves", "Learning curves", panels["curves"] or None),
        Section("tasks", "Between tasks", between_tasks(results, charts["conflict"], charts["correlation"])),
        Section("experts", "Expert utilisation", experts(results)),
        Section("tuning", "Tuning", _tuning_view(results, panels["tuning"])),
        Section("cost", "Cost", _cost_table(results)),
        Section("runs", "Runs", _page_links(results, root)),
    ]
    return render_page(
        "compare",
        sections,
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
    """Return notes about decisions that the comparison made by itself, failed runs and missing runs."""
    notes = list(results["remarks"])
    for name, variant in results["variants"].items():
        notes += [f"{name}, seed {seed}, failed: {why}" for seed, why in variant["failed"].items()]
    if results["missing"]:
        notes.append(f"{results['missing']} run(s) have not been trained yet")
    return notes


def _result_tables(results: Results, task: str) -> list[TableView]:
    """Return the table of a task, followed by that of GAUC by group and by subgroup if the task has both."""
    tables = [_task_table(results, task)]
    if task in gauc_tasks(results):
        (_, *heads), *rows = gauc_table(results, task)
        tables.append(TableView(["GAUC", *heads], [[name, *map(page_cell, cells)] for name, *cells in rows]))
    return tables


def _task_table(results: Results, task: str) -> TableView:
    facts = results["tasks"][task]
    heads = ["", "seeds", f"{facts['metric'].upper()}, mean \u00b1 sd", *GAIN_HEADS]
    heads += [f"{GAP_HEAD} reachable, {metric_text(facts['reachable'])}"] if has_gap(results, task) else []
    return TableView(heads, [[name, *map(page_cell, cells)] for name, *cells in task_rows(results, task)])


def _tuning_view(results: Results, panels: list[Panel]) -> dict[str, Any] | None:
    if "tune" not in results:
        return None
    heads, rows = tuning_table(results)
    return {
        "metric": results["tune"]["metric"],
        "heads": heads,
        "rows": [[name, *map(page_cell, cells)] for name, *cells in rows],
        "caution": TUNING_CAUTION,
        "panels": panels,
    }


def _cost_table(results: Results) -> TableView:
    heads = ["", "layer sizes", "FLOPs a sample", "dense parameters", "samples a second", "peak memory"]
    sizes = (" ".join(map(str, variant["sizes"].values())) for variant in results["variants"].values())
    rows = zip(sizes, cost_rows(results), strict=True)
    return TableView(heads, [[name, size, *map(page_cell, cells)] for size, (name, *cells) in rows])


def _page_links(results: Results, root: Path) -> list[tuple[str, list[list[tuple[str, str]]]]]:
    """Return a row for each variant: its name, and for each seed the links to the existing pages of the run."""
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
