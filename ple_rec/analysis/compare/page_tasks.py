"""Sections of the page on what happens between tasks: which experts they use, what they share, where they conflict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ple_rec.analysis.compare.figures import Chart
from ple_rec.analysis.compare.task_relations import KINDS
from ple_rec.analysis.compare.text_tasks import at_end, distances_text, number_text
from ple_rec.analysis.compare.utilisation_figure import limit_of
from ple_rec.analysis.gate_bars import gate_bars
from ple_rec.analysis.utilisation import gates_of
from ple_rec.html.markup import DASH, figure, table, text
from ple_rec.train.results import MISSING

STYLE = """
.panels.wide { grid-template-columns: repeat(auto-fill, minmax(min(100%, 30rem), 1fr)); align-items: end; }
.panels.wide figure { max-width: 33rem; }
.panels + p { margin-top: 1.25rem; }
"""
_FEW_ROWS = 24  # of a table, beyond which it is folded

Results = Mapping[str, Any]


def experts(results: Results) -> str:
    """Fig. 8: of every gate of every variant that has gates, the first seed's mean weights over the test split."""
    content = ""
    for name, variant in results["variants"].items():
        gates = gates_of(variant["gates"] or {})
        if not gates:
            continue
        limit = limit_of(gates)
        panels = [
            figure(f"level {gate.level}, {gate.output}", "", gate_bars(f"gate-{name}-{i}", gate, limit))
            for i, gate in enumerate(gates)
        ]
        content += f'<h3>{text(name)}</h3><div class="panels">{"".join(panels)}</div>'
    words = (
        "Mean weight of each expert over the test split, with its standard deviation over samples, of the first seed "
        "that finished; shared ones hatched."
    )
    return f"<p>{words}</p>{content}" if content else ""


def between_tasks(results: Results, conflict: Sequence[Chart], correlation: Sequence[Chart]) -> str:
    """Gradient conflict over training, the numbers of every variant and pair of tasks, and gain by correlation."""
    content = ""
    if conflict:
        content += (
            "<h3>Gradient conflict over training</h3><p>Cosine of the gradients of two tasks&#x27; losses, on the "
            "first batches of training; below 0 a step for one task hurts the other.</p>"
        ) + panels(conflict)
    if rows := _rows(results):
        heads = ("", "tasks", "cosine, shared weights", "cosine, inputs", "JS among shared", "JS shared and own")
        left = ("", ' class="text"', *[""] * 4)
        head = [f"<th{kind}>{text(word)}</th>" for kind, word in zip(left, heads, strict=True)]
        numbers = (
            "<p>Cosine at the last evaluation of training, mean \u00b1 standard deviation over seeds. JS: "
            "Jensen-Shannon distance of two tasks&#x27; mean gate weights, level by level, 0 alike to 1 disjoint: "
            "among the experts that both read, and with all others as one more; mean over seeds.</p>"
        ) + table(head, rows)
        if len(rows) > _FEW_ROWS:
            numbers = f"<details><summary>Numbers of every variant and pair of tasks</summary>{numbers}</details>"
        content += numbers
    if labels := _labels(results):
        words = (
            "Correlation of two tasks&#x27; labels over the test rows in both sample spaces; &ndash; where one of them "
            "does not vary there, as of a task whose space is the other&#x27;s positives."
        )
        content += f"<h3>Gain against label correlation</h3><p>{words}</p>{labels}{panels(correlation)}"
    return content


def panels(charts: Sequence[Chart]) -> str:
    """Charts side by side, each as wide as it is drawn."""
    figures = "".join(figure(chart.caption, chart.note, chart.svg()) for chart in charts)
    return figures and f'<div class="panels wide">{figures}</div>'


def cell(words: str) -> str:
    """What stands on the terminal, for a cell of the page: its mark of nothing is the one of all pages."""
    return ", ".join(DASH if part == MISSING else text(part) for part in words.split(", "))


def _labels(results: Results) -> str:
    found = results["label_correlations"] or []
    if not found:
        return ""
    rows = [
        f'<tr><th class="text">{text(" / ".join(each["tasks"]))}</th><td>{_value(each["value"])}</td>'
        f"<td>{each['rows']:,}</td></tr>"
        for each in found
    ]
    head = ['<th class="text">tasks</th>', "<th>correlation of the labels</th>", "<th>test rows in both spaces</th>"]
    return table(head, rows)


def _value(value: float | None) -> str:
    return DASH if value is None else f"{value:.3f}"


def _rows(results: Results) -> list[str]:
    """A row for each variant and pair of tasks of which there is anything to tell."""
    rows = []
    for name, variant in results["variants"].items():
        pairs = dict.fromkeys(tuple(each["tasks"]) for each in (*variant["conflict"], *variant["sharing"]))
        for place, pair in enumerate(pairs):
            cells = [
                *(number_text(at_end(variant, pair, kind), "\u00b1") for kind in KINDS),
                *(distances_text(variant, pair, reading) for reading in ("among_shared", "shared_and_own")),
            ]
            numbers = "".join(f"<td>{cell(words)}</td>" for words in cells)
            own = text(name) if place == 0 else ""
            rows.append(f'<tr><th>{own}</th><td class="text">{text(" / ".join(pair))}</td>{numbers}</tr>')
    return rows
