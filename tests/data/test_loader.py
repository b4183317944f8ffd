"""The reading thread: errors, early ends, memory, page-locked batches."""

from __future__ import annotations

import gc
import json
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ple_rec.data import loader as loader_module
from ple_rec.data.batch import Batch
from ple_rec.data.collate import RowSlice, collate
from ple_rec.data.columns import Columns, Selection
from ple_rec.data.dataset import DatasetDirectory
from ple_rec.data.loader import Loader
from ple_rec.errors import DataError
from tests.data import oracle
from tests.datasets import write_dataset


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> DatasetDirectory:
    path = tmp_path_factory.mktemp("loader") / "data"
    write_dataset(path, rows=256, row_group_rows=32)
    return DatasetDirectory(path)


def loader(
    dataset: DatasetDirectory,
    *,
    shards: int = 2,
    prefetch: int = 4,
    pin: bool = False,
    shuffle: bool = True,
    buffer_bytes: int = 2 << 30,
) -> Loader:
    return Loader(
        dataset,
        "train",
        dataset.select(drop=[], tasks=[]),
        batch_size=16,
        rank=0,
        world_size=1,
        virtual_shards=shards,
        prefetch=prefetch,
        pin=pin,
        shuffle=shuffle,
        buffer_bytes=buffer_bytes,
    )


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "prefetch"]


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


READ = Loader.read


class CountedReads:
    """Stands in for `Loader.read`; from the given call on it raises."""

    def __init__(self, error: BaseException | None = None, calls_before: int = 0) -> None:
        self.error, self.calls_before = error, calls_before
        self.calls: list[tuple[str, int]] = []
        self.read: list[weakref.ref[Columns]] = []
        self.most = self.most_bytes = 0

    def install(self, monkeypatch: pytest.MonkeyPatch) -> CountedReads:
        monkeypatch.setattr(Loader, "read", lambda *arguments: self.read_counted(*arguments))
        return self

    def read_counted(self, loader: Loader, row_group: int, epoch: int, rows: slice = slice(None)) -> Columns:
        if self.error is not None and len(self.calls) >= self.calls_before:
            raise self.error
        group = loader.groups[row_group]
        self.calls.append((group.file.name, group.index))
        columns = READ(loader, row_group, epoch, rows)
        self.read.append(weakref.ref(columns))
        alive = [held for ref in self.read if (held := ref()) is not None]
        self.most = max(self.most, len(alive))
        self.most_bytes = max(self.most_bytes, sum(held.nbytes for held in alive))
        return columns


