"""Summary that `ple-rec predict` prints at its end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ple_rec.storage import Location

# Number of features whose shares are printed.
_MOST_SHOWN = 12


def format_summary(
    summary: Mapping[str, Any],
    out: Location,
    fused_by: str,
    *,
    described: Mapping[str, Any],
    input_rows: int,
    again: bool,
) -> str:
    """Return the summary: rows, rows/s, unknown and missing values, and factors of the score at a bound.

    Args:
        summary: Summary of `predict`.
        out: Directory of the predictions.
        fused_by: Exponents of the score and the file that they come from.
        described: Description of the input.
        input_rows: Number of rows of the input.
        again: True if all rows had been predicted before.
    """
    rows, now = summary["rows"], summary["rows_predicted_now"]
    if again:
        head = f"{out}: {rows:,} rows, predicted already; remove the directory to predict them again"
    else:
        speed = f"{now:,} in {summary['seconds']:.1f} s, {summary['rows_per_second']:,.0f} rows/s"
        head = f"{out}: {rows:,} rows in {summary['parts']} part(s); {speed} on {summary['device']}"
    lines = [head, f"  checkpoint  {summary['checkpoint']['name']} of {summary['run']}", f"  score       {fused_by}"]
    if described.get("left_out"):
        count = f"{input_rows - rows:,} of {input_rows:,} rows"
        lines.append(f"  left out    {count}, not {described['left_out']} (log.where; --all-rows takes them)")
    raw = described["kind"] == "raw logs"
    shares = {name: share["unknown"] for name, share in summary["ids"].items() if share["unknown"] > 0}
    lines += _shares("unknown" if raw else "row 0", shares, "" if raw else " (unknown or missing)")
    lines += _shares("missing", {name: s["missing"] for name, s in summary["ids"].items() if s["missing"] > 0})
    at_bound = {name: share for name, share in summary["clipped"].items() if share > 0}
    return "\n".join([*lines, *_shares("at a bound", at_bound, " (p is 1e-6, or above .999; docs/ranking.md)")])


def _shares(title: str, shares: Mapping[str, float], note: str = "") -> list[str]:
    """Return a line with the largest shares; no line without shares."""
    if not shares:
        return []
    ordered = sorted(shares, key=lambda name: (-shares[name], name))
    cells = [f"{name} {_share(shares[name])}" for name in ordered[:_MOST_SHOWN]]
    more = f", {len(ordered) - _MOST_SHOWN} more features less" if len(ordered) > _MOST_SHOWN else ""
    return [f"  {title:<10}  {', '.join(cells)}{more}{note}"]


def _share(share: float) -> str:
    return f"{share:.2%}" if share >= 5e-5 else "under 0.01%"
