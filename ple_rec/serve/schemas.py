"""JSON schemas of requests and answers of one model, for the OpenAPI page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ple_rec.serve.given import MAX_ITEMS
from ple_rec.serve.signature import OWNERS, Input, Signature
from ple_rec.serve.values import DECIMAL, LARGEST, MAX_BAG, MAX_VALUES

Schema = dict[str, Any]
_TYPES = {"int": ("integer", "string", "boolean"), "text": ("string",), "number": ("number",)}


def schemas_of(signature: Signature, factors: Sequence[str]) -> dict[str, Schema]:
    """Schemas by name: "rank" and "score" of bodies, "ranked" and "scored" of answers.

    Args:
        signature: Of the model.
        factors: Names of what is raised to exponents.
    """
    user, items = ([*signature.of(owner)] for owner in OWNERS)
    exponents = _closed({name: {"type": "number", "minimum": -1000, "maximum": 1000} for name in factors})
    explain = {"type": "boolean", "default": False, "description": "tell factors, exponents and expert gates too"}
    predictions = _closed(
        {
            task.name: {"type": "number", "description": "probability" if task.kind == "binary" else "prediction"}
            for task in signature.tasks
        },
        all_required=True,
    )
    row: Schema = {
        "score": {"type": "number", "description": "logarithm of the fused score"},
        "predictions": predictions,
        "factors": {"type": "object", "additionalProperties": {"type": "number"}},
    }
    gates = {"type": "array", "items": {"type": "object"}, "description": "of the first row"}
    missing = {"type": "array", "items": {"type": "string"}, "description": "features given nowhere, where there are"}
    told: Schema = {"model": {"type": "string"}, "version": {"type": "string"}, "missing": missing}
    told |= {"exponents": exponents, "gates": gates}
    rank = {
        "user": _closed({**_features(user), **_features(items)})
        | {"type": ["object", "null"], "description": "may hold what all items share"},
        "items": _rows(_features(items)),
        "exponents": exponents | {"type": ["object", "null"]},
        "top": {"type": ["integer", "null"], "minimum": 1, "description": "how many are wanted; default: all"},
        "explain": explain,
    }
    score = {"rows": _rows(_features([*user, *items])), "exponents": rank["exponents"], "explain": explain}
    index = {"index": {"type": "integer", "description": "place in the request's items"}}
    return {
        "rank": _closed(rank) | {"required": ["items"]},
        "score": _closed(score) | {"required": ["rows"]},
        "ranked": _answer({**told, "items": _told({**index, **row}, "index")}, "items"),
        "scored": _answer({**told, "rows": _told(row)}, "rows"),
    }


def _features(inputs: Sequence[Input]) -> dict[str, Schema]:
    return {each.name: _value(each) for each in inputs}


def _value(each: Input) -> Schema:
    one: Schema = {"type": [*_TYPES[each.type], *(["boolean"] if each.dense else []), "null"]}
    if each.type == "int":
        one |= {"pattern": f"^{DECIMAL}$", "description": "true is 1; text, where a client's numbers have 53 bits"}
    if each.type == "number":
        one |= {"minimum": -LARGEST, "maximum": LARGEST}
    if not each.bag:
        return one
    values: Schema = {"type": ["array", "null"], "items": one, "maxItems": MAX_BAG}
    values |= {"description": f"all bags of a request have at most {MAX_VALUES:,}"}
    if not each.weighted:
        return values
    number = {"type": "number", "minimum": -LARGEST, "maximum": LARGEST}
    weights = {"type": ["array", "null"], "items": number, "maxItems": MAX_BAG, "description": "as many as values"}
    return _closed({"values": values, "weights": weights}) | {"type": ["object", "null"]}


def _closed(properties: dict[str, Schema], *, all_required: bool = False) -> Schema:
    schema: Schema = {"type": "object", "properties": properties, "additionalProperties": False}
    return schema | ({"required": list(properties)} if all_required else {})


def _rows(features: dict[str, Schema]) -> Schema:
    """Rows, or columns of one length, which JSON schema cannot say."""
    bounds = {"minItems": 1, "maxItems": MAX_ITEMS}
    lists = {name: {"type": "array", "items": one, **bounds} for name, one in features.items()}
    columns = _closed(lists) | {"minProperties": 1, "description": "lists of one length, a value of each row"}
    return {"oneOf": [{"type": "array", "items": _closed(features), **bounds}, columns]}


def _told(properties: dict[str, Schema], *also: str) -> Schema:
    """Rows, or columns where the request has them."""
    required = [*also, "score", "predictions"]
    of_row = {"type": "object", "properties": properties, "required": required}
    listed = {name: _listed(own) for name, own in properties.items()}
    of_all = {"type": "object", "properties": listed, "required": required, "description": "of a request of columns"}
    return {"oneOf": [{"type": "array", "items": of_row}, of_all]}


def _listed(one: Schema) -> Schema:
    """The schema of the values of all rows, from that of one row's."""
    if one.get("type") != "object":
        return {"type": "array", "items": one}
    named = {name: _listed(own) for name, own in one.get("properties", {}).items()}
    others = one["additionalProperties"]
    return one | {"properties": named, "additionalProperties": _listed(others) if others else False}


def _answer(properties: dict[str, Schema], rows: str) -> Schema:
    return {"type": "object", "properties": properties, "required": ["model", "version", rows]}
