"""Input of the sections of the statistics page, and the format of its values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ple_rec.config.base import SPLITS
from ple_rec.config.schema import DatasetSchema, Task
from ple_rec.reports.cells import DASH, true_minus

MISSED = "unknown or missing"  # Text for row 0 of a table.


@dataclass(frozen=True)
class View:
    """Statistics and schema of a dataset.

    Args:
        stats: Content of `stats.json`.
        schema: Schema of the dataset.
        spaces: Condition of each column of a sample space, if it is known.
    """

    stats: Mapping[str, Any]
    schema: DatasetSchema
    spaces: Mapping[str, str] = field(default_factory=dict)

    def splits(self) -> list[str]:
        """Return the splits with rows, in order."""
        return [split for split in SPLITS if self.stats["rows"].get(split)]

    def space(self, task: Task) -> str:
        """Return the condition of the sample space of a task, or the name of its column if the condition is unknown."""
        return self.spaces.get(task.space or "", task.space or "")

    def value(self, column: str, value: object) -> str:
        """Return the text of a value of a column. For a row of a table, it is the raw value, if that is known."""
        tables = {feature.name: feature.table for feature in self.schema.sparse}
        if column not in tables:
            return "(no value)" if value is None else str(value) or "(empty text)"
        if value == 0:
            return MISSED
        return str(self.stats["values"].get(tables[column], {}).get(str(value)) or f"row {value}")


def percent(share: float | None, *, digits: int = 2) -> str:
    """Return a share in percent, with two digits even if it is small; a dash if there is none."""
    if share is None:
        return DASH
    value = 100 * share
    if 0 < value < 10**-digits:
        return f"{value:.1e} %"
    return f"{value:.{digits}f} %"


def figure(value: float | None) -> str:
    """Return a number of a column in four significant digits."""
    if value is None:
        return DASH
    if value and not 1e-3 <= abs(value) < 1e6:
        return f"\u2212{-value:.3g}" if value < 0 else f"{value:.3g}"
    text = f"{value:,.0f}" if abs(value) >= 1000 or float(value).is_integer() else f"{value:.4g}"
    return true_minus(text)


def signed(value: float | None) -> str:
    """Return a correlation, with a true minus sign."""
    if value is None:
        return DASH
    text = f"{abs(value):.3f}"
    return f"\u2212{text}" if value < 0 and float(text) else text


def cut(text: str, most: int) -> str:
    """Return `text` in at most `most` characters."""
    return text if len(text) <= most else f"{text[: most - 1]}\u2026"
