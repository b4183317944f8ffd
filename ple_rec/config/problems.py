"""Every problem of a configuration, one line each, from pydantic's errors.

runs/ple.toml: 3 problems
  train.batchsize_per_rank: unknown key; did you mean `batch_size_per_rank`?
  train.steps: got true (bool); expected a positive int
  tasks[1].weight: got 0.0; must be > 0
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from ple_rec.config.shape import Shape
from ple_rec.config.words import bounds, dotted, expected, lengths, pattern_rule, shortened, suggestion, type_name
from ple_rec.errors import DataError, PleRecError, UserError
from ple_rec.text.suggest import did_you_mean, nearest

KeyPath = tuple[str | int, ...]
RANGES = frozenset({"greater_than", "greater_than_equal", "less_than", "less_than_equal", "multiple_of"})
LENGTHS = frozenset({"too_short", "too_long", "string_too_short", "string_too_long"})
CHOICES = frozenset({"literal_error", "enum"})
TAGS = frozenset({"union_tag_invalid", "union_tag_not_found"})
MISSING: Any = object()


class _ProblemsError(PleRecError):
    """All problems of one document; its text is the list."""

    @classmethod
    def of(cls, place: str, problems: Sequence[str]) -> Self:
        """The error of a document at `place` that has these problems, a line each."""
        count = f"{len(problems)} problem{'' if len(problems) == 1 else 's'}"
        return cls(place, count, "\n".join(f"  {problem}" for problem in problems), "correct each of them")

    def __str__(self) -> str:
        return f"{self.place}: {self.value}\n{self.rule}"


class ConfigError(_ProblemsError, UserError):
    """A configuration with one or more problems (exit code 2)."""


class SchemaError(_ProblemsError, DataError):
    """A dataset's `schema.toml` with one or more problems (exit code 3)."""


@dataclass(frozen=True)
class _Spot:
    """An error of pydantic at its place in the document.

    Args:
        error: What pydantic says.
        path: The place, without the segments that pydantic adds for unions.
        shape: What may stand there; None where the model knows nothing of it.
        parent: The shape of the table that holds it.
        value: What stands there, or MISSING.
        is_key: Whether the error is about the last key of the path and not its value.
        unions: Each union without a tag on the way: its path, its shape, and the alternative that the error is about.
    """

    error: ErrorDetails
    path: KeyPath
    shape: Shape | None
    parent: Shape | None
    value: Any
    is_key: bool = False
    unions: list[tuple[KeyPath, Shape, str | int]] = field(default_factory=list)


def problems_from(error: ValidationError, cls: type[BaseModel], raw: object) -> list[str]:
    """Every problem in the words of the house, in the order of the document; missing keys come after what is there.

    Args:
        error: What `cls` raised.
        cls: The model that was to be made.
        raw: The document that it was to be made of.

    Returns:
        One line a problem, `train.steps: got true (bool); expected a positive int`.
    """
    root = Shape.of(cls)
    spots = [_locate(details, root, raw) for details in error.errors(include_url=False, include_input=False)]
    spots = [spot for spot in spots if not _counts_good_items_only(spot)]
    spots.sort(key=lambda spot: _position(spot.path, raw))
    return list(dict.fromkeys(line for spot in _settle(spots, 0, raw) for line in _lines(spot, root)))


def unknown_key(path: KeyPath, known: Sequence[str], root: Shape) -> str:
    """`unknown key; did you mean ...?`: the nearest sibling, else the same key elsewhere in `root`, else siblings."""
    key = str(path[-1])
    if near := did_you_mean(key, known, "`"):
        return f"unknown key; {near}"
    # In another variant of the same table a key has the same place, which would be no help.
    elsewhere = set(root.places(key)) - {re.sub(r"\[[0-9]+\]", "[]", dotted(path))}
    if len(elsewhere) == 1:
        return f"unknown key; did you mean `{elsewhere.pop()}`?"
    return f"unknown key; known: {', '.join(known) or 'none'}"


def _locate(error: ErrorDetails, root: Shape, raw: object) -> _Spot:
    path: KeyPath = ()
    shape: Shape | None = root
    parent: Shape | None = None
    value: Any = raw
    is_key = False
    unions: list[tuple[KeyPath, Shape, str | int]] = []
    for segment in error["loc"]:
        if segment == "[key]":
            is_key = True
        elif shape is not None and shape.tag is not None:
            shape = shape.variants.get(str(segment))
        elif shape is not None and shape.members:
            unions.append((path, shape, segment))
            shape = shape.narrow(value)
        else:
            path, parent = (*path, segment), shape
            shape = shape.child(segment) if shape is not None else None
            value = value_at(value, (segment,))
    return _Spot(error, path, shape, parent, value, is_key, unions)


def value_at(value: Any, path: KeyPath) -> Any:
    """What stands at a path below `value`, or MISSING."""
    for key in path:
        if isinstance(value, dict):
            value = value.get(key, MISSING)
        else:
            value = value[key] if isinstance(value, list) and isinstance(key, int) and key < len(value) else MISSING
    return value


