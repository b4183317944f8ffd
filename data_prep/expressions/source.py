"""Text and place of an expression, and its errors, which name the wrong piece and propose another."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlglot import exp

from data_prep.expressions import kinds as k
from data_prep.expressions.kinds import Target
from ple_rec.errors import UserError
from ple_rec.text.suggest import nearest

LONGEST_PIECE = 60  # Characters of an expression that a message shows.


def in_backquotes(piece: str) -> str:
    """Return a piece of an expression in one line, shortened if it is long."""
    piece = " ".join(piece.split())
    return f"`{piece}`" if len(piece) <= LONGEST_PIECE else f"`{piece[: LONGEST_PIECE - 3]}...`"


def piece_of(node: exp.Expr) -> str:
    """Return the text of a part of the syntax tree."""
    return node.sql(dialect="duckdb", comments=False, normalize_functions=False)


@dataclass(frozen=True)
class Source:
    """The text of an expression and its place in a configuration."""

    text: str
    place: str

    def error(self, value: str, rule: str, fix: str) -> UserError:
        """Return the error about a value in this expression."""
        return UserError(self.place, value, rule, fix)

    def at(self, start: int, end: int) -> str:
        """Return the whole text and the piece from `start` to `end`, both included, for messages."""
        piece = self.text[start : end + 1]
        if piece == self.text.strip():
            return in_backquotes(piece)
        whole = self.text
        if len(whole) > LONGEST_PIECE:
            left, right = max(0, start - LONGEST_PIECE // 2), end + LONGEST_PIECE // 2
            whole = f"{'...' * (left > 0)}{whole[left:right]}{'...' * (right < len(whole))}"
        return f"`{' '.join(whole.split())}` at {in_backquotes(piece)} (character {start + 1})"


AS_TEXT = "write the column as text or as an integer"  # A fix outside of the configuration.
_AS_NUMBER = "write the column as a number; of the row's time there are time.day, time.hour and time.weekday"
_NULLS = {"condition": "boolean", "number": "double", "float": "double", "integer": "int"}  # Types of nulls.
_TEXTS = ("id", "string", "text", "string or list", "boolean")  # Kinds for which the fix is text.


def kind_fix(kind: k.Kind, want: str, piece: str) -> str:
    """Return the fix for a value of the wrong kind.

    Args:
        kind: Kind of the value.
        want: Kind that is needed: a key of `functions.WANTS`, `condition`, or `id` (an integer or a text).
        piece: Text of the value.
    """
    if kind == "null":
        return f"write cast(null as {_NULLS.get(want, 'string')}), or the expression without it"
    if want == "condition":
        equals = {"integer": "= 1", "float": "> 0", "string": "= 'text'"}.get(kind, "is not null")
        return f"compare it: {piece} {equals}"
    if want == "float":
        return f"leave it out: only floats can be NaN, and {piece} is none"
    if kind == "list" and want not in _TEXTS:
        return f"write length({piece}), the number of its items"
    if kind in ("list", "other"):
        return AS_TEXT if want in _TEXTS else _AS_NUMBER
    if kind == "float" and want not in ("integer", "id"):
        return f"write cast(round({piece}) as string)"
    number = "double" if kind == "string" else "int"
    target = {"number": number, "bound": number, "integer": "int", "ordered": "int", "id": "bigint"}.get(want, "string")
    return f"write cast({piece} as {target})"


def mixed_fix(nodes: Sequence[exp.Expr], values: Sequence[Any]) -> str:
    """Return the fix for values of several kinds that must be of one: a cast of one of them, preferably a column."""
    pairs = [(node, k.kind_of(value)) for node, value in zip(nodes, values, strict=True)]
    literal = next((node for node, kind in pairs if isinstance(node, exp.Literal) and kind in k.NUMBERS), None)
    texts = [node for node, kind in pairs if kind == "string"]
    if {kind for _, kind in pairs} & {"list", "other"}:
        return AS_TEXT if texts else _AS_NUMBER
    if literal is not None and texts and not isinstance(texts[0], exp.Literal):
        return f"write '{literal.name}', or cast({piece_of(texts[0])} as double)"
    node, kind = next((pair for pair in pairs if pair[1] in ("boolean", *k.NUMBERS)), pairs[0])
    return kind_fix(kind, "string" if texts else "integer", piece_of(node))


def cast_fix(kind: k.Kind, target: Target, piece: str) -> str:
    """Return the fix for a cast on which the engines disagree."""
    if kind == "float" and target == "boolean":
        return f"compare it: {piece} <> 0"
    return kind_fix(kind, {"integer": "number", "float": "number"}.get(target, target), piece)


def name_fix(name: str, names: Iterable[str], quoted: bool) -> str:
    """Return the fix for an unknown name: a similar one, or single quotes for a name in double quotes."""
    known = list(names)
    near = next((other for other in known if other.lower() == name.lower()), None) or nearest(name, known)
    if near:
        plain = near.startswith('"') or near.replace(".", "", 1).replace("_", "").isalnum()
        return f"did you mean `{near}`?" if plain else f'did you mean `"{near}"`?'
    return f"write the name of one, or '{name}' if a text is meant" if quoted else "write the name of one"
