"""Names of features and tasks, made of the names of columns by the rules that `PrepConfig` has for them."""

from __future__ import annotations

import re
import unicodedata

_LONGEST = 60  # characters; a table's name is part of a file's name
_OF_PREP = ("group", "log_day", "sample_weight")  # columns that prep writes itself


class Names:
    """The names of a dataset, which differ by more than their case."""

    def __init__(self) -> None:
        self._taken: set[str] = set(_OF_PREP)

    def __contains__(self, name: str) -> bool:
        """Return whether a name, or one that prep makes of it, is taken."""
        return not self._taken.isdisjoint(_forms(name))

    def add(self, column: str, place: int) -> str:
        """Return a new name for a column.

        Args:
            column: Name of the column.
            place: Number of the column among those that are read; it names one without an ASCII letter or digit.
        """
        plain = unicodedata.normalize("NFKD", column).encode("ascii", "ignore").decode()
        first = "_".join(re.findall(r"[A-Za-z0-9]+", plain)) or f"column_{place}"
        first = (f"_{first}" if first[0].isdigit() else first)[:_LONGEST].rstrip("_")
        name, number = first, 1
        while name in self:
            number += 1
            name = f"{first}_{number}"
        self._taken |= _forms(name)
        return name


def _forms(name: str) -> set[str]:
    """Return a name as engines compare it, and the names of the columns that prep makes for a task of that name."""
    lower = name.lower()
    return {lower, f"label_{lower}", f"space_{lower}"}
