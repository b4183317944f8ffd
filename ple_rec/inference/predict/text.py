"""Text that `ple-rec predict` prints at its end, from the record in `_SUCCESS`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ple_rec.storage import Location

# Largest number of features or factors whose shares are printed in one line.
_MAX_SHOWN = 12


def format_summary(
    summary: Mapping[str, Any],
    out: Location,
    fused_by: str,
    *,
    input_description: Mapping[str, Any],
    input_rows: int,
    is_repeated: bool,
) -> str:
    """Return the text: rows, rows/s, and shares of unknown values, missing values and rows with a factor at a bound.

    Args:
        summary: Content of `_SUCCESS`: the request of the prediction, and the summary that `predict` returned.
        out: Directory of the predictions.
        fused_by: Text about the fusion of the score: its exponents and its file.
        input_description: `kind` of the input ("dataset" or "raw logs"). For raw logs, `left_out` has the condition
            that rows must meet to be predicted; None if all rows are.
        input_rows: Number of rows of the input.
        is_repeated: True if all rows had been predicted before.
    """
    rows, now = summary["rows"], summary["rows_predicted_now"]
    if is_repeated:
        head = f"{out}: {rows:,} rows, all predicted before; remove the directory to predict them again"
    else:
        speed = f"{now:,} in {summary['seconds']:.1f} s, {summary['rows_per_second']:,.0f} rows/s"
        head = f"{out}: {rows:,} rows in {summary['parts']} part(s); {speed} on {summary['device']}"
    lines = [head, f"  checkpoint  {summary['checkpoint']['name']} of {summary['run']}", f"  score       {fused_by}"]
    if input_description.get("left_out"):
        count = f"{input_rows - rows:,} of {input_rows:,} rows"
        lines.append(
            f"  left out    {count}, not {input_description['left_out']} (log.where; --all-rows includes them)"
        )
    raw = input_description["kind"] == "raw logs"
    shares = {name: share["unknown"] for name, share in summary["ids"].items() if share["unknown"] > 0}
    lines += _format_shares("unknown" if raw else "row 0", shares, "" if raw else " (unknown or missing)")
    lines += _format_shares("missing", {name: s["missing"] for name, s in summary["ids"].items() if s["missing"] > 0})
    at_bound = {name: share for name, share in summary["clipped"].items() if share > 0}
    return "\n".join([*lines, *_format_shares("at a bound", at_bound, " (p is 1e-6, or above .999; docs/ranking.md)")])


def _format_shares(title: str, shares: Mapping[str, float], note: str = "") -> list[str]:
    """Return a list of one line with the largest shares, or of no line if there are no shares."""
    if not shares:
        return []
    ordered = sorted(shares, key=lambda name: (-shares[name], name))
    cells = [f"{name} {_format_share(shares[name])}" for name in ordered[:_MAX_SHOWN]]
    more = f", and {len(ordered) - _MAX_SHOWN} features with smaller shares" if len(ordered) > _MAX_SHOWN else ""
    return [f"  {title:<10}  {', '.join(cells)}{more}{note}"]


def _format_share(share: float) -> str:
    return f"{share:.2%}" if share >= 5e-5 else "under 0.01%"
