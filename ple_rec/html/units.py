"""Numbers as people read them: counts, bytes, durations and metric values as short ASCII text."""

from __future__ import annotations

from collections.abc import Iterable

_COUNT_UNITS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
_BYTE_UNITS = ((1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))


def short_count(value: float) -> str:
    """A count in three or four digits: `987`, `1.23 k`, `46.9 M`, `1.20 T`."""
    for size, unit in _COUNT_UNITS:
        if abs(value) >= size * 0.9995:
            return f"{_three_digits(value / size)} {unit}"
    return f"{value:.0f}" if float(value).is_integer() else f"{value:.3g}"


def short_bytes(value: float) -> str:
    """A size in binary units: `512 B`, `1.48 GiB`."""
    for size, unit in _BYTE_UNITS:
        if abs(value) >= size * 0.9995:
            return f"{_three_digits(value / size)} {unit}"
    return f"{value:.0f} B"


def short_duration(seconds: float) -> str:
    """A time span in its two largest units: `12.3 s`, `4 min 05 s`, `3 h 20 min`, `2 d 04 h`."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(seconds / 60)
    if minutes < 24 * 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    hours = round(seconds / 3600)
    return f"{hours // 24} d {hours % 24:02d} h"


def metric_text(value: float) -> str:
    """A metric to four decimals; in scientific notation where these would say little (below .001, from 1e5 on)."""
    if value != 0 and (abs(value) < 1e-3 or abs(value) >= 1e5):
        return f"{value:.3e}"
    return f"{value:.4f}"


def joined_spans(numbers: Iterable[int]) -> str:
    """Whole numbers in order, each once, with neighbours joined: `0-3, 8`."""
    spans: list[list[int]] = []
    for number in sorted(set(numbers)):
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in spans)


def _three_digits(value: float) -> str:
    if abs(value) >= 99.95:
        return f"{value:.0f}"
    return f"{value:.1f}" if abs(value) >= 9.995 else f"{value:.2f}"
