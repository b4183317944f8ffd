"""Functions and operators that expressions may use, and functions of SQL that are refused, with the reason.

`ple-rec prep --help-config` prints the text of `describe`.
"""

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

from data_prep.expressions import decimals, json_text, times
from data_prep.expressions import kinds as k
from data_prep.expressions.source import Source
from ple_rec.text import align_columns
from ple_rec.text.suggest import nearest_name

# Kinds of arguments: values of the kinds in `ACCEPTED_KINDS`, and constants ("constant string", the positive integers
# "position" and "count", "power of ten" as a text, "unit of time").
ArgumentKind = Literal[
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
    "integer",
    "list",
    "decimal",
    "time",
    "power of ten",
    "unit of time",
]
ACCEPTED_KINDS: dict[ArgumentKind, tuple[k.Kind, ...]] = {
    "any": ("integer", "float", "string", "boolean", "date", "time", "list", "null", "other"),
    "number": k.NUMBERS,
    "bound": (*k.NUMBERS, "null"),
    "float": ("float",),
    "string": ("string",),
    "text": ("string", "integer", "boolean"),  # Everything that `concat` makes a string of.
    "ordered": ("integer", "float", "string", "null"),
    "scalar": ("integer", "float", "string", "boolean", "null"),
    "string or list": ("string", "list"),
    "integer": ("integer",),
    "list": ("list",),
    "decimal": ("decimal", "integer", "string"),
    "time": ("date", "time", "string"),  # `build` gets the local microseconds, see `times.local_micros`.
}


@dataclass(frozen=True)
class Function:
    """A function of expressions.

    Args:
        signature: Call as a user writes it: `clip(x, low, high)`.
        meaning: Meaning in one line.
        argument_kinds: Kind that each argument must have; the last one also holds for all further arguments. A constant
            is passed to `build` as a Python value.
        build: Function from the arguments to an Ibis value.
        min_arguments: Least number of arguments of a call; 0 for all of `argument_kinds`.
        is_variadic: True if a call may repeat the last argument any number of times.
        unifies_types: True if the arguments are cast to a common type before `build` gets them.
    """

    signature: str
    meaning: str
    argument_kinds: tuple[ArgumentKind, ...]
    build: Callable[..., Any]
    min_arguments: int = 0
    is_variadic: bool = False
    unifies_types: bool = False

    def accepts(self, count: int) -> bool:
        """Return True if the function can be called with `count` arguments."""
        least = self.min_arguments or len(self.argument_kinds)
        return count >= least and (self.is_variadic or count <= len(self.argument_kinds))


def _concat(*parts: Any) -> Any:
    texts: list[Any] = [k.cast(part, "string") for part in parts]
    return reduce(operator.add, texts)


def _split(text: Any, separator: str) -> Any:
    if k.kind_of(text) == "list":  # So one configuration can read Parquet files with lists and CSV files with texts.
        return text
    # `split` takes the separator as a regular expression in Spark, and as plain text in DuckDB. They differ only for
    # special characters, so such a separator is escaped and given to `re_split`, which takes a regular expression.
    special = re.search(r"[][\\.{}()*+?^$|]", separator)
    pieces = text.re_split(re.sub(r"([][\\.{}()*+?^$|])", r"\\\1", separator)) if special else text.split(separator)
    return pieces.filter(lambda piece: piece != "")


def _element(items: Any, number: Any) -> Any:
    # Spark takes positions as int32, and raises an error for one beyond the end. The length of a null list is null, so
    # its items are null, too.
    position = ibis.cases((number.between(k.integer(1), items.length()), number)).cast("int32")
    return k.widen(items[position - 1])


def _contains(container: Any, part: Any) -> Any:
    if k.kind_of(container) == "string":
        return container.contains(part)
    part = k.nan_to_null(part) if k.kind_of(part) == "float" else part
    # The engines differ for a null argument and for a list with a null item: one returns null, the other false.
    is_item = ibis.coalesce(container.contains(part), ibis.literal(False))
    return ibis.cases((~(k.is_null(container) | k.is_null(part)), is_item))


def _substr(text: Any, start: int, length: int | None = None) -> Any:
    return text.substr(start - 1, length)


def _lower(text: Any) -> Any:
    return ibis.ifelse(text.re_search(_BEYOND_ASCII), text.translate(_CAPITALS, _SMALL), text.lower())


def _upper(text: Any) -> Any:
    return ibis.ifelse(text.re_search(_BEYOND_ASCII), text.translate(_SMALL, _CAPITALS), text.upper())


