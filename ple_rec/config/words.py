"""Texts for messages about a configuration: values, paths of keys, and what a `SchemaNode` expects."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from pydantic import TypeAdapter

from ple_rec.config.base import Name
from ple_rec.config.schema_node import SchemaNode
from ple_rec.text.suggest import did_you_mean

TOML_TYPES = {  # Names of types of values in messages.
    bool: "bool",
    int: "int",
    float: "float",
    str: "string",
    list: "array",
    tuple: "array",
    dict: "table",
}
# Names of expected types in messages, by `type` and by `format` of a JSON schema.
NOUNS = {"boolean": "bool", "integer": "int", "number": "number", "string": "string", "object": "table"}
NOUNS_BY_FORMAT = {"path": "path", "file-path": "path", "directory-path": "path", "date": "date", "date-time": "date"}
MAX_VALUE_LENGTH = 60
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


def short_value(value: Any) -> str:
    """Return the text of `toml_value`, cut to `MAX_VALUE_LENGTH` characters, `...` included, if longer."""
    text = toml_value(value)
    return text if len(text) <= MAX_VALUE_LENGTH else text[: MAX_VALUE_LENGTH - 3] + "..."


def type_name(value: Any) -> str:
    """Return the name of a value's type in messages: `int`, `array`; `date` for every type that TOML_TYPES lacks."""
    return TOML_TYPES.get(type(value), "date")


def dotted_path(path: KeyPath) -> str:
    """Return a path of keys and indices as text: `tasks[1].weight`."""
    text = "".join(f"[{key}]" if isinstance(key, int) else f".{toml_key(key)}" for key in path)
    return text.removeprefix(".")


def join_or(words: Sequence[str]) -> str:
    """Return words joined by commas and a last `or`: `a`, `a or b`, `a, b or c`."""
    return " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def suggestion(word: object, known: Sequence[str]) -> str:
    """Return `did you mean "ple"? (known: cgc, ple)`, or `known: cgc, ple` if no known word is similar."""
    near, all_known = spelling_hint(word, known), f"known: {', '.join(known)}"
    return f"{near} ({all_known})" if near else all_known


def spelling_hint(word: object, known: Sequence[str]) -> str:
    """Return `did you mean "ple"?`; empty if no known word is similar, or `word` is not a string."""
    return did_you_mean(word, known, '"') if isinstance(word, str) else ""


def expected_text(node: SchemaNode) -> str:
    """Return the expected value with an article: `a positive int`, `an array of strings`, `"a" or "b"`."""
    if node.members:
        return join_or([expected_text(member) for member in node.members])
    text = expected_noun(node)
    if node.choices or text == "anything":
        return text
    return f"{'an' if text[0] in 'aeiou' else 'a'} {text}"


def expected_noun(node: SchemaNode, many: bool = False) -> str:
    """Return the expected value without an article: `positive int`, `"a" or "b"`; with `many`, `positive ints`."""
    ending = "s" if many else ""
    kind = node.schema.get("type")
    if node.choices:
        return join_or([toml_value(choice) for choice in node.choices])
    if node.members:
        return join_or([expected_noun(member, many) for member in node.members])
    if node.tag is not None:
        return f"table{ending} with {node.tag} = {join_or([toml_value(tag) for tag in node.variants])}"
    if node.values is not None:
        return f"table{ending} of {expected_noun(node.values, many=True)}"
    if kind == "array":
        return _array(node, ending)
    if kind in ("integer", "number"):
        return _number(node, ending)
    if kind == "string":
        return _string(node, ending)
    return f"{NOUNS[kind]}{ending}" if kind in NOUNS else "anything"


def _number(node: SchemaNode, ending: str) -> str:
    text, rule = NOUNS[node.schema["type"]] + ending, bounds_text(node)
    if rule == "> 0":
        return f"positive {text}"
    if rule == ">= 0":
        return f"non-negative {text}"
    return f"{text} {rule}".rstrip()


def _string(node: SchemaNode, ending: str) -> str:
    pattern = node.schema.get("pattern")
    if pattern == NAME_PATTERN:
        return f"name{ending}"
    text = NOUNS_BY_FORMAT.get(node.schema.get("format", ""), "string") + ending
    return f"{text} matching {pattern}" if pattern else text


def pattern_rule(node: SchemaNode) -> str:
    """Return the rule of a value of type `Name`, to append to a text; empty for other nodes.

    The rule is ` (letters, digits and _; no digit first)`, with the space.
    """
    return " (letters, digits and _; no digit first)" if node.schema.get("pattern") == NAME_PATTERN else ""


def _array(node: SchemaNode, ending: str) -> str:
    if node.slots:
        return f"array{ending} [{', '.join(expected_noun(slot) for slot in node.slots)}]"
    empty = "non-empty " if node.schema.get("minItems") == 1 else ""
    return f"{empty}array{ending}" + (f" of {expected_noun(node.items, many=True)}" if node.items else "")


def bounds_text(node: SchemaNode) -> str:
    """Return the allowed range of a number: `> 0`, `>= 0 and < 1`, `> 0 and a multiple of 4`; empty if it has none."""
    relations = {"exclusiveMinimum": ">", "minimum": ">=", "exclusiveMaximum": "<", "maximum": "<="}
    relations["multipleOf"] = "a multiple of"
    return " and ".join(
        f"{relation} {_number_text(node.schema[key])}" for key, relation in relations.items() if key in node.schema
    )


def _number_text(number: float) -> str:
    return str(int(number)) if number == int(number) else str(number)


def lengths_text(node: SchemaNode) -> str:
    """Return the allowed length: `at least 1 item`, `exactly 2 items`, `at most 8 characters`; empty for no limit."""
    rules = []
    for suffix, unit in (("Items", "item"), ("Length", "character"), ("Properties", "key")):
        least, most = node.schema.get(f"min{suffix}"), node.schema.get(f"max{suffix}")
        limits = [("exactly", least)] if least == most else [("at least", least), ("at most", most)]
        rules += [f"{limit} {count} {unit}{'' if count == 1 else 's'}" for limit, count in limits if count is not None]
    return " and ".join(rules)
