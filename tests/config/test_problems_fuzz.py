"""Whatever a document holds, its problems are one line each."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from ple_rec.config.problems import parse_document
from ple_rec.config.run import RunConfig
from ple_rec.config.schema_node import SchemaNode


def all_keys(node: SchemaNode) -> set[str]:
    inner = [*node.variants.values(), *node.members, *node.keys.values(), node.items, node.values]
    return set(node.keys).union(*(all_keys(child) for child in inner if child is not None))


KEYS = [*sorted(all_keys(SchemaNode.of_class(RunConfig))), "", "a b", "ple", "[key]", "int", "line\nbreak", "0"]
keys = st.sampled_from(KEYS)
leaves = st.one_of(
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    st.sampled_from(["ple", "cgc", "auto", "adam", "sum"]),
)
values = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4), max_leaves=20
)
tables = st.dictionaries(keys, values, max_size=4)
level = st.fixed_dictionaries({"task_experts": values, "shared_experts": values})
documents = st.fixed_dictionaries(
    {
        "data": tables,
        "model": tables
        | st.fixed_dictionaries({"variant": st.just("ple"), "levels": st.lists(level | values, max_size=2)}),
        "train": tables,
    },
    optional={"tasks": st.lists(tables, max_size=3) | values, "embeddings": tables, "name": values, "betas": values},
)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(documents)
def test_problems_are_lines(raw: dict[str, Any]) -> None:
    config, problems = parse_document(RunConfig, raw)
    assert config is not None or problems
    assert all(problem.strip() and "\n" not in problem and len(problem) < 400 for problem in problems)
    assert not any(problem.endswith(" ") or "anything" in problem or "xtra input" in problem for problem in problems)
