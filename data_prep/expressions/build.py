"""Conversion of the syntax tree of an expression to an Ibis value, with a check of every operand.

The check compares the kind of an operand (integer, float, string ..., see `kinds.py`) with the kinds that are allowed
there.

An expression names a column by a *word*: `play_time_ms` for a column of the log, `users.age` for a column of the joined
table `users`, and `"users.age"` for a column of the log whose own name has the dot.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import ibis
import ibis.expr.datatypes as dt
from ibis.expr import operations as ops
from sqlglot import exp

from data_prep.expressions import decimals, json_text, times
from data_prep.expressions import kinds as k
from data_prep.expressions.functions import ACCEPTED_KINDS, FUNCTIONS, ArgumentKind
from data_prep.expressions.source import (
    Source,
    cast_fix,
    comparison_fix,
    in_backquotes,
    item_fix,
    kind_fix,
    mixed_fix,
    name_fix,
    node_text,
)
from data_prep.expressions.syntax import TYPES

MAX_SIZE = 50_000  # Nodes of an expression in SQL, in which a shared subexpression is repeated for each use.
MAX_LISTED_NAMES = 12
_INTEGER, _FLOAT = re.compile(r"\d+"), re.compile(r"(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_ARITHMETIC: dict[type[exp.Expr], Callable[[Any, Any], Any]] = {
    exp.Add: lambda a, b: a + b,
    exp.Sub: lambda a, b: a - b,
    exp.Mul: lambda a, b: a * b,
    exp.Div: k.divide,
    exp.IntDiv: k.truncated_quotient,
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
_REQUIRED_KIND_TEXT = {  # Text in messages, by required kind; any other required kind is its own text.
    "text": "string, integer or boolean",
    "bound": "number",
    "ordered": "number or string",
    "scalar": "number, string or boolean",
    "decimal": "decimal, integer or string",
    "time": "date, time or string",
}
_POSITIVE_INTEGERS = {  # Arguments that are integers from 1: their text in messages, and the fix.
    "position": ("a number from 1", "the first character is 1"),
    "count": ("a number of characters from 1", "write how many to take, or leave it out to take all that follow"),
}
_DATE_TEXT = "a date is YYYY-MM-DD, a time YYYY-MM-DD HH:MM:SS, with +HH:MM unless it is UTC, from 1900 to 2999"
_SINGLE_KIND = "its values must be of one kind (integers with floats become floats)"


def column_word(column: exp.Column) -> str:
    """Return the word of a column: `play_time_ms`, or `users.age` of a joined table."""
    return f"{column.table}.{column.name}" if column.table else column_to_word(column.name)


def column_to_word(name: str) -> str:
    """Return the word by which expressions name a column of the log: its name, in double quotes if that has a dot.

    Without the quotes, the word would name a column of a joined table, or a time such as `time.hour`.
    """
    return '"' + name.replace('"', '""') + '"' if "." in name else name


def word_to_column(word: str) -> str:
    """Return the column of the log that a word names; a word of a joined table is returned unchanged."""
    # Any word loses its first and last letter here. Only for a word in quotes does `column_to_word` restore it.
    name = word[1:-1].replace('""', '"')
    return name if column_to_word(name) == word else word


def build(source: Source, tree: exp.Expr, names: Mapping[str, Any], offset_seconds: int = 0) -> Any:
    """Return the Ibis value of an expression.

    Args:
        source: Text of the expression and its place.
        tree: Syntax tree of the expression.
        names: Ibis values of the columns, by word.
        offset_seconds: Local time minus UTC.

    Raises:
        UserError: A name is unknown, a value is of the wrong kind, or the expression in SQL is too large.
    """
    builder = _Builder(source, names, offset_seconds)
    value = builder.value(tree)
    if k.kind_of(value) == "null":
        raise builder.error(
            tree, "is null in every row", "an expression must have a type", "write cast(null as double)"
        )
    if _size(value.op()) > MAX_SIZE:
        rule = f"in SQL it may have at most {MAX_SIZE:,} nodes, and clip, // and % repeat their arguments there"
        raise builder.error(tree, "is too large", rule, "prepare a part of it as a column")
    return value


class _Builder:
    """Recursive conversion of a syntax tree: `value` calls the method for the class of a node.

    Messages quote the argument `parent`, the node that uses the value of another node.
    """

    def __init__(self, source: Source, names: Mapping[str, Any], offset_seconds: int) -> None:
        self.source, self.names, self.offset_seconds = source, names, offset_seconds

    def error(self, node: exp.Expr, value: str, rule: str, fix: str) -> Exception:
        return self.source.error(f"{in_backquotes(node_text(node))} {value}", rule, fix)

    def value(self, node: exp.Expr) -> Any:
        """Return the value of a node, with the nearest float64 in place of a decimal."""
        value = self.exact_value(node)
        return k.cast(value, "float") if k.kind_of(value) == "decimal" else value

    def exact_value(self, node: exp.Expr) -> Any:
        """Return the value of a node; a column of decimals is returned as it is."""
        if isinstance(node, exp.Paren):
            return self.exact_value(node.this)
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
            return _COMPARISONS[type(node)](*self.comparison_operands(node, [node.this, node.expression]))
        if isinstance(node, (exp.And, exp.Or, exp.Not)):
            return self.logical(node)
        if isinstance(node, exp.Is):
            return k.is_null(self.value(node.this))
        if isinstance(node, exp.In):
            tested, *options = self.comparison_operands(node, [node.this, *node.expressions])
            return tested.isin(options)
        if isinstance(node, exp.Between):
            tested, low, high = self.comparison_operands(node, [node.this, node.args["low"], node.args["high"]])
            return tested.between(low, high)
        if isinstance(node, exp.Case):
            return self.case(node)
        if isinstance(node, (exp.Cast, exp.TryCast)):
            return self.cast(node)
        if isinstance(node, exp.DPipe):
            return FUNCTIONS["concat"].build(*(self.value_of_kind(part, "text", node) for part in node.flatten()))
        return self.call(cast(exp.Anonymous, node))

    def column(self, node: exp.Column) -> Any:
        name = column_word(node)
        if name in self.names:
            return k.widen(self.names[name])
        known = ", ".join(list(self.names)[:MAX_LISTED_NAMES]) or "none"
        more = len(self.names) - MAX_LISTED_NAMES
        rule = f"there are {known}{f' and {more} more' if more > 0 else ''}"
        quoted = bool(node.this.args.get("quoted")) and not node.table
        raise self.source.error(f"no column {in_backquotes(name)}", rule, name_fix(name, self.names, quoted))

    def literal(self, node: exp.Literal, sign: str = "") -> Any:
        text = sign + node.name
        if node.is_string:
            if "\0" in node.name:
                raise self.error(node, "holds a zero byte", "engines end a text at a zero byte", "leave it out")
            return k.string(node.name)
        if _INTEGER.fullmatch(node.name):
            if not k.INT64_MIN <= int(text) <= k.INT64_MAX:
                rule = "integers are int64, from -2^63 to 2^63 - 1"
                raise self.source.error(f"`{text}` is too large", rule, "write it as a float: 1e19")
            return k.integer(int(text))
        if not _FLOAT.fullmatch(node.name):
            raise self.error(
                node, "is not a number", "numbers are written like 12, 0.5 or 1e-3", "write it in one of these forms"
            )
        if math.isinf(float(text)):
            raise self.source.error(
                f"`{text}` is too large", "floats are float64, up to 1.8e308", "write a smaller one"
            )
        return k.floating(float(text))

    def negative(self, node: exp.Neg) -> Any:
        # -2^63 has no positive counterpart, so the sign belongs to the literal.
        if isinstance(node.this, exp.Literal) and not node.this.is_string:
            return self.literal(node.this, "-")
        return -self.value_of_kind(node.this, "number", node)

    def arithmetic(self, node: exp.Binary) -> Any:
        needs_integers = isinstance(node, (exp.IntDiv, exp.Mod))
        operands = [
            self.value_of_kind(part, "integer" if needs_integers else "number", node)
            for part in (node.left, node.right)
        ]
        return _ARITHMETIC[type(node)](*cast(list[Any], k.unify(operands)))

    def logical(self, node: exp.And | exp.Or | exp.Not) -> Any:
        if isinstance(node, exp.Not):
            return ~self.condition(node.this, node)
        left, right = (self.condition(part, node) for part in (node.this, node.expression))
        return left & right if isinstance(node, exp.And) else left | right

    def condition(self, node: exp.Expr, parent: exp.Expr) -> Any:
        return self.value_of_kind(node, "condition", parent)

    def comparison_operands(self, parent: exp.Expr, nodes: Sequence[exp.Expr]) -> list[Any]:
        """Return the values of nodes in one type, to compare them.

        Booleans beside integers become 0 and 1, and NaN becomes null.
        """
        values = [self.value(node) for node in nodes]
        kinds = {k.kind_of(value) for value in values}
        if "null" in kinds:
            rule = "a comparison with null is never true"
            raise self.error(parent, "compares with null", rule, "write `x is null` or `x is not null`")
        for node, value, kind in zip(nodes, values, map(k.kind_of, values), strict=True):
            if kind in ("list", "other"):
                fix = comparison_fix(kind, parent, node, "text" if "string" in kinds else "number")
                rule = "numbers, strings, booleans, dates and times can be compared"
                raise self.error(parent, f"compares {k.kind_text(value)}", rule, fix)
        if kinds & set(k.TIMES) and kinds <= {"string", *k.TIMES}:
            return [self.micros(node, value) for node, value in zip(nodes, values, strict=True)]
        values = [
            k.nan_to_null(value)
            if k.kind_of(value) == "float" and not isinstance(node, exp.Literal)
            else k.enclose(value)
            for node, value in zip(nodes, values, strict=True)
        ]
        if kinds == {"boolean", "integer"}:
            values = [k.cast(value, "integer") for value in values]
        elif kinds == {"boolean"} and not isinstance(parent, (exp.EQ, exp.NEQ, exp.In)):
            raise self.error(parent, "orders booleans", "booleans are only equal or not equal", "use `=` or `not`")
        return self.one_type(parent, nodes, values, "compares", "both sides must be of one kind")

    def one_type(
        self, parent: exp.Expr, nodes: Sequence[exp.Expr], values: Sequence[Any], verb: str, rule: str
    ) -> list[Any]:
        """Return values cast to a common type.

        Args:
            parent: Node that uses the values.
            nodes: Nodes of the values.
            values: Values to cast.
            verb: Verb for the message if they have no common type: `parent` "compares" or "mixes" the values.
            rule: Rule of that message.
        """
        unified = k.unify(values)
        if unified is None:
            shown_kinds = dict.fromkeys(k.kind_text(value) for value in values if k.kind_of(value) != "null")
            raise self.error(parent, f"{verb} {' with '.join(shown_kinds)}", rule, mixed_fix(nodes, values))
        return unified

    def case(self, node: exp.Case) -> Any:
        ifs, otherwise = node.args["ifs"], node.args.get("default")
        if node.this is None:
            conditions = [self.condition(branch.this, node) for branch in ifs]
        else:
            # `case x when 1` compares like `x = 1`, which messages quote.
            conditions = [
                _COMPARISONS[exp.EQ](
                    *self.comparison_operands(exp.EQ(this=node.this.copy(), expression=part.copy()), [node.this, part])
                )
                for part in (branch.this for branch in ifs)
            ]
        results = [branch.args["true"] for branch in ifs] + [otherwise or exp.Null()]
        values = self.one_type(node, results, [self.value(part) for part in results], "mixes", _SINGLE_KIND)
        if k.kind_of(values[0]) == "null":
            return values[0]
        return ibis.cases(*zip(conditions, values[:-1], strict=True), else_=values[-1])

    def cast(self, node: exp.Cast) -> Any:
        target, inner = TYPES[node.to.this], node.this.unnest()
        if isinstance(inner, exp.Anonymous) and inner.name == json_text.FUNCTION:
            text, path = self.arguments(inner)
            return json_text.field(text, path, target)
        value = self.exact_value(node.this) if target == "integer" else self.value(node.this)
        result = k.cast(value, target)
        if result is None:
            rule = f"there is no cast of it to {target} on which the engines agree"
            raise self.error(
                node.this, f"is {k.kind_text(value)}", rule, cast_fix(k.kind_of(value), target, node_text(node.this))
            )
        return result

    def call(self, node: exp.Anonymous) -> Any:
        function, values = FUNCTIONS[node.name], self.arguments(node)
        if function.unifies_types and k.kind_of(values[0]) == "null":
            return values[0]
        return function.build(*values)

    def arguments(self, node: exp.Anonymous) -> list[Any]:
        """Return the arguments of a call, each an Ibis value or a Python constant, after a check of their kinds."""
        function, parts = FUNCTIONS[node.name], node.expressions
        if not function.accepts(len(parts)):
            plural = "" if len(parts) == 1 else "s"
            value = f"has {len(parts)} argument{plural}"
            raise self.error(
                node, value, f"the function is {function.signature}: {function.meaning}", "call it like this"
            )
        argument_kinds = [  # A function with any number of arguments takes the last kind for all further ones.
            *function.argument_kinds,
            *[function.argument_kinds[-1]] * (len(parts) - len(function.argument_kinds)),
        ]
        if node.name == "if":
            condition, *values = self.condition(parts[0], node), *map(self.value, parts[1:])
            return [condition, *self.one_type(node, parts[1:], values, "mixes", _SINGLE_KIND)]
        if node.name == "contains":
            return self.container_and_part(node)
        values = [self.argument(part, required, node) for part, required in zip(parts, argument_kinds, strict=False)]
        return self.one_type(node, parts, values, "mixes", _SINGLE_KIND) if function.unifies_types else values

    def argument(self, node: exp.Expr, required: ArgumentKind, parent: exp.Expr) -> Any:
        """Return an argument as a value, or as a Python constant if the function needs one."""
        constant = isinstance(node, exp.Literal)
        if required == "constant string":
            if not constant or not node.is_string or not node.name:
                rule = f"{in_backquotes(node_text(parent))} takes a text of one letter or more in single quotes there"
                fix = "write one letter or more" if constant and node.is_string else "write it in single quotes"
                raise self.error(node, "is not such a text", rule, fix)
            return node.name
        if required == "power of ten":
            exponent = decimals.power_of_ten(node.name) if constant and node.is_string else None
            if exponent is None:
                rule = f"{in_backquotes(node_text(parent))} takes a power of ten in single quotes there"
                raise self.error(node, "is not such a text", rule, "write '0.01', '1' or '100'")
            return exponent
        if required == "unit of time":
            if not constant or node.name not in times.PER_SECOND:
                rule = f"{in_backquotes(node_text(parent))} takes the unit of the number there"
                raise self.error(node, "is no unit of time", rule, "write 's', 'ms', 'us' or 'ns'")
            return node.name
        if required in _POSITIVE_INTEGERS:
            if not constant or node.is_string or not _INTEGER.fullmatch(node.name) or int(node.name) < 1:
                expected, fix = _POSITIVE_INTEGERS[required]
                raise self.error(
                    node, "is not such a number", f"{in_backquotes(node_text(parent))} takes {expected} there", fix
                )
            return int(node.name)
        value = self.value_of_kind(node, required, parent)
        return self.micros(node, value) if required == "time" else value

    def micros(self, node: exp.Expr, value: Any) -> Any:
        """Return a date, a time or a text as local microseconds; a constant text that is neither is refused."""
        if not isinstance(node, exp.Literal):
            return times.local_micros(value, self.offset_seconds)
        micros = times.micros_of_literal(node.name, self.offset_seconds)
        if micros is None:
            raise self.error(node, "is no date or time", _DATE_TEXT, "write it like '2024-05-01'")
        return k.integer(micros)

    def container_and_part(self, node: exp.Anonymous) -> list[Any]:
        """Return the arguments of `contains`: two texts, or a list and a value of the type of its items."""
        container, part = node.expressions
        values = self.value_of_kind(container, "string or list", node)
        if k.kind_of(values) == "string":
            return [values, self.value_of_kind(part, "string", node)]
        item, part_value = k.widen(values[0]), self.value(part)
        unified = k.unify([item, part_value])
        if unified is None or k.kind_of(item) not in ("integer", "float", "string") or k.kind_of(part_value) == "null":
            rule = f"{in_backquotes(node_text(node))} takes {k.kind_text(item)} there, as the items of the list are"
            raise self.error(part, f"is {k.kind_text(part_value)}", rule, item_fix(item, part_value, node_text(part)))
        item, part_value = unified
        return [values.cast(dt.Array(item.type())), part_value]

    def value_of_kind(self, node: exp.Expr, required: str, parent: exp.Expr) -> Any:
        """Return the value of a node, and refuse a value of another kind.

        Args:
            node: Node of the syntax tree.
            required: Kind that the value must have: a key of `ACCEPTED_KINDS`, `condition`, or a kind itself.
            parent: Node that uses the value, for messages.
        """
        value = self.exact_value(node) if required in ("decimal", "time") else self.value(node)
        kinds = (
            ACCEPTED_KINDS.get(cast(ArgumentKind, required), (required,)) if required != "condition" else ("boolean",)
        )
        kind = k.kind_of(value)
        if kind not in kinds:
            expected = _REQUIRED_KIND_TEXT.get(required, required)
            rule = (
                f"{in_backquotes(node_text(parent))} takes {'an' if expected[0] in 'aeiou' else 'a'} {expected} there"
            )
            raise self.error(node, f"is {k.kind_text(value)}", rule, kind_fix(kind, required, node_text(node)))
        return value


def _size(root: ops.Value) -> int:
    """Return the number of nodes of an expression in SQL, which repeats shared subexpressions; a column is one node."""

    def size(node: ops.Node, sizes: Mapping[Any, int], **_: Any) -> int:
        inner = () if isinstance(node, ops.Field) else node.__children__
        return 1 + sum(sizes.get(child, 0) for child in inner)

    return int(root.map(size, filter=ops.Value)[root])
