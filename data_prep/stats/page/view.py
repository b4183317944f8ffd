"""`View`, the input of all sections of the statistics page, and the formats of numbers and texts on the page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ple_rec.config.base import SPLITS
from ple_rec.config.schema import DatasetSchema, Task
from ple_rec.reports.cells import DASH, true_minus

ROW_0_TEXT = "unknown or missing"  # Text for row 0 of an embedding table.


@dataclass(frozen=True)
class View:
    """Statistics and schema of a dataset.

    Args:
        stats: Content of `stats.json`.
        schema: Schema of the dataset.
        spaces: Conditions of sample spaces, by column, as far as they are known.
    """

    stats: Mapping[str, Any]
    schema: DatasetSchema
    spaces: Mapping[str, str] = field(default_factory=dict)

    def splits(self) -> list[str]:
        """Return the splits that have rows, in order."""
        return [split for split in SPLITS if self.stats["rows"].get(split)]

    def space(self, task: Task) -> str:
        """Return the condition of the sample space of a task, or the name of its column if the condition is unknown."""
        return self.spaces.get(task.space or "", task.space or "")

    def value(self, column: str, value: object) -> str:
        """Return the text for a value of a column; for a row of an embedding table the raw value, if that is known."""
        tables = {feature.name: feature.table for feature in self.schema.sparse}
        if column not in tables:
            return "(no value)" if value is None else str(value) or "(empty text)"
        if value == 0:
            return ROW_0_TEXT
        return str(self.stats["values"].get(tables[column], {}).get(str(value)) or f"row {value}")


def percent(share: float | None, *, digits: int = 2) -> str:
    """Return a share in percent with `digits` decimals, a small one in scientific notation; None gives a dash."""
    if share is None:
        return DASH
    value = 100 * share
    if 0 < value < 10**-digits:
        return f"{value:.1e} %"
    return f"{value:.{digits}f} %"


def figure(value: float | None) -> str:
    """Return a number with four significant digits, very large and very small ones with three; None gives a dash.

    Integers, and numbers from 1,000 on, have all digits before the point.
    """
    if value is None:
        return DASH
    if value and not 1e-3 <= abs(value) < 1e6:
        return f"\u2212{-value:.3g}" if value < 0 else f"{value:.3g}"
    text = f"{value:,.0f}" if abs(value) >= 1000 or float(value).is_integer() else f"{value:.4g}"
    return true_minus(text)


def signed(value: float | None) -> str:
    """Return a correlation with three decimals and a true minus sign; None gives a dash."""
    if value is None:
        return DASH
    text = f"{abs(value):.3f}"
    return f"\u2212{text}" if value < 0 and float(text) else text


def shorten(text: str, max_length: int) -> str:
    """Return `text`, cut to at most `max_length` characters with an ellipsis as the last one."""
    return text if len(text) <= max_length else f"{text[: max_length - 1]}\u2026"
