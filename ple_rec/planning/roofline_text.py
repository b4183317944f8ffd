"""A roofline on a terminal."""

from __future__ import annotations

from ple_rec.planning.roofline import RESOURCES, Roofline, Row
from ple_rec.text import aligned
from ple_rec.text.units import short_count

_UNITS = {"loader": "row", "GEMM": "FLOP"}


def format_roofline(found: Roofline) -> str:
    """Parts, resources, and the rates that follow."""
    lines = [["part", "a sample", "resource", "ns"]]
    lines += [[row.part, _amount(row), row.resource, f"{1e9 * found.seconds(row):.2f}"] for row in found.rows]
    busy = "  ".join(f"{name} {1e9 * found.busy(name):.1f}" for name in RESOURCES if found.busy(name))
    best, ahead = found.overlapped(loader=True), found.overlapped(loader=False)
    return "\n".join(
        [
            f"roofline, {found.precision}: the busiest rank at its peaks, tables in HBM, nothing waits",
            *aligned(lines, left=(0, 2)),
            f"  ns: {busy}",
            f"GPUs: at most {short_count(ahead)} samples/s (bound by {found.bound(loader=False)}), "
            f"{short_count(found.serial())} with one part after another; with the loader {short_count(best)} (bound by "
            f"{found.bound(loader=True)})",
        ]
    )


def _amount(row: Row) -> str:
    """What a sample asks for: `264 B`, `12.3 MFLOP`, `1 row`."""
    text, unit = short_count(row.amount), _UNITS.get(row.resource, "B")
    return f"{text}{unit}" if text[-1].isalpha() else f"{text} {unit}"
