"""Listing of every key of a configuration class, for `ple-rec train --help-config` and the documentation."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from pydantic import BaseModel

from ple_rec.config.schema_node import SchemaNode
from ple_rec.config.words import expected_text, join_or, toml_key, toml_value

LINE_WIDTH = 100


@dataclass(frozen=True)
class _Section:
    """TOML table of the listing.

    Args:
        path: Dotted path of the table; empty for the document itself.
        heading: Heading in TOML, `[train]` or `[[tasks]]`; empty for the document itself.
        note: Text after the heading, such as `required`.
        text: Description of the table.
        node: Schema node of the table.
        enclosing: Names of the schema definitions of the tables around this one. None of them is described again, since
            a class may contain itself.
    """

    path: str
    heading: str
    note: str
    text: str
    node: SchemaNode
    enclosing: frozenset[str] = frozenset()


def describe(cls: type[BaseModel]) -> str:
    """Return a listing of every key that a configuration class accepts, by table: type, default, description.

    Example:
        >>> from ple_rec.config.schema import SplitInfo
        >>> print(describe(SplitInfo))
        rows: a non-negative int, required
        row_groups: a non-negative int, required
    """
    blocks = _blocks(_Section("", "", "", "", SchemaNode.of_class(cls)))
    return "\n\n".join("\n".join(lines) for lines in blocks if lines)


def set_hint(cls: type[BaseModel], flag: str, hidden: Sequence[str] = ()) -> str:
    """Return the advice to set a key by `--set`, if an unknown flag has the name of a key; else an empty text.

    Args:
        cls: Configuration class. Its own keys and those of its tables are searched, but no deeper ones.
        flag: Unknown word of the command line, such as `--device`.
        hidden: Names of tables that are not searched.
    """
    word = flag.removeprefix("--").partition("=")[0].replace("-", "_")
    keys = SchemaNode.of_class(cls).keys
    matches = {word: keys[word]} if word in keys else {}
    matches |= {f"{name}.{word}": t.keys[word] for name, t in keys.items() if name not in hidden and word in t.keys}
    return " or ".join(f"write --set {key}=... ({expected_text(node)})" for key, node in matches.items())


def _blocks(section: _Section) -> Iterator[list[str]]:
    """Yield the lines of a table, or of each of its variants, then those of the tables inside it."""
    ref = section.node.schema.get("ref")
    if ref in section.enclosing:
        return
    section = replace(section, enclosing=section.enclosing | ({ref} if ref else set()))
    variants = section.node.variants
    # Tables inside this one, by heading and definition, each with the tags of the variants that have it.
    inner: dict[tuple[str, str], tuple[_Section, list[str]]] = {}
    for tag, node in (variants or {"": section.node}).items():
        note = f"{section.note}; {_tag_condition(section, [tag])}" if variants else section.note
        text = section.text or (node.schema.get("description", "") if variants else "")
        lines, tables = _table_lines(replace(section, node=node, note=note, text=text), hidden=section.node.tag)
        yield lines
        for table in tables:
            inner.setdefault((table.heading, str(table.node.schema.get("ref"))), (table, []))[1].append(tag)
    for table, tags in inner.values():
        in_all = not variants or len(tags) == len(variants)
        yield from _blocks(table if in_all else replace(table, note=f"{table.note}; {_tag_condition(section, tags)}"))


def _tag_condition(section: _Section, tags: list[str]) -> str:
    return f"with {section.node.tag} = {join_or([toml_value(tag) for tag in tags])}"


def _table_lines(section: _Section, hidden: str | None = None) -> tuple[list[str], list[_Section]]:
    """Return the lines of a table, without the key `hidden`, and the tables inside it."""
    node = section.node
    lines = [f"{section.heading}  {section.note}", *_wrapped(section.text, "  # ")] if section.heading else []
    inner: list[_Section] = []
    for key, child in node.keys.items():
        path = f"{section.path}.{toml_key(key)}".lstrip(".")
        tables = list(_tables(section, path, "required" if key in node.required else "optional", child))
        if (child.members or not tables) and key != hidden:
            lines += _key_lines(node, key, child, "  " if section.heading else "")
        inner += tables
    return lines, inner


def _tables(section: _Section, path: str, note: str, node: SchemaNode) -> Iterator[_Section]:
    """Yield the tables under a key: its value, the items of an array, the values by names that the user chooses."""
    text = node.schema.get("description", "")
    for member in node.members:
        yield from _tables(section, path, note, member)
    if node.tag is not None or node.closed:
        yield _Section(path, f"[{path}]", note, text, node, section.enclosing)
    for item, place, heading in (
        (node.items, path, f"[[{path}]]"),
        (node.values, f"{path}.NAME", f"[{path}.NAME]"),
    ):
        if item is not None and (item.tag is not None or item.closed):
            yield _Section(place, heading, note, text or item.schema.get("description", ""), item, section.enclosing)


def _key_lines(table: SchemaNode, key: str, node: SchemaNode, indent: str) -> list[str]:
    first = f"{toml_key(key)}: {expected_text(node)}, {_status(table, key, node)}"
    return [*_wrapped(first, indent, "  "), *_wrapped(node.schema.get("description", ""), f"{indent}    ")]


def _status(table: SchemaNode, key: str, node: SchemaNode) -> str:
    """Return `required`, `default 0.5`, or `optional` for a key whose default is None or an empty table."""
    if key in table.required:
        return "required"
    default = node.schema.get("default")
    return "optional" if default in (None, {}) else f"default {toml_value(default)}"


def _wrapped(text: str, indent: str, hanging: str = "") -> list[str]:
    """Return the first paragraph of a text as lines; those after the first are also indented by `hanging`."""
    paragraph = " ".join(text.partition("\n\n")[0].split())
    return textwrap.wrap(
        paragraph,
        LINE_WIDTH,
        initial_indent=indent,
        subsequent_indent=indent + hanging,
        break_long_words=False,
        break_on_hyphens=False,
    )
