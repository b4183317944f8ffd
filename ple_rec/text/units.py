"""Counts, bytes, durations and metric values as short ASCII text, and parsers of counts and bytes."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

_COUNT_UNITS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
_BYTE_UNITS = ((1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))
# Bytes of a unit, by its name in upper case without the B.
_BYTE_FACTORS = {"K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}
_COUNT_FACTORS = {"k": 10**3, "m": 10**6, "g": 10**9}


def short_count(value: float) -> str:
    """Return a count in at most three digits: `987`, `1.23 k`, `46.9 M`, `1.20 T`; in more from 1000 T on."""
    for size, unit in _COUNT_UNITS:
        if abs(value) >= size * 0.9995:
            return f"{_three_digits(value / size)} {unit}"
    return f"{value:.0f}" if float(value).is_integer() else f"{value:.3g}"


def short_bytes(value: float) -> str:
    """Return a size in binary units: `512 B`, `1.48 GiB`."""
    for size, unit in _BYTE_UNITS:
        if abs(value) >= size * 0.9995:
            return f"{_three_digits(value / size)} {unit}"
    return f"{value:.0f} B"


def gib_text(value: float, digits: int = 1) -> str:
    """Return a size in GiB, so that several sizes can be compared: `41.2 GiB`."""
    return f"{value / (1 << 30):,.{digits}f} GiB"


def parse_bytes(text: str) -> int | None:
    """Return the bytes of a text such as `4GiB`, `512 MiB`, `8GB` (8e9) or `8`; None if it is not a size above 0."""
    size = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]I?|)B?\s*", text.upper())
    return (size and int(float(size[1]) * _BYTE_FACTORS.get(size[2], 1))) or None


def parse_count(text: str) -> float | None:
    """Return the number that a text such as `20e6`, `20M` (also k, G) or `20,000,000` is; None unless it is above 0."""
    factor = _COUNT_FACTORS.get(text[-1:].lower(), 1)
    plain = text.replace(",", "") if re.fullmatch(r"[0-9]{1,3}(,[0-9]{3})+", text) else text
    try:
        value = float(plain[:-1] if factor > 1 else plain) * factor
    except ValueError:
        return None
    return value if 0 < value < math.inf else None


def clock_text(seconds: float) -> str:
    """Return a duration in whole seconds as a clock shows it: `0:59`, `41:11`, `1:00:00`."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def short_duration(seconds: float) -> str:
    """Return a duration in its two largest units: `12.3 s`, `4 min 05 s`, `3 h 20 min`, `2 d 04 h`."""
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
    """Return a metric with four decimals, `0.7512`; below .001 and from 1e5 on in scientific notation, `1.234e-05`."""
    if value != 0 and (abs(value) < 1e-3 or abs(value) >= 1e5):
        return f"{value:.3e}"
    return f"{value:.4f}"


def mean_sd_text(mean: float, sd: float | None, separator: str = "+-") -> str:
    """Return the mean and standard deviation of a metric, `0.7312 +- 0.0021`; the mean alone if `sd` is None."""
    text = metric_text(mean)
    if sd is None:
        return text
    return f"{text} {separator} {metric_text(sd) if 'e' in text else format(sd, '.4f')}"


def join_spans(numbers: Iterable[int]) -> str:
    """Return the distinct numbers in ascending order, consecutive ones as a span: `0-3, 8`."""
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
