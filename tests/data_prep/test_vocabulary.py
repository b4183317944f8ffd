from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import ibis
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.vocabulary import encode, vocabulary

CONNECTION = ibis.duckdb.connect()
TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=2)


def entries(values: Sequence[Any], kind: pa.DataType, min_count: int = 1) -> list[dict[str, Any]]:
    table = ibis.memtable(pa.table({"x": pa.array(values, kind)}))
    rows: list[dict[str, Any]] = CONNECTION.to_pyarrow(vocabulary(table, "x", min_count)).to_pylist()
    return rows


def oracle(values: Sequence[Any], min_count: int) -> list[dict[str, Any]]:
    counts = Counter(value for value in values if value is not None)
    kept = sorted((raw for raw, count in counts.items() if count >= min_count), key=lambda raw: (-counts[raw], raw))
    return [{"raw": raw, "row": row, "count": counts[raw]} for row, raw in enumerate(kept, start=1)]


@settings(deadline=None, max_examples=40)
@given(st.data(), st.lists(st.none() | TEXTS, max_size=40), st.integers(1, 3))
def test_strings_by_frequency_then_bytes_whatever_the_row_order(
    data: st.DataObject, values: list[str | None], min_count: int
) -> None:
    expected = oracle(values, min_count)
    assert entries(values, pa.string(), min_count) == expected
    assert entries(data.draw(st.permutations(values)), pa.string(), min_count) == expected


@settings(deadline=None, max_examples=20)
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


def test_missing_and_unseen_values_get_row_0() -> None:
    train = ibis.memtable(pa.table({"x": ["a", "b", "b", "c", None, None, None]}))
    entries_of = {"f": vocabulary(train, "x", 1)}
    rows = ibis.memtable(pa.table({"at": [0, 1, 2, 3, 4], "x": ["c", None, "z", "b", "a"]}))
    encoded = CONNECTION.to_pyarrow(encode(rows, {"f": "x"}, entries_of).order_by("at"))
    assert encoded["f"].to_pylist() == [3, 0, 0, 1, 2]
    assert encoded["f"].type == pa.int32()
    assert encoded["x"].to_pylist() == ["c", None, "z", "b", "a"]


def test_two_features_of_one_column_and_many_features() -> None:
    names = [f"f{i}" for i in range(45)]
    train = ibis.memtable(pa.table({"x": ["a", "b", "b"]}))
    tables = {name: ibis.memtable(CONNECTION.to_pyarrow(vocabulary(train, "x", 1))) for name in names}
    encoded = CONNECTION.to_pyarrow(encode(train, dict.fromkeys(names, "x"), tables).order_by("x"))
    assert all(encoded[name].to_pylist() == [2, 1, 1] for name in names)


@pytest.mark.parametrize("min_count", [1, 2])
def test_min_count_is_inclusive(min_count: int) -> None:
    kept = [entry["raw"] for entry in entries(["a", "b", "b"], pa.string(), min_count)]
    assert kept == (["b", "a"] if min_count == 1 else ["b"])
