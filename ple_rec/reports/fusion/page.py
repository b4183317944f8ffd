"""Files of a fusion, and its page, `fusion.html`.

A fusion ranks the items of a list by one score, a product of factors such as the tasks' predictions, each to the power
of an exponent. `ple-rec fuse` searches the exponents that are best for the target metrics, and calls `write_fusion`.
The page shows the exponents, the metrics and their gains, the trade-off between targets, and the sensitivity to each
exponent. A setting, below, is a value for every exponent.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from ple_rec.config.fusion import FusionConfig
from ple_rec.config.load import dump_toml
from ple_rec.ranking.losses import FUSION_FILE, RECORD_FILE
from ple_rec.reports.fusion.text import exponent_rows, metric_rows, notes, toml_comments
from ple_rec.reports.page import Panel, Section, render_page, write_document
from ple_rec.reports.svg import BEST, MUTED, TRAIN, Chart, Paint
from ple_rec.runs.layout import explain_write_errors, write_text
from ple_rec.storage import Location, make_directory
from ple_rec.text.plain import json_text

PAGE_FILE = "fusion.html"
# Content of fusion.json; `text.py` describes its keys.
Record = Mapping[str, Any]


def write_fusion(record: Record, out: Location, fusion: FusionConfig | None) -> Location:
    """Write `fusion.json`, the page and `fusion.toml`, and return the path of the page.

    Args:
        record: Content of `fusion.json`.
        out: Folder of the files.
        fusion: Content of `fusion.toml`, which `export` and `predict` take; None to leave that file as it is.

    Raises:
        UserError: The folder cannot be written.
    """
    with explain_write_errors(out):
        make_directory(out)
    if fusion is not None:
        write_text(out / FUSION_FILE, toml_comments(record) + dump_toml(fusion))
    write_text(out / RECORD_FILE, json_text(record) + "\n")
    return write_page(record, out)


def write_page(record: Record, folder: Location) -> Location:
    """Write the page of a fusion, and return its path.

    Raises:
        UserError: The file cannot be written.
    """
    target = folder / PAGE_FILE
    write_document(
        _page(record), target, "the page is a file beside fusion.toml", "free disk space, or name another --out"
    )
    return target


def _page(record: Record) -> str:
    front = _front_chart(record)
    sentences = [f"{note[:1].upper()}{note[1:]}." for note in notes(record)]
    sections = [
        Section("metrics", "Metrics", metric_rows(record)),
        Section("exponents", "Exponents", exponent_rows(record)),
        Section("front", "Trade-off between targets", None if front is None else [front.to_panel()]),
        Section("sensitivity", "Sensitivity to each exponent", _sensitivity_panels(record) or None),
    ]
    facts = (record["run"], record["checkpoint"], f"{record['settings']:,} settings", *record["targets"])
    return render_page(
        "fusion",
        sections,
        name=record["run"],
        facts=facts,
        notes=sentences,
        told_on=record["told_on"],
        resampled=record["resampled"],
    )


def _front_chart(record: Record) -> Chart | None:
    """Return a chart of the Pareto front of the searched settings over the first two targets; None for one target."""
    if len(record["targets"]) < 2:
        return None
    first, second = record["targets"][:2]

    def draw(axes: Axes, paint: Paint) -> None:
        points = np.array([[point["metrics"][name] for name in (first, second)] for point in record["front"]])
        # The front ascends by the first target. The search chooses its last setting, the best one for that target.
        axes.plot(points[:, 0], points[:, 1], "o-", color=paint(TRAIN), markersize=4)
        axes.plot(points[-1:, 0], points[-1:, 1], "s", color=paint(BEST), markersize=8, label="chosen")
        axes.set(xlabel=first, ylabel=second)
        axes.legend()

    return Chart("front", f"{first} against {second}", f"the front, on {record['searched_on']}", draw, (460, 320))


def _sensitivity_panels(record: Record) -> list[Panel]:
    return [
        _sensitivity_chart(record, name, curves, target).to_panel()
        for target in record["targets"]
        for name, curves in record["sensitivity"].items()
    ]


def _sensitivity_chart(record: Record, name: str, curves: Mapping[str, Any], target: str) -> Chart:
    def draw(axes: Axes, paint: Paint) -> None:
        axes.axvline(record["exponents"][name], color=paint(MUTED), linewidth=1)
        axes.plot(curves["exponent"], curves["metrics"][target], color=paint(TRAIN))
        axes.set(xlabel=f"exponent of {name}", ylabel=target)

    key = f"sensitivity-{name}-{target}".replace("@", "-").replace(".", "-")
    return Chart(
        key, f"{target} over {name}", f"on {record['told_on']}; the other exponents keep their values", draw, (340, 208)
    )
