"""`--set a.b[1].c=value`: one value of a configuration, given on the command line."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ple_rec.config.problems import MISSING, KeyPath, unknown_key, value_at
from ple_rec.config.recipes import switched
from ple_rec.config.shape import Shape
from ple_rec.config.words import dotted, shortened, type_name
from ple_rec.errors import UserError

_KEY = r'(?:[A-Za-z0-9_-]+|"[^"]*")'
_STEP = rf"{_KEY}(?:\[[0-9]+\])*"
_OVERRIDE = re.compile(rf"\s*({_STEP}(?:\.{_STEP})*)\s*=(.*)", re.DOTALL)
_PART = re.compile(r'"([^"]*)"|\[([0-9]+)\]|([A-Za-z0-9_-]+)')


@dataclass(frozen=True)
class Override:
    """A place and what to put there; MISSING to take the key away, so that its default holds."""

    path: KeyPath
    value: Any


class _NoPlaceError(Exception):
    """An override that the document has no place for; its text is the problem."""


def parse_override(text: str) -> Override:
    """Read `a.b[1].c=value`.

    The value is TOML (`true`, `0.5`, `[1, 2]`, `"text"`, `{a = 1}`), or plain text where it is not TOML. Nothing after
    the `=` takes the key away: its default holds again.

    Raises:
        UserError: the text does not have that form, or is not UTF-8.
    """
    found = _OVERRIDE.fullmatch(text)
    rule, fix = "an override reads key.key[0].key=value", "write for example --set train.steps=100"
    if found is None:
        value = "no `=`" if "=" not in text else f"`{text.partition('=')[0]}` is no place"
        raise UserError(f"--set {text}", value, rule, fix)
    path = tuple(int(index) if index else quoted or bare for quoted, index, bare in _PART.findall(found[1]))
    value = found[2].strip()
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        raise UserError(f"--set {dotted(path)}", "bytes that are not UTF-8", "an override is UTF-8 text", fix)
    return Override(path, _parse_value(value) if value else MISSING)


def _parse_value(text: str) -> Any:
    try:
        parsed = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return parsed["value"] if len(parsed) == 1 else text  # more keys: the text had line breaks


def apply_overrides(raw: dict[str, Any], texts: Sequence[str], root: Shape) -> tuple[dict[str, Any], list[str]]:
    """Put every override into a document.

    Tags of unions (`model.variant`) go first, whatever their place in the list: a tag that changes drops the keys that
    the new variant does not have.

    Args:
        raw: The document; it stays as it is.
        texts: Overrides, as on the command line; of two for one place the later holds.
        root: Shape of the model that will be made of it.

    Returns:
        The new document, and a line for every override that has no place in it.

    Raises:
        UserError: an override that cannot be read.
    """
    problems: list[str] = []
    overrides = [parse_override(text) for text in texts]
    for override in sorted(overrides, key=lambda override: not _sets_a_tag(override.path, raw, root)):
        try:
            raw = _assigned(raw, override, root, root, 0)
        except _NoPlaceError as refusal:
            problems.append(str(refusal))
    return raw, problems


def _sets_a_tag(path: KeyPath, raw: object, root: Shape) -> bool:
    shape: Shape | None = root
    for key in path[:-1]:
        if shape is None:
            return False
        shape, raw = shape.narrow(raw).child(key), value_at(raw, (key,))
    return shape is not None and shape.tag is not None and shape.tag == path[-1]


def _assigned(value: Any, override: Override, shape: Shape | None, root: Shape, depth: int) -> Any:
    """`value` with the override in it; `depth` keys of its path are above `value`."""
    if depth == len(override.path):
        return override.value
    key = override.path[depth]
    if isinstance(key, int):
        return _assigned_item(value, override, shape, root, depth, key)
    return _assigned_key(value, override, shape, root, depth, key)


def _assigned_item(value: Any, override: Override, shape: Shape | None, root: Shape, depth: int, index: int) -> Any:
    where, array = dotted(override.path), dotted(override.path[:depth])
    if not isinstance(value, list):
        what = "not set" if value is MISSING else f"{shortened(value)} ({type_name(value)})"
        raise _NoPlaceError(f"{where}: {array} is {what}; an index needs an array there")
    if index >= len(value):
        count = f"{len(value)} item{'' if len(value) == 1 else 's'}"
        raise _NoPlaceError(f"{where}: no item {index}; {array} has {count}")
    child = shape.narrow(value).child(index) if shape is not None else None
    new = _assigned(value[index], override, child, root, depth + 1)
    return [*value[:index], *([] if new is MISSING else [new]), *value[index + 1 :]]


def _assigned_key(value: Any, override: Override, shape: Shape | None, root: Shape, depth: int, key: str) -> Any:
    path = override.path
    if value is not MISSING and not isinstance(value, dict):
        found = f"{shortened(value)} ({type_name(value)})"
        raise _NoPlaceError(f"{dotted(path)}: {dotted(path[:depth])} is {found}, not a table")
    table: dict[str, Any] = {} if value is MISSING else value
    if shape is not None and shape.tag == key and depth + 1 == len(path):
        table = switched(table, override.value, shape)
    narrowed = shape.narrow(table) if shape is not None else None
    child = narrowed.child(key) if narrowed is not None else None
    if narrowed is not None and narrowed.closed and child is None:
        raise _NoPlaceError(f"{dotted(path[: depth + 1])}: {unknown_key(path[: depth + 1], list(narrowed.keys), root)}")
    new = _assigned(table.get(key, MISSING), override, child, root, depth + 1)
    if new is not MISSING:
        return {**table, key: new}
    return MISSING if value is MISSING else {name: item for name, item in table.items() if name != key}