def _position(path: KeyPath, raw: object) -> list[int]:
    """Where a path stands in the document, for sorting."""
    position, value = [], raw
    for key in path:
        keys = list(value) if isinstance(value, dict) else []
        position.append(key if isinstance(key, int) else keys.index(key) if key in keys else len(keys))
        value = value_at(value, (key,))
    return position


def _settle(spots: list[_Spot], level: int, raw: object) -> list[_Spot]:
    """Of every union without a tag, keep the one alternative that the value was meant to be, else say the whole union.

    A value was not meant to be an alternative whose type or choices it misses.
    """
    settled: list[_Spot] = []
    groups: dict[KeyPath, dict[str | int, list[_Spot]]] = {}
    for spot in spots:
        if len(spot.unions) <= level:
            settled.append(spot)
        else:
            path, _, label = spot.unions[level]
            groups.setdefault(path, {}).setdefault(label, []).append(spot)
    for path, by_label in groups.items():
        fitting = [group for group in by_label.values() if not any(_misfit(spot, path) for spot in group)]
        if len(fitting) == 1:
            settled += _settle(fitting[0], level + 1, raw)
            continue
        first = next(iter(by_label.values()))[0]
        value = value_at(raw, path)
        error = ErrorDetails(type="union_type", loc=path, msg="no alternative fits", input=value)
        settled.append(_Spot(error, path, first.unions[level][1], None, value))
    return sorted(settled, key=lambda spot: _position(spot.path, raw))


def _counts_good_items_only(spot: _Spot) -> bool:
    """Whether pydantic calls an array too short because some of its items are wrong, which is said of them already."""
    least = spot.error.get("ctx", {}).get("min_length", 0)
    return spot.error["type"] == "too_short" and isinstance(spot.value, list) and len(spot.value) >= least


def _misfit(spot: _Spot, path: KeyPath) -> bool:
    kind = spot.error["type"]
    return spot.path == path and (kind.endswith("_type") or kind in CHOICES)


def _lines(spot: _Spot, root: Shape) -> list[str]:
    path = spot.path
    if spot.error["type"] in TAGS and spot.shape is not None and spot.shape.tag is not None:
        path = (*path, spot.shape.tag)
    place = f"{dotted(path)}: " if path else ""
    return [place + text for text in _texts(spot, root)]


def _texts(spot: _Spot, root: Shape) -> list[str]:
    """What is wrong at the spot: one text, or the lines of a validator's ValueError."""
    kind, got, shape = spot.error["type"], shortened(spot.value), spot.shape
    if spot.is_key:
        return [_key_text(spot, root)]
    if kind == "extra_forbidden" and spot.parent is not None:
        return [unknown_key(spot.path, list(spot.parent.keys), root)]
    if kind in ("value_error", "assertion_error"):
        lines = str(spot.error["ctx"]["error"]).splitlines() or ["not valid"]
        whole = isinstance(spot.value, (dict, list)) or spot.value is MISSING
        return [line if whole or line.startswith("got ") else f"got {got}; {line}" for line in lines]
    if kind == "finite_number":
        return [f"got {got}; must be finite"]
    if shape is not None:
        text = _shape_text(kind, spot.value, shape)
        if text is not None:
            return [text]
    return [f"got {got}; {spot.error['msg'][:1].lower()}{spot.error['msg'][1:]}"]


def _key_text(spot: _Spot, root: Shape) -> str:
    rule = spot.parent.key_rule if spot.parent is not None else None
    if rule is None:
        return f"not a key here; {spot.error['msg'][:1].lower()}{spot.error['msg'][1:]}"
    if rule.choices:
        return unknown_key(spot.path, [str(choice) for choice in rule.choices], root)
    return f"not a key here; must be {expected(rule)}{pattern_rule(rule)}"


def _shape_text(kind: str, value: Any, shape: Shape) -> str | None:
    """What the shape has to say of the value; None where it has no word for that kind of error."""
    got = f"got {shortened(value)}"
    if kind in TAGS and shape.tag is not None:
        tag = value.get(shape.tag, MISSING) if isinstance(value, dict) else MISSING
        hint = suggestion(tag, list(shape.variants))
        return f"missing; {hint}" if tag is MISSING else f"got {shortened(tag)}; {hint}"
    if kind == "missing":
        return f"missing; expected {expected(shape)}"
    if kind in CHOICES:
        return _choice_text(value, shape)
    if kind in RANGES and bounds(shape):
        return f"{got}; must be {bounds(shape)}"
    if kind in LENGTHS and lengths(shape):
        return f"{got}; must have {lengths(shape)}"
    if kind == "string_pattern_mismatch":
        return f"{got}; must be {expected(shape)}{pattern_rule(shape)}"
    if kind.endswith(("_type", "_parsing", "_from_float")):
        return f"{got} ({type_name(value)}); expected {expected(shape)}"
    return None


def _choice_text(value: Any, shape: Shape) -> str:
    names = [str(choice) for choice in shape.choices]
    if isinstance(value, str) and len(names) > 1 and nearest(value, names):
        return f"got {shortened(value)}; {suggestion(value, names)}"
    return f"got {shortened(value)}; expected {expected(shape)}"
