"""The section on how far valid and test are from the train split."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from data_prep.stats.drift import LARGE, MODERATE, verdict
from data_prep.stats.page.view import View, percent
from ple_rec.reports.cells import DASH, Scale

_LISTED = 15  # columns before the fold


def drift(view: View) -> dict[str, Any]:
    """Return the columns by their population stability index, the largest first."""
    found: Mapping[str, Mapping[str, Any]] = view.stats["drift"]
    known = sorted((name for name in found if found[name]["psi"] is not None), key=lambda name: -found[name]["psi"])
    most = max([1.0, *(found[name]["psi"] for name in known)])
    scale = Scale(0.001, 1.2 * most, logarithmic=True)
    ticks = [(0.001, "0.001"), (0.01, "0.01"), (MODERATE, f"{MODERATE}"), (1.0, "1")]
    rows = [_row(name, found[name], scale) for name in known]
    return {
        "moderate": MODERATE,
        "large": LARGE,
        "groups": view.stats.get("groups"),
        "scale": scale,
        "ticks": ticks if most < 5 else [*ticks, (10.0, "10")],
        "rows": rows[:_LISTED],
        "more": rows[_LISTED:],
    }


def _row(name: str, found: Mapping[str, Any], scale: Scale) -> dict[str, Any]:
    psi, chance = found["psi"], found["chance"]
    word = verdict(psi, chance)
    ks = DASH if found.get("ks") is None else f"{found['ks']:.3f}"
    return {
        "name": name,
        "place": max(psi, scale.low),
        "psi": f"{psi:.4f}",
        "chance": f"{chance:.4f}",
        "verdict": word,
        "ks": ks if "ks" in found else "",
        "unknown": percent(found["oov"]) if "oov" in found else "",
    }
