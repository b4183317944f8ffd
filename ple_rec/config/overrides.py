"""`--set a.b[1].c=value`: one value of a configuration, given on the command line."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ple_rec.config.merge import MISSING, Changes, merge
from ple_rec.config.shape import SchemaNode
from ple_rec.config.words import KeyPath, dotted
from ple_rec.errors import Option, UserError, settings

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