# Engines disagree on letters beyond ASCII. DuckDB takes 1 us per text for `translate`, so only such texts use it.
_BEYOND_ASCII, _SMALL, _CAPITALS = r"[^\x00-\x7F]", string.ascii_lowercase, string.ascii_uppercase
FUNCTIONS: dict[str, Function] = {
    "abs": Function("abs(x)", "the number without its sign", ("number",), lambda x: x.abs()),
    "ceil": Function("ceil(x)", "the smallest integer >= x; null if int64 has none", ("number",), k.ceil),
    "clip": Function(
        "clip(x, low, high)",
        "x, but at least low and at most high; null and NaN remain; a null bound has no effect",
        ("bound", "bound", "bound"),
        k.clip,
        unifies_types=True,
    ),
    "coalesce": Function(
        "coalesce(a, b, ...)",
        "the first that is not null",
        ("any", "any"),
        ibis.coalesce,
        is_variadic=True,
        unifies_types=True,
    ),
    "concat": Function(
        "concat(a, b, ...)",
        "texts, integers and booleans one after another, as a || b; null if one is null",
        ("text", "text"),
        _concat,
        is_variadic=True,
    ),
    "contains": Function(
        "contains(text, part)",
        "whether the part stands in the text, letter by letter; contains(list, x): whether x is an item of the list",
        ("string or list", "any"),  # `build.py` checks that the part is a text, or of the kind of the items.
        _contains,
    ),
    "date": Function("date(x)", "the local date of a time, or of a text like a date", ("time",), times.date_at),
    "days": Function(
        "days(later, earlier)",
        "days from one time to another, with fractions, negative if `earlier` is later",
        ("time", "time"),
        times.days_between,
    ),
    "element": Function(
        "element(list, i)",
        "the item of a list at position i (the first is 1); null if it has none",
        ("list", "integer"),
        _element,
    ),
    "floor": Function("floor(x)", "the largest integer <= x; null if int64 has none", ("number",), k.floor),
    "greatest": Function(
        "greatest(a, b, ...)",
        "the largest number or text; NaN is above all numbers; nulls are left out: greatest(null, 0) is 0",
        ("ordered", "ordered"),
        ibis.greatest,
        is_variadic=True,
        unifies_types=True,
    ),
    "hour": Function("hour(x)", "the local hour of a time, 0 to 23", ("time",), times.hour_at),
    "hours": Function(
        "hours(later, earlier)",
        "hours from one time to another, with fractions, negative if `earlier` is later",
        ("time", "time"),
        times.hours_between,
    ),
    "if": Function(
        "if(condition, a, b)",
        "a if the condition is true, else b (also if it is null)",
        ("any",) * 3,  # `build.py` checks that the first is a condition, and casts the others to one type.
        ibis.ifelse,
    ),
    "is_nan": Function("is_nan(x)", "whether x is NaN; null if x is null", ("float",), k.is_nan),
    json_text.FUNCTION: Function(
        "json(text, '$.path')",
        "text of the string at a path of a JSON text; cast(json(...) as type) reads a number or boolean there",
        ("string", "constant string"),
        json_text.field,
    ),
    "least": Function(
        "least(a, b, ...)",
        "the smallest number or text; NaN is above all numbers; nulls are left out: least(null, 600) is 600",
        ("ordered", "ordered"),
        ibis.least,
        is_variadic=True,
        unifies_types=True,
    ),
    "length": Function(
        "length(x)",
        "characters (Unicode code points) of a text, items of a list",
        ("string or list",),
        # Spark returns int32. Ibis takes the length for int64 and would drop `.cast("int64")`, so `Cast` is built here.
        lambda x: ops.Cast(x.length(), dt.int64).to_expr(),
    ),
    "lower": Function("lower(text)", "A-Z as a-z; other letters remain", ("string",), _lower),
    "month": Function("month(x)", "the local month of a time, 1 to 12", ("time",), times.month_at),
    "nullif": Function("nullif(a, b)", "null if a = b, else a", ("scalar", "scalar"), k.null_if, unifies_types=True),
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
        min_arguments=2,
    ),
    "timestamp": Function(
        "timestamp(x, unit)",
        "the time of an integer since 1970-01-01 UTC in 's', 'ms', 'us' or 'ns'",
        ("integer", "unit of time"),
        times.time_of_count,
    ),
    "trim": Function(
        "trim(text)", "without spaces, tabs and line breaks at both ends", ("string",), lambda text: text.strip()
    ),
    "units": Function(
        "units(x, unit)",
        "how many units a decimal, an integer or the text of one is, exactly: units(price, '0.01'); null if not whole",
        ("decimal", "power of ten"),
        decimals.units,
    ),
    "upper": Function("upper(text)", "a-z as A-Z; other letters remain", ("string",), _upper),
    "weekday": Function("weekday(x)", "the local weekday of a time, 0 is Monday", ("time",), times.weekday_at),
}
OPERATORS: dict[str, str] = {  # Meaning of the operators and other syntax, for `describe`.
    "1, 0.5, 'text', true, null": "literals; whole numbers are int64, others float64; a quote in a text is doubled",
    "column, table.column": 'names; other than letters, digits and _ in double quotes: "odd name"',
    "a + b, a - b, a * b, -a": "integers stay exact int64, beyond which the run is refused; mixed with floats, float64",
    "a / b": "float64 always; null if b is 0",
    "a // b, a % b": "of integers, cut toward zero, the remainder with the sign of a; null if b is 0",
    "a || b": "as concat(a, b)",
    "a = b, !=, <>, <, <=, >, >=": "null if one is null or NaN; texts by their bytes; false is 0, true is 1; a date is "
    "its midnight",
    "a between b and c, a in (b, c)": "and their opposites with `not`",
    "a is null, a is not null": "never null themselves",
    "not a, a and b, a or b": "of conditions; null is unknown",
    "case when a then b else c end": "the first whose condition is true; null without else",
    "cast(x as type)": "int (int64; cut toward zero), double (float64), string (also of a date), boolean; other texts "
    "give null",
}

