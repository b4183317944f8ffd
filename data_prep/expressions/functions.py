"""Functions of expressions with their meaning and arguments, and functions of SQL that are refused, with the reason."""

from __future__ import annotations

import operator
import re
import string
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from typing import Any, Literal

import ibis
import ibis.expr.datatypes as dt
import ibis.expr.operations as ops

from data_prep.expressions import kinds as k
from data_prep.expressions.source import Source
from ple_rec.text import aligned
from ple_rec.text.suggest import nearest

Want = Literal[
    "any",
    "number",
    "bound",
    "float",
    "string",
    "text",
    "ordered",
    "scalar",
    "string or list",
    "constant string",
    "position",
    "count",
]
WANTS: dict[Want, tuple[k.Kind, ...]] = {
    "any": ("integer", "float", "string", "boolean", "list", "null", "other"),
    "number": k.NUMBERS,
    "bound": (*k.NUMBERS, "null"),
    "float": ("float",),
    "string": ("string",),
    "text": ("string", "integer", "boolean"),
    "ordered": ("integer", "float", "string", "null"),
    "scalar": ("integer", "float", "string", "boolean", "null"),
    "string or list": ("string", "list"),
}


@dataclass(frozen=True)
class Function:
    """A function of expressions.

    Args:
        signature: Call as a user writes it: `clip(x, low, high)`.
        meaning: Meaning in one line.
        takes: Kind of each argument. Constants reach `build` as Python values.
        build: Function that makes an Ibis value of the arguments.
        required: Number of arguments that a call must have; 0 for all of `takes`.
        many: True if a call may repeat the last argument any number of times.
        unified: True if `build` gets the arguments in one type.
    """

    signature: str
    meaning: str
    takes: tuple[Want, ...]
    build: Callable[..., Any]
    required: int = 0
    many: bool = False
    unified: bool = False

    def accepts(self, count: int) -> bool:
        """Return True if the function can be called with so many arguments."""
        least = self.required or len(self.takes)
        return count >= least and (self.many or count <= len(self.takes))


def _concat(*parts: Any) -> Any:
    texts: list[Any] = [k.cast(part, "string") for part in parts]
    return reduce(operator.add, texts)


def _split(text: Any, separator: str) -> Any:
    if k.kind_of(text) == "list":  # One configuration can then read lists of Parquet and texts of CSV.
        return text
    special = re.search(r"[][\\.{}()*+?^$|]", separator)  # Spark splits by a pattern, DuckDB by a text.
    pieces = text.re_split(re.sub(r"([][\\.{}()*+?^$|])", r"\\\1", separator)) if special else text.split(separator)
    return pieces.filter(lambda piece: piece != "")


def _substr(text: Any, start: int, length: int | None = None) -> Any:
    return text.substr(start - 1, length)


def _lower(text: Any) -> Any:
    return ibis.ifelse(text.re_search(_BEYOND_ASCII), text.translate(_CAPITALS, _SMALL), text.lower())


def _upper(text: Any) -> Any:
    return ibis.ifelse(text.re_search(_BEYOND_ASCII), text.translate(_SMALL, _CAPITALS), text.upper())


# Engines disagree on letters beyond ASCII. DuckDB's translate takes 1 us, so only texts with such letters use it.
_BEYOND_ASCII, _SMALL, _CAPITALS = r"[^\x00-\x7F]", string.ascii_lowercase, string.ascii_uppercase
FUNCTIONS: dict[str, Function] = {
    "abs": Function("abs(x)", "the number without its sign", ("number",), lambda x: x.abs()),
    "ceil": Function("ceil(x)", "the smallest integer >= x; null if int64 has none", ("number",), k.ceil),
    "clip": Function(
        "clip(x, low, high)",
        "x, but at least low and at most high; null and NaN remain, a null bound is none",
        ("bound", "bound", "bound"),
        k.clip,
        unified=True,
    ),
    "coalesce": Function(
        "coalesce(a, b, ...)", "the first that is not null", ("any", "any"), ibis.coalesce, many=True, unified=True
    ),
    "concat": Function(
        "concat(a, b, ...)",
        "texts, integers and booleans one after another, as a || b; null if one is null",
        ("text", "text"),
        _concat,
        many=True,
    ),
    "contains": Function(
        "contains(text, part)",
        "whether the part stands in the text, letter by letter",
        ("string", "string"),
        lambda text, part: text.contains(part),
    ),
    "floor": Function("floor(x)", "the largest integer <= x; null if int64 has none", ("number",), k.floor),
    "greatest": Function(
        "greatest(a, b, ...)",
        "the largest number or text; NaN is above all numbers; nulls are left out: greatest(null, 0) is 0",
        ("ordered", "ordered"),
        ibis.greatest,
        many=True,
        unified=True,
    ),
    "if": Function(
        "if(condition, a, b)",
        "a if the condition is true, else b (also if it is null)",
        ("any",) * 3,
        ibis.ifelse,
    ),
    "is_nan": Function("is_nan(x)", "whether x is NaN; null of null", ("float",), k.is_nan),
    "least": Function(
        "least(a, b, ...)",
        "the smallest number or text; NaN is above all numbers; nulls are left out: least(null, 600) is 600",
        ("ordered", "ordered"),
        ibis.least,
        many=True,
        unified=True,
    ),
    "length": Function(
        "length(x)",
        "characters (Unicode code points) of a text, items of a list",
        ("string or list",),
        lambda x: ops.Cast(x.length(), dt.int64).to_expr(),  # Spark has an int32 here, but Ibis leaves out a `cast`.
    ),
    "lower": Function("lower(text)", "A-Z as a-z; other letters remain", ("string",), _lower),
    "nullif": Function("nullif(a, b)", "null if a = b, else a", ("scalar", "scalar"), k.null_if, unified=True),
    "replace": Function(
        "replace(text, old, new)",
        "the text with each `old` replaced",
        ("string", "constant string", "string"),
        lambda text, old, new: text.replace(k.string(old), new),
    ),
    "round": Function(
        "round(x)",
        "the nearest integer, halves away from zero; null if int64 has none",
        ("number",),
        k.nearest,
    ),
    "split": Function(
        "split(text, separator)",
        "the pieces between separators as a list; empty pieces are left out; a list remains as it is",
        ("string or list", "constant string"),
        _split,
    ),
    "starts_with": Function(
        "starts_with(text, part)",
        "whether the text begins with the part",
        ("string", "string"),
        lambda text, part: text.startswith(part),
    ),
    "substr": Function(
        "substr(text, start, length)",
        "the characters from `start` (the first is 1) on, all or `length` of them",
        ("string", "position", "count"),
        _substr,
        required=2,
    ),
    "trim": Function(
        "trim(text)", "without spaces, tabs and line breaks at both ends", ("string",), lambda text: text.strip()
    ),
    "upper": Function("upper(text)", "a-z as A-Z; other letters remain", ("string",), _upper),
}
OPERATORS: dict[str, str] = {
    "1, 0.5, 'text', true, null": "literals; whole numbers are int64, others float64; a quote in a text is doubled",
    "column, table.column": 'names; other than letters, digits and _ in double quotes: "odd name"',
    "a + b, a - b, a * b, -a": "integers stay exact int64, beyond which the run is refused; mixed with floats, float64",
    "a / b": "float64 always; null if b is 0",
    "a // b, a % b": "of integers, cut toward zero, the remainder with the sign of a; null if b is 0",
    "a || b": "as concat(a, b)",
    "a = b, !=, <>, <, <=, >, >=": "null if one is null or NaN; texts by their bytes; false is 0, true is 1",
    "a between b and c, a in (b, c)": "and their opposites with `not`",
    "a is null, a is not null": "never null themselves",
    "not a, a and b, a or b": "of conditions; null is unknown",
    "case when a then b else c end": "the first whose condition is true; null without else",
    "cast(x as type)": "int (int64; cuts floats toward zero), double (float64), string, boolean; null of other texts",
}

