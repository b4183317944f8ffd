"""The order of samples: what every rank reads at every step, at every world size."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as s

from ple_rec.data.batch import Batch
from ple_rec.data.dataset import DatasetDirectory
from ple_rec.data.loader import Loader
from ple_rec.data.order import (
    Piece,
    cut_pieces,
    reading_order,
    request_order,
    row_group_order,
    row_order,
    rows_per_shard,
    shard_pieces,
    skip_rows,
    steps_per_epoch,
)
from ple_rec.errors import UserError
from tests.data import oracle
from tests.datasets import numbered, write_dataset

SIZES = s.lists(s.integers(1, 20), min_size=1, max_size=6)


def positions(pieces: list[Piece]) -> list[tuple[int, int]]:
    return [(piece.row_group, row) for piece in pieces for row in range(piece.start, piece.stop)]


@settings(deadline=None, derandomize=True)
@given(SIZES, s.integers(1, 12), s.integers(0, 5), s.integers(0, 5))
def test_shards_partition_the_rows(sizes: list[int], shards: int, seed: int, epoch: int) -> None:
    order = row_group_order(len(sizes), seed, epoch, shuffle=True)
    line = [(group, row) for group in order.tolist() for row in range(sizes[group])]
    owned = [positions(shard_pieces(sizes, order, shards, shard)) for shard in range(shards)]
    assert [position for shard in owned for position in shard] == line
    lengths = [len(shard) for shard in owned]
    assert max(lengths) - min(lengths) <= 1
    for rows_per_step in range(1, 5):
        assert steps_per_epoch(sum(sizes), shards, rows_per_step) == max(-(-n // rows_per_step) for n in lengths)


@settings(deadline=None, derandomize=True)
@given(SIZES, s.integers(1, 6), s.integers(1, 7), s.integers(0, 60))
def test_pieces_are_needed_as_steps_come_to_them(sizes: list[int], shards: int, rows_per_step: int, done: int) -> None:
    order = row_group_order(len(sizes), 1, 1, shuffle=True)
    pieces = [skip_rows(shard_pieces(sizes, order, shards, shard), done) for shard in range(shards)]
    lines = [[piece for piece in own for _ in range(piece.stop - piece.start)] for own in pieces]
    taken = []
    for step in range(sum(sizes)):
        for line in lines:
            taken += line[step * rows_per_step : (step + 1) * rows_per_step]
    expected: dict[Piece, None] = dict.fromkeys(taken)
    assert reading_order(pieces, rows_per_step) == list(expected)


@settings(deadline=None, derandomize=True)
@given(SIZES, s.integers(1, 6), s.integers(0, 130))
def test_skipped_rows_are_the_first(sizes: list[int], shards: int, skipped: int) -> None:
    order = row_group_order(len(sizes), 1, 1, shuffle=True)
    pieces = shard_pieces(sizes, order, shards, 0)
    assert positions(skip_rows(pieces, skipped)) == positions(pieces)[skipped:]


@settings(deadline=None, derandomize=True)
@given(SIZES, s.integers(1, 6), s.integers(1, 30))
def test_cut_pieces_are_the_same_rows_in_short_stretches(sizes: list[int], shards: int, most_rows: int) -> None:
    pieces = shard_pieces(sizes, row_group_order(len(sizes), 1, 1, shuffle=True), shards, 0)
    cut = cut_pieces(pieces, most_rows)
    assert positions(cut) == positions(pieces)
    ends = np.cumsum([piece.stop - piece.start for piece in cut]).tolist()
    row_group_ends = np.cumsum([piece.stop - piece.start for piece in pieces]).tolist()
    total = ends[-1] if ends else 0
    assert set(ends) == set(row_group_ends) | set(range(most_rows, total, most_rows))


@settings(deadline=None, derandomize=True)
@given(s.integers(0, 100), s.integers(0, 2**40), s.integers(0, 1000))
def test_orders_are_permutations(count: int, seed: int, epoch: int) -> None:
    everything = list(range(count))
    assert sorted(row_group_order(count, seed, epoch, shuffle=True).tolist()) == everything
    assert sorted(row_order(count, 3, seed, epoch).tolist()) == everything
    assert row_group_order(count, seed, epoch, shuffle=False).tolist() == everything


def test_order_differs_by_seed_epoch_and_row_group() -> None:
    orders = [row_group_order(50, seed, epoch, shuffle=True).tolist() for seed in range(3) for epoch in range(3)]
    orders += [row_order(50, group, 0, 0).tolist() for group in range(1, 4)]
    assert len({tuple(order) for order in orders}) == 12
    np.testing.assert_array_equal(row_order(50, 7, 2, 5), row_order(50, 7, 2, 5))


def test_rows_of_one_row_group_come_anew_in_every_epoch() -> None:
    orders = {tuple(row_order(50, 1, seed, epoch).tolist()) for seed in range(3) for epoch in range(3)}
    assert len(orders) == 9


@contextmanager
def written(sizes: list[int], parts: int = 1) -> Iterator[DatasetDirectory]:
    """A dataset whose group column numbers the rows."""
    with tempfile.TemporaryDirectory() as folder:
        write_dataset(Path(folder) / "data", rows=sum(sizes), row_group_rows=sizes, parts=parts, edit=numbered)
        yield DatasetDirectory(Path(folder) / "data")


def loader(dataset: DatasetDirectory, rank: int, world: int, shards: int, batch_size: int, **kwargs: object) -> Loader:
    selection = dataset.select(drop=[], tasks=[])
    sizes = {"rank": rank, "world_size": world, "virtual_shards": shards, "batch_size": batch_size}
    return Loader(dataset, "train", selection, **sizes, **kwargs)  # type: ignore[arg-type]


def numbers(batch: Batch) -> list[int]:
    assert batch.group_B is not None
    return batch.group_B[: batch.rows].tolist()


@settings(deadline=None, derandomize=True, max_examples=15)
@given(SIZES, s.sampled_from([1, 2, 3, 4, 6]), s.integers(1, 4), s.integers(0, 3), s.integers(0, 3))
def test_global_batches_do_not_depend_on_the_ranks(
    sizes: list[int], shards: int, rows_per_step: int, seed: int, epoch: int
) -> None:
    size = shards * rows_per_step
    with written(sizes, parts=min(2, len(sizes))) as dataset:
        rows = oracle.rows_of(dataset, "train")
        alone = loader(dataset, 0, 1, shards, size, seed=seed)
        assert alone.rows == sum(sizes) == len(rows)
        whole = list(alone.epoch(epoch))
        assert len(whole) == alone.steps
        assert sorted(number for batch in whole for number in numbers(batch)) == list(range(len(rows)))
        for batch in whole:
            oracle.check(batch, [rows[i] for i in numbers(batch)], alone.selection, size)
        for world in range(2, min(shards, len(sizes)) + 1):
            if shards % world:
                continue
            ranks = [loader(dataset, rank, world, shards, size, seed=seed) for rank in range(world)]
            read = [list(one.epoch(epoch)) for one in ranks]
            assert [len(batches) for batches in read] == [alone.steps] * world == [one.steps for one in ranks]
            for step, batch in enumerate(whole):
                assert [n for batches in read for n in numbers(batches[step])] == numbers(batch)
                for batches in read:
                    oracle.check(
                        batches[step], [rows[i] for i in numbers(batches[step])], alone.selection, size // world
                    )


@settings(deadline=None, derandomize=True, max_examples=10)
@given(SIZES, s.sampled_from([1, 2, 4]), s.integers(1, 4), s.data())
def test_resumed_batches_equal_the_uninterrupted_ones(
    sizes: list[int], shards: int, rows_per_step: int, data: s.DataObject
) -> None:
    with written(sizes) as dataset:
        one = loader(dataset, 0, 1, shards, shards * rows_per_step)
        whole = [oracle.bits(batch) for batch in one.epoch(2)]
        step = data.draw(s.integers(0, one.steps))
        again = loader(dataset, 0, 1, shards, shards * rows_per_step, prefetch=1)
        assert [oracle.bits(batch) for batch in again.epoch(2, step)] == whole[step:]


@settings(deadline=None, derandomize=True, max_examples=12)
@given(s.lists(s.integers(1, 20), min_size=3, max_size=8), s.sampled_from([2, 4, 6, 12]), s.integers(1, 3), s.data())
def test_an_epoch_goes_on_at_any_world_size(
    sizes: list[int], shards: int, rows_per_step: int, data: s.DataObject
) -> None:
    """No sample twice, none lost: the ranks of each segment read on where those of the one before stopped."""
    worlds = [world for world in range(1, min(shards, len(sizes)) + 1) if shards % world == 0]
    size = shards * rows_per_step
    with written(sizes) as dataset:
        whole = [numbers(batch) for batch in loader(dataset, 0, 1, shards, size).epoch(1)]
        read: list[list[int]] = []
        while len(read) < len(whole):
            world = data.draw(s.sampled_from(worlds))
            steps = data.draw(s.integers(1, len(whole) - len(read)))
            prefetch = data.draw(s.integers(1, 4))  # more than is consumed
            ranks = [loader(dataset, rank, world, shards, size, prefetch=prefetch) for rank in range(world)]
            open_ = [one.epoch(1, len(read)) for one in ranks]
            read += [[n for batches in open_ for n in numbers(next(batches))] for _ in range(steps)]
            for batches in open_:
                batches.close()
        assert read == whole
        assert sorted(n for batch in read for n in batch) == list(range(sum(sizes)))


def test_ranks_without_rows_get_batches_of_padding(tmp_path: Path) -> None:
    """9 rows in 4 shards of 2, 2, 2 and 3 rows: at the second step one rank has one row, and the others none."""
    write_dataset(tmp_path / "data", rows=9, row_group_rows=2, edit=numbered)
    ranks = [loader(DatasetDirectory(tmp_path / "data"), rank, 4, 4, 8) for rank in range(4)]
    last = [list(one.epoch(0))[1:] for one in ranks]
    assert [len(batches) for batches in last] == [1] * 4
    assert [batch.rows for (batch,) in last] == [0, 0, 0, 1]
    for (batch,) in last:
        assert batch.sparse is not None
        assert batch.weight_B is not None
        assert batch.labels_BK.shape == (2, 2)
        assert batch.weight_B[batch.rows :].count_nonzero() == batch.in_space_BK[batch.rows :].count_nonzero() == 0
        lengths_FB = batch.sparse.lengths().view(len(batch.sparse.keys()), 2)
        assert lengths_FB[:, batch.rows :].count_nonzero() == 0


@pytest.mark.parametrize(
    ("sizes", "world", "shards"),
    [([97, 1], 2, 16), ([1, 1, 1], 3, 12), ([50, 1, 3, 1], 4, 8), ([1, 64], 2, 2)],
    ids=["fewer row groups than shards", "fewer rows than shards", "one large row group", "a row group a shard"],
)
def test_ranks_give_as_many_batches_from_any_step_on(sizes: list[int], world: int, shards: int) -> None:
    with written(sizes) as dataset:
        ranks = [loader(dataset, rank, world, shards, 2 * shards) for rank in range(world)]
        (steps,) = {one.steps for one in ranks}
        assert steps == math.ceil(math.ceil(sum(sizes) / shards) / 2)  # of the longest shard, by two rows a step
        for start in range(steps + 2):
            given = [[batch.rows for batch in one.epoch(1, start)] for one in ranks]
            assert [len(rows) for rows in given] == [max(0, steps - start)] * world
        read = [[number for batch in one.epoch(1) for number in numbers(batch)] for one in ranks]
        assert sorted(number for rows in read for number in rows) == list(range(sum(sizes)))


@settings(deadline=None, derandomize=True, max_examples=8)
@given(SIZES, s.integers(1, 3), s.integers(1, 9))
def test_evaluation_gives_every_row_once_in_order(sizes: list[int], world: int, per_rank: int) -> None:
    world = min(world, len(sizes))
    with written(sizes) as dataset:
        rows = oracle.rows_of(dataset, "train")
        read = [
            list(loader(dataset, rank, world, world, per_rank * world, shuffle=False).epoch(0)) for rank in range(world)
        ]
        assert len({len(batches) for batches in read}) == 1
        assert [n for batches in read for batch in batches for n in numbers(batch)] == list(range(len(rows)))


def test_order_depends_on_seed_and_epoch_alone(tmp_path: Path) -> None:
    write_dataset(tmp_path / "data", rows=200, row_group_rows=(30, 50), edit=numbered)
    dataset = DatasetDirectory(tmp_path / "data")

    def order(seed: int, epoch: int, batch_size: int = 8, prefetch: int = 4) -> list[list[int]]:
        """Row numbers of each virtual shard."""
        shards: list[list[int]] = [[], [], [], []]
        for batch in loader(dataset, 0, 1, 4, batch_size, seed=seed, prefetch=prefetch).epoch(epoch):
            found = numbers(batch)
            for i, shard in enumerate(shards):
                shard += found[i * batch.rows // 4 : (i + 1) * batch.rows // 4]
        return shards

    assert order(0, 0) == order(0, 0, prefetch=1) == order(0, 0, batch_size=40)
    assert len({str(order(seed, epoch)) for seed in range(3) for epoch in range(3)}) == 9


@pytest.mark.parametrize(
    ("batch", "shards", "world", "message"),
    [
        (
            64,
            6,
            4,
            "data.virtual_shards: got 6 with 4 ranks; it must be a multiple of the number of ranks, so that "
            "all ranks read equally many shards. Fix: set data.virtual_shards = 8, or use another number of ranks",
        ),
        (
            64,
            6,
            5,
            "data.virtual_shards: got 6 with 5 ranks; it must be a multiple of the number of ranks, so that "
            "all ranks read equally many shards. Fix: set data.virtual_shards = 10 and a global batch of 60, or use "
            "another number of ranks",
        ),
        (
            100,
            16,
            4,
            "train.batch_size: got 100 samples over all ranks with data.virtual_shards = 16; it must be a "
            "multiple of the virtual shards, since a batch takes equally many samples from each of them. Fix: use a "
            "global batch of "
            "96, or another data.virtual_shards",
        ),
        (
            3,
            16,
            4,
            "train.batch_size: got 3 samples over all ranks with data.virtual_shards = 16; it must be a "
            "multiple of the virtual shards, since a batch takes equally many samples from each of them. Fix: use a "
            "global batch of "
            "16, or another data.virtual_shards",
        ),
    ],
)
def test_sizes_that_do_not_divide(batch: int, shards: int, world: int, message: str) -> None:
    with pytest.raises(UserError) as caught:
        rows_per_shard(batch, shards, world)
    assert str(caught.value) == message
    assert caught.value.exit_code == 2


@given(s.lists(s.integers(1, 9), min_size=1, max_size=20), s.integers(0, 3), s.integers(0, 3))
def test_requests_are_permuted_whole(lengths: list[int], seed: int, epoch: int) -> None:
    starts_N = np.zeros(sum(lengths), np.bool_)
    begins = np.cumsum([0, *lengths[:-1]])
    starts_N[begins] = True
    rows_N = request_order(starts_N, 3, seed, epoch)
    requests = {int(begin): list(range(begin, begin + length)) for begin, length in zip(begins, lengths, strict=True)}
    found, left = [], rows_N.tolist()
    while left:
        found.append(requests.pop(left[0]))
        assert left[: len(found[-1])] == found[-1]
        del left[: len(found[-1])]
    assert not requests
    order = row_order(len(lengths), 3, seed, epoch).tolist()
    assert [begins.tolist().index(rows[0]) for rows in found] == order
