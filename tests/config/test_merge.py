"""One document over another: what holds for every pair of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from ple_rec.config.overrides import MISSING, Changes, apply_changes, apply_overrides, merge
from ple_rec.config.schema_node import SchemaNode
from ple_rec.config.words import KeyPath, dotted_path, toml_value

FREE = SchemaNode({}, {})
keys = st.sampled_from(["a", "b", "c d"])
leaves = st.integers() | st.booleans() | st.text("xyz", max_size=3) | st.lists(st.integers(), max_size=2)
tables: st.SearchStrategy[dict[str, Any]] = st.recursive(
    st.dictionaries(keys, leaves, max_size=3), lambda inner: st.dictionaries(keys, leaves | inner, max_size=3)
)


def set_of(table: dict[str, Any], path: KeyPath = ()) -> Iterator[str]:
    """Yield the overrides that say the same as a table, a leaf each."""
    for key, value in table.items():
        if isinstance(value, dict):
            yield from set_of(value, (*path, key))
        else:
            yield f"{dotted_path((*path, key))}={toml_value(value)}"


def plain(value: Any) -> bool:
    if isinstance(value, dict):
        return type(value) is dict and all(map(plain, value.values()))
    return value is not MISSING and (not isinstance(value, list) or all(map(plain, value)))


def filled(table: dict[str, Any]) -> dict[str, Any]:
    """Return a table without the empty ones in it, of which no override speaks."""
    inner = {key: filled(value) if isinstance(value, dict) else value for key, value in table.items()}
    return {key: value for key, value in inner.items() if value != {}}


@given(tables, tables.map(filled))
def test_overrides_are_a_document(base: dict[str, Any], top: dict[str, Any]) -> None:
    raw, problems = apply_overrides(base, list(set_of(top)), FREE)
    assert plain(raw)
    if problems:  # a file may put a table where its base has a value
        assert all(" is " in problem and problem.endswith(", not a table") for problem in problems)
    else:
        assert raw == merge(base, top, FREE)


@given(tables)
def test_a_document_over_itself_or_over_nothing_is_itself(document: dict[str, Any]) -> None:
    assert merge(document, document, FREE) == merge({}, document, FREE) == merge(document, {}, FREE)
    assert merge(document, document, FREE) == document


def test_changes_without_a_place_leave_the_base_as_it_is() -> None:
    problems: list[str] = []
    base = {"a": 1, "b": [1, 2]}
    assert apply_changes(base, Changes(a=Changes(x=1), b=Changes({2: 5, "y": 1})), FREE, problems) == base
    assert problems == [
        "a.x: a is 1 (int), not a table",
        "b[2]: no item 2; b has 2 items",
        "b.y: b is [1, 2] (array), not a table",
    ]
