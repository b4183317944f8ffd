"""How values, places and expectations of a configuration read in a message."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from pydantic import TypeAdapter

from ple_rec.config.base import Name
from ple_rec.config.shape import SchemaNode
from ple_rec.text.suggest import did_you_mean

TOML_TYPES = {
    bool: "bool",
    int: "int",
    float: "float",
    str: "string",
    list: "array",
    tuple: "array",
    dict: "table",
}
NOUNS = {"boolean": "bool", "integer": "int", "number": "number", "string": "string", "object": "table"}
NOUNS_BY_FORMAT = {"path": "path", "file-path": "path", "directory-path": "path", "date": "date", "date-time": "date"}
LONGEST_VALUE = 60
KeyPath = tuple[str | int, ...]
NAME_PATTERN = TypeAdapter(Name).json_schema()["pattern"]


def toml_value(value: Any) -> str:
    """Return a value on one line, as TOML writes it: `true`, `0.5`, `"text"`, `[1, 2]`, `{a = 1}`."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{toml_key(key)} = {toml_value(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(toml_value, value)) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else str(value)


def toml_key(key: str) -> str:
    """Return a key as TOML writes it: bare where it can be."""
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else json.dumps(key, ensure_ascii=False)


def shortened(value: Any) -> str:
    """Return `toml_value`, cut after 60 characters."""
    text = toml_value(value)
    return text if len(text) <= LONGEST_VALUE else text[: LONGEST_VALUE - 3] + "..."


def type_name(value: Any) -> str:
    """Return what TOML calls the type of a value."""
    return TOML_TYPES.get(type(value), "date")


def dotted(path: KeyPath) -> str:
    """Return a path as in `tasks[1].weight`."""
    text = "".join(f"[{key}]" if isinstance(key, int) else f".{toml_key(key)}" for key in path)
    return text.removeprefix(".")


def either(words: Sequence[str]) -> str:
    """Return `a`, `a or b`, `a, b or c`."""
    return " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def suggestion(word: object, known: Sequence[str]) -> str:
    """Return `did you mean "ple"? (known: cgc, ple)`, or only what is known where nothing is near."""
    near, everything = meant(word, known), f"known: {', '.join(known)}"
    return f"{near} ({everything})" if near else everything


def meant(word: object, known: Sequence[str]) -> str:
    """Return `did you mean "ple"?`, or nothing where nothing is near, or the word is no text."""
    return did_you_mean(word, known, '"') if isinstance(word, str) else ""


def expected(shape: SchemaNode) -> str:
    """Return what may stand there, with an article: `a positive int`, `an array of strings`, `"a" or "b"`."""
    if shape.members:
        return either([expected(member) for member in shape.members])
    text = noun(shape)
    if shape.choices or text == "anything":
        return text
    return f"{'an' if text[0] in 'aeiou' else 'a'} {text}"


def noun(shape: SchemaNode, many: bool = False) -> str:
    """Return what may stand there, without an article; `many` for the plural."""
    plural = "s" if many else ""
    kind = shape.node.get("type")
    if shape.choices:
        return either([toml_value(choice) for choice in shape.choices])
    if shape.members:
        return either([noun(member, many) for member in shape.members])
    if shape.tag is not None:
        return f"table{plural} with {shape.tag} = {either([toml_value(tag) for tag in shape.variants])}"
    if shape.values is not None:
        return f"table{plural} of {noun(shape.values, many=True)}"
    if kind == "array":
        return _array(shape, plural)
    if kind in ("integer", "number"):
        return _number(shape, plural)
    if kind == "string":
        return _string(shape, plural)
    return f"{NOUNS[kind]}{plural}" if kind in NOUNS else "anything"


def _number(shape: SchemaNode, plural: str) -> str:
    text, rule = NOUNS[shape.node["type"]] + plural, bounds(shape)
    if rule == "> 0":
        return f"positive {text}"
    if rule == ">= 0":
        return f"non-negative {text}"
    return f"{text} {rule}".rstrip()


def _string(shape: SchemaNode, plural: str) -> str:
    pattern = shape.node.get("pattern")
    if pattern == NAME_PATTERN:
        return f"name{plural}"
    text = NOUNS_BY_FORMAT.get(shape.node.get("format", ""), "string") + plural
    return f"{text} matching {pattern}" if pattern else text


def pattern_rule(shape: SchemaNode) -> str:
    """Return what a noun that stands for a pattern leaves unsaid."""
    return " (letters, digits and _; no digit first)" if shape.node.get("pattern") == NAME_PATTERN else ""


def _array(shape: SchemaNode, plural: str) -> str:
    if shape.slots:
        return f"array{plural} [{', '.join(noun(slot) for slot in shape.slots)}]"
    empty = "non-empty " if shape.node.get("minItems") == 1 else ""
    return f"{empty}array{plural}" + (f" of {noun(shape.items, many=True)}" if shape.items else "")


def bounds(shape: SchemaNode) -> str:
    """Return the range of a number: `> 0`, `>= 0 and < 1`, `> 0 and a multiple of 4`; empty without one."""
    signs = {"exclusiveMinimum": ">", "minimum": ">=", "exclusiveMaximum": "<", "maximum": "<="}
    signs["multipleOf"] = "a multiple of"
    return " and ".join(f"{sign} {_plain(shape.node[name])}" for name, sign in signs.items() if name in shape.node)


def _plain(number: float) -> str:
    return str(int(number)) if number == int(number) else str(number)


def lengths(shape: SchemaNode) -> str:
    """Return the range of a length: `at least 1 item`, `exactly 2 items`, `at most 8 characters`; empty without one."""
    parts = []
    for suffix, unit in (("Items", "item"), ("Length", "character"), ("Properties", "key")):
        least, most = shape.node.get(f"min{suffix}"), shape.node.get(f"max{suffix}")
        limits = [("exactly", least)] if least == most else [("at least", least), ("at most", most)]
        parts += [f"{words} {count} {unit}{'' if count == 1 else 's'}" for words, count in limits if count is not None]
    return " and ".join(parts)
