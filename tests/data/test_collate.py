"""Slices of row groups -> one batch, against a per-row oracle."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import torch
from hypothesis import given, settings
from hypothesis import strategies as s

from ple_rec.config.schema import DenseFeature, SparseFeature, Task
from ple_rec.data.collate import RowSlice, collate
from ple_rec.data.columns import Selection, decode
from tests.data import oracle

IDS = s.none() | s.integers(0, 9)
FLOATS = s.floats(-100, 100, width=32)
BAG = s.none() | s.lists(IDS, max_size=4)
TYPES = {
    "a": pa.int32(),
    "b": pa.int32(),
    "bag": pa.list_(pa.int32()),
    "pairs": pa.list_(pa.int32()),
    "pair_weights": pa.list_(pa.float32()),
    "x": pa.float32(),
    "y": pa.float32(),
    "click": pa.float32(),
    "watch": pa.float32(),
    "seen": pa.bool_(),
    "weight": pa.float32(),
    "user": pa.int64(),
}


@s.composite
def rows(draw: s.DrawFn) -> oracle.Row:
    pairs = draw(BAG)
    seen = draw(s.none() | s.booleans())
    return {
        "a": draw(IDS),
        "b": draw(IDS),
        "bag": draw(BAG),
        "pairs": pairs,
        "pair_weights": draw(s.lists(s.none() | FLOATS, min_size=len(pairs or []), max_size=len(pairs or []))),
        "x": draw(s.none() | FLOATS),
        "y": draw(s.none() | FLOATS),
        "click": draw(s.sampled_from([0.0, 1.0])),
        "watch": draw(FLOATS) if seen else draw(s.sampled_from([None, float("inf"), 3.0])),
        "seen": seen,
        "weight": draw(s.floats(0, 10, width=32)),
        "user": draw(s.none() | s.integers(-(2**63), 2**63 - 1)),
    }


@s.composite
def selections(draw: s.DrawFn) -> Selection:
    def some(*features: Any) -> tuple[Any, ...]:
        return tuple(feature for feature in features if draw(s.booleans()))

    tasks = (
        Task(name="t", kind="binary", label="click"),
        Task(name="u", kind="regression", label="watch", space="seen"),
    )
    return Selection(
        single=some(SparseFeature(name="a", table="shared"), SparseFeature(name="b", table="own")),
        bags=some(
            SparseFeature(name="bag", table="shared", bag=True),
            SparseFeature(name="pairs", table="own", bag=True, weights="pair_weights"),
        ),
        dense=some(DenseFeature(name="x"), DenseFeature(name="y")),
        tasks=some(*tasks) or tasks,
        table_rows={"shared": 10, "own": 10},
        sample_weight=draw(s.none() | s.just("weight")),
        group=draw(s.none() | s.just("user")),
    )


def table_of(content: list[oracle.Row]) -> pa.Table:
    return pa.table({name: pa.array([row[name] for row in content], kind) for name, kind in TYPES.items()})


@settings(deadline=None, derandomize=True, max_examples=60)
@given(selections(), s.lists(s.lists(rows(), min_size=1, max_size=6), max_size=4), s.integers(0, 3), s.data())
def test_batch_equals_the_rows(
    selection: Selection, groups: list[list[oracle.Row]], padding: int, data: s.DataObject
) -> None:
    slices, expected = [], []
    for content in groups:
        table, order = table_of(content), None
        if data.draw(s.booleans()):
            order = np.array(data.draw(s.permutations(range(len(content)))))
            content = [content[i] for i in order]
        columns = decode(table, selection, "part").arrange(order)
        start = data.draw(s.integers(0, len(content)))
        stop = data.draw(s.integers(start, len(content)))
        slices.append(RowSlice(columns, start, stop))
        expected += content[start:stop]
    size = len(expected) + padding
    oracle.check(collate(slices, selection, size), expected, selection, size)


def test_types_of_a_batch() -> None:
    row = dict.fromkeys(TYPES, 1) | {"bag": [1], "pairs": [1, 2], "pair_weights": [0.5, None], "seen": True}
    selection = Selection(
        single=(SparseFeature(name="a", table="own"),),
        bags=(SparseFeature(name="pairs", table="own", bag=True, weights="pair_weights"),),
        dense=(DenseFeature(name="x"),),
        tasks=(Task(name="t", kind="binary", label="click"),),
        table_rows={"own": 10},
        sample_weight="weight",
        group="user",
    )
    batch = collate([RowSlice(decode(table_of([row]), selection, "part").arrange(), 0, 1)], selection, 3)
    assert batch.sparse is not None
    assert batch.sparse.values().dtype == batch.sparse.lengths().dtype == torch.int32
    assert batch.sparse.weights().dtype == torch.float32
    assert batch.sparse.values().tolist() == [1, 1, 2]
    assert batch.sparse.lengths().tolist() == [1, 0, 0, 2, 0, 0]
    assert batch.sparse.weights().tolist() == [1, 0.5, 1]
    assert batch.weight_B is not None
    assert batch.group_B is not None
    floats = (batch.dense_BF, batch.labels_BK, batch.in_space_BK, batch.weight_B)
    assert {tensor.dtype for tensor in floats} == {torch.float32}
    assert batch.group_B.dtype == torch.int64
    assert [tuple(t.shape) for t in (*floats, batch.group_B)] == [(3, 1), (3, 1), (3, 1), (3,), (3,)]
    assert all(torch.equal(t[1:], torch.zeros_like(t[1:])) for t in (*floats, batch.group_B))
