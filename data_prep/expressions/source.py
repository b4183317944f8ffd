"""Error messages about expressions: they quote the wrong piece of the text and propose a correction.

`Source` is the text of an expression and its place in a configuration. The functions `*_fix` return the last part of an
error message, the fix.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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


# Fixes for values that no cast makes valid, so that the raw files have to be changed.
AS_TEXT = "write the column as text or as an integer"
_AS_NUMBER = "write the column as a number; the time of the row is known as time.day, time.hour and time.weekday"
# Type to which a null is cast, by the required kind.
_NULLS = {"condition": "boolean", "number": "double", "float": "double", "integer": "int"}
_TEXTS = ("id", "string", "text", "string or list", "boolean")  # Required kinds for which a cast to text is proposed.


def kind_fix(kind: k.Kind, required: str, piece: str) -> str:
    """Return the fix for a value of the wrong kind.

    Args:
        kind: Kind of the value.
        required: Kind that is required: a kind itself, a key of `functions.ACCEPTED_KINDS`, `condition`, or `id`
            (integer or text).
        piece: Text of the value.
    """
    if kind == "null":
        return f"write cast(null as {_NULLS.get(required, 'string')}), or the expression without it"
    if required == "condition":
        equals = {"integer": "= 1", "float": "> 0", "string": "= 'text'"}.get(kind, "is not null")
        return f"compare it: {piece} {equals}"
    if required == "float":
        return f"leave it out: only floats can be NaN, and {piece} is not a float"
    if kind == "list" and required not in _TEXTS:
        return f"write length({piece}), the number of its items"
    if kind in ("list", "other"):
        return AS_TEXT if required in _TEXTS else _AS_NUMBER
    if kind == "float" and required not in ("integer", "id"):
        return f"write cast(round({piece}) as string)"
    number = "double" if kind == "string" else "int"
    target = {"number": number, "bound": number, "integer": "int", "ordered": "int", "id": "bigint"}.get(
        required, "string"
    )
    return f"write cast({piece} as {target})"


def mixed_fix(nodes: Sequence[exp.Expr], values: Sequence[Any]) -> str:
    """Return the fix for values that must be of one kind but are not: a cast of one of them, preferably of a column."""
    pairs = [(node, k.kind_of(value)) for node, value in zip(nodes, values, strict=True)]
    literal = next((node for node, kind in pairs if isinstance(node, exp.Literal) and kind in k.NUMBERS), None)
    texts = [node for node, kind in pairs if kind == "string"]
    if {kind for _, kind in pairs} & {"list", "other"}:
        return AS_TEXT if texts else _AS_NUMBER
    if literal is not None and texts and not isinstance(texts[0], exp.Literal):
        return f"write '{literal.name}', or cast({node_text(texts[0])} as double)"
    node, kind = next((pair for pair in pairs if pair[1] in ("boolean", *k.NUMBERS)), pairs[0])
    return kind_fix(kind, "string" if texts else "integer", node_text(node))


def cast_fix(kind: k.Kind, target: Target, piece: str) -> str:
    """Return the fix for a cast whose result differs between the engines.

    Args:
        kind: Kind of the value.
        target: Kind to which it is cast.
        piece: Text of the value.
    """
    if kind == "float" and target == "boolean":
        return f"compare it: {piece} <> 0"
    return kind_fix(kind, {"integer": "number", "float": "number"}.get(target, target), piece)


def name_fix(name: str, names: Iterable[str], quoted: bool) -> str:
    """Return the fix for an unknown name: a similar one, else single quotes for a name in double quotes (`quoted`)."""
    known = list(names)
    similar = next((other for other in known if other.lower() == name.lower()), None) or nearest_name(name, known)
    if similar:
        plain = similar.startswith('"') or similar.replace(".", "", 1).replace("_", "").isalnum()
        return f"did you mean `{similar}`?" if plain else f'did you mean `"{similar}"`?'
    return f"name one of them, or write '{name}' if a text is meant" if quoted else "name one of them"