@pytest.mark.parametrize(
    "error", [DataError("part-7", "id 9", "table 'user' has rows 0 to 3", "prepare again"), MemoryError("no room")]
)
def test_error_of_the_thread_reaches_the_consumer(
    dataset: DatasetDirectory, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    expected = [oracle.bits(batch) for batch in loader(dataset).epoch(0)]
    CountedReads(error, calls_before=4).install(monkeypatch)
    batches = loader(dataset).epoch(0)
    assert [oracle.bits(next(batches)) for _ in range(8)] == expected[:8]  # 4 row groups of 32 rows
    with pytest.raises(type(error)) as caught:
        next(batches)
    assert caught.value is error
    assert not threads()


def test_error_in_pinning_reaches_the_consumer(dataset: DatasetDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*size: object, pin_memory: bool, **kwargs: object) -> Tensor:
        assert pin_memory
        raise RuntimeError("no page-locked memory left")

    monkeypatch.setattr(torch, "empty", fail)
    with pytest.raises(RuntimeError, match=r"^no page-locked memory left$"):
        next(loader(dataset, pin=True).epoch(0))
    assert not threads()


@pytest.mark.parametrize("prefetch", [1, 3])
def test_close_ends_a_thread_that_waits_for_room(
    dataset: DatasetDirectory, monkeypatch: pytest.MonkeyPatch, prefetch: int
) -> None:
    made = []

    def counted(slices: Sequence[RowSlice], selection: Selection, batch_size: int, *, pin: bool) -> Batch:
        made.append(1)
        return collate(slices, selection, batch_size, pin=pin)

    monkeypatch.setattr(loader_module, "collate", counted)
    batches = loader(dataset, prefetch=prefetch).epoch(0)
    next(batches)
    wait_until(lambda: len(made) == prefetch + 2)  # one is given, `prefetch` are ready, one waits for room
    (thread,) = threads()
    time.sleep(0.02)
    assert len(made) == prefetch + 2
    batches.close()
    assert not thread.is_alive()
    assert len(made) == prefetch + 2
    assert list(batches) == []


def test_a_forgotten_iterator_ends_its_thread(dataset: DatasetDirectory) -> None:
    batches = loader(dataset, prefetch=1).epoch(0)
    next(batches)
    assert len(threads()) == 1
    del batches
    gc.collect()
    assert not threads()


def test_an_iterator_that_nobody_reads_starts_no_thread(dataset: DatasetDirectory) -> None:
    batches = loader(dataset).epoch(0)
    assert not threads()
    batches.close()


def test_end_of_the_epoch_ends_the_thread(dataset: DatasetDirectory) -> None:
    assert len(list(loader(dataset).epoch(0))) == 16
    assert not threads()


def test_epochs_one_after_the_other_and_at_once(dataset: DatasetDirectory) -> None:
    one = loader(dataset)
    first, second = ([oracle.bits(batch) for batch in one.epoch(epoch)] for epoch in (0, 1))
    assert [oracle.bits(batch) for batch in one.epoch(0)] == first != second
    both = list(zip(one.epoch(0), one.epoch(1), strict=True))
    assert [oracle.bits(a) for a, _ in both] == first
    assert [oracle.bits(b) for _, b in both] == second


@pytest.mark.parametrize("shards", [1, 2, 4])
def test_a_shard_holds_one_row_group(dataset: DatasetDirectory, monkeypatch: pytest.MonkeyPatch, shards: int) -> None:
    reads = CountedReads().install(monkeypatch)
    one = loader(dataset, shards=shards)  # 8 row groups
    assert len(list(one.epoch(0))) == 16
    assert reads.most == shards
    assert sorted(index for _, index in reads.calls) == list(range(8))


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("share", [0.5, 0.2, 0.01])
def test_what_a_rank_holds_is_bound_by_bytes(
    dataset: DatasetDirectory, monkeypatch: pytest.MonkeyPatch, shuffle: bool, share: float
) -> None:
    """Row groups are read in stretches, for the same batches; the first one is read whole, to see its bytes."""
    expected = [oracle.bits(batch) for batch in loader(dataset, shards=4, shuffle=shuffle).epoch(0)]
    reads = CountedReads().install(monkeypatch)
    assert len(list(loader(dataset, shards=4, shuffle=shuffle, prefetch=1).epoch(0))) == 16
    whole_bytes = reads.most_bytes

    reads = CountedReads().install(monkeypatch)
    bound = loader(dataset, shards=4, shuffle=shuffle, prefetch=1, buffer_bytes=int(share * whole_bytes))
    assert [oracle.bits(batch) for batch in bound.epoch(0)] == expected
    assert reads.most_bytes <= 1.2 * max(share, 1 / 4) * whole_bytes  # rows differ by the length of their bags
    assert len(reads.calls) > 8
    assert [oracle.bits(batch) for batch in bound.epoch(0, 5)] == expected[5:]


@pytest.mark.parametrize("shuffle", [True, False])
def test_shards_share_a_row_group_that_they_read_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shuffle: bool
) -> None:
    write_dataset(tmp_path / "data", rows=64, row_group_rows=32)
    expected = [oracle.bits(batch) for batch in loader(DatasetDirectory(tmp_path / "data"), shards=16).epoch(0)]
    reads = CountedReads().install(monkeypatch)
    found = [oracle.bits(b) for b in loader(DatasetDirectory(tmp_path / "data"), shards=16, shuffle=shuffle).epoch(0)]
    assert sorted(reads.calls) == [("part-00000.parquet", 0), ("part-00000.parquet", 1)]
    assert len(found) == 4
    assert (found == expected) == shuffle


