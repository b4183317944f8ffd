"""Labels, filters and features as short SQL-like text, with the same bits on every engine.

    valid_view = parse("play_time_ms > 3000 and not users.is_bot", "feed.toml: tasks[0].label")
    valid_view.columns                                    # ("play_time_ms", "users.is_bot")
    table.mutate(label=valid_view.build({"play_time_ms": table.play_time_ms, "users.is_bot": table.is_bot}))

sqlglot reads the text in DuckDB's dialect, and a whitelist of nodes and functions decides what it may contain. The
result is an Ibis value of int64, float64, string, boolean or list. A bare column of another type keeps its type.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlglot import exp

from data_prep.expressions.build import build, column_name, name_of, word_of
from data_prep.expressions.functions import FUNCTIONS, OPERATORS, checker, describe
from data_prep.expressions.source import Source
from data_prep.expressions.syntax import tree_of

__all__ = ["FUNCTIONS", "OPERATORS", "Expression", "describe", "name_of", "overflowed", "parse", "word_of"]


@dataclass(frozen=True)
class Expression:
    """A parsed expression.

    Args:
        text: Text of the expression.
        place: File and key of the text, for messages: `feed.toml: tasks[0].label`.
        columns: Words of the columns that it reads, each once, in order of appearance: `play_time_ms`, `users.age` of a
            joined table, `"users.age"` of a column whose own name has the dot.
    """

    text: str
    place: str
    columns: tuple[str, ...]
    _tree: exp.Expr = field(repr=False, compare=False)

    @property
    def is_column(self) -> bool:
        """True if the expression is a column and nothing else."""
        return isinstance(self._tree, exp.Column)

    def build(self, names: Mapping[str, Any]) -> Any:
        """Return the Ibis value of the expression.

        If an integer exceeds int64, the engine raises an error when the query runs; `overflowed` recognises it.

        Args:
            names: Ibis values by the words of `columns`.

        Raises:
            UserError: A name is unknown, or a value is of the wrong kind.
        """
        return build(Source(self.text, self.place), self._tree, names)


def parse(text: str, place: str, tables: Collection[str] | None = None) -> Expression:
    """Read an expression.

    Args:
        text: Text of one expression. `describe` lists operators and functions.
        place: File and key of the text, for messages: `feed.toml: tasks[0].label`.
        tables: Names of the joined tables. If `a` is none of them, `a.b` is the column with the name `"a.b"`. None if
            any name may be a table.

    Raises:
        UserError: The text cannot be read, or uses something that expressions do not have.
    """
    source = Source(text, place)
    tree = tree_of(source, checker(source))
    columns = sorted(tree.find_all(exp.Column), key=lambda column: int(column.this.meta["start"]))
    for column in columns:
        if tables is not None and column.table and column.table not in tables:
            column.this.args.update(this=f"{column.table}.{column.name}", quoted=True)
            column.set("table", None)
    return Expression(text, place, tuple(dict.fromkeys(map(column_name, columns))), tree)


def overflowed(error: BaseException) -> bool:
    """Return True for the error of DuckDB or Spark that an integer exceeds int64."""
    return any(text in str(error) for text in ("Out of Range Error: Overflow", "[ARITHMETIC_OVERFLOW]"))
