"""Batches of one size do not depend on where chunks are cut; ids that the model does not know are counted once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ple_rec.data.columns import Columns
from ple_rec.data.dataset import DatasetDirectory
from ple_rec.inference.predict.batches import InputBatch, make_batches
from ple_rec.inference.predict.counts import IdCounter, compute_shares
from ple_rec.inference.predict.inputs import Chunk, DatasetInput, features_only
from tests.training.small import write_small

SIZE = 24


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> DatasetInput:
    dataset = DatasetDirectory(write_small(tmp_path_factory.mktemp("batches") / "data"))
    return DatasetInput(dataset, features_only(dataset.select(drop=[], tasks=[])), ["test"], ["request", "user"])


def batches(source: DatasetInput, chunks: Iterator[Chunk]) -> list[InputBatch]:
    return list(make_batches(chunks, source.selection, SIZE))


def equal(one: InputBatch, other: InputBatch) -> bool:
    a, b = one.batch, other.batch
    assert a.sparse is not None
    assert b.sparse is not None
    same = all(
        torch.equal(x, y) for x, y in ((a.sparse.values(), b.sparse.values()), (a.sparse.lengths(), b.sparse.lengths()))
    )
    return (
        same
        and a.rows == b.rows
        and np.array_equal(a.dense_BF.numpy(), b.dense_BF.numpy(), equal_nan=True)
        and one.id_columns().equals(other.id_columns())
        and one.next_position == other.next_position
        and [one.place(i) for i in range(a.rows)] == [other.place(i) for i in range(b.rows)]
    )


@given(cuts=st.lists(st.integers(0, 101), max_size=12))
@settings(deadline=None, max_examples=25)
def test_where_chunks_are_cut_changes_no_batch(source: DatasetInput, cuts: list[int]) -> None:
    (section,) = source.sections(0)
    whole = batches(source, section)
    assert [rows.batch.rows for rows in whole] == [24, 24, 24, 24, 5]
    ends = sorted({0, source.rows, *cuts})

    def pieces() -> Iterator[Chunk]:
        for first, last in pairwise(ends):
            (section,) = source.sections(first)
            left = last - first
            for chunk in section:  # of which no row beyond `last` is taken
                took = min(left, len(chunk.next_N))
                yield from _first(chunk, took)
                left -= took
                if not left:
                    break

    cut = batches(source, pieces())
    assert len(cut) == len(whole)
    assert all(equal(one, other) for one, other in zip(cut, whole, strict=True))


def _first(chunk: Chunk, rows: int) -> Iterator[Chunk]:
    """A chunk's first rows, as a chunk."""
    c = chunk.columns
    bags = tuple(bag.take(np.arange(rows)) for bag in c.bags)
    columns = Columns(c.ids_FN[:, :rows], bags, c.dense_ND[:rows], c.labels_NK[:rows], c.in_space_NK[:rows], None, None)
    yield replace(chunk, columns=columns, ids=chunk.ids.slice(0, rows), next_N=chunk.next_N[:rows])


def test_a_later_position_gives_the_later_batches(source: DatasetInput) -> None:
    (section,) = source.sections(0)
    whole = batches(source, section)
    (later,) = source.sections(whole[1].next_position)
    assert all(equal(one, other) for one, other in zip(batches(source, later), whole[2:], strict=True))


def test_ids_without_a_row_are_counted(source: DatasetInput) -> None:
    counter = IdCounter(source.selection, source.dataset.schema)
    names = [feature.name for feature in source.selection.sparse]
    (section,) = source.sections(0)
    total = sum(
        counter.count(chunk.columns, chunk.missing, start, stop)
        for rows in batches(source, section)
        for chunk, start, stop in rows.pieces
    )
    counts = dict(zip(names, np.asarray(total).tolist(), strict=True))
    (section,) = source.sections(0)
    chunks = list(section)
    for name, (ids, without, missing) in counts.items():
        bag = [feature.name for feature in source.selection.bags]
        if name in bag:
            values = np.concatenate([chunk.columns.bags[bag.index(name)].values for chunk in chunks])
        else:
            values = np.concatenate([chunk.columns.ids_FN[names.index(name)] for chunk in chunks])
        assert (ids, without, missing) == (len(values), int((values == 0).sum()), 0)
    assert any(without for _, without, _ in counts.values())
    shares = compute_shares(["a", "b"], np.array([[10, 4, 2], [0, 0, 0]]))
    assert shares == {"a": {"unknown": 0.25, "missing": 0.2}, "b": {"unknown": 0.0, "missing": 0.0}}
