"""Counts of null texts and of texts that are not JSON, among those that expressions read as JSON.

All fields of such a text are null.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import ibis.expr.types as ir

from data_prep.engines.base import Engine
from data_prep.expressions import Expression
from data_prep.expressions.json_text import json_valid
from data_prep.sources.files import POSITION, RawTable
from data_prep.sources.table import shown_value
from data_prep.transforms.expression_scope import readable_values, with_times
from data_prep.transforms.resolve import Resolved
from data_prep.transforms.words import locate_word

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class JsonCount:
    """Counts of the values of one expression that is read as JSON.

    Args:
        text: Expression, mostly a column: `context`.
        name: Name of the expression for messages: `log, column 'context'`.
        rows: Number of rows.
        nulls: Number of rows in which the expression is null.
        not_json: Number of rows in which it is a text that is not JSON.
        position: Position in the log of the first row that is not JSON; None if there is none.
        example: Text of that row; None if there is none.
    """

    text: str
    name: str
    rows: int
    nulls: int
    not_json: int
    position: int | None
    example: str | None

    def to_json(self) -> dict[str, Any]:
        """Return the entry for the key `json` of `stats.json`."""
        return {"text": self.text, "rows": self.rows, "nulls": self.nulls, "not_json": self.not_json}


def count_json(engine: Engine, rows: ir.Table, resolved: Resolved) -> list[JsonCount]:
    """Count the values of each expression that is read as JSON, by one query.

    If no expression is read as JSON, no query runs.

    Args:
        engine: Engine that counts.
        rows: Rows of the log, joined to the side tables.
        resolved: Configuration with its expressions.
    """
    expressions = {text.text: (text, name) for text, name in _json_texts(resolved)}
    if not expressions:
        return []
    values = readable_values(rows := with_times(rows, resolved), resolved)
    texts = {f"t{i}": text.build(values) for i, (text, _) in enumerate(expressions.values())}
    table = rows.select(**texts, **{POSITION: rows[POSITION]})
    aggregates: dict[str, Any] = {"rows": table.count()}
    for column in texts:
        value, is_bad = table[column], ~json_valid(table[column])
        aggregates |= {
            f"{column}_nulls": value.isnull().sum(),
            f"{column}_bad": is_bad.sum(),
            f"{column}_position": table[POSITION].min(where=is_bad),
            f"{column}_example": value.argmin(table[POSITION], where=is_bad),
        }
    (row,) = engine.fetch(table.aggregate(**aggregates)).to_pylist()
    return [
        JsonCount(
            expression.text,
            name,
            row["rows"],
            row[f"{column}_nulls"] or 0,  # A sum over no row is null.
            row[f"{column}_bad"] or 0,
            row[f"{column}_position"],
            row[f"{column}_example"],
        )
        for column, (expression, name) in zip(texts, expressions.values(), strict=True)
    ]


def _json_texts(resolved: Resolved) -> Iterator[tuple[Expression, str]]:
    """Yield the expressions that are read as JSON, with their names for messages."""
    for key, expression in resolved.parsed.items():
        if key.startswith("sides.") and key.endswith(".day"):
            continue  # This expression reads a side table before it is joined, and `count_json` has joined rows.
        for text in expression.json_texts:
            table, column = locate_word(key, text.columns[0], resolved.config) if text.is_column else (None, "")
            name = f"`{text.text}`" if table is None else f"{table}, column {column!r}"
            yield text, name


def warn_of_texts(counts: Sequence[JsonCount], log: RawTable) -> None:
    """Warn of texts that are not JSON.

    Args:
        counts: Result of `count_json`.
        log: Files of the log, which tell the place of the first such text.
    """
    for count in counts:
        if count.position is not None:
            logger.warning(
                "%s: %s of %s texts are not JSON, so their fields are missing; first in %s: %s; %s rows have no text. "
                "Fix: correct these texts, if their fields matter",
                count.name,
                f"{count.not_json:,}",
                f"{count.rows - count.nulls:,}",
                log.locate(count.position),
                shown_value(count.example),
                f"{count.nulls:,}",
            )
