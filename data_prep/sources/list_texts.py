"""Columns of text whose values are printed lists or JSON objects, as numpy, pandas and `json` write them.

Without a warning, prep would give each distinct text one id. `structured_text` recognises such a column, and finds the
expression that splits the texts into the items of their lists, if there is one.
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
# A column is structured if more than this share of its cells look like lists or JSON. Single cells of any column may
# look so, such as a title in brackets.
_MIN_SHARE = 0.5


@dataclass(frozen=True)
class Cut:
    """Way to split the texts of lists into their items.

    Args:
        replacements: Pairs of a text and its replacement, in order. They leave only items and separators.
        separator: Text between two items after the replacements.
    """

    replacements: tuple[tuple[str, str], ...]
    separator: str

    def expression(self, value: str) -> str:
        """Return the expression, as the configuration takes it, whose value is the list of the items.

        Args:
            value: Expression whose value is the text.
        """
        for old, new in self.replacements:
            value = f"replace({value}, {_literal(old)}, {_literal(new)})"
        return f"split({value}, {_literal(self.separator)})"

    def items(self, texts: pa.Array) -> pa.Array:
        """Return the items of all texts, one after another, as `expression` splits them; empty items are left out."""
        for old, new in self.replacements:
            texts = pc.replace_substring(texts, old, new)
        items = pc.list_flatten(pc.split_pattern(texts, self.separator))
        return items.filter(pc.not_equal(items, ""))


@dataclass(frozen=True)
class StructuredText:
    """Structure that most texts of a column have.

    Args:
        kind: Structure of most cells.
        example: Cell with that structure.
        cut: Way to split the lists; None if no expression splits all of them.
    """

    kind: Literal["list", "JSON"]
    example: str
    cut: Cut | None

    def suggest_rewrite(self, value: str) -> str:
        """Return advice to write the column in another form, which prep can read.

        Args:
            value: Expression whose value is the text.
        """
        if self.kind == "JSON":
            return f"read its fields, such as json({value}, '$.name'), or write them as columns of their own"
        return f"write the lists as a|b, and split them by split({value}, '|')"


def structured_text(texts: pa.Array) -> StructuredText | None:
    """Return the structure that more than half of the texts have, a list or JSON; None if there is none.

    Args:
        texts: Cells of the column, without nulls.
    """
    for kind, pattern in _PATTERNS.items():
        cells = texts.filter(pc.match_substring_regex(texts, pattern))
        if len(cells) > _MIN_SHARE * len(texts):
            return StructuredText(kind, cells[0].as_py(), _cut(cells) if kind == "list" else None)
    return None


def _cut(lists: pa.Array) -> Cut | None:
    """Return the first way in `_CUTS` whose pattern all lists match; None if there is none."""
    matching = (cut for pattern, cut in _CUTS.items() if pc.all(pc.match_substring_regex(lists, pattern)).as_py())
    return next(matching, None)


def _cuts() -> dict[str, Cut]:
    """Return the ways to split lists, by the pattern that all lists of a column must match."""
    brackets = (("[", ""), ("]", ""))
    cuts = {  # numpy aligns numbers with blanks, and breaks lines after 75 characters.
        r"^\[\s*(-?\d+(\s+-?\d+)*)?\s*\]$": Cut((("\n", " "), *brackets), " "),
        r"^\[(-?\d+(, ?-?\d+)*)?\]$": Cut(((" ", ""), *brackets), ","),
    }
    drop_line_breaks = (("\n", ""),)
    for quote in ("'", '"'):
        item = rf"{quote}[^{quote}\[\]\\]+{quote}"
        for between, pattern, steps in ((" ", "\n? ", drop_line_breaks), (", ", ", ", ()), (",", ",", ())):
            # Texts are split at the quotes, so that an item may hold blanks and commas.
            steps = (*steps, *brackets, (quote + between + quote, 2 * quote))
            cuts[rf"^\[({item}({pattern}{item})*)?\]$"] = Cut(steps, quote)
    return cuts


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


_CUTS = _cuts()
