"""`fusion.html`: the exponents, what they bring, what is traded for what, and how much hangs on each of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from ple_rec.analysis.fuse.text import exponent_rows, metric_rows, notes
from ple_rec.reports.page import Panel, Part, render, write_document
from ple_rec.reports.svg import BEST, MUTED, TRAIN, Chart, Paint
from ple_rec.storage import Location

PAGE = "fusion.html"
Record = Mapping[str, Any]  # fusion.json


def write_page(record: Record, folder: Location) -> Location:
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
    front = _front(record)
    notes_of = [f"{note[:1].upper()}{note[1:]}." for note in notes(record)]
    parts = [
        Part("metrics", "What it brings", metric_rows(record)),
        Part("exponents", "Exponents", exponent_rows(record)),
        Part("front", "What is traded", None if front is None else [front.panel()]),
        Part("sensitivity", "What hangs on each exponent", _sensitivities(record) or None),
    ]
    facts = (record["run"], record["checkpoint"], f"{record['settings']:,} settings", *record["targets"])
    return render(
        "fusion",
        parts,
        name=record["run"],
        facts=facts,
        notes=notes_of,
        told_on=record["told_on"],
        resampled=record["resampled"],
    )


def _front(record: Record) -> Chart | None:
    """Draw the settings that no other beats in all targets; None of a single one."""
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


def _sensitivities(record: Record) -> list[Panel]:
    return [
        _sensitivity(record, name, found, target).panel()
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
