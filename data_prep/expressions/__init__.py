"""Labels, filters and features as short SQL-like text, with the same bits on every engine.

    valid_view = parse("play_time_ms > 3000 and not users.is_bot", "feed.toml: tasks[0].label")
    valid_view.columns                                    # ("play_time_ms", "users.is_bot")
    table.mutate(label=valid_view.build({"play_time_ms": table.play_time_ms, "users.is_bot": table.is_bot}))

sqlglot reads the text (as DuckDB's dialect), a whitelist of nodes and functions decides what it may hold, and what is
built is an Ibis value of int64, float64, string, boolean or list; a bare column of another type passes through.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlglot import exp

from data_prep.expressions.build import build, column_name
from data_prep.expressions.functions import FUNCTIONS, OPERATORS, checker, describe
from data_prep.expressions.source import Source
from data_prep.expressions.syntax import tree_of

__all__ = ["FUNCTIONS", "OPERATORS", "Expression", "describe", "overflowed", "parse"]


@dataclass(frozen=True)
class Expression:
    """A parsed expression.

    Args:
        text: As written.
        place: Where it is written, for messages: a file and a key.
        columns: Names that it reads, each once, in order of appearance: `play_time_ms`, `users.age`.
    """

    text: str
    place: str
    columns: tuple[str, ...]
    _tree: exp.Expr = field(repr=False, compare=False)

    def build(self, names: Mapping[str, Any]) -> Any:
        """The Ibis value of the expression.

        Integers overflow beyond int64: then the engine raises when the query runs (`overflowed` tells).

        Args:
            names: Ibis values by name; those of joined tables as `table.column`.

        Raises:
            UserError: A name that is not there, or a value of a kind that does not fit.
        """
        return build(Source(self.text, self.place), self._tree, names)


def parse(text: str, place: str) -> Expression:
    """Read an expression.

    Args:
        text: Of one expression; `describe` lists what it may hold.
        place: Where it is written, for messages: `feed.toml: tasks[0].label`.

    Raises:
        UserError: The text cannot be read, or holds what expressions do not have.
    """
    source = Source(text, place)
    tree = tree_of(source, checker(source))
    found = sorted(tree.find_all(exp.Column), key=lambda column: int(column.this.meta["start"]))
    return Expression(text, place, tuple(dict.fromkeys(map(column_name, found))), tree)


def overflowed(error: BaseException) -> bool:
    """Whether an engine stopped at an integer beyond int64 (by OutOfRangeException, or Spark's ArithmeticException)."""
    return any(sign in str(error) for sign in ("Out of Range Error: Overflow", "[ARITHMETIC_OVERFLOW]"))
