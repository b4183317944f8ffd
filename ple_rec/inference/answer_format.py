"""Rows of an answer, in the form of their request, and the JSON schemas of answers.

Shapes: N rows, M named values of each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import repeat
from typing import Any

from numpy.typing import NDArray

from ple_rec.inference.feature_parsing import Schema, object_schema
from ple_rec.inference.request_rows import Form
from ple_rec.inference.signature import Signature


def format_rows(
    columns: Mapping[str, list[Any]], named: Mapping[str, tuple[Sequence[str], NDArray[Any]]], form: Form
) -> dict[str, Any] | list[dict[str, Any]]:
    """Return columns as an answer has them.

    Args:
        columns: Values of N rows, by name.
        named: Names of M values and the values themselves, (N, M), by the key of an answer that holds them.
        form: Form of the request.
    """
    if form == "columns":
        return {**columns, **{key: dict(zip(names, x.T.tolist(), strict=True)) for key, (names, x) in named.items()}}
    by_row = [map(dict, map(zip, repeat(names), x.tolist())) for names, x in named.values()]
    keys = (*columns, *named)
    return [dict(zip(keys, row, strict=True)) for row in zip(*columns.values(), *by_row, strict=True)]


def answer_schemas(signature: Signature, factors: Sequence[str]) -> dict[str, Schema]:
    """Return the JSON schemas of the answers, "Ranked" and "Scored".

    Args:
        signature: Signature of the model.
        factors: Names of what is raised to exponents.
    """
    kinds = {"binary": "probability", "regression": "prediction"}
    tasks = {task.name: {"type": "number", "description": kinds[task.kind]} for task in signature.tasks}
    row: dict[str, Schema] = {
        "score": {"type": "number", "description": "logarithm of the fused score"},
        "predictions": object_schema(tasks) | {"required": list(tasks)},
        "factors": {"type": "object", "additionalProperties": {"type": "number"}},
    }
    index = {"index": {"type": "integer", "description": "place in the request's items"}}
    required = ["score", "predictions"]
    return {
        "Ranked": _answer(factors, "items", index | row, ["index", *required]),
        "Scored": _answer(factors, "rows", row, required),
    }


def _answer(factors: Sequence[str], key: str, row: dict[str, Schema], required: list[str]) -> Schema:
    """Return the schema of an answer whose rows stand under a key, as rows or as columns."""
    of_row = {"type": "object", "properties": row, "required": required}
    of_all = {name: _of_all_rows(value) for name, value in row.items()}
    columns = {"type": "object", "properties": of_all, "required": required, "description": "of a request of columns"}
    properties = {
        "model": {"type": "string"},
        "version": {"type": "string"},
        "missing": {"type": "array", "items": {"type": "string"}, "description": "features that the request lacks"},
        "exponents": object_schema({name: {"type": "number"} for name in factors}),
        "gates": {"type": "array", "items": {"type": "object"}, "description": "of the first row"},
        key: {"oneOf": [{"type": "array", "items": of_row}, columns]},
    }
    return {"type": "object", "properties": properties, "required": ["model", "version", key]}


def _of_all_rows(value: Schema) -> Schema:
    """Return the schema of the values of all rows, from that of one row's value."""
    if value.get("type") != "object":
        return {"type": "array", "items": value}
    named = {name: _of_all_rows(own) for name, own in value.get("properties", {}).items()}
    others = value["additionalProperties"]
    return value | {"properties": named, "additionalProperties": _of_all_rows(others) if others else False}
