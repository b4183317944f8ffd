"""Changes to the document of a configuration: a file is merged over its base, and `--set a.b[1].c=value` over both.

A document is the parsed content of a TOML file. A place in it is a table, an array or a value, and its path leads there
from the root. The `SchemaNode` of a place holds the rules of the configuration class for it.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ple_rec.config.schema_node import SchemaNode
from ple_rec.config.words import KeyPath, dotted_path, short_value, type_name
from ple_rec.errors import Option, UserError, overrides_text

MISSING: Any = object()  # Value of a place that a document lacks; in changes, it removes the key.


class Changes(dict[Any, Any]):
    """Changes of one table or array, by key or index: a new value, MISSING to remove it, or `Changes` inside it."""


def merge(base: Any, document: Any, node: SchemaNode | None) -> Any:
    """Return a document merged over its base.

    Tables merge; any other value, an array too, replaces that of the base. If a table changes the tag of a union
    (`model.variant`), keys of the base that the new variant does not have are dropped.

    Args:
        base: Value of the base; MISSING if it has none.
        document: Value of the document.
        node: Schema node of the place; None if the configuration class has no such place.
    """
    if not (isinstance(base, dict) and isinstance(document, dict)):
        return document
    base, node = _narrow(base, document, node)
    merged = dict(base)
    for key, value in document.items():
        merged[key] = merge(base.get(key, MISSING), value, None if node is None else node.child(key))
    return merged


def _narrow(
    table: dict[Any, Any], changes: dict[Any, Any], node: SchemaNode | None
) -> tuple[dict[Any, Any], SchemaNode | None]:
    """Return a table and its node, both for the variant that the table has after changes.

    If the changes set the tag of a union, the table loses the keys of its old variant that the new one lacks.
    """
    if node is None:
        return table, None
    if node.tag in changes:
        tag = changes[node.tag]
        old, new = node.narrow(table), node.variants.get(tag) if isinstance(tag, str) else None
        if new is not None and old is not node:
            table = {key: value for key, value in table.items() if key in new.keys or key not in old.keys}
    return table, node.narrow({**table, **changes})


def apply_changes(value: Any, changes: Any, node: SchemaNode | None, problems: list[str], path: KeyPath = ()) -> Any:
    """Return a value of the document with changes applied, inside tables and arrays alike.

    Args:
        value: Value at the place; MISSING if the document has none.
        changes: `Changes` inside the value; a new value, which replaces it even if both are tables; or MISSING.
        node: Schema node of the place; None if the configuration class has no such place.
        problems: List that receives a line for each change whose place does not exist.
        path: Path of the place.

    Returns:
        New value; MISSING if it is removed, or if there is none and no change sets one.
    """
    if not isinstance(changes, Changes):
        return changes
    children = dict(enumerate(value)) if isinstance(value, list) else value if isinstance(value, dict) else {}
    if isinstance(value, list):
        node = None if node is None else node.narrow(value)
    else:
        children, node = _narrow(children, changes, node)
    new_children = dict(children)
    for key, change in changes.items():
        if problem := _missing_place(value, key, path):
            problems.append(f"{_full_path((*path, key), change)}: {problem}")
        elif isinstance(key, str) and node is not None and node.names is not None and key not in node.names:
            # The key is kept, so that the check of the document reports it; the changes inside it are not applied.
            new_children[key] = {} if change is MISSING or isinstance(change, Changes) else change
        else:
            child_node = None if node is None else node.child(key)
            new_children[key] = apply_changes(children.get(key, MISSING), change, child_node, problems, (*path, key))
    new_children = {key: child for key, child in new_children.items() if child is not MISSING}
    if value is MISSING:
        return new_children or MISSING
    if isinstance(value, dict):
        return new_children
    return list(new_children.values()) if isinstance(value, list) else value


def _missing_place(value: Any, key: str | int, path: KeyPath) -> str:
    """Return the reason why a value cannot have a key or an index; empty if it can."""
    text = "not set" if value is MISSING else f"{short_value(value)} ({type_name(value)})"
    if isinstance(key, int):
        if not isinstance(value, list):
            return f"{dotted_path(path)} is {text}; an index needs an array there"
        count = f"{len(value)} item{'' if len(value) == 1 else 's'}"
        return f"no item {key}; {dotted_path(path)} has {count}" if key >= len(value) else ""
    return "" if value is MISSING or isinstance(value, dict) else f"{dotted_path(path)} is {text}, not a table"


def _full_path(path: KeyPath, change: Any) -> str:
    """Return the full path of the first override inside `change`, whose own path is `path`."""
    while isinstance(change, Changes):
        key, change = next(iter(change.items()))
        path = (*path, key)
    return dotted_path(path)


_KEY = r'(?:[A-Za-z0-9_-]+|"[^"]*")'
_SEGMENT = rf"{_KEY}(?:\[[0-9]+\])*"
_OVERRIDE = re.compile(rf"\s*({_SEGMENT}(?:\.{_SEGMENT})*)\s*=(.*)", re.DOTALL)
_PART = re.compile(r'"([^"]*)"|\[([0-9]+)\]|([A-Za-z0-9_-]+)')


@dataclass(frozen=True)
class Override:
    """Override of one place of a document.

    Args:
        path: Keys and indices that lead to the place.
        value: New value; MISSING to remove the key, so that its default applies.
    """

    path: KeyPath
    value: Any


def parse_override(text: str) -> Override:
    """Return the override that a text of the form `a.b[1].c=value` states.

    The value is TOML (`true`, `0.5`, `[1, 2]`, `"text"`, `{a = 1}`), or else plain text. An empty value removes the
    key, so that its default applies.

    Raises:
        UserError: The text does not have this form, or is not UTF-8.
    """
    match = _OVERRIDE.fullmatch(text)
    rule, fix = "an override reads key.key[0].key=value", f"write for example {overrides_text('train.steps=100')}"
    if match is None:
        value = "no `=`" if "=" not in text else f"`{text.partition('=')[0]}` is no place"
        raise UserError(f"{Option.OVERRIDES} {text}", value, rule, fix)
    path = tuple(int(index) if index else quoted or bare for quoted, index, bare in _PART.findall(match[1]))
    value = match[2].strip()
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        raise UserError(
            f"{Option.OVERRIDES} {dotted_path(path)}", "bytes that are not UTF-8", "an override is UTF-8 text", fix
        )
    return Override(path, _parse_value(value) if value else MISSING)


def _parse_value(text: str) -> Any:
    try:
        parsed = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return parsed["value"] if len(parsed) == 1 else text  # A text with line breaks may parse as several keys.


def apply_overrides(raw: dict[str, Any], texts: Sequence[str], root: SchemaNode) -> tuple[dict[str, Any], list[str]]:
    """Return a document with overrides applied. Their order matters only if two change the same place.

    Args:
        raw: Document, which is not changed.
        texts: Overrides in the form of `parse_override`; of two for the same place, the later one counts.
        root: Root node of the configuration class.

    Returns:
        New document, and a line for each override whose place does not exist.

    Raises:
        UserError: An override cannot be parsed.
    """
    problems: list[str] = []
    changes: Any = Changes()
    for override in map(parse_override, texts):
        changes = _combine(changes, _to_changes(override), problems, ())
    return apply_changes(raw, changes, root, problems), problems


def _to_changes(override: Override) -> Any:
    """Return an override as nested `Changes`, from the root of the document on."""
    value = override.value
    for key in reversed(override.path):
        value = Changes({key: value})
    return value


def _combine(earlier: Any, later: Any, problems: list[str], path: KeyPath) -> Any:
    """Return two changes of one place as one change; where they conflict, the later one counts."""
    if not isinstance(later, Changes):
        return later
    if not isinstance(earlier, Changes):  # The earlier one sets a value, and the later one changes something inside it.
        return apply_changes(earlier, later, None, problems, path)
    both = {key: _combine(earlier[key], later[key], problems, (*path, key)) for key in later if key in earlier}
    return Changes({**earlier, **later, **both})
