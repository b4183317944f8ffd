"""`compare.html`: the comparison on one page, and its figures as files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from ple_rec.analysis.compare.task_relations import KINDS
from ple_rec.analysis.compare.text import (
    GAIN_HEADS,
    GAP,
    MATCHES,
    at_end,
    cost_rows,
    distances_text,
    gap_known,
    number_text,
    task_rows,
)
from ple_rec.analysis.compare.tuning.report import OPTIMISTIC, tuning_table
from ple_rec.analysis.utilisation import gates_of
from ple_rec.config.metrics import is_higher_better
from ple_rec.reports.cells import DASH, page_cell
from ple_rec.reports.compare.charts import charts_of, limit_of, save_utilisation
from ple_rec.reports.gate_bars import gate_bars
from ple_rec.reports.lines import Curve, draw_lines, looks
from ple_rec.reports.page import Panel, Part, render, write_document
from ple_rec.reports.run.page import REPORT_FILE
from ple_rec.reports.svg import Chart, Paint
from ple_rec.runs.layout import ANALYSIS_PAGE, writing
from ple_rec.text.units import metric_text

_FEW_ROWS = 24  # of a table, beyond which it is folded

Results = Mapping[str, Any]


def between_tasks(results: Results, conflict: Sequence[Chart], correlation: Sequence[Chart]) -> dict[str, Any] | None:
    """Return gradient conflict over training, the numbers of every variant and pair of tasks, and gain by correlation.

    Args:
        results: Content of compare.json.
        conflict: Charts of the conflict.
        correlation: Charts of the gain by the correlation of labels.
    """
    rows = _rows(results)
    labels = [
        (" / ".join(each["tasks"]), DASH if each["value"] is None else f"{each['value']:.3f}", f"{each['rows']:,}")
        for each in results["label_correlations"] or ()
    ]
    if not conflict and not rows and not labels:
        return None
    return {
        "conflict": [chart.panel() for chart in conflict],
        "rows": rows,
        "folded": len(rows) > _FEW_ROWS,
        "labels": labels,
        "correlation": [chart.panel() for chart in correlation],
    }


def experts(results: Results) -> dict[str, list[Panel]] | None:
    """Draw Fig. 8: the first seed's mean weights over the test split in each gate of a variant; None without any."""
    found = {}
    for name, variant in results["variants"].items():
        if gates := gates_of(variant["gates"] or {}):
            limit = limit_of(gates)
            found[name] = [
                Panel(f"level {gate.level}, {gate.output}", "", gate_bars(f"gate-{name}-{i}", gate, limit))
                for i, gate in enumerate(gates)
            ]
    return found or None


def _rows(results: Results) -> list[tuple[str, str, list[str]]]:
    """Return a row for each variant and pair of tasks of which anything is known."""
    rows = []
    for name, variant in results["variants"].items():
        pairs = dict.fromkeys(tuple(each["tasks"]) for each in (*variant["conflict"], *variant["sharing"]))
        for place, pair in enumerate(pairs):
            cells = [
                *(number_text(at_end(variant, pair, kind)) for kind in KINDS),
                *(distances_text(variant, pair, reading) for reading in ("among_shared", "shared_and_own")),
            ]
            rows.append((name if place == 0 else "", " / ".join(pair), list(map(page_cell, cells))))
    return rows


_WORST = 0.2  # share of the trials that need not lie within the axis


def tuning_charts(results: Results) -> list[Chart]:
    """Draw the metric of every trial and the best so far, a line a variant; none where nothing was tuned."""
    if "tune" not in results:
        return []
    metric = results["tune"]["metric"]
    higher = is_higher_better(metric)
    trials = {name: variant["trials"]["values"] for name, variant in results["variants"].items()}
    every = [value for values in trials.values() for value in values if value is not None]
    if not every:
        return []

    def draw(axes: Axes, paint: Paint) -> None:
        curves: dict[str, Curve] = {}
        shown = [float(np.quantile(every, _WORST if higher else 1 - _WORST))]
        for (name, values), look in zip(trials.items(), looks(), strict=False):
            known = [np.nan if value is None else value for value in values]
            axes.plot(range(len(values)), known, ".", color=paint(look.colour), alpha=0.4)
            best = best_so_far(values, higher=higher)
            curves[name] = np.array([n for n, _ in best], float), np.array([value for _, value in best])
            shown += [value for _, value in best]
        room = 0.05 * max(max(shown) - min(shown), 1e-5)
        axes.set_ylim(min(shown) - room, max(shown) + room)  # a trial that all but diverged would leave no room
        draw_lines(axes, paint, curves)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set(xlabel="trial, 0 as written", ylabel=f"{metric} on the validation split")

    note = f"points: trials, of which up to {_WORST:.0%} may lie beyond the axis; lines: the best so far"
    return [Chart("tuning", "Trials", note, draw, (460, 280))]


def best_so_far(values: Sequence[float | None], *, higher: bool) -> list[tuple[int, float]]:
    """Return number and best metric up to it, from the first trial that finished to the last of all."""
    found: list[tuple[int, float]] = []
    for number, value in enumerate(values):
        if value is not None:
            better = max if higher else min
            found.append((number, better(value, found[-1][1]) if found else value))
        elif found:
            found.append((number, found[-1][1]))
    return found


PAGE, FIGURES = "compare.html", "figures"


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
