"""Rows of keys: integers, texts and several columns, unknown keys and null."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from ple_rec.inference import key_index
from ple_rec.inference.key_index import NULL_KEY, UNKNOWN, KeyIndex, hash_keys, sort_by_hash


def integers(rng: np.random.Generator, count: int) -> list[Any]:
    small, large = rng.integers(-5, 40, count), rng.integers(-(2**63), 2**63 - 1, count)
    return np.where(rng.random(count) < 0.5, small, large).tolist()


def texts(rng: np.random.Generator, count: int) -> list[Any]:
    return ["é" * int(n % 3) + "x" * int(n % 11) + str(n) for n in rng.integers(0, 60, count)]


@pytest.mark.parametrize("columns", [(integers,), (texts,), (integers, texts), (texts, integers, integers)])
@pytest.mark.parametrize("rows", [0, 1, 2, 9, 500])
def test_rows_are_those_of_a_dict(columns: tuple[Any, ...], rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_index, "_READ_ROWS", 64)
    rng = np.random.default_rng(rows)
    kinds = [pa.int64() if column is integers else pa.string() for column in columns]
    keys = list(dict.fromkeys(zip(*(column(rng, rows) for column in columns), strict=True)))
    names = [f"k{i}" for i in range(len(columns))]
    arrays = {name: pa.array([key[i] for key in keys], kinds[i]) for i, name in enumerate(names)}
    columns_by_name = sort_by_hash(arrays | {"n": pa.array(range(len(keys)))}, names)
    sorted_columns = [columns_by_name[name] for name in names]
    assert [keys[n] for n in columns_by_name["n"].to_pylist()] == list(
        zip(*(column.to_pylist() for column in sorted_columns), strict=True)
    )
    assert (np.diff(hash_keys(sorted_columns).astype(object)) >= 0).all()
    assert sort_by_hash(columns_by_name, names) == columns_by_name
    number = dict(zip(zip(*(column.to_pylist() for column in sorted_columns), strict=True), range(rows), strict=False))

    asked = list(zip(*(column(rng, 300) for column in columns), strict=True)) + keys[:50]
    asked += [tuple(None if j == i else part for j, part in enumerate(asked[0])) for i in range(len(columns))]
    order = rng.permutation(len(asked))
    asked = [asked[i] for i in order]
    found = KeyIndex(sorted_columns).find([pa.array([key[i] for key in asked], kind) for i, kind in enumerate(kinds)])
    assert found.tolist() == [NULL_KEY if None in key else number.get(key, UNKNOWN) for key in asked]


def test_the_index_is_small() -> None:
    column = sort_by_hash({"k": pa.array(range(100_000))}, ["k"])["k"]
    assert KeyIndex([column]).nbytes <= 200_100


def test_texts_with_wide_offsets_are_found() -> None:
    column = sort_by_hash({"k": pa.array(["a", "b", "c"], pa.large_string())}, ["k"])["k"]
    assert [column[int(i)].as_py() for i in KeyIndex([column]).find([pa.array(["c", "a"])])] == ["c", "a"]
