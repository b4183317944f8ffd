"""Changes to the document of a configuration: a file over its base, and `--set a.b[1].c=value` over both."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ple_rec.config.schema_node import SchemaNode
from ple_rec.config.words import KeyPath, dotted, shortened, type_name
from ple_rec.errors import Option, UserError, settings

MISSING: Any = object()


class Changes(dict[Any, Any]):
    """Overrides of one table or array: new values, or `Changes` of its parts, by key or index; MISSING removes one."""


def merge(base: Any, top: Any, node: SchemaNode | None) -> Any:
    """Return a document merged over its base.

    Tables merge; any other value, an array too, replaces that of the base. If a table changes the tag of a union
    (`model.variant`), keys of the base that the new variant does not have are dropped.

    Args:
        base: Value of the base; MISSING if it has none.
        top: Value of the document.
        node: Schema node of the place; None if the class knows no such place.
    """
    if not (isinstance(base, dict) and isinstance(top, dict)):
        return top
    base, node = _narrow(base, top, node)
    merged = dict(base)
    for key, value in top.items():
        merged[key] = merge(base.get(key, MISSING), value, None if node is None else node.child(key))
    return merged


def _narrow(
    table: dict[Any, Any], changes: dict[Any, Any], node: SchemaNode | None
) -> tuple[dict[Any, Any], SchemaNode | None]:
    """Return a table without the keys that its new variant lacks, and the node of that variant."""
    if node is None:
        return table, None
    if node.tag in changes:
        tag = changes[node.tag]
        old, new = node.narrow(table), node.variants.get(tag) if isinstance(tag, str) else None
        if new is not None and old is not node:
            table = {key: value for key, value in table.items() if key in new.keys or key not in old.keys}
    return table, node.narrow({**table, **changes})


def apply_changes(value: Any, changes: Any, node: SchemaNode | None, problems: list[str], path: KeyPath = ()) -> Any:
    """Return a value with changes, which merge with tables and arrays alike.

    Args:
        value: Value of the document; MISSING if it has none.
        changes: `Changes` of its parts, or the value that replaces it, even a table.
        node: Schema node of the place; None if the class knows no such place.
        problems: List that receives a line for each change whose place does not exist.
        path: Path of the place.
    """
    if not isinstance(changes, Changes):
        return changes
    parts = dict(enumerate(value)) if isinstance(value, list) else value if isinstance(value, dict) else {}
    if isinstance(value, list):
        node = None if node is None else node.narrow(value)
    else:
        parts, node = _narrow(parts, changes, node)
    new_parts = dict(parts)
    for key, change in changes.items():
        if problem := _missing_place(value, key, path):
            problems.append(f"{_whole_path((*path, key), change)}: {problem}")
        elif isinstance(key, str) and node is not None and node.names is not None and key not in node.names:
            # The check of the whole document reports the unknown key, so problems of its parts would only repeat it.
            new_parts[key] = {} if change is MISSING or isinstance(change, Changes) else change
        else:
            child = None if node is None else node.child(key)
            new_parts[key] = apply_changes(parts.get(key, MISSING), change, child, problems, (*path, key))
    new_parts = {key: part for key, part in new_parts.items() if part is not MISSING}
    if value is MISSING:
        return new_parts or MISSING
    if isinstance(value, dict):
        return new_parts
    return list(new_parts.values()) if isinstance(value, list) else value


def _missing_place(value: Any, key: str | int, path: KeyPath) -> str:
    """Return why a value has no place for a key or an index; empty if it has one."""
    text = "not set" if value is MISSING else f"{shortened(value)} ({type_name(value)})"
    if isinstance(key, int):
        if not isinstance(value, list):
            return f"{dotted(path)} is {text}; an index needs an array there"
        count = f"{len(value)} item{'' if len(value) == 1 else 's'}"
        return f"no item {key}; {dotted(path)} has {count}" if key >= len(value) else ""
    return "" if value is MISSING or isinstance(value, dict) else f"{dotted(path)} is {text}, not a table"


def _whole_path(path: KeyPath, change: Any) -> str:
    """Return the path of an override that begins with `path`."""
    while isinstance(change, Changes):
        key, change = next(iter(change.items()))
        path = (*path, key)
    return dotted(path)


_KEY = r'(?:[A-Za-z0-9_-]+|"[^"]*")'
_STEP = rf"{_KEY}(?:\[[0-9]+\])*"
_OVERRIDE = re.compile(rf"\s*({_STEP}(?:\.{_STEP})*)\s*=(.*)", re.DOTALL)
_PART = re.compile(r'"([^"]*)"|\[([0-9]+)\]|([A-Za-z0-9_-]+)')


@dataclass(frozen=True)
class Override:
    """Override of one place.

    Args:
        path: Path of the place.
        value: New value; MISSING to remove the key, so that its default applies.
    """

    path: KeyPath
    value: Any


def parse_override(text: str) -> Override:
    """Read `a.b[1].c=value`.

    The value is TOML (`true`, `0.5`, `[1, 2]`, `"text"`, `{a = 1}`), or else plain text. An empty value removes the
    key, so that its default applies.

    Raises:
        UserError: The text does not have that form, or is not UTF-8.
    """
    parts = _OVERRIDE.fullmatch(text)
    rule, fix = "an override reads key.key[0].key=value", f"write for example {settings('train.steps=100')}"
    if parts is None:
        value = "no `=`" if "=" not in text else f"`{text.partition('=')[0]}` is no place"
        raise UserError(f"{Option.OVERRIDES} {text}", value, rule, fix)
    path = tuple(int(index) if index else quoted or bare for quoted, index, bare in _PART.findall(parts[1]))
    value = parts[2].strip()
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        raise UserError(
            f"{Option.OVERRIDES} {dotted(path)}", "bytes that are not UTF-8", "an override is UTF-8 text", fix
        )
    return Override(path, _parse_value(value) if value else MISSING)


def _parse_value(text: str) -> Any:
    try:
        parsed = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return parsed["value"] if len(parsed) == 1 else text  # A text with line breaks may parse as several keys.


def apply_overrides(raw: dict[str, Any], texts: Sequence[str], root: SchemaNode) -> tuple[dict[str, Any], list[str]]:
    """Apply overrides to a document, all at once, so that their order matters only for the same place.

    Args:
        raw: Document, which is not changed.
        texts: Overrides in the form of `parse_override`; the later of two for one place wins.
        root: Root node of the configuration class.

    Returns:
        New document, and a line for each override whose place does not exist.

    Raises:
        UserError: An override cannot be parsed.
    """
    problems: list[str] = []
    changes: Any = Changes()
    for override in map(parse_override, texts):
        changes = _combine(changes, _nested(override), problems, ())
    return apply_changes(raw, changes, root, problems), problems


def _nested(override: Override) -> Any:
    """Return an override as `Changes` of the root."""
    value = override.value
    for key in reversed(override.path):
        value = Changes({key: value})
    return value


def _combine(earlier: Any, later: Any, problems: list[str], path: KeyPath) -> Any:
    """Return two changes of one place as one; the later wins."""
    if not isinstance(later, Changes):
        return later
    if not isinstance(earlier, Changes):  # The later one changes a part of the value that the earlier one sets.
        return apply_changes(earlier, later, None, problems, path)
    both = {key: _combine(earlier[key], later[key], problems, (*path, key)) for key in later if key in earlier}
    return Changes({**earlier, **later, **both})
