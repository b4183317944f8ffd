"""`fusion.html`: the exponents, what they bring, what is traded for what, and how much hangs on each of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from ple_rec.analysis.compare.figures import Chart
from ple_rec.analysis.compare.lines import Paint
from ple_rec.analysis.fuse.text import interval_text, moving_factors, notes, role
from ple_rec.html.markup import figure, table, text
from ple_rec.html.page import Part, document, write_document
from ple_rec.text.units import metric_text
from ple_rec.train.report.svg import BEST, MUTED, TRAIN

PAGE = "fusion.html"
Record = Mapping[str, Any]  # fusion.json


def write_page(record: Record, folder: Path) -> Path:
    """Write the page.

    Raises:
        UserError: it cannot be written.
    """
    target = folder / PAGE
    write_document(
        _page(record), target, "the page is a file beside fusion.toml", "free disk space, or name another --out"
    )
    return target


def _page(record: Record) -> str:
    facts = (record["run"], record["checkpoint"], f"{record['settings']:,} settings", *record["targets"])
    header = (
        f'<p class="eyebrow">fusion</p><h1>{text(record["run"])}</h1>'
        f'<p class="facts">{"".join(f"<span>{text(fact)}</span>" for fact in facts)}</p>'
    )
    words = "".join(f"<p>{text(note[:1].upper() + note[1:])}.</p>" for note in notes(record))
    return document(
        f"{record['run']} - fusion",
        header,
        "",
        [
            Part("metrics", "What it brings", _metrics(record) + words),
            Part("exponents", "Exponents", _exponents(record)),
            Part("front", "What is traded", _charts([_front(record)])),
            Part("sensitivity", "What hangs on each exponent", _charts(_sensitivities(record))),
        ],
        "Made by ple-rec from the run's predictions on held-out rows.",
    )


def _metrics(record: Record) -> str:
    head = ("", record["told_on"], f"95 % over {record['resampled']}", "gain", "95 % of the gain", "lists", "")
    rows = []
    for measured, found in record["metrics"].items():
        cells = (
            metric_text(found["value"]),
            interval_text(found["interval"]),
            f"{found['gain']:+.4f}",
            interval_text(found["gain_interval"], signed=True),
            f"{found['lists']:,}",
            role(record, measured),
        )
        rows.append(f"<tr><th>{text(measured)}</th>{''.join(f'<td>{text(cell)}</td>' for cell in cells)}</tr>")
    return table([f"<th>{text(word)}</th>" for word in head], rows)


def _exponents(record: Record) -> str:
    rows = [
        f"<tr><th>{text(name)}</th><td>{record['exponents'][name]:.4g}</td><td>{record['start'][name]:.4g}</td></tr>"
        for name in moving_factors(record)
    ]
    equation = "<p>log score = sum of exponent &#215; log p over the tasks + exponent &#215; log f(video length).</p>"
    return equation + table([f"<th>{word}</th>" for word in ("factor", "exponent", "before")], rows)


def _front(record: Record) -> Chart | None:
    """The settings that no other beats in all targets; None of a single one."""
    if len(record["targets"]) < 2:
        return None
    first, second = record["targets"][:2]

    def draw(axes: Axes, paint: Paint) -> None:
        points = np.array([[point["metrics"][name] for name in (first, second)] for point in record["front"]])
        axes.plot(points[:, 0], points[:, 1], "o-", color=paint(TRAIN), markersize=4)
        axes.plot(points[-1:, 0], points[-1:, 1], "s", color=paint(BEST), markersize=8, label="chosen")
        axes.set(xlabel=first, ylabel=second)
        axes.legend()

    return Chart("front", f"{first} against {second}", f"the front, on {record['searched_on']}", draw, (460, 320))


def _sensitivities(record: Record) -> list[Chart | None]:
    return [
        _sensitivity(record, name, found, target)
        for target in record["targets"]
        for name, found in record["sensitivity"].items()
    ]


def _sensitivity(record: Record, name: str, found: Mapping[str, Any], target: str) -> Chart:
    def draw(axes: Axes, paint: Paint) -> None:
        axes.axvline(record["exponents"][name], color=paint(MUTED), linewidth=1)
        axes.plot(found["exponent"], found["metrics"][target], color=paint(TRAIN))
        axes.set(xlabel=f"exponent of {name}", ylabel=target)

    key = f"sensitivity-{name}-{target}".replace("@", "-").replace(".", "-")
    return Chart(key, f"{target} over {name}", f"{record['told_on']}, the others as they are", draw, (340, 208))


def _charts(charts: list[Chart | None]) -> str:
    drawn = "".join(figure(chart.caption, chart.note, chart.svg()) for chart in charts if chart is not None)
    return drawn and f'<div class="panels">{drawn}</div>'
