"""What a message proposes in place of a name or a value that does not fit."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from sqlglot import exp

from data_prep.expressions import kinds as k
from data_prep.expressions.numbers import Target
from data_prep.expressions.source import piece_of
from ple_rec.text.suggest import nearest

AS_TEXT = "write the column as text or as an integer"  # a fix outside of the configuration
_AS_NUMBER = "write the column as a number; of the row's time there are time.day, time.hour and time.weekday"
_NULLS = {"condition": "boolean", "number": "double", "float": "double", "integer": "int"}  # types of nulls
_TEXTS = ("id", "string", "text", "string or list", "boolean")  # kinds of values that text serves best


def kind_fix(kind: k.Kind, want: str, piece: str) -> str:
    """Return what to write in place of a value that is of another kind than its place takes.

    Args:
        kind: Kind of the value.
        want: Kind that its place takes: one of `functions.WANTS`, `condition`, `id` (an integer or text).
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
    """Return how to make values of several kinds one kind: cast the one that is no number, by preference a column."""
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
    """Return what to do about a cast of a value on which engines disagree."""
    if kind == "float" and target == "boolean":
        return f"compare it: {piece} <> 0"
    return kind_fix(kind, {"integer": "number", "float": "number"}.get(target, target), piece)


def name_fix(name: str, names: Iterable[str], quoted: bool) -> str:
    """The name that was meant; or, where double quotes were, that texts have single ones."""
    known = list(names)
    near = next((other for other in known if other.lower() == name.lower()), None) or nearest(name, known)
    if near:
        plain = near.startswith('"') or near.replace(".", "", 1).replace("_", "").isalnum()
        return f"did you mean `{near}`?" if plain else f'did you mean `"{near}"`?'
    return f"write the name of one, or '{name}' if a text is meant" if quoted else "write the name of one"
