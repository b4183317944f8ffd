"""Every key of a configuration in words, for `ple-rec train --help-config` and the documentation."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from pydantic import BaseModel

from ple_rec.config.shape import SchemaNode
from ple_rec.config.words import either, expected, toml_key, toml_value

WIDTH = 100


@dataclass(frozen=True)
class _Section:
    """A table of the listing.

    Args:
        path: Dotted place of the table, empty for the document itself.
        heading: As TOML writes it, `[train]` or `[[tasks]]`; empty for the document itself.
        note: What stands after the heading, `required`.
        text: Description.
        shape: What may stand in it.
        above: Definitions that hold this one; a model that holds itself is described once.
    """

    path: str
    heading: str
    note: str
    text: str
    shape: SchemaNode
    above: frozenset[str] = frozenset()


def describe(cls: type[BaseModel]) -> str:
    """Return a listing of every key that `cls` accepts, by table: type, default, description.

    Example:
        >>> from ple_rec.config.schema import SplitInfo
        >>> print(describe(SplitInfo))
        rows: a non-negative int, required
        row_groups: a non-negative int, required
    """
    blocks = _blocks(_Section("", "", "", "", SchemaNode.of(cls)))
    return "\n\n".join("\n".join(lines) for lines in blocks if lines)


def setting_of(cls: type[BaseModel], flag: str, hidden: Sequence[str] = ()) -> str:
    """Return how to set the keys, of the document or of a table in it, whose name a flag bears; empty without one.

    Args:
        cls: Class of the configuration.
        flag: Word of the command line, such as `--device`.
        hidden: Names of tables that are not looked at.
    """
    word = flag.removeprefix("--").partition("=")[0].replace("-", "_")
    keys = SchemaNode.of(cls).keys
    matches = {word: keys[word]} if word in keys else {}
    matches |= {f"{name}.{word}": t.keys[word] for name, t in keys.items() if name not in hidden and word in t.keys}
    return " or ".join(f"write --set {key}=... ({expected(shape)})" for key, shape in matches.items())


def _blocks(section: _Section) -> Iterator[list[str]]:
    """Yield the lines of a table, or of every variant of it; then those of the tables in it."""
    ref = section.shape.node.get("ref")
    if ref in section.above:
        return
    section = replace(section, above=section.above | ({ref} if ref else set()))
    variants = section.shape.variants
    inner: dict[tuple[str, str], tuple[_Section, list[str]]] = {}
    for tag, shape in (variants or {"": section.shape}).items():
        note = f"{section.note}; {_when(section, [tag])}" if variants else section.note
        text = section.text or (shape.node.get("description", "") if variants else "")
        lines, tables = _own(replace(section, shape=shape, note=note, text=text), hidden=section.shape.tag)
        yield lines
        for table in tables:
            inner.setdefault((table.heading, str(table.shape.node.get("ref"))), (table, []))[1].append(tag)
    for table, tags in inner.values():
        of_all = not variants or len(tags) == len(variants)
        yield from _blocks(table if of_all else replace(table, note=f"{table.note}; {_when(section, tags)}"))


def _when(section: _Section, tags: list[str]) -> str:
    return f"with {section.shape.tag} = {either([toml_value(tag) for tag in tags])}"


def _own(section: _Section, hidden: str | None = None) -> tuple[list[str], list[_Section]]:
    """Return heading and keys of a table, but for the `hidden` one; and the tables in it."""
    shape = section.shape
    lines = [f"{section.heading}  {section.note}", *_wrapped(section.text, "  # ")] if section.heading else []
    inner: list[_Section] = []
    for key, child in shape.keys.items():
        path = f"{section.path}.{toml_key(key)}".lstrip(".")
        tables = list(_tables(section, path, "required" if key in shape.required else "optional", child))
        if (child.members or not tables) and key != hidden:
            lines += _key_lines(shape, key, child, "  " if section.heading else "")
        inner += tables
    return lines, inner


def _tables(section: _Section, path: str, note: str, shape: SchemaNode) -> Iterator[_Section]:
    """Yield the tables that can stand under a key: itself, the items of an array, the values of a free table."""
    text = shape.node.get("description", "")
    for member in shape.members:
        yield from _tables(section, path, note, member)
    if shape.tag is not None or shape.closed:
        yield _Section(path, f"[{path}]", note, text, shape, section.above)
    for item, place, heading in (
        (shape.items, path, f"[[{path}]]"),
        (shape.values, f"{path}.NAME", f"[{path}.NAME]"),
    ):
        if item is not None and (item.tag is not None or item.closed):
            yield _Section(place, heading, note, text or item.node.get("description", ""), item, section.above)


def _key_lines(table: SchemaNode, key: str, shape: SchemaNode, indent: str) -> list[str]:
    first = f"{toml_key(key)}: {expected(shape)}, {_status(table, key, shape)}"
    return [*_wrapped(first, indent, "  "), *_wrapped(shape.node.get("description", ""), f"{indent}    ")]


def _status(table: SchemaNode, key: str, shape: SchemaNode) -> str:
    """Return `required`, `default 0.5`, or `optional` where leaving it out says enough."""
    if key in table.required:
        return "required"
    default = shape.node.get("default")
    return "optional" if default in (None, {}) else f"default {toml_value(default)}"


def _wrapped(text: str, indent: str, hanging: str = "") -> list[str]:
    paragraph = " ".join(text.partition("\n\n")[0].split())
    return textwrap.wrap(
        paragraph,
        WIDTH,
        initial_indent=indent,
        subsequent_indent=indent + hanging,
        break_long_words=False,
        break_on_hyphens=False,
    )
