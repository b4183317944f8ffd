"""A configuration checked: the tree that a document makes, or every problem of it, one line each.

runs/ple.toml: 3 problems
  train.batchsize_per_rank: unknown key; did you mean `batch_size_per_rank`?
  train.steps: got true (bool); expected a positive int
  tasks[1].weight: got 0.0; must be > 0
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from ple_rec.config.overrides import MISSING
from ple_rec.config.shape import SchemaNode
from ple_rec.config.words import (
    KeyPath,
    bounds,
    dotted,
    expected,
    lengths,
    meant,
    pattern_rule,
    shortened,
    suggestion,
    type_name,
)
from ple_rec.errors import DataError, PleRecError, UserError, as_flags
from ple_rec.text.suggest import nearest

M = TypeVar("M", bound=BaseModel)

ANYTHING = SchemaNode({}, {})
_WRONG_TYPE = "got {got} ({type}); expected {expected}"
_RANGE, _LENGTH = "got {got}; must be {bounds}", "got {got}; must have {lengths}"
_TEXTS = {  # by pydantic's name for the kind of error; kinds that end in `_type` are wrong types
    "missing": "missing; expected {expected}",
    "literal_error": "got {got}; expected {expected}",
    "int_from_float": _WRONG_TYPE,
    "union_tag_invalid": _WRONG_TYPE,
    "union_tag_not_found": _WRONG_TYPE,
    "finite_number": "got {got}; must be finite",
    "greater_than": _RANGE,
    "greater_than_equal": _RANGE,
    "less_than": _RANGE,
    "less_than_equal": _RANGE,
    "multiple_of": _RANGE,
    "too_short": _LENGTH,
    "too_long": _LENGTH,
    "string_too_short": _LENGTH,
    "string_too_long": _LENGTH,
    "string_pattern_mismatch": "got {got}; must be {expected}{pattern}",
    "key": "not a key here; must be {expected}{pattern}",
}


class _ProblemsError(PleRecError):
    """All problems of one document; its text is the list."""

    @classmethod
    def of(cls, place: str, problems: Sequence[str]) -> Self:
        """Return the error of a document at `place` that has these problems, a line each."""
        count = f"{len(problems)} problem{'' if len(problems) == 1 else 's'}"
        return cls(place, count, "\n".join(f"  {problem}" for problem in problems), "correct each of them")

    def __str__(self) -> str:
        return as_flags(f"{self.place}: {self.value}\n{self.rule}")


class ConfigError(_ProblemsError, UserError):
    """A configuration with one or more problems (exit code 2)."""


class SchemaError(_ProblemsError, DataError):
    """A dataset's `schema.toml` with one or more problems (exit code 3)."""


def validated(cls: type[M], raw: Mapping[str, Any]) -> M:
    """Return the tree that a document makes, in strict JSON mode.

    An array becomes a tuple, an int may stand for a float, a bool is never a number. Dates and times, which are all
    that TOML has beyond JSON, become text.
    """
    return cls.model_validate_json(json.dumps(raw, default=lambda value: value.isoformat()), strict=True)


def check(cls: type[M], raw: Mapping[str, Any]) -> tuple[M | None, list[str]]:
    """Return the tree that a document makes, as far as it makes one, and every problem of the document.

    Unknown keys are taken out before the rest is checked, so that they hide nothing that is wrong with the whole.

    Args:
        cls: Class of the tree.
        raw: The document.

    Returns:
        The tree without the unknown keys, and one line a problem, `train.steps: got true (bool); expected a positive
        int`, in the order of the document; missing keys come after what is there.
    """
    root, unknown = SchemaNode.of(cls), dict[KeyPath, SchemaNode]()
    known = _known_part(raw, root, (), unknown)
    problems = [(path, _unknown_key(path, table, root)) for path, table in unknown.items()]
    tree: M | None = None
    try:
        tree = validated(cls, known)
    except ValidationError as error:
        for details in error.errors(include_url=False, include_input=False):
            problems += _located(details, root, raw)
    problems.sort(key=lambda problem: _position(problem[0], raw))
    return tree, list(dict.fromkeys(f"{dotted(path)}: {text}" if path else text for path, text in problems))


