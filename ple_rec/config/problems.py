"""Check of a document (the parsed content of a TOML file): a configuration of its class, or all of its problems.

An unknown key, a value of a wrong type and a broken rule are problems. `ConfigError` prints them one on a line:

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
from ple_rec.config.schema_node import SchemaNode
from ple_rec.config.words import (
    KeyPath,
    bounds_text,
    dotted_path,
    expected_text,
    lengths_text,
    pattern_rule,
    short_value,
    spelling_hint,
    suggestion,
    type_name,
)
from ple_rec.errors import DataError, PleRecError, UserError, as_flags
from ple_rec.text.suggest import nearest_name

M = TypeVar("M", bound=BaseModel)

ANYTHING = SchemaNode({}, {})  # Node for a place about which the class says nothing.
_WRONG_TYPE = "got {got} ({type}); expected {expected}"
_RANGE, _LENGTH = "got {got}; must be {bounds}", "got {got}; must have {lengths}"
# Keys are pydantic's names for kinds of errors, and "key", our name for a wrong key of a table with free keys. Kinds
# that end in `_type` get `_WRONG_TYPE`.
_TEXTS = {
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
    """Error that lists all problems of one document."""

    @classmethod
    def from_problems(cls, place: str, problems: Sequence[str]) -> Self:
        """Return the error for a document with problems.

        Args:
            place: Name of the document, such as its path.
            problems: Text of each problem, such as `train.steps: missing`.
        """
        count = f"{len(problems)} problem{'' if len(problems) == 1 else 's'}"
        return cls(place, count, "\n".join(f"  {problem}" for problem in problems), "correct each of them")

    def __str__(self) -> str:
        return as_flags(f"{self.place}: {self.value}\n{self.rule}")


class ConfigError(_ProblemsError, UserError):
    """Error of a configuration with one or more problems (exit code 2)."""


class SchemaError(_ProblemsError, DataError):
    """Error of a dataset's `schema.toml` with one or more problems (exit code 3)."""


def validate(cls: type[M], raw: Mapping[str, Any]) -> M:
    """Return the model that pydantic builds from a document in strict JSON mode.

    An array becomes a tuple, an int may stand for a float, and a bool is never a number. Dates and times, which JSON
    does not have, become text.

    Raises:
        pydantic.ValidationError: The document has problems.
    """
    return cls.model_validate_json(json.dumps(raw, default=lambda value: value.isoformat()), strict=True)


def parse_document(cls: type[M], raw: Mapping[str, Any]) -> tuple[M | None, list[str]]:
    """Return the model that a document describes, and all problems of the document.

    Unknown keys are removed first, so that the validators of whole tables run in spite of them.

    Args:
        cls: Class of the model.
        raw: Content of the document.

    Returns:
        The model without unknown keys, or None if it cannot be built; and a line for each problem, such as
        `train.steps: got true (bool); expected a positive int`, in the order of the document. Missing keys of a table
        come after its other keys.
    """
    root, unknown = SchemaNode.of_class(cls), dict[KeyPath, SchemaNode]()
    known = _known_part(raw, root, (), unknown)
    problems = [(path, _unknown_key(path, table, root)) for path, table in unknown.items()]
    model: M | None = None
    try:
        model = validate(cls, known)
    except ValidationError as error:
        for details in error.errors(include_url=False, include_input=False):
            problems += _located_problems(details, root, raw)
    problems.sort(key=lambda problem: _position(problem[0], raw))
    return model, list(dict.fromkeys(f"{dotted_path(path)}: {text}" if path else text for path, text in problems))


def _known_part(value: Any, node: SchemaNode | None, path: KeyPath, unknown: dict[KeyPath, SchemaNode]) -> Any:
    """Return a value without its unknown keys; add their paths to `unknown`, each with the node of its table."""
    if node is None or not isinstance(value, (dict, list, tuple)):
        return value
    node = node.narrow(value)
    if not isinstance(value, dict):
        return [_known_part(item, node.child(i), (*path, i), unknown) for i, item in enumerate(value)]
    names = node.names
    unknown |= {(*path, key): node for key in value if names is not None and key not in names}
    return {
        key: _known_part(item, node.child(key), (*path, key), unknown)
        for key, item in value.items()
        if names is None or key in names
    }


