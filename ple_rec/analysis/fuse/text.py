"""What `ple-rec fuse` prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ple_rec.text import aligned
from ple_rec.train.report.units import metric_text

Record = Mapping[str, Any]  # fusion.json


def format_fusion(record: Record) -> str:
    """Exponents, metrics before and after with their intervals, and what stays at the top."""
    return "\n\n".join([_exponents(record), _metrics(record), _notes(record)])


def interval_text(interval: Sequence[float], *, signed: bool = False) -> str:
    """Both ends."""
    return " to ".join(f"{end:+.4f}" if signed else f"{end:.4f}" for end in interval)


def role(record: Record, measured: str) -> str:
    """Why a metric is told of."""
    if measured in record["targets"]:
        return "target"
    return next((text for text in record["constraints"] if text.startswith(f"{measured} ")), "")


def notes(record: Record) -> list[str]:
    """What has to be known of the numbers, a sentence each."""
    kept = record["kept_at_top"]
    found = [
        f"of {record['settings']:,} settings, searched on {record['searched_on']}; metrics of {record['told_on']}",
        "kept at the top: " + ", ".join(f"{share:.0%} of the first {k}" for k, share in kept.items()),
    ]
    if record["not_kept"]:
        found.append(f"kept on {record['searched_on']}, not on {record['told_on']}: {', '.join(record['not_kept'])}")
    if record["searched_on"] == record["told_on"]:
        found.append("the search has seen these rows: the gain flatters; tell of another split by --told-on")
    clipped = {name: share for name, share in record["clipped"].items() if share > 0}
    if clipped:
        shares = ", ".join(f"{name} {share:.2%}" for name, share in clipped.items())
        found.append(f"brought within [1e-6, 1] (the length: above 1e-6): {shares} of the rows")
    return found


def _exponents(record: Record) -> str:
    lines = [["factor", "exponent", "before"]]
    lines += [[name, f"{record['exponents'][name]:.4g}", f"{record['start'][name]:.4g}"] for name in record["factors"]]
    return "\n".join(aligned(lines))


def _metrics(record: Record) -> str:
    lines = [[record["told_on"], "value", "95 % over lists", "gain", "95 % of the gain", "lists", ""]]
    for measured, found in record["metrics"].items():
        gain = interval_text(found["gain_interval"], signed=True)
        cells = [metric_text(found["value"]), interval_text(found["interval"]), f"{found['gain']:+.4f}", gain]
        lines.append([measured, *cells, f"{found['lists']:,}", role(record, measured)])
    return "\n".join(aligned(lines, left=(0, 6)))


def _notes(record: Record) -> str:
    return "\n".join(notes(record))
