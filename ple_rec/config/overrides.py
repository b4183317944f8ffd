"""Changes to a document: a configuration over its base, and `--set a.b[1].c=value` over both."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ple_rec.config.shape import SchemaNode
from ple_rec.config.words import KeyPath, dotted, shortened, type_name
from ple_rec.errors import Option, UserError, settings

MISSING: Any = object()


class Changes(dict[Any, Any]):
    """What overrides change of a table or of an array, by key or by index; MISSING takes the key or the item away."""


def merge(base: Any, top: Any, shape: SchemaNode | None, problems: list[str], path: KeyPath = ()) -> Any:
    """Return `base` with `top` over it.

    Tables merge; anything else, an array too, replaces what the base has. Where a table changes the tag of a union
    (`model.variant`), it keeps of the base only the keys that its new variant has.

    `Changes` merge with a table or with an array, and whatever they hold, a table too, replaces what stands there.

    Args:
        base: Value below; MISSING where there is none.
        top: Value above.
        shape: Shape of the place; None where the model knows no such place.
        problems: Receives a line for each of the `Changes` that has no place in the base.
        path: The place itself.
    """
    changing = isinstance(top, Changes)
    if not changing and not (isinstance(base, dict) and isinstance(top, dict)):
        return top
    old = dict(enumerate(base)) if isinstance(base, list) else base if isinstance(base, dict) else {}
    if shape is not None and shape.tag in top:
        old = _switched(old, top[shape.tag], shape)
    if shape is not None:
        shape = shape.narrow(base if isinstance(base, list) else {**old, **top})
    merged = dict(old)
    for key, value in top.items():
        child = shape.child(key) if shape is not None else None
        if changing and (refusal := _no_place(base, key, path)):
            problems.append(f"{_whole_path((*path, key), value)}: {refusal}")
        elif isinstance(key, str) and shape is not None and shape.names is not None and key not in shape.names:
            # Unknown, which is said where the whole is checked, whatever was to stand there.
            merged[key] = {} if value is MISSING or isinstance(value, Changes) else value
        elif changing and not isinstance(value, Changes):
            merged[key] = value
        else:
            merged[key] = merge(old.get(key, MISSING), value, child, problems, (*path, key))
    merged = {key: value for key, value in merged.items() if value is not MISSING}
    if base is MISSING or isinstance(base, dict):
        return merged if merged or base is not MISSING else MISSING
    return list(merged.values()) if isinstance(base, list) else base


def _switched(table: dict[Any, Any], tag: object, shape: SchemaNode) -> dict[Any, Any]:
    """Return what stays of a table whose tag becomes `tag`: not the keys of the old variant that the new one lacks."""
    old, new = shape.narrow(table), shape.variants.get(tag) if isinstance(tag, str) else None
    if new is None or old is shape:
        return table
    return {key: value for key, value in table.items() if key in new.keys or key not in old.keys}


def _no_place(base: Any, key: str | int, path: KeyPath) -> str:
    """Return why a value has no such key or index to change; empty where it has."""
    value = "not set" if base is MISSING else f"{shortened(base)} ({type_name(base)})"
    if isinstance(key, int):
        if not isinstance(base, list):
            return f"{dotted(path)} is {value}; an index needs an array there"
        count = f"{len(base)} item{'' if len(base) == 1 else 's'}"
        return f"no item {key}; {dotted(path)} has {count}" if key >= len(base) else ""
    return "" if base is MISSING or isinstance(base, dict) else f"{dotted(path)} is {value}, not a table"


def _whole_path(path: KeyPath, value: Any) -> str:
    """Return the place that an override names, of which `path` is the beginning."""
    while isinstance(value, Changes):
        key, value = next(iter(value.items()))
        path = (*path, key)
    return dotted(path)


_KEY = r'(?:[A-Za-z0-9_-]+|"[^"]*")'
_STEP = rf"{_KEY}(?:\[[0-9]+\])*"
_OVERRIDE = re.compile(rf"\s*({_STEP}(?:\.{_STEP})*)\s*=(.*)", re.DOTALL)
_PART = re.compile(r'"([^"]*)"|\[([0-9]+)\]|([A-Za-z0-9_-]+)')


@dataclass(frozen=True)
class Override:
    """A place and what to put there; MISSING to take the key away, so that its default holds."""

    path: KeyPath
    value: Any


def parse_override(text: str) -> Override:
    """Read `a.b[1].c=value`.

    The value is TOML (`true`, `0.5`, `[1, 2]`, `"text"`, `{a = 1}`), or plain text where it is not TOML. Nothing after
    the `=` takes the key away: its default holds again.

    Raises:
        UserError: the text does not have that form, or is not UTF-8.
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
    return parsed["value"] if len(parsed) == 1 else text  # more keys: the text had line breaks


def apply_overrides(raw: dict[str, Any], texts: Sequence[str], root: SchemaNode) -> tuple[dict[str, Any], list[str]]:
    """Put every override into a document, all of them at once: their order matters only where two have one place.

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
    changes: Any = Changes()
    for override in map(parse_override, texts):
        changes = _joined(changes, _nested(override), problems, ())
    return merge(raw, changes, root, problems), problems


def _nested(override: Override) -> Any:
    value = override.value
    for key in reversed(override.path):
        value = Changes({key: value})
    return value


def _joined(earlier: Any, later: Any, problems: list[str], path: KeyPath) -> Any:
    """Return the changes of two overrides as one: of two for one place the later holds."""
    if not isinstance(later, Changes):
        return later
    if not isinstance(earlier, Changes):  # a value that the later one changes in part
        return merge(earlier, later, None, problems, path)
    both = {key: _joined(earlier[key], later[key], problems, (*path, key)) for key in later if key in earlier}
    return Changes({**earlier, **later, **both})