_BITS = "its last bits differ between engines and machines"
_ROWS = "an expression sees one row, and this needs many"
_AGAIN = "it is no function of the row: the next run would give other values"
_ROOT = "compare without it (x * x < y), or write the value where the log is made"
_LOG = "declare the column as dense with the normaliser `log`: the model applies it"
_TIME = "compare with time.day, time.hour and time.weekday"
_BEFORE = "prepare such a value before"
REFUSED: dict[str, tuple[str, str]] = (
    dict.fromkeys(("log", "ln", "log2", "log10", "log1p"), (_BITS, _LOG))
    | dict.fromkeys(("exp", "sqrt", "cbrt", "pow", "power", "sin", "cos", "tan", "tanh", "sigmoid"), (_BITS, _ROOT))
    | dict.fromkeys(("avg", "mean", "sum", "count", "stddev", "variance", "median", "quantile"), (_ROWS, _BEFORE))
    | dict.fromkeys(("row_number", "rank", "dense_rank", "ntile", "lag", "lead", "first", "last"), (_ROWS, _BEFORE))
    | {"min": (_ROWS, "of values of one row: least(a, b)"), "max": (_ROWS, "of values of one row: greatest(a, b)")}
    | dict.fromkeys(("random", "rand", "uuid"), (_AGAIN, "sample by the configuration's own keys"))
    | dict.fromkeys(("now", "today", "current_date", "current_timestamp", "getdate"), (_AGAIN, _TIME))
    | {"exists": ("a subquery is no expression of one row", "join the table in the configuration")}
)
_ELSEWHERE = (
    dict.fromkeys(("ifnull", "nvl"), "coalesce(a, b)")
    | dict.fromkeys(("len", "size", "cardinality", "char_length", "array_length"), "length(x)")
    | dict.fromkeys(("trunc", "truncate", "int", "integer", "bigint"), "cast(x as int)")
    | dict.fromkeys(("float", "double"), "cast(x as double)")
    | {"iff": "if(c, a, b)", "iif": "if(c, a, b)", "mod": "a % b", "div": "a // b", "isnull": "x is null"}
    | {"isnan": "is_nan(x)", "substring": "substr(text, start, length)", "ceiling": "ceil(x)", "clamp": "clip(x, a, b)"}
    | {"string_split": "split(text, separator)", "str": "cast(x as string)", "strip": "trim(text)"}
    | {"array_contains": "contains(text, part)", "coalesce_null": "coalesce(a, b)", "sign": "case when x < 0 then ..."}
)


def checker(source: Source) -> Callable[[str, str], None]:
    """Return a function that refuses unknown functions. It gets a name in lower case, and the place for messages."""

    def check(name: str, place: str) -> None:
        if name in FUNCTIONS:
            return
        if name in REFUSED:
            reason, fix = REFUSED[name]
            raise source.error(place, f"there is no {name} in expressions: {reason}", fix)
        similar = _ELSEWHERE.get(name) or nearest(name, FUNCTIONS)
        fix = f"did you mean `{similar}`?" if similar else "use one of these"
        raise source.error(place, f"there is no function {name!r}; there are {', '.join(FUNCTIONS)}", fix)

    return check


def describe() -> str:
    """Return the language of expressions as text: operators, then functions, each with its meaning."""
    rows = OPERATORS | {function.signature: function.meaning for function in FUNCTIONS.values()}
    return "\n".join(aligned(list(rows.items()), left=(0, 1)))
