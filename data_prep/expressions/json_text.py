"""Function `json` of expressions, which reads a field of a JSON text: `json(context, '$.net.mbps')`.

DuckDB's functions `json_valid`, `json_type` and `json_extract_string` read the text on both engines. Spark has none of
them, so `data_prep.engines.spark_json` registers functions of these names, which run DuckDB on the executors.

The rules follow from DuckDB's parser, yyjson: in an object, the first of two equal keys counts; commas after the last
item, NaN and Infinity are accepted; comments, a byte order mark, unpaired surrogates and text after the end of the
document are not. The parser does not use recursion, so deep nesting is harmless.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ibis
import ibis.expr.types as ir
from ibis.expr import operations as ops
from sqlglot import exp

from data_prep.expressions import kinds as k
from data_prep.expressions.source import Source, in_backquotes, node_text

FUNCTION = "json"
FIELD = "__json "  # Prefix of the columns of `with_fields`.
# A step of a path: `.name`, `."odd name"`, `['odd name']` or `[0]`. A name has no double quote and no backslash, which
# would need escapes, and no `*`, which DuckDB would take for a wildcard.
_STEP = re.compile(
    r"""\.(?P<plain>[^\s.*"'\[\]\\\0]+)|\."(?P<double>[^"*\\\0]+)"|\['(?P<single>[^"'*\\\0]+)'\]"""
    r"""|\[(?P<index>[0-9]{1,9})\]"""
)
_RULE = """a path is $ and then steps of the forms .name, ."odd name", ['odd name'] or [0]"""
_INTEGER_TOKEN = r"^-?[0-9]+\z"


@ibis.udf.scalar.builtin(signature=(("string",), "boolean"))  # type: ignore[untyped-decorator]
def json_valid(text: Any) -> Any:
    """Return True if a text is JSON, False if it is not; null for null."""


@ibis.udf.scalar.builtin(signature=(("string", "array<string>"), "array<string>"))  # type: ignore[untyped-decorator]
def json_type(text: Any, paths: Any) -> Any:
    """Return the types of fields, such as `VARCHAR`, `UBIGINT`, `BIGINT`, `DOUBLE` or `BOOLEAN`; null without a field.

    The list for a text that is null is null. The paths are constants.
    """


@ibis.udf.scalar.builtin(signature=(("string", "array<string>"), "array<string>"))  # type: ignore[untyped-decorator]
def json_extract_string(text: Any, paths: Any) -> Any:
    """Return fields as texts: the content of a string, the JSON of any other value; null for JSON's null.

    The list for a text that is null is null. The paths are constants.
    """


def check_paths(source: Source, tree: exp.Expr) -> None:
    """Refuse calls of `json` whose path is not valid.

    Args:
        source: Text of the expression and its place.
        tree: Syntax tree of the expression.

    Raises:
        UserError: A path is not valid.
    """
    for call in _calls(tree):
        # `build` refuses another number of arguments, and a path that is not a constant text.
        if len(call.expressions) == 2 and isinstance(path := call.expressions[1], exp.Literal) and path.is_string:
            _check_path(source, call, path.name)


def fields(tree: exp.Expr) -> list[tuple[exp.Expr, str]]:
    """Return the JSON text and the path of every call of `json` in a syntax tree whose paths are valid."""
    calls = (call.expressions for call in _calls(tree) if len(call.expressions) == 2)
    return [(text, path.name) for text, path in calls if isinstance(path, exp.Literal)]


def _calls(tree: exp.Expr) -> list[exp.Anonymous]:
    return [call for call in tree.find_all(exp.Anonymous) if call.name == FUNCTION]


def _check_path(source: Source, call: exp.Expr, path: str) -> None:
    end = 1
    while path.startswith("$") and (step := _STEP.match(path, end)):
        end = step.end()
    if path.startswith("$") and end == len(path):
        return
    value = f"the path {in_backquotes(path)} of {in_backquotes(node_text(call))}"
    if not path.startswith("$"):
        steps = path if path.startswith("[") else f".{path.lstrip('.') or 'name'}"
        raise source.error(f"{value} does not begin with $", _RULE, f"write '${steps}'")
    fix = "correct the path; a name with blanks or dots stands in double quotes"
    if "*" in path[end:]:
        fix = "name one field; there are no wildcards"
    raise source.error(f"{value} is not valid from character {end + 1} on: {in_backquotes(path[end:])}", _RULE, fix)


def canonical_path(path: str) -> str:
    """Return a valid path in the form in which engines get it: each name in double quotes, as in `$."net"."mbps"`."""
    return "$" + "".join(map(_canonical_step, _STEP.finditer(path, 1)))


def _canonical_step(step: re.Match[str]) -> str:
    if step["index"] is not None:
        return f"[{int(step['index'])}]"
    name = next(text for text in step.group("plain", "double", "single") if text is not None)
    return f'."{name}"'


def plain_path(names: tuple[str, ...]) -> str | None:
    """Return the path of nested fields as a user writes it; None if no path can name one of them."""
    steps = []
    for name in names:
        if '"' in name:  # `."name"` would name the field without the quotes.
            return None
        step = next((form for form in (f".{name}", f'."{name}"') if _STEP.fullmatch(form)), None)
        if step is None:
            return None
        steps.append(step)
    return "$" + "".join(steps)


def field(text: Any, path: str, target: k.Target = "string") -> Any:
    """Return a field of a JSON text as a value of the kind `target`.

    With the target `string`, only a string has a value. With any other target, numbers and booleans are converted, and
    strings are converted as `cast(text as type)` converts a text. Everything else is null: a missing field, JSON's
    null, an object, an array, a number beyond float64 or, with the target `integer`, beyond int64.

    Args:
        text: Ibis value of the JSON text. All fields of a text that is not JSON are null.
        path: Valid path of the field.
        target: Kind of the result.
    """
    column = text.op()
    name = field_column(column.name, path) if isinstance(column, ops.Field) else ""
    if name and name in column.rel.schema:
        kind_and_content = column.rel.to_expr()[name]
    else:
        kinds, contents = _read(text, [path])
        kind_and_content = ibis.array([kinds[0], contents[0]])
    return _with_value(kind_and_content, lambda pair: _convert(pair[0], pair[1], target))


def field_column(column: str, path: str) -> str:
    """Return the name of the column in which `with_fields` stores a field of a column of JSON texts."""
    return f"{FIELD}{column} {canonical_path(path)}"


def with_fields(rows: ir.Table, paths: Mapping[str, Sequence[str]]) -> ir.Table:
    """Return rows with a further column for each field, so that `field` does not read the text again for each use.

    The fields of a text are read together. Each new column is a list of two texts: the type of the field, and its
    content.

    Args:
        rows: Rows with columns of JSON texts.
        paths: Valid paths of the fields, by column.
    """
    lists = {}
    for i, (column, column_paths) in enumerate(paths.items()):
        lists[f"{FIELD}kinds{i}"], lists[f"{FIELD}contents{i}"] = _read(rows[column], column_paths)
    table = rows.mutate(**lists)
    pairs = {
        field_column(column, path): ibis.array([table[f"{FIELD}kinds{i}"][j], table[f"{FIELD}contents{i}"][j]])
        for i, (column, column_paths) in enumerate(paths.items())
        for j, path in enumerate(column_paths)
    }
    return table.select(*rows.columns, **pairs)


def _read(text: Any, paths: Sequence[str]) -> tuple[Any, Any]:
    """Return the types and the contents of fields of a JSON text, as two lists."""
    document = ibis.cases((json_valid(text), text))  # DuckDB raises an error for a text that is not JSON.
    constants = ibis.array([k.string(canonical_path(path)) for path in paths])
    return json_type(document, constants), json_extract_string(document, constants)


def _with_value(value: Any, function: Callable[[Any], Any]) -> Any:
    """Return `function(value)` in a form in which engines compute the value once, however often the function uses it.

    SQL has no variables inside an expression, but the parameter of a function that is mapped over a list is one.
    """
    return ibis.array([value]).map(function)[0]


def _convert(kind: Any, content: Any, target: k.Target) -> Any:
    """Return the content of a field as a value of the kind `target`.

    Args:
        kind: Result of `json_type`.
        content: Result of `json_extract_string`. No cast accepts the text of an object, an array, NaN or Infinity.
        target: Kind of the result.
    """
    if target == "string":
        return ibis.cases((kind == "VARCHAR", content))
    number = k.cast(content, "float")
    if target == "boolean":
        is_number = kind.isin(["UBIGINT", "BIGINT", "DOUBLE"])
        return ibis.cases((is_number, number != k.floating(0.0)), else_=k.cast(content, "boolean"))
    is_true = k.cast(content == "true", target)
    if target == "float":
        return ibis.cases((kind == "BOOLEAN", is_true), else_=number)
    is_fraction = (kind == "DOUBLE") & ~content.re_search(_INTEGER_TOKEN)
    return ibis.cases(
        (kind == "BOOLEAN", is_true),
        (is_fraction, _with_value(number, k.truncate)),
        else_=k.cast(content, "integer"),
    )
