"""Footers of many parts: read once, few of them kept, and damage named whichever thread meets it."""

from __future__ import annotations

import gc
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ple_rec.data.dataset import DatasetDirectory, Footers, read_columns
from ple_rec.data.integrity import Digests
from ple_rec.data.loader import Loader
from ple_rec.data.side_columns import numbers
from ple_rec.data.slice_columns import slice_columns
from ple_rec.errors import DataError
from tests.data import oracle
from tests.datasets import write_dataset, write_row_groups


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A dataset of 12 parts of 2 row groups each."""
    write_dataset(tmp_path / "data", rows=24 * 5, row_group_rows=5, parts=12)
    return tmp_path / "data"


def batches(dataset: DatasetDirectory) -> list[list[bytes]]:
    one = Loader(
        dataset, "train", dataset.select(drop=[], tasks=[]), batch_size=8, rank=0, world_size=1, virtual_shards=2
    )
    return [oracle.bits(batch) for batch in one.epoch(0)]


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files whose footers are parsed."""
    names: list[str] = []
    parse = Footers.parse

    def recorded(self: Footers, file: Path) -> tuple[pq.FileMetaData, pa.Schema]:
        names.append(file.name)
        return parse(self, file)

    monkeypatch.setattr(Footers, "parse", recorded)
    return names


def test_a_footer_is_parsed_once(path: Path, parsed: list[str]) -> None:
    dataset = DatasetDirectory(path)
    first = batches(dataset)
    assert sorted(parsed) == [f"part-{i:05}.parquet" for i in range(12)]
    assert batches(dataset) == first
    assert [column.name for column in slice_columns(dataset, "train", ["user", "watched"])] == ["user", "watched"]
    assert len(numbers(dataset, "train", "weight", "a test")) == 24 * 5
    assert len(parsed) == 12
    assert len({id(schema) for schema in dataset.schemas("train").values()}) == 1


def test_of_many_footers_few_are_kept(path: Path, parsed: list[str]) -> None:
    expected = batches(DatasetDirectory(path))
    dataset = DatasetDirectory(path)
    one = pq.read_metadata(path / "train/part-00000.parquet").serialized_size
    dataset.footers = Footers(Digests.read(path), max_bytes=3 * one + one // 2)
    parsed.clear()
    assert batches(dataset) == expected
    assert len(parsed) > 12
    assert len(dataset.footers._footers) == 3
    assert dataset.footers._bytes == sum(footer.serialized_size for footer in dataset.footers._footers.values())


def test_the_latest_footers_are_kept(path: Path, parsed: list[str]) -> None:
    files = sorted((path / "train").iterdir())
    sizes = [pq.read_metadata(file).serialized_size for file in files]
    footers = Footers(Digests.read(path), max_bytes=sizes[0] + sizes[1])
    for i in (0, 1, 0, 2, 0, 1):
        footers.get(files[i])
    assert [int(name[5:10]) for name in parsed] == [0, 1, 2, 1]
    alone = Footers(Digests.read(path), max_bytes=1)
    assert alone.get(files[3]) is alone.get(files[3])


def test_a_footer_that_is_let_go_is_freed_at_once(path: Path) -> None:
    """Not by the garbage collector, which comes late to few objects that are large."""
    files = sorted((path / "train").iterdir())
    gc.disable()
    try:
        dataset = DatasetDirectory(path)
        dataset.footers = Footers(Digests.read(path), max_bytes=1)
        dataset.row_groups("train", [])
        gc.collect()
        gc.set_debug(gc.DEBUG_SAVEALL)
        for file in files:
            dataset._read_part(file)
        gc.collect()
        assert [each for each in gc.garbage if isinstance(each, pq.FileMetaData)] == []
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


def test_of_several_damaged_parts_the_first_is_named(path: Path) -> None:
    for i in (3, 4, 9):
        (path / f"train/part-{i:05}.parquet").write_bytes(b"PAR1")
    for _ in range(5):
        with pytest.raises(DataError, match=r"part-00003\.parquet: unreadable \("):
            batches(DatasetDirectory(path))


def test_a_part_replaced_under_a_reader_is_refused(path: Path) -> None:
    dataset = DatasetDirectory(path)
    dataset.footers = Footers(Digests.read(path), max_bytes=1)
    groups = dataset.row_groups("train", [])
    file = path / "train" / groups[0].file.name
    table = pq.read_table(file)
    write_row_groups(file, [table.slice(0, 4), table.slice(4)], dataset.schema.fingerprint)
    with pytest.raises(DataError) as caught:
        read_columns(groups[0], ["user"])
    assert str(caught.value) == (
        f"{file}, row group 0: 4 rows; it had 5 when the dataset was opened. Fix: start again, and do not write to a "
        "dataset directory while a run reads it"
    )
