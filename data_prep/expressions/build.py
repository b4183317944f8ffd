"""Conversion of a syntax tree to an Ibis value. The kind of every part is checked."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import ibis
from ibis.expr import operations as ops
from sqlglot import exp

from data_prep.expressions import kinds as k
from data_prep.expressions.functions import FUNCTIONS, WANTS, Want
from data_prep.expressions.source import Source, cast_fix, in_backquotes, kind_fix, mixed_fix, name_fix, piece_of
from data_prep.expressions.syntax import TYPES

MAX_SIZE = 50_000  # Nodes of the expression in SQL, where a shared part is written out wherever it is used.
NAMES_SHOWN = 12
_INTEGER, _FLOAT = re.compile(r"\d+"), re.compile(r"(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_ARITHMETIC: dict[type[exp.Expr], Callable[[Any, Any], Any]] = {
    exp.Add: lambda a, b: a + b,
    exp.Sub: lambda a, b: a - b,
    exp.Mul: lambda a, b: a * b,
    exp.Div: k.divide,
    exp.IntDiv: k.cut_quotient,
    exp.Mod: k.remainder,
}
_COMPARISONS: dict[type[exp.Expr], Callable[[Any, Any], Any]] = {
    exp.EQ: lambda a, b: a == b,
    exp.NEQ: lambda a, b: a != b,
    exp.LT: lambda a, b: a < b,
    exp.LTE: lambda a, b: a <= b,
    exp.GT: lambda a, b: a > b,
    exp.GTE: lambda a, b: a >= b,
}
_WANT_TEXT = {
    "text": "string, integer or boolean",
    "bound": "number",
    "ordered": "number or string",
    "scalar": "number, string or boolean",
}
_COUNTS = {  # Kinds of constants from 1: their text in messages, and the fix.
    "position": ("a number from 1", "the first character is 1"),
    "count": ("a number of characters from 1", "write how many to take, or leave it out to take all that follow"),
}
_SINGLE_KIND = "its values must be of one kind (integers beside floats become floats)"


def column_name(column: exp.Column) -> str:
    """Return the word of a column: `play_time_ms`, or `users.age` of a joined table."""
    return f"{column.table}.{column.name}" if column.table else word_of(column.name)


def word_of(name: str) -> str:
    """Return the word for a column of the log in expressions: its name, in double quotes if the name has a dot.

    Without the quotes, the word would name a column of a joined table, or a time such as `time.hour`.
    """
    return '"' + name.replace('"', '""') + '"' if "." in name else name


def name_of(word: str) -> str:
    """Return the name of the column whose word `word_of` has returned; any other word is returned unchanged."""
    name = word[1:-1].replace('""', '"')
    return name if word_of(name) == word else word


def build(source: Source, tree: exp.Expr, names: Mapping[str, Any]) -> Any:
    """Return the Ibis value of an expression.

    Args:
        source: Text of the expression and its place.
        tree: Syntax tree of the expression.
        names: Ibis value of each column, by word.

    Raises:
        UserError: A name is unknown, a value is of the wrong kind, or the expression in SQL is too large.
    """
    builder = _Builder(source, names)
    value = builder.value(tree)
    if k.kind_of(value) == "null":
        raise builder.error(tree, "is null in every row", "an expression has a type", "write cast(null as double)")
    if _size(value.op()) > MAX_SIZE:
        rule = (
            f"written out for an engine it must have at most {MAX_SIZE:,} parts, and nested clip, //, % repeat theirs"
        )
        raise builder.error(tree, "is too large", rule, "prepare an inner part as a column")
    return value


class _Builder:
    def __init__(self, source: Source, names: Mapping[str, Any]) -> None:
        self.source, self.names = source, names

    def error(self, node: exp.Expr, value: str, rule: str, fix: str) -> Exception:
        return self.source.error(f"{in_backquotes(piece_of(node))} {value}", rule, fix)

    def value(self, node: exp.Expr) -> Any:
        """Return the value of any node."""
        if isinstance(node, exp.Paren):
            return self.value(node.this)
        if isinstance(node, exp.Column):
            return self.column(node)
        if isinstance(node, exp.Literal):
            return self.literal(node)
        if isinstance(node, exp.Null):
            return ibis.null()
        if isinstance(node, exp.Boolean):
            return ibis.literal(bool(node.this))
        if isinstance(node, exp.Neg):
            return self.negative(node)
        if type(node) in _ARITHMETIC:
            return self.arithmetic(cast(exp.Binary, node))
        if type(node) in _COMPARISONS:
            return _COMPARISONS[type(node)](*self.comparable(node, [node.this, node.expression]))
        if isinstance(node, (exp.And, exp.Or, exp.Not)):
            return self.logical(node)
        if isinstance(node, exp.Is):
            return k.is_null(self.value(node.this))
        if isinstance(node, exp.In):
            tested, *among = self.comparable(node, [node.this, *node.expressions])
            return tested.isin(among)
        if isinstance(node, exp.Between):
            tested, low, high = self.comparable(node, [node.this, node.args["low"], node.args["high"]])
            return tested.between(low, high)
        if isinstance(node, exp.Case):
            return self.case(node)
        if isinstance(node, (exp.Cast, exp.TryCast)):
            return self.cast(node)
        if isinstance(node, exp.DPipe):
            return FUNCTIONS["concat"].build(*(self.value_of_kind(part, "text", node) for part in node.flatten()))
        return self.call(cast(exp.Anonymous, node))

    def column(self, node: exp.Column) -> Any:
        name = column_name(node)
        if name in self.names:
            return k.widen(self.names[name])
        known = ", ".join(list(self.names)[:NAMES_SHOWN]) or "none"
        more = len(self.names) - NAMES_SHOWN
        rule = f"there are {known}{f' and {more} more' if more > 0 else ''}"
        quoted = bool(node.this.args.get("quoted")) and not node.table
        raise self.source.error(f"no column {in_backquotes(name)}", rule, name_fix(name, self.names, quoted))

    def literal(self, node: exp.Literal, sign: str = "") -> Any:
        text = sign + node.name
        if node.is_string:
            if "\0" in node.name:
                raise self.error(node, "holds a zero byte", "engines end a text there", "leave it out")
            return k.string(node.name)
        if _INTEGER.fullmatch(node.name):
            if not k.INT64_MIN <= int(text) <= k.INT64_MAX:
                rule = "integers are int64, from -2^63 to 2^63 - 1"
                raise self.source.error(f"`{text}` is too large", rule, "write it as a float: 1e19")
            return k.integer(int(text))
        if not _FLOAT.fullmatch(node.name):
            raise self.error(node, "is no number", "numbers are written 12, 0.5 or 1e-3", "write it so")
        if math.isinf(float(text)):
            raise self.source.error(
                f"`{text}` is too large", "floats are float64, up to 1.8e308", "write a smaller one"
            )
        return k.floating(float(text))

    def negative(self, node: exp.Neg) -> Any:
        if isinstance(node.this, exp.Literal) and not node.this.is_string:
            return self.literal(
                node.this, "-"
            )  # -2^63 has no positive counterpart, so the sign belongs to the literal.
        return -self.value_of_kind(node.this, "number", node)

    def arithmetic(self, node: exp.Binary) -> Any:
        whole = isinstance(node, (exp.IntDiv, exp.Mod))
        operands = [
            self.value_of_kind(part, "integer" if whole else "number", node) for part in (node.left, node.right)
        ]
        return _ARITHMETIC[type(node)](*cast(list[Any], k.unify(operands)))

    def logical(self, node: exp.And | exp.Or | exp.Not) -> Any:
        if isinstance(node, exp.Not):
            return ~self.condition(node.this, node)
        left, right = (self.condition(part, node) for part in (node.this, node.expression))
        return left & right if isinstance(node, exp.And) else left | right

    def condition(self, node: exp.Expr, whole: exp.Expr) -> Any:
        return self.value_of_kind(node, "condition", whole)

    def comparable(self, whole: exp.Expr, nodes: Sequence[exp.Expr]) -> list[Any]:
        """Return values of one type that can be compared. Booleans beside integers become 0 and 1."""
        values = [self.value(node) for node in nodes]
        kinds = {k.kind_of(value) for value in values}
        if "null" in kinds:
            rule = "a comparison with null is never true"
            raise self.error(whole, "compares with null", rule, "write `x is null` or `x is not null`")
        for node, value, kind in zip(nodes, values, map(k.kind_of, values), strict=True):
            if kind in ("list", "other"):
                fix = kind_fix(kind, "text" if "string" in kinds else "number", piece_of(node))
                raise self.error(node, f"is {k.kind_text(value)}", "numbers, strings and booleans can be compared", fix)
        values = [
            k.comparable(value)
            if k.kind_of(value) == "float" and not isinstance(node, exp.Literal)
            else k.enclose(value)
            for node, value in zip(nodes, values, strict=True)
        ]
        if kinds == {"boolean", "integer"}:
            values = [k.cast(value, "integer") for value in values]
        elif kinds == {"boolean"} and not isinstance(whole, (exp.EQ, exp.NEQ, exp.In)):
            raise self.error(whole, "orders booleans", "they are equal or not", "use `=`, or `not`")
        return self.one_type(whole, nodes, values, "compares", "both sides must be of one kind")

    def one_type(
        self, whole: exp.Expr, nodes: Sequence[exp.Expr], values: Sequence[Any], verb: str, rule: str
    ) -> list[Any]:
        unified = k.unify(values)
        if unified is None:
            shown_kinds = dict.fromkeys(k.kind_text(value) for value in values if k.kind_of(value) != "null")
            raise self.error(whole, f"{verb} {' with '.join(shown_kinds)}", rule, mixed_fix(nodes, values))
        return unified

    def case(self, node: exp.Case) -> Any:
        ifs, otherwise = node.args["ifs"], node.args.get("default")
        if node.this is None:
            conditions = [self.condition(branch.this, node) for branch in ifs]
        else:
            conditions = [
                _COMPARISONS[exp.EQ](
                    *self.comparable(exp.EQ(this=node.this.copy(), expression=part.copy()), [node.this, part])
                )
                for part in (branch.this for branch in ifs)
            ]
        results = [branch.args["true"] for branch in ifs] + [otherwise or exp.Null()]
        values = self.one_type(node, results, [self.value(part) for part in results], "mixes", _SINGLE_KIND)
        if k.kind_of(values[0]) == "null":
            return values[0]
        return ibis.cases(*zip(conditions, values[:-1], strict=True), else_=values[-1])

    def cast(self, node: exp.Cast) -> Any:
        target, value = TYPES[node.to.this], self.value(node.this)
        result = k.cast(value, target)
        if result is None:
            rule = f"there is no cast of it to {target} on which the engines agree"
            raise self.error(
                node.this, f"is {k.kind_text(value)}", rule, cast_fix(k.kind_of(value), target, piece_of(node.this))
            )
        return result

    def call(self, node: exp.Anonymous) -> Any:
        function, parts = FUNCTIONS[node.name], node.expressions
        if not function.accepts(len(parts)):
            plural = "" if len(parts) == 1 else "s"
            value = f"has {len(parts)} argument{plural}"
            raise self.error(node, value, f"it is {function.signature}: {function.meaning}", "write it so")
        takes = [*function.takes, *[function.takes[-1]] * (len(parts) - len(function.takes))]
        if node.name == "if":
            condition, *values = self.condition(parts[0], node), *map(self.value, parts[1:])
            return function.build(condition, *self.one_type(node, parts[1:], values, "mixes", _SINGLE_KIND))
        values = [self.argument(part, want, node) for part, want in zip(parts, takes, strict=False)]
        if function.unified:
            values = self.one_type(node, parts, values, "mixes", _SINGLE_KIND)
        if function.unified and k.kind_of(values[0]) == "null":
            return values[0]
        return function.build(*values)

    def argument(self, node: exp.Expr, want: Want, whole: exp.Expr) -> Any:
        """Return an argument as a value, or as a Python constant if the function needs one."""
        constant = isinstance(node, exp.Literal)
        if want == "constant string":
            if not constant or not node.is_string or not node.name:
                rule = f"{in_backquotes(piece_of(whole))} takes a text in quotes there, of one letter or more"
                fix = "name one letter or more" if constant and node.is_string else "write it in single quotes"
                raise self.error(node, "is none", rule, fix)
            return node.name
        if want in _COUNTS:
            if not constant or node.is_string or not _INTEGER.fullmatch(node.name) or int(node.name) < 1:
                what, fix = _COUNTS[want]
                raise self.error(node, "is none", f"{in_backquotes(piece_of(whole))} takes {what} there", fix)
            return int(node.name)
        return self.value_of_kind(node, want, whole)

    def value_of_kind(self, node: exp.Expr, want: str, whole: exp.Expr) -> Any:
        """Return the value of a node, and refuse a value of another kind.

        Args:
            node: Node of the syntax tree.
            want: Kind that the value must have: a key of `WANTS`, `condition`, or a kind itself.
            whole: Node that uses the value, for messages.
        """
        value = self.value(node)
        kinds = WANTS.get(cast(Want, want), (want,)) if want != "condition" else ("boolean",)
        kind = k.kind_of(value)
        if kind not in kinds:
            what = _WANT_TEXT.get(want, want)
            rule = f"{in_backquotes(piece_of(whole))} takes {'an' if what[0] in 'aeiou' else 'a'} {what} there"
            raise self.error(node, f"is {k.kind_text(value)}", rule, kind_fix(kind, want, piece_of(node)))
        return value


def _size(root: ops.Value) -> int:
    """Return the number of nodes of an expression in SQL, where shared parts repeat. A column counts as one."""

    def size(node: ops.Node, sizes: Mapping[Any, int], **_: Any) -> int:
        inner = () if isinstance(node, ops.Field) else node.__children__
        return 1 + sum(sizes.get(child, 0) for child in inner)

    return int(root.map(size, filter=ops.Value)[root])