_BITS = "its last bits differ between engines and machines"
_ROWS = "an expression is computed from one row, and this function needs several"
_NOT_REPEATABLE = "it does not depend on the row alone, so the next run would give other values"
_ROOT = "compare without it (x * x < y), or compute such a value before, as a column of the log"
_LOG = "declare the column as dense with the normaliser `log`: the model applies it"
_TIME = "write `time`, the time of the row: days(time, '2024-01-01')"
_BEFORE = "compute such a value before, as a column of the log"
# Functions of SQL that expressions do not have: the reason, and the fix.
REFUSED: dict[str, tuple[str, str]] = (
    dict.fromkeys(("log", "ln", "log2", "log10", "log1p"), (_BITS, _LOG))
    | dict.fromkeys(("exp", "sqrt", "cbrt", "pow", "power", "sin", "cos", "tan", "tanh", "sigmoid"), (_BITS, _ROOT))
    | dict.fromkeys(("avg", "mean", "sum", "count", "stddev", "variance", "median", "quantile"), (_ROWS, _BEFORE))
    | dict.fromkeys(("row_number", "rank", "dense_rank", "ntile", "lag", "lead", "first", "last"), (_ROWS, _BEFORE))
    | {
        "min": (_ROWS, "for values of one row write least(a, b)"),
        "max": (_ROWS, "for values of one row write greatest(a, b)"),
    }
    | dict.fromkeys(("random", "rand", "uuid"), (_NOT_REPEATABLE, "use the keys of the configuration that sample rows"))
    | dict.fromkeys(("now", "today", "current_date", "current_timestamp", "getdate"), (_NOT_REPEATABLE, _TIME))
    | {"exists": ("an expression has no subqueries", "join the table in the configuration")}
)
# What to write instead, by name of a function in SQL or another language.
_SQL_SYNONYMS = (
    dict.fromkeys(("ifnull", "nvl"), "coalesce(a, b)")
    | dict.fromkeys(("len", "size", "cardinality", "char_length", "array_length"), "length(x)")
    | dict.fromkeys(("trunc", "truncate", "int", "integer", "bigint"), "cast(x as int)")
    | dict.fromkeys(("float", "double"), "cast(x as double)")
    | {"iff": "if(c, a, b)", "iif": "if(c, a, b)", "mod": "a % b", "div": "a // b", "isnull": "x is null"}
    | {"isnan": "is_nan(x)", "substring": "substr(text, start, length)", "ceiling": "ceil(x)", "clamp": "clip(x, a, b)"}
    | {"string_split": "split(text, separator)", "str": "cast(x as string)", "strip": "trim(text)"}
    | dict.fromkeys(("array_contains", "list_contains", "list_has", "array_has"), "contains(list, x)")
    | dict.fromkeys(("element_at", "list_extract", "list_element", "array_extract"), "element(list, i)")
    | dict.fromkeys(("datediff", "date_diff", "timestampdiff", "age"), "days(later, earlier)")
    | dict.fromkeys(("to_timestamp", "from_unixtime", "epoch_ms", "make_timestamp"), "timestamp(x, 'ms')")
    | dict.fromkeys(("dayofweek", "day_of_week", "isodow", "dow"), "weekday(x)")
    | {"to_date": "date(x)", "day": "date(x)"}
    | dict.fromkeys(("json_extract", "json_extract_string", "json_value", "get_json_object"), "json(text, '$.path')")
    | {"coalesce_null": "coalesce(a, b)", "sign": "case when x < 0 then -1 when x > 0 then 1 else 0 end"}
)


def function_checker(source: Source) -> Callable[[str, str], None]:
    """Return a check that refuses unknown functions; it takes a name in lower case, and its place for messages."""

    def check(name: str, place: str) -> None:
        if name in FUNCTIONS:
            return
        if name in REFUSED:
            reason, fix = REFUSED[name]
            raise source.error(place, f"there is no {name} in expressions: {reason}", fix)
        similar = _SQL_SYNONYMS.get(name) or nearest_name(name, FUNCTIONS)
        fix = f"did you mean `{similar}`?" if similar else "use one of these"
        raise source.error(place, f"there is no function {name!r}; there are {', '.join(FUNCTIONS)}", fix)

    return check


def describe() -> str:
    """Return a reference of the expression language as text: operators, then functions, each with its meaning."""
    rows = OPERATORS | {function.signature: function.meaning for function in FUNCTIONS.values()}
    return "\n".join(align_columns(list(rows.items()), left_columns=(0, 1)))
