"""Text of values, paths and expected types of a configuration, for messages."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from pydantic import TypeAdapter

from ple_rec.config.base import Name
from ple_rec.config.schema_node import SchemaNode
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
    """Return a key as TOML writes it: `batch_size`, or `"my key"` if it needs quotes."""
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else json.dumps(key, ensure_ascii=False)


def shortened(value: Any) -> str:
    """Return `toml_value` in at most 60 characters."""
    text = toml_value(value)
    return text if len(text) <= LONGEST_VALUE else text[: LONGEST_VALUE - 3] + "..."


def type_name(value: Any) -> str:
    """Return TOML's name for the type of a value: `int`, `array`."""
    return TOML_TYPES.get(type(value), "date")


def dotted(path: KeyPath) -> str:
    """Return a path as text: `tasks[1].weight`."""
    text = "".join(f"[{key}]" if isinstance(key, int) else f".{toml_key(key)}" for key in path)
    return text.removeprefix(".")


def either(words: Sequence[str]) -> str:
    """Return `a`, `a or b`, `a, b or c`."""
    return " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def suggestion(word: object, known: Sequence[str]) -> str:
    """Return `did you mean "ple"? (known: cgc, ple)`, or `known: cgc, ple` if no known word is similar."""
    near, everything = spelling_hint(word, known), f"known: {', '.join(known)}"
    return f"{near} ({everything})" if near else everything


def spelling_hint(word: object, known: Sequence[str]) -> str:
    """Return `did you mean "ple"?`; empty if no known word is similar, or the value is no text."""
    return did_you_mean(word, known, '"') if isinstance(word, str) else ""


def expected(node: SchemaNode) -> str:
    """Return the expected value with an article: `a positive int`, `an array of strings`, `"a" or "b"`."""
    if node.members:
        return either([expected(member) for member in node.members])
    text = noun(node)
    if node.choices or text == "anything":
        return text
    return f"{'an' if text[0] in 'aeiou' else 'a'} {text}"


def noun(node: SchemaNode, many: bool = False) -> str:
    """Return the expected value without an article: `positive int`, or in the plural (`many`) `positive ints`."""
    plural = "s" if many else ""
    kind = node.schema.get("type")
    if node.choices:
        return either([toml_value(choice) for choice in node.choices])
    if node.members:
        return either([noun(member, many) for member in node.members])
    if node.tag is not None:
        return f"table{plural} with {node.tag} = {either([toml_value(tag) for tag in node.variants])}"
    if node.values is not None:
        return f"table{plural} of {noun(node.values, many=True)}"
    if kind == "array":
        return _array(node, plural)
    if kind in ("integer", "number"):
        return _number(node, plural)
    if kind == "string":
        return _string(node, plural)
    return f"{NOUNS[kind]}{plural}" if kind in NOUNS else "anything"


def _number(node: SchemaNode, plural: str) -> str:
    text, rule = NOUNS[node.schema["type"]] + plural, bounds(node)
    if rule == "> 0":
        return f"positive {text}"
    if rule == ">= 0":
        return f"non-negative {text}"
    return f"{text} {rule}".rstrip()


def _string(node: SchemaNode, plural: str) -> str:
    pattern = node.schema.get("pattern")
    if pattern == NAME_PATTERN:
        return f"name{plural}"
    text = NOUNS_BY_FORMAT.get(node.schema.get("format", ""), "string") + plural
    return f"{text} matching {pattern}" if pattern else text


def pattern_rule(node: SchemaNode) -> str:
    """Return the rule of the noun `name`: ` (letters, digits and _; no digit first)`; empty for any other string."""
    return " (letters, digits and _; no digit first)" if node.schema.get("pattern") == NAME_PATTERN else ""


def _array(node: SchemaNode, plural: str) -> str:
    if node.slots:
        return f"array{plural} [{', '.join(noun(slot) for slot in node.slots)}]"
    empty = "non-empty " if node.schema.get("minItems") == 1 else ""
    return f"{empty}array{plural}" + (f" of {noun(node.items, many=True)}" if node.items else "")


def bounds(node: SchemaNode) -> str:
    """Return the range of a number: `> 0`, `>= 0 and < 1`, `> 0 and a multiple of 4`; empty without one."""
    words = {"exclusiveMinimum": ">", "minimum": ">=", "exclusiveMaximum": "<", "maximum": "<="}
    words["multipleOf"] = "a multiple of"
    return " and ".join(f"{word} {_plain(node.schema[name])}" for name, word in words.items() if name in node.schema)


def _plain(number: float) -> str:
    return str(int(number)) if number == int(number) else str(number)


def lengths(node: SchemaNode) -> str:
    """Return the range of a length: `at least 1 item`, `exactly 2 items`, `at most 8 characters`; empty without one."""
    parts = []
    for suffix, unit in (("Items", "item"), ("Length", "character"), ("Properties", "key")):
        least, most = node.schema.get(f"min{suffix}"), node.schema.get(f"max{suffix}")
        limits = [("exactly", least)] if least == most else [("at least", least), ("at most", most)]
        parts += [f"{words} {count} {unit}{'' if count == 1 else 's'}" for words, count in limits if count is not None]
    return " and ".join(parts)