def _unknown_key(path: KeyPath, table: SchemaNode, root: SchemaNode) -> str:
    """Return the problem of an unknown key, with a suggestion.

    The suggestion is a similar key of the table; else the path of the key, if the class has it at exactly one other
    place; else all keys of the table.
    """
    key, known = str(path[-1]), table.names or []
    near = nearest_name(key, known)
    if near is None:
        # Another variant of the same table may have the key. Its path is that of the unknown key, so it does not help.
        own_place = re.sub(r"\[[0-9]+\]", "[]", dotted_path(path))
        elsewhere = set(root.paths_to(key)) - {own_place}
        near = elsewhere.pop() if len(elsewhere) == 1 else None
    return f"unknown key; did you mean `{near}`?" if near else f"unknown key; known: {', '.join(known) or 'none'}"


def _position(path: KeyPath, raw: Any) -> list[float]:
    """Return a sort key by which paths have the order of the document, and a table comes after its content."""
    position: list[float] = []
    for key in path:
        keys = list(raw) if isinstance(raw, dict) else []
        position.append(key if isinstance(key, int) else keys.index(key) if key in keys else len(keys))
        raw = _item(raw, key)
    return [*position, math.inf]


def _located_problems(error: ErrorDetails, root: SchemaNode, raw: Any) -> Iterator[tuple[KeyPath, str]]:
    """Yield the problems of an error of pydantic, each with its path in the document."""
    kind, location = error["type"], error["loc"]
    is_key = location[-1:] == ("[key]",)  # pydantic's mark for an error in a key of a dictionary, not in its value.
    path: KeyPath = ()
    value, node, table = raw, root, root
    narrowed = False  # True if the last segment has named the only member of a union that has the type of the value.
    for segment in location[:-1] if is_key else location:
        if node.tag is not None or node.members:  # The segment names a member of the union, not a key.
            node = node.narrow(value)
            narrowed = not node.members
        else:
            narrowed = False
            path, table = (*path, segment), node
            node, value = node.child(segment) or ANYTHING, _item(value, segment)
    if is_key:
        kind, node = "key", table.key_rule or ANYTHING
    elif node.tag is not None and kind in ("union_tag_invalid", "union_tag_not_found"):
        path, value, kind = (*path, node.tag), _item(value, node.tag), "tag"
    elif kind == "too_short" and isinstance(value, (list, tuple)) and len(value) >= error["ctx"]["min_length"]:
        return  # pydantic counts only the valid items; each of the others has a problem of its own.
    elif narrowed and kind.endswith("_type"):
        return  # pydantic tries every member of a union; this error is of a member of another type.
    for text in _problem_texts(kind, value, node, error):
        yield path, text


def _problem_texts(kind: str, value: Any, node: SchemaNode, error: ErrorDetails) -> list[str]:
    """Return the problems that an error of pydantic states for a value, by the kind of the error.

    A ValueError of a validator has one problem on each line; any other error has one.
    """
    got = short_value(value)
    if kind in ("value_error", "assertion_error"):
        lines = str(error["ctx"]["error"]).splitlines() or ["not valid"]
        has_no_text = isinstance(value, (dict, list, tuple)) or value is MISSING
        return [line if has_no_text or line.startswith("got ") else f"got {got}; {line}" for line in lines]
    if kind == "tag":
        hint = suggestion(value, list(node.variants))
        return [f"missing; {hint}" if value is MISSING else f"got {got}; {hint}"]
    choices = [str(choice) for choice in node.choices]
    if kind == "literal_error" and len(choices) > 1 and spelling_hint(value, choices):
        return [f"got {got}; {suggestion(value, choices)}"]
    text = _TEXTS.get(kind, _WRONG_TYPE if kind.endswith("_type") else "got {got}; {message}")
    return [
        text.format(
            got=got,
            type=type_name(value),
            expected=expected_text(node),
            bounds=bounds_text(node),
            lengths=lengths_text(node),
            pattern=pattern_rule(node),
            message=error["msg"][:1].lower() + error["msg"][1:],
        )
    ]


def _item(value: Any, key: str | int) -> Any:
    """Return the value of a key or an index; MISSING if there is none."""
    if isinstance(value, dict):
        return value.get(key, MISSING)
    return value[key] if isinstance(value, (list, tuple)) and isinstance(key, int) and key < len(value) else MISSING
