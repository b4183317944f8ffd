"""Sections on what happens between tasks: which experts they use, what they share, where they conflict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ple_rec.analysis.compare.task_relations import KINDS
from ple_rec.analysis.compare.text_tasks import at_end, distances_text, number_text
from ple_rec.analysis.utilisation import gates_of
from ple_rec.reports.compare.utilisation import limit_of
from ple_rec.reports.figures import Chart
from ple_rec.reports.gate_bars import gate_bars
from ple_rec.reports.numbers import DASH, page_cell
from ple_rec.reports.page import Panel

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
