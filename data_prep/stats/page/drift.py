"""The section on how far valid and test are from the train split."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from data_prep.stats.drift import LARGE, MODERATE, verdict
from data_prep.stats.page.view import View, percent
from ple_rec.reports.numbers import DASH
from ple_rec.reports.strips import Scale

_LISTED = 15  # columns before the fold


class Row(NamedTuple):
    """A column, its population stability index on the axis, and what is said of it."""

    name: str
    place: float
    stable: bool
    psi: str
    chance: str
    verdict: str
    ks: str
    unknown: str


class Groups(NamedTuple):
    """The groups that the split deals out whole: by what, how many to train and later, and columns that tell them."""

    by: str
    train: str
    later: str
    columns: list[str]


class Drift(NamedTuple):
    """Columns by their population stability index, the largest first.

    Args:
        moderate: Index from which drift is moderate.
        large: Index from which it is large.
        groups: Groups that the split deals out whole; None where it deals out rows.
        scale: Axis of the index.
        ticks: Labels of the axis.
        rows: Columns before the fold.
        more: Columns in it.
    """

    moderate: float
    large: float
    groups: Groups | None
    scale: Scale
    ticks: list[tuple[float, str]]
    rows: list[Row]
    more: list[Row]


def drift(view: View) -> Drift:
    """Return the drift of every column whose index is known."""
    found: Mapping[str, Mapping[str, Any]] = view.stats["drift"]
    known = sorted((name for name in found if found[name]["psi"] is not None), key=lambda name: -found[name]["psi"])
    most = max([1.0, *(found[name]["psi"] for name in known)])
    scale = Scale(0.001, 1.2 * most, logarithmic=True)
    ticks = [(0.001, "0.001"), (0.01, "0.01"), (MODERATE, f"{MODERATE}"), (1.0, "1")]
    rows = [_row(name, found[name], scale) for name in known]
    return Drift(
        MODERATE,
        LARGE,
        _groups(view.stats.get("groups")),
        scale,
        ticks if most < 5 else [*ticks, (10.0, "10")],
        rows[:_LISTED],
        rows[_LISTED:],
    )


def _groups(groups: Mapping[str, Any] | None) -> Groups | None:
    if groups is None:
        return None
    return Groups(groups["by"], f"{groups['train']:,.0f}", f"{groups['later']:,.0f}", groups["columns"])


def _row(name: str, found: Mapping[str, Any], scale: Scale) -> Row:
    psi, chance = found["psi"], found["chance"]
    word = verdict(psi, chance)
    ks = DASH if found.get("ks") is None else f"{found['ks']:.3f}"
    return Row(
        name,
        max(psi, scale.low),
        word == "stable",
        f"{psi:.4f}",
        f"{chance:.4f}",
        word,
        ks if "ks" in found else "",
        percent(found["oov"]) if "oov" in found else "",
    )
