"""Expressions: short SQL-like texts for labels, filters and features, with the same values, bit by bit, on all engines.

    valid_view = parse("play_time_ms > 3000 and not users.is_bot", "feed.toml: tasks[0].label")
    valid_view.columns                                    # ("play_time_ms", "users.is_bot")
    table.mutate(label=valid_view.build({"play_time_ms": table.play_time_ms, "users.is_bot": table.is_bot}))

sqlglot parses the text in DuckDB's dialect, and only the nodes and functions of a whitelist are allowed. `build`
returns an Ibis value of int64, float64, string, boolean, date, timestamp or list. An expression that is only a column
of another type keeps that type, but a decimal with a fraction becomes float64.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlglot import exp

from data_prep.expressions.build import build, column_to_word, column_word, word_to_column
from data_prep.expressions.functions import FUNCTIONS, OPERATORS, describe, function_checker
from data_prep.expressions.json_text import check_paths, fields
from data_prep.expressions.source import Source, node_text
from data_prep.expressions.syntax import parse_tree

__all__ = [
    "FUNCTIONS",
    "OPERATORS",
    "Expression",
    "column_to_word",
    "describe",
    "is_overflow",
    "parse",
    "word_to_column",
]


@dataclass(frozen=True)
class Expression:
    """A parsed expression.

    Args:
        text: Text of the expression.
        place: File and key of the text, for messages: `feed.toml: tasks[0].label`.
        columns: Columns that it reads, each once, in order of appearance, as the expression names them: `play_time_ms`,
            `users.age` for a column of the joined table `users`, `"users.age"` for a column whose own name has the dot.
            Such a name is called a word; `column_to_word` and `word_to_column` convert between a word and the name of a
            column in the log.
    """

    text: str
    place: str
    columns: tuple[str, ...]
    _tree: exp.Expr = field(repr=False, compare=False)

    @property
    def is_column(self) -> bool:
        """True if the expression is a column and nothing else."""
        return isinstance(self._tree, exp.Column)

    def words_outside(self, *functions: str) -> tuple[str, ...]:
        """Return the words of `columns` whose values are read outside of calls of some functions.

        `x is null` does not read the value of x.
        """
        read = [column for column in self._tree.find_all(exp.Column) if not isinstance(column.parent, exp.Is)]
        words = {column_word(column) for column in read if not _calls_around(column) & set(functions)}
        return tuple(word for word in self.columns if word in words)

    @property
    def json_texts(self) -> tuple[Expression, ...]:
        """Expressions whose values are JSON texts of which this expression reads fields, each once."""
        texts = {node_text(tree): tree for tree, _ in fields(self._tree)}
        return tuple(Expression(text, self.place, _words(tree), tree) for text, tree in texts.items())

    @property
    def json_fields(self) -> tuple[tuple[str, str], ...]:
        """Word and path of each JSON field that the expression reads from a column."""
        return tuple((column_word(tree), path) for tree, path in fields(self._tree) if isinstance(tree, exp.Column))

    def build(self, names: Mapping[str, Any], offset_seconds: int = 0) -> Any:
        """Return the Ibis value of the expression.

        If an integer exceeds int64, the engine raises an error when the query runs; `is_overflow` recognises it.

        Args:
            names: Ibis values by word; every word of `columns` is needed.
            offset_seconds: Local time minus UTC, in seconds, for functions of dates and times.

        Raises:
            UserError: A name is unknown, a value is of the wrong kind, or the expression in SQL is too large.
        """
        return build(Source(self.text, self.place), self._tree, names, offset_seconds)


def _calls_around(node: exp.Expr) -> set[str]:
    """Return the names of the functions whose arguments contain a node."""
    names, ancestor = set(), node.parent
    while ancestor is not None:
        if isinstance(ancestor, exp.Anonymous):
            names.add(ancestor.name)
        ancestor = ancestor.parent
    return names


def parse(text: str, place: str, tables: Collection[str] | None = None) -> Expression:
    """Parse an expression.

    Args:
        text: Text of one expression. `describe` lists operators and functions.
        place: File and key of the text, for messages: `feed.toml: tasks[0].label`.
        tables: Names of the joined tables. If `a` is not among them, `a.b` means the column whose own name is `"a.b"`.
            None if any name may be a table.

    Raises:
        UserError: The text is not a valid expression, or uses a part of SQL that is not allowed.
    """
    source = Source(text, place)
    tree = parse_tree(source, function_checker(source))
    check_paths(source, tree)
    for column in tree.find_all(exp.Column):
        if tables is not None and column.table and column.table not in tables:
            column.this.args.update(this=f"{column.table}.{column.name}", quoted=True)
            column.set("table", None)
    return Expression(text, place, _words(tree), tree)


def _words(tree: exp.Expr) -> tuple[str, ...]:
    """Return the words of the columns of a syntax tree, each once, in the order of the text."""
    columns = sorted(tree.find_all(exp.Column), key=lambda column: int(column.this.meta["start"]))
    return tuple(dict.fromkeys(map(column_word, columns)))


def is_overflow(error: BaseException) -> bool:
    """Return True if an error of DuckDB or Spark says that an integer exceeds int64."""
    return any(text in str(error) for text in ("Out of Range Error: Overflow", "[ARITHMETIC_OVERFLOW]"))
