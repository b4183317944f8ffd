"""Requests of a batch: rows that are equal in the features named, found by the rows alone."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as s
from pydantic import ValidationError

from ple_rec.config.schema import DenseFeature, SparseFeature, Task
from ple_rec.data.batch import Batch
from ple_rec.data.collate import RowSlice, collate
from ple_rec.data.columns import Selection, decode
from ple_rec.data.dataset import DatasetDirectory, read_columns
from ple_rec.data.loader import Loader
from ple_rec.errors import UserError
from ple_rec.training.checks import select_run_columns
from tests.data import oracle
from tests.data.test_collate import table_of
from tests.datasets import numbered, write_dataset
from tests.training.requests import SHARED, repeated
from tests.training.small import small_config

FEW = s.sampled_from([0, 1, None])
BAG = s.sampled_from([None, [], [1], [1, 2], [2, 1], [1, 1, 1]])
FEATURES = ("a", "b", "bag", "pairs", "x", "y")


@s.composite
def rows(draw: s.DrawFn) -> oracle.Row:
    """Of few values, so that rows are often equal; as often again, the row is repeated."""
    pairs = draw(BAG)
    return {
        "a": draw(FEW),
        "b": draw(FEW),
        "bag": draw(BAG),
        "pairs": pairs,
        "pair_weights": [draw(s.sampled_from([None, 0.5])) for _ in pairs or []],
        "x": draw(s.sampled_from([0.0, 1.5, None])),
        "y": draw(s.sampled_from([0.0, None])),
        "click": draw(s.sampled_from([0.0, 1.0])),
        "watch": 1.0,
        "seen": True,
        "weight": 1.0,
        "user": 0,
    }


def _selection(requests: tuple[str, ...]) -> Selection:
    return Selection(
        single=(SparseFeature(name="a", table="shared"), SparseFeature(name="b", table="own")),
        bags=(
            SparseFeature(name="bag", table="shared", bag=True),
            SparseFeature(name="pairs", table="own", bag=True, weights="pair_weights"),
        ),
        dense=(DenseFeature(name="x"), DenseFeature(name="y")),
        tasks=(Task(name="t", kind="binary", label="click"),),
        table_rows={"shared": 10, "own": 10},
        sample_weight="weight",
        group=None,
        requests=requests,
    )


def _read(row: oracle.Row, names: tuple[str, ...]) -> list[Any]:
    """What the model reads of a row: a missing id is 0, a missing bag empty, a missing weight 1."""
    read: list[Any] = []
    for name in names:
        value = row[name]
        if name == "pairs":
            read.append([(i, 1.0 if w is None else w) for i, w in zip(value or [], row["pair_weights"], strict=True)])
        else:
            read.append(value or [] if name == "bag" else value if name in ("x", "y") else value or 0)
    return read


def _bags(batch: Batch) -> dict[str, list[list[tuple[int, float]]]]:
    """(id, weight) of each row of each feature."""
    assert batch.sparse is not None
    found = {}
    for name, jagged in batch.sparse.to_dict().items():
        ids, weights = jagged.values().tolist(), jagged.weights().tolist()
        ends = [0, *np.cumsum(jagged.lengths().numpy()).tolist()]
        pairs = list(zip(ids, weights, strict=True))
        found[name] = [pairs[begin:end] for begin, end in pairwise(ends)]
    return found


@settings(deadline=None, derandomize=True, max_examples=80)
@given(
    s.lists(s.lists(s.tuples(rows(), s.integers(1, 4)), min_size=1, max_size=4), max_size=3),
    s.sets(s.sampled_from(FEATURES), min_size=1),
    s.integers(0, 2),
    s.data(),
)
def test_requests_are_runs_of_equal_rows(
    groups: list[list[tuple[oracle.Row, int]]], names: set[str], padding: int, data: s.DataObject
) -> None:
    requests = tuple(sorted(names))
    selection = _selection(requests)
    slices: list[RowSlice] = []
    expected: list[oracle.Row] = []
    begins: set[int] = set()
    for group in groups:
        content = [row for row, count in group for _ in range(count)]
        order = None
        if data.draw(s.booleans()):
            order = np.array(data.draw(s.permutations(range(len(content)))))
        columns = decode(table_of(content), selection, "part").arrange(order)
        content = content if order is None else [content[i] for i in order]
        start = data.draw(s.integers(0, len(content)))
        slices.append(RowSlice(columns, start, len(content)))
        begins.add(len(expected))
        expected += content[start:]
    size = len(expected) + padding
    if size == 0:
        return
    batch = collate(slices, selection, size)
    whole = collate(slices, replace(selection, requests=()), size)
    starts = [
        i in begins or i == len(expected) or _read(expected[i], requests) != _read(expected[i - 1], requests)
        for i in range(min(size, len(expected) + 1))
    ]
    starts += [False] * (size - len(starts))
    assert batch.requests is not None
    assert batch.requests.first_R.tolist() == [i for i, start in enumerate(starts) if start]
    assert batch.requests.request_B.tolist() == (np.cumsum(starts) - 1).tolist()
    assert whole.requests is None
    for name, bags in _bags(whole).items():
        once = [bag if start or name not in requests else [] for bag, start in zip(bags, starts, strict=True)]
        assert _bags(batch)[name] == once
    assert batch.sparse is not None
    assert batch.sparse.length_per_key_or_none() == batch.sparse.lengths().view(-1, size).sum(dim=1).tolist()
    assert batch.sparse.values().dtype == batch.sparse.lengths().dtype == torch.int32
    assert torch.equal(batch.dense_BF.nan_to_num(9), whole.dense_BF.nan_to_num(9))


def test_a_row_group_of_one_row_and_values_that_begin_within_an_array() -> None:
    bag = pa.array([[9], [1, 2], [1, 2], [1, 3]], pa.list_(pa.int32())).slice(1)
    content: dict[str, Any] = {name: [0] * 3 for name in ("a", "b", "click")}
    content |= {"x": [0.0] * 3, "y": [0.0] * 3, "weight": [1.0] * 3, "bag": bag}
    content |= {"pairs": [[], [], []], "pair_weights": pa.array([[], [], []], pa.list_(pa.float32()))}
    content["pairs"] = pa.array([[], [], []], pa.list_(pa.int32()))
    table, selection = pa.table(content), _selection(("bag", "x"))
    assert decode(table, selection, "part").request_starts().tolist() == [True, False, True]
    assert decode(table.slice(1, 1), selection, "part").request_starts().tolist() == [True]


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_requests_stay_whole_inside_a_row_group(tmp_path: Path, world_size: int) -> None:
    write_dataset(
        tmp_path / "data", rows=300, row_group_rows=(70, 50, 110), edit=lambda s, t: numbered(s, repeated(s, t))
    )
    dataset = DatasetDirectory(tmp_path / "data")
    selection = replace(dataset.select(drop=[], tasks=[]), requests=SHARED)

    def batches(
        rank: int = 0, world_size: int = 1, start: int = 0, epoch: int = 1, buffer_bytes: int = 2 << 30
    ) -> list[Batch]:
        one = Loader(
            dataset,
            "train",
            selection,
            batch_size=36,
            rank=rank,
            world_size=world_size,
            virtual_shards=6,
            by_request=True,
            buffer_bytes=buffer_bytes,
        )
        return list(one.epoch(epoch, start))

    alone = [_numbers(batch) for batch in batches()]
    ranks = [[_numbers(batch) for batch in batches(rank, world_size)] for rank in range(world_size)]
    assert [[n for part in step for n in part] for step in zip(*ranks, strict=True)] == alone
    assert [_numbers(batch) for batch in batches(start=4)] == alone[4:]
    in_stretches = batches(buffer_bytes=10_000)
    assert [oracle.bits(batch) for batch in in_stretches] == [oracle.bits(batch) for batch in batches()]
    assert sorted(n for batch in alone for n in batch) == list(range(300))
    assert [_numbers(batch) for batch in batches(epoch=2)] != alone
    first = batches()[0]
    assert first.requests is not None
    assert len(first.requests) < 20  # of 36 rows; shuffled one by one they would be 30 at least
    starts_N = decode(_file_order(dataset), selection, "part").request_starts()
    # A row that continues a request follows the one before it, unless a shard or a batch begins there.
    follows = [b == a + 1 for batch in alone for a, b in pairwise(batch) if not starts_N[b]]
    cuts = 6 * len(alone)
    assert follows.count(False) <= cuts
    assert follows.count(True) > 150


def _numbers(batch: Batch) -> list[int]:
    assert batch.group_B is not None
    return batch.group_B[: batch.rows].tolist()


def _file_order(dataset: DatasetDirectory) -> pa.Table:
    groups = dataset.row_groups("train", [])
    names = dataset.select(drop=[], tasks=[]).column_names()
    return pa.concat_tables([read_columns(group, names) for group in groups])


def test_shuffling_requests_needs_features_that_they_share(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="without request_features"):
        small_config(tmp_path, {"data": {"shuffle": "requests"}})


def _refused(path: Path, data: dict[str, Any]) -> UserError:
    with pytest.raises(UserError) as caught:
        select_run_columns(small_config(path, {"data": data}), DatasetDirectory(path))
    return caught.value


def test_features_that_the_run_does_not_read_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "data"
    write_dataset(path, rows=64)
    error = _refused(path, {"request_features": ["usr"]})
    assert (error.place, error.value) == ("data.request_features", 'got "usr"')
    assert "user" in error.rule
    error = _refused(path, {"request_features": ["user", "age"], "drop": ["age"]})
    assert (error.place, error.value, error.rule) == ("data.request_features", 'got "age"', "data.drop names it too")
    config = small_config(path, {"data": {"request_features": ["user", "history", "age"]}})
    assert select_run_columns(config, DatasetDirectory(path)).requests == ("user", "history", "age")
