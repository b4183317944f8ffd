from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import ibis
import ibis.expr.types as ir
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.vocabulary.numbering import assign_rows, collect_values, count_values, new_values

CONNECTION = ibis.duckdb.connect()
TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=2)


def vocabulary(table: ir.Table, column: str, min_count: int = 1) -> ir.Table:
    return assign_rows(count_values(collect_values(table, [column], []), [min_count])).order_by("row")


def entries(values: Sequence[Any], kind: pa.DataType, min_count: int = 1) -> list[dict[str, Any]]:
    table = ibis.memtable(pa.table({"x": pa.array(values, kind)}))
    rows: list[dict[str, Any]] = CONNECTION.to_pyarrow(vocabulary(table, "x", min_count)).to_pylist()
    return rows


def oracle(values: Sequence[Any], min_count: int) -> list[dict[str, Any]]:
    counts = Counter(value for value in values if value is not None)
    kept = sorted((raw for raw, count in counts.items() if count >= min_count), key=lambda raw: (-counts[raw], raw))
    return [{"raw": raw, "row": row, "count": counts[raw]} for row, raw in enumerate(kept, start=1)]


@settings(deadline=None, max_examples=15)
@given(st.data(), st.lists(st.none() | TEXTS, max_size=40), st.integers(1, 3))
def test_strings_by_frequency_then_bytes_whatever_the_row_order(
    data: st.DataObject, values: list[str | None], min_count: int
) -> None:
    expected = oracle(values, min_count)
    assert entries(values, pa.string(), min_count) == expected
    assert entries(data.draw(st.permutations(values)), pa.string(), min_count) == expected


@settings(deadline=None, max_examples=8)
@given(st.lists(st.none() | st.integers(-3, 12), max_size=40), st.integers(1, 3))
def test_integers_by_frequency_then_value(values: list[int | None], min_count: int) -> None:
    assert entries(values, pa.int64(), min_count) == oracle(values, min_count)


def test_types() -> None:
    table = ibis.memtable(pa.table({"x": pa.array([7, 7, 9], pa.int64())}))
    schema = CONNECTION.to_pyarrow(vocabulary(table, "x")).schema
    assert [(field.name, field.type) for field in schema] == [
        ("raw", pa.int64()),
        ("row", pa.int32()),
        ("count", pa.int64()),
    ]


def test_single_values_and_bags_share_a_table() -> None:
    rows = pa.table({"video": [7, 8, None, 7], "history": [[8, 7], None, [], [8, 9, None, 8]]})
    table = ibis.memtable(rows)
    found = CONNECTION.to_pyarrow(
        assign_rows(count_values(collect_values(table, ["video"], ["history"]))).order_by("row")
    )
    assert found.to_pydict() == {"raw": [8, 7, 9], "row": [1, 2, 3], "count": [4, 3, 1]}


def test_new_values_come_after_the_known_ones() -> None:
    known = ibis.memtable(pa.table({"raw": ["b", "a"], "row": pa.array([1, 2], pa.int32()), "count": [9, 8]}))
    later = ibis.memtable(pa.table({"x": ["c", "a", "d", "d", "b"]}))
    fresh = assign_rows(new_values(count_values(collect_values(later, ["x"], [])), known), last_rows=[2]).order_by(
        "row"
    )
    assert CONNECTION.to_pyarrow(fresh).to_pydict() == {"raw": ["d", "c"], "row": [3, 4], "count": [2, 1]}


@pytest.mark.parametrize("min_count", [1, 2])
def test_min_count_is_inclusive(min_count: int) -> None:
    kept = [entry["raw"] for entry in entries(["a", "b", "b"], pa.string(), min_count)]
    assert kept == (["b", "a"] if min_count == 1 else ["b"])