def _known_part(value: Any, shape: SchemaNode | None, path: KeyPath, unknown: dict[KeyPath, SchemaNode]) -> Any:
    """Return a value without its unknown keys; `unknown` receives their places, each with the shape of its table."""
    if shape is None or not isinstance(value, (dict, list, tuple)):
        return value
    shape = shape.narrow(value)
    if not isinstance(value, dict):
        return [_known_part(item, shape.child(i), (*path, i), unknown) for i, item in enumerate(value)]
    names = shape.names
    unknown |= {(*path, key): shape for key in value if names is not None and key not in names}
    return {
        key: _known_part(item, shape.child(key), (*path, key), unknown)
        for key, item in value.items()
        if names is None or key in names
    }


def _unknown_key(path: KeyPath, table: SchemaNode, root: SchemaNode) -> str:
    """Return a hint at the nearest key of the table, else at the same key elsewhere in `root`, else at all keys."""
    key, known = str(path[-1]), table.names or []
    near = nearest(key, known)
    if near is None:  # in another variant of the same table it has the same place, which would be no help
        here = re.sub(r"\[[0-9]+\]", "[]", dotted(path))
        elsewhere = set(root.places(key)) - {here}
        near = elsewhere.pop() if len(elsewhere) == 1 else None
    return f"unknown key; did you mean `{near}`?" if near else f"unknown key; known: {', '.join(known) or 'none'}"


def _position(path: KeyPath, raw: Any) -> list[float]:
    """Return where a path stands in the document, for sorting: a table comes after what is in it."""
    position: list[float] = []
    for key in path:
        keys = list(raw) if isinstance(raw, dict) else []
        position.append(key if isinstance(key, int) else keys.index(key) if key in keys else len(keys))
        raw = _item(raw, key)
    return [*position, math.inf]


def _located(error: ErrorDetails, root: SchemaNode, raw: Any) -> Iterator[tuple[KeyPath, str]]:
    """Yield the problems that an error of pydantic stands for, each with its place in the document."""
    kind, location = error["type"], error["loc"]
    is_key = location[-1:] == ("[key]",)
    path: KeyPath = ()
    value, shape, table = raw, root, root
    for segment in location[:-1] if is_key else location:
        if shape.tag is not None or shape.members:  # the segment names the member of a union
            shape = shape.narrow(value)
        else:
            path, table = (*path, segment), shape
            shape, value = shape.child(segment) or ANYTHING, _item(value, segment)
    if is_key:
        kind, shape = "key", table.key_rule or ANYTHING
    elif shape.tag is not None and kind in ("union_tag_invalid", "union_tag_not_found"):
        path, value, kind = (*path, shape.tag), _item(value, shape.tag), "tag"
    elif kind == "too_short" and isinstance(value, (list, tuple)) and len(value) >= error["ctx"]["min_length"]:
        return  # pydantic counts the good items only, and each of the others has a problem of its own
    for text in _texts(kind, value, shape, error):
        yield path, text


def _texts(kind: str, value: Any, shape: SchemaNode, error: ErrorDetails) -> list[str]:
    """Return what is wrong with a value: one text, or the lines of a validator's ValueError."""
    got = shortened(value)
    if kind in ("value_error", "assertion_error"):
        lines = str(error["ctx"]["error"]).splitlines() or ["not valid"]
        whole = isinstance(value, (dict, list, tuple)) or value is MISSING
        return [line if whole or line.startswith("got ") else f"got {got}; {line}" for line in lines]
    if kind == "tag":
        hint = suggestion(value, list(shape.variants))
        return [f"missing; {hint}" if value is MISSING else f"got {got}; {hint}"]
    choices = [str(choice) for choice in shape.choices]
    if kind == "literal_error" and len(choices) > 1 and meant(value, choices):
        return [f"got {got}; {suggestion(value, choices)}"]
    text = _TEXTS.get(kind, _WRONG_TYPE if kind.endswith("_type") else "got {got}; {message}")
    return [
        text.format(
            got=got,
            type=type_name(value),
            expected=expected(shape),
            bounds=bounds(shape),
            lengths=lengths(shape),
            pattern=pattern_rule(shape),
            message=error["msg"][:1].lower() + error["msg"][1:],
        )
    ]


def _item(value: Any, key: str | int) -> Any:
    """Return what stands under a key or an index; MISSING where nothing does."""
    if isinstance(value, dict):
        return value.get(key, MISSING)
    return value[key] if isinstance(value, (list, tuple)) and isinstance(key, int) and key < len(value) else MISSING