def test_resuming_reads_no_row_group_that_is_done(dataset: DatasetDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = CountedReads().install(monkeypatch)
    assert len(list(loader(dataset, shards=1, shuffle=False).epoch(0, 12))) == 4
    assert [index for _, index in reads.calls] == [6, 7]
    assert list(loader(dataset).epoch(0, 16)) == []


def test_only_asked_batches_are_pinned(dataset: DatasetDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    empty, pinned = torch.empty, []

    def recorded(*size: object, pin_memory: bool, **kwargs: object) -> Tensor:
        pinned.append(pin_memory)
        return empty(*size, **kwargs)  # type: ignore[call-overload]

    monkeypatch.setattr(torch, "empty", recorded)
    plain = [oracle.bits(batch) for batch in loader(dataset).epoch(0)]
    assert pinned == [False] * 16 * 8  # ids, their lengths and weights, and five tensors beside, of each of 16 batches
    pinned.clear()
    assert [oracle.bits(batch) for batch in loader(dataset, pin=True).epoch(0)] == plain
    assert pinned == [True] * 16 * 8


def test_a_batch_moves_whole(dataset: DatasetDirectory) -> None:
    batch = next(loader(dataset).epoch(0))
    assert batch.to(torch.device("cpu")) is batch
    moved = batch.to(torch.device("meta"))
    assert moved.sparse is not None
    tensors = [moved.sparse.values(), moved.sparse.lengths(), moved.sparse.weights()]
    rest = [moved.dense_BF, moved.labels_BK, moved.in_space_BK, moved.weight_B, moved.group_B]
    assert all(tensor is not None and tensor.device.type == "meta" for tensor in [*tensors, *rest])
    assert moved.rows == batch.rows


@pytest.mark.gpu
def test_a_pinned_batch_arrives_on_the_gpu_whole(dataset: DatasetDirectory) -> None:
    expected = [oracle.bits(batch) for batch in loader(dataset).epoch(0)]
    found = []
    for batch in loader(dataset, pin=True).epoch(0):
        assert batch.dense_BF.is_pinned()
        assert batch.sparse is not None
        assert batch.sparse.values().is_pinned()
        there = batch.to(torch.device("cuda"))
        assert there.labels_BK.device.type == "cuda"
        found.append(there)
    torch.cuda.synchronize()
    assert [_bits_from_gpu(batch) for batch in found] == expected


def _bits_from_gpu(batch: Batch) -> list[bytes]:
    def back(tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else tensor.cpu()

    assert batch.sparse is not None
    return oracle.bits(
        Batch(
            batch.sparse.to(torch.device("cpu")),
            batch.dense_BF.cpu(),
            batch.labels_BK.cpu(),
            batch.in_space_BK.cpu(),
            back(batch.weight_B),
            back(batch.group_B),
            batch.rows,
        )
    )


def test_batches_without_sparse_features_weights_and_groups(tmp_path: Path) -> None:
    write_dataset(
        tmp_path / "data",
        rows=40,
        row_group_rows=16,
        single=False,
        shared_table=False,
        bag=False,
        weighted_bag=False,
        sample_weight=False,
        group=False,
    )
    dataset = DatasetDirectory(tmp_path / "data")
    one = loader(dataset, shards=1, shuffle=False)
    rows = oracle.rows_of(dataset, "train")
    batches = list(one.epoch(0))
    assert [batch.rows for batch in batches] == [16, 16, 8]
    for i, batch in enumerate(batches):
        oracle.check(batch, rows[16 * i : 16 * i + 16], one.selection, 16)


def test_empty_row_groups_are_passed_over(tmp_path: Path) -> None:
    write_dataset(tmp_path / "data", rows=40, row_group_rows=(0, 16, 0, 8))
    one = loader(DatasetDirectory(tmp_path / "data"), shards=1)
    assert [group.rows for group in one.groups] == [16, 8, 16]
    assert sum(batch.rows for batch in one.epoch(0)) == 40


def test_statistics_are_those_of_the_file_which_is_read_once(
    dataset: DatasetDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert dataset.statistics() == json.loads((dataset.path / "stats.json").read_text())["columns"]
    monkeypatch.setattr(json, "loads", pytest.fail)
    assert "click" in dataset.label_counts("train")
    assert dataset.ids_per_sample(dataset.schema.sparse)["user"] == 1
