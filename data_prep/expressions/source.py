"""Error messages about expressions: they quote the wrong piece of the text and propose a correction.

`Source` is the text of an expression and its place in a configuration. The functions `*_fix` return the last part of an
error message, the fix.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlglot import exp

from data_prep.expressions import kinds as k
from data_prep.expressions.kinds import Target
from ple_rec.errors import UserError
from ple_rec.text.suggest import nearest_name

MAX_PIECE_LENGTH = 60  # Characters of an expression that a message shows.


def in_backquotes(piece: str) -> str:
    """Return a piece of an expression in backquotes on one line, shortened if it is long."""
    piece = " ".join(piece.split())
    return f"`{piece}`" if len(piece) <= MAX_PIECE_LENGTH else f"`{piece[: MAX_PIECE_LENGTH - 3]}...`"


def node_text(node: exp.Expr) -> str:
    """Return the text of a node of the syntax tree."""
    return node.sql(dialect="duckdb", comments=False, normalize_functions=False)


@dataclass(frozen=True)
class Source:
    """Text of an expression, and its place: file and key, such as `feed.toml: tasks[0].label`."""

    text: str
    place: str

    def error(self, value: str, rule: str, fix: str) -> UserError:
        """Return the error about a value in this expression."""
        return UserError(self.place, value, rule, fix)

    def quote_piece(self, start: int, end: int) -> str:
        """Return the whole text and, in it, the piece from `start` up to and including `end`, for messages."""
        piece = self.text[start : end + 1]
        if piece == self.text.strip():
            return in_backquotes(piece)
        excerpt = self.text
        if len(excerpt) > MAX_PIECE_LENGTH:
            left, right = max(0, start - MAX_PIECE_LENGTH // 2), end + MAX_PIECE_LENGTH // 2
            excerpt = f"{'...' * (left > 0)}{excerpt[left:right]}{'...' * (right < len(excerpt))}"
        return f"`{' '.join(excerpt.split())}` at {in_backquotes(piece)} (character {start + 1})"


# Fixes for values of a type that expressions do not read, so that the raw files have to be changed.
AS_TEXT = "write the column as text or as an integer"
_AS_NUMBER = "write the column as a number"
# Type to which a null is cast, by the required kind.
_NULLS = {"condition": "boolean", "number": "double", "float": "double", "integer": "int"}
# Required kinds for which a text is proposed.
_TEXTS = ("id", "string", "text", "string or list", "scalar", "boolean")
# Type to which a number, a boolean or a text is cast, by the required kind; string for all others.
_CASTS = {"number": "int", "bound": "int", "integer": "int", "ordered": "int", "decimal": "int", "id": "bigint"}


def kind_fix(kind: k.Kind, required: str, piece: str) -> str:
    """Return the fix for a value of the wrong kind.

    Args:
        kind: Kind of the value.
        required: Kind that is required: a kind itself, a key of `functions.ACCEPTED_KINDS`, `condition`, or `id`
            (integer or text).
        piece: Text of the value.
    """
    if kind == "null":
        text = f"cast(null as {_NULLS.get(required, 'string')})"
        return f"write {_split_text(text) if required == 'list' else text}, or the expression without it"
    if required == "condition":
        equals = {"integer": "= 1", "float": "> 0", "string": "= 'text'"}.get(kind, "is not null")
        return f"compare it: {piece} {equals}"
    if required == "float":
        return f"leave it out: only floats can be NaN, and {piece} is not a float"
    if kind == "list":
        if required not in (*_TEXTS, "time"):
            return f"write length({piece}), the number of its items"
        return f"write element({piece}, 1), its first item"
    if kind == "other":
        return AS_TEXT if required in _TEXTS else _AS_NUMBER
    if required == "list":
        return f"write {_split_text(piece)}" if kind == "string" else "use a column of lists"
    if kind in k.TIMES:
        return _time_fix(kind, required, piece)
    if required == "time":
        return _as_time_fix(kind, piece)
    if kind == "float" and required == "decimal":
        return f"write round({piece} * 100) in place of units, to count in units of 0.01"
    if kind == "float" and required not in ("integer", "id"):
        return f"write cast(round({piece}) as string)"
    target = "double" if kind == "string" and required in ("number", "bound") else _CASTS.get(required, "string")
    return f"write cast({piece} as {target})"


def _split_text(piece: str) -> str:
    return f"split({piece}, ',')"


def _time_fix(kind: k.Kind, required: str, piece: str) -> str:
    """Return the fix for a date or a time where another kind is required: its date as text, or the days since 1970."""
    if required in _TEXTS:
        return f"write cast({piece if kind == 'date' else f'date({piece})'} as string)"
    days = f"days({piece}, '1970-01-01')"
    if required in ("integer", "decimal"):
        return f"write cast({days} as int), the whole days since then"
    return f"write {days}, or for an age days(time, {piece})"


def _as_time_fix(kind: k.Kind, piece: str) -> str:
    """Return the fix for a value that has to be a time."""
    if piece.startswith("time."):  # A part of the time of the row, such as `time.day`.
        return "write `time`, the time of the row"
    if kind not in k.NUMBERS:
        return "use a column of dates, of timestamps or of texts like 2024-05-01"
    number = piece if kind == "integer" else f"cast({piece} as int)"
    return f"write timestamp({number}, 'ms'), with the unit of the number: 's', 'ms', 'us' or 'ns'"


def mixed_fix(nodes: Sequence[exp.Expr], values: Sequence[Any]) -> str:
    """Return the fix for values that must be of one kind but are not: another form of one of them."""
    by_kind: dict[k.Kind, exp.Expr] = {}
    for node, value in zip(nodes, values, strict=True):
        by_kind.setdefault(k.kind_of(value), node)
    texts, kinds = by_kind.get("string"), set(by_kind) - {"null"}
    if "other" in kinds:
        return AS_TEXT if texts is not None else _AS_NUMBER
    if kinds == {"list"}:
        return "write the items of both lists as text, or both as integers, into the log"
    if "list" in kinds:
        return kind_fix("list", "string" if texts is not None else "number", node_text(by_kind["list"]))
    if kinds & set(k.TIMES):
        return _mixed_times_fix(by_kind)
    literal = next(
        (node for kind, node in by_kind.items() if kind in k.NUMBERS and isinstance(node, exp.Literal)), None
    )
    if literal is not None and texts is not None and not isinstance(texts, exp.Literal):
        return f"write '{literal.name}', or cast({node_text(texts)} as double)"
    kind = next(kind for kind in ("boolean", *k.NUMBERS) if kind in by_kind)
    return kind_fix(kind, "string" if texts is not None else "integer", node_text(by_kind[kind]))


def _mixed_times_fix(by_kind: Mapping[k.Kind, exp.Expr]) -> str:
    """Return the fix for a date or a time beside another kind, from the first value of each kind."""
    if "time" in by_kind and by_kind.keys() & {"date", "string"}:
        return f"write date({node_text(by_kind['time'])})"
    if "string" in by_kind:
        return f"write date({node_text(by_kind['string'])})"
    if "time" in by_kind and "integer" in by_kind:
        return kind_fix("integer", "time", node_text(by_kind["integer"]))
    kind = next(kind for kind in by_kind if kind in k.TIMES)
    return kind_fix(kind, "number", node_text(by_kind[kind]))


def comparison_fix(kind: k.Kind, parent: exp.Expr, node: exp.Expr, required: str) -> str:
    """Return the fix for a list, or for a type that expressions do not read, in a comparison.

    Args:
        kind: Kind of the value.
        parent: Comparison that reads the value.
        node: Node of the value.
        required: Kind that would be accepted.
    """
    if kind == "list" and isinstance(parent, exp.EQ):
        other = parent.expression if node_text(parent.this) == node_text(node) else parent.this
        return f"write contains({node_text(node)}, {node_text(other)})"
    return kind_fix(kind, required, node_text(node))


def item_fix(item: Any, value: Any, piece: str) -> str:
    """Return the fix for a value that is compared with the items of a list but has another kind.

    Args:
        item: Item of the list.
        value: Value that is compared with it.
        piece: Text of that value.
    """
    kind = k.kind_of(item)
    return kind_fix(k.kind_of(value), "number" if kind == "float" else kind, piece)


def cast_fix(kind: k.Kind, target: Target, piece: str) -> str:
    """Return the fix for a cast whose result differs between the engines.

    Args:
        kind: Kind of the value.
        target: Kind to which it is cast.
        piece: Text of the value.
    """
    if target == "boolean":
        return f"compare it: {piece} {'<> 0' if kind == 'float' else 'is not null'}"
    return kind_fix(kind, {"integer": "number", "float": "number"}.get(target, target), piece)


def name_fix(name: str, names: Iterable[str], quoted: bool) -> str:
    """Return the fix for an unknown name: a similar one, else single quotes for a name in double quotes (`quoted`)."""
    known = list(names)
    similar = next((other for other in known if other.lower() == name.lower()), None) or nearest_name(name, known)
    if similar:
        plain = similar.startswith('"') or similar.replace(".", "", 1).replace("_", "").isalnum()
        return f"did you mean `{similar}`?" if plain else f'did you mean `"{similar}"`?'
    return f"name one of them, or write '{name}' if a text is meant" if quoted else "name one of them"
