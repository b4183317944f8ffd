"""What a message proposes in place of a name or a value that does not fit."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from sqlglot import exp

from data_prep.expressions import kinds as k
from data_prep.expressions.numbers import Target
from data_prep.expressions.source import piece_of
from ple_rec.text.suggest import nearest

_NO_CAST = "prepare the column in another type"
_CAST_FIXES: dict[tuple[k.Kind, Target], str] = {
    ("float", "string"): "make it an integer before: cast(round(x) as string)",
    ("float", "boolean"): "compare it: x <> 0",
    ("other", "integer"): "of a decimal: round(cast(x as double)); of times: use time.day, time.hour, time.weekday",
}


def kind_fix(kind: k.Kind, want: str, piece: str) -> str:
    """What to write in place of `piece`, a value of another kind than is wanted."""
    if want == "condition":
        equals = {"integer": "= 1", "float": "> 0", "string": "= 'text'"}.get(kind, "is not null")
        return f"compare it: {piece} {equals}"
    if kind == "null":
        return "leave it out"
    if kind == "list":
        return f"length({piece}) counts its items"
    if kind == "other":
        return f"cast({piece} as double) for decimals and uint64; for times use time.day, time.hour, time.weekday"
    if want == "float":
        return f"leave it out: only floats can be NaN, and {piece} is none"
    if kind == "float" and want != "integer":
        return f"write cast(round({piece}) as string)"
    target = {"number": "double" if kind == "string" else "int", "integer": "int", "ordered": "int"}.get(want, "string")
    return f"write cast({piece} as {target})"


def mixed_fix(nodes: Sequence[exp.Expr], values: Sequence[Any]) -> str:
    """Cast the one that is no number, by preference a column."""
    pairs = [(node, k.kind_of(value)) for node, value in zip(nodes, values, strict=True)]
    literal = next((node for node, kind in pairs if isinstance(node, exp.Literal) and kind in k.NUMBERS), None)
    texts = [node for node, kind in pairs if kind == "string"]
    if literal is not None and texts and not isinstance(texts[0], exp.Literal):
        return f"write '{literal.name}', or cast({piece_of(texts[0])} as double)"
    if {kind for _, kind in pairs} & {"list", "other"}:
        return _NO_CAST
    node, kind = next((pair for pair in pairs if pair[1] in ("boolean", *k.NUMBERS)), pairs[0])
    return kind_fix(kind, "integer" if kind == "boolean" else "string", piece_of(node))


def cast_fix(kind: k.Kind, target: Target) -> str:
    """What to do where engines disagree on a cast."""
    return _CAST_FIXES.get((kind, target), _NO_CAST)


def name_fix(name: str, names: Iterable[str], quoted: bool) -> str:
    """The name that was meant; or, where double quotes were, that texts have single ones."""
    known = list(names)
    near = next((other for other in known if other.lower() == name.lower()), None) or nearest(name, known)
    if near:
        plain = near.startswith('"') or near.replace(".", "", 1).replace("_", "").isalnum()
        return f"did you mean `{near}`?" if plain else f'did you mean `"{near}"`?'
    return f"write the name of one, or '{name}' if a text is meant" if quoted else "write the name of one"
