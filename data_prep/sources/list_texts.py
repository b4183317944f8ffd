"""Lists and JSON objects that stand as text in a column, as numpy, pandas and `json` write them.

Prep would give each text of such a column one id. `structured_text` finds the expression that cuts the lists into
their items, if there is one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

_PATTERNS: Mapping[Literal["list", "JSON"], str] = {
    "list": r"""(?s)^\[\s*(["'\d\[{.-].*)?\]\s*$""",
    "JSON": r"""(?s)^\s*\{\s*(["'].*)?\}\s*$""",
}
_MIN_SHARE = 0.5  # Single titles may stand in brackets. If more than half of the cells do, the column has lists.


@dataclass(frozen=True)
class Cut:
    """Way to cut texts into the items of their lists.

    Args:
        replacements: Pairs of a text and its replacement, in order. They leave only items and separators.
        separator: Text between two items after the replacements.
    """

    replacements: tuple[tuple[str, str], ...]
    separator: str

    def expression(self, value: str) -> str:
        """Return the expression of the items as a list.

        Args:
            value: Expression of the text.
        """
        for old, new in self.replacements:
            value = f"replace({value}, {_literal(old)}, {_literal(new)})"
        return f"split({value}, {_literal(self.separator)})"

    def items(self, texts: pa.Array) -> pa.Array:
        """Return the items of all texts, one after another, as `expression` cuts them."""
        for old, new in self.replacements:
            texts = pc.replace_substring(texts, old, new)
        items = pc.list_flatten(pc.split_pattern(texts, self.separator))
        return items.filter(pc.not_equal(items, ""))


@dataclass(frozen=True)
class StructuredText:
    """Structure of the texts of a column.

    Args:
        kind: Structure of most cells.
        example: Cell with that structure.
        cut: Way to cut the lists; None if no expression cuts all of them.
    """

    kind: Literal["list", "JSON"]
    example: str
    cut: Cut | None

    def other_way(self, value: str) -> str:
        """Return how to write the column so that prep can read it.

        Args:
            value: Expression of the text.
        """
        if self.kind == "JSON":
            return "write its parts as columns of their own"
        return f"write the lists as a|b, and cut them by split({value}, '|')"


def structured_text(texts: pa.Array) -> StructuredText | None:
    """Return the structure of texts without nulls; None if most of them have none."""
    for kind, pattern in _PATTERNS.items():
        cells = texts.filter(pc.match_substring_regex(texts, pattern))
        if len(cells) > _MIN_SHARE * len(texts):
            return StructuredText(kind, cells[0].as_py(), _cut(cells) if kind == "list" else None)
    return None


def _cut(lists: pa.Array) -> Cut | None:
    fitting = (cut for form, cut in _CUTS.items() if pc.all(pc.match_substring_regex(lists, form)).as_py())
    return next(fitting, None)


def _cuts() -> dict[str, Cut]:
    """Return the ways to cut lists, by the pattern that all texts must match."""
    brackets = (("[", ""), ("]", ""))
    cuts = {  # numpy aligns numbers with blanks, and breaks lines after 75 characters.
        r"^\[\s*(-?\d+(\s+-?\d+)*)?\s*\]$": Cut((("\n", " "), *brackets), " "),
        r"^\[(-?\d+(, ?-?\d+)*)?\]$": Cut(((" ", ""), *brackets), ","),
    }
    lines = (("\n", ""),)
    for quote in ("'", '"'):
        item = rf"{quote}[^{quote}\[\]\\]+{quote}"
        for between, pattern, steps in ((" ", "\n? ", lines), (", ", ", ", ()), (",", ",", ())):
            # Texts are cut at the quotes, so that an item may hold blanks and commas.
            steps = (*steps, *brackets, (quote + between + quote, 2 * quote))
            cuts[rf"^\[({item}({pattern}{item})*)?\]$"] = Cut(steps, quote)
    return cuts


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


_CUTS = _cuts()
