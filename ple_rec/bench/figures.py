"""What the final lines `name=value` of a subject say, each with the least and the most of its repeats."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple


class Figure(NamedTuple):
    """A value.

    Args:
        value: The median of the repeats, or the only one.
        low: The least of the repeats; None where there is one.
        high: The most.
    """

    value: float
    low: float | None = None
    high: float | None = None

    def rounded(self, digits: int) -> Figure:
        """Each of them; to integers by 0 digits."""
        return Figure(*(None if v is None else round(v, digits) if digits else round(v) for v in self))  # type: ignore[arg-type]

    def inverse(self, factor: float) -> Figure:
        """Of `factor / value`: a rate of seconds."""
        ends = (None, None) if self.low is None or self.high is None else (factor / self.high, factor / self.low)
        return Figure(factor / self.value, *ends)


Figures = dict[str, Figure]


@dataclass(frozen=True)
class Headline:
    """A subject in one line of `ple-rec bench all`.

    Args:
        what: Was measured.
        unit: Of the rates.
        measured: The rate.
        limit_of: What the limit is of.
        limit: The rate that was measured in the same run for what bounds it.
        peak_bytes: The most resident memory of a process.
    """

    what: str
    unit: str
    measured: Figure
    limit_of: str
    limit: float
    peak_bytes: int

    def record(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"measured": self.measured._asdict(), "fraction": self.measured.value / self.limit}


def figure_of(repeats: Iterable[float]) -> Figure:
    """Median, least and most of at least one repeat."""
    values = list(repeats)
    return Figure(statistics.median(values), min(values), max(values))


def ratios(over: Sequence[float], under: Sequence[float]) -> Figure:
    """Of two things measured by turns: turn by turn, so that what else runs on the machine slows both."""
    return figure_of(a / b for a, b in zip(over, under, strict=True))


def values(figures: Mapping[str, Figure]) -> dict[str, float]:
    """The final lines."""
    return {name: figure.value for name, figure in figures.items()}


def spreads(figures: Mapping[str, Figure]) -> dict[str, list[float]]:
    """Least and most of each that was measured more than once."""
    return {name: [f.low, f.high] for name, f in figures.items() if f.low is not None and f.high is not None}
