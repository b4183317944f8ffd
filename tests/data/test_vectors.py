"""Vectors from Parquet to a batch: without copies, in every order, from the rows and from frozen tables."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.output.parts import write_part
from ple_rec.data.arrow import RowGroupColumns, vector_values
from ple_rec.data.batch import Batch
from ple_rec.data.columns import decode
from ple_rec.data.dataset import DatasetDirectory, read_columns, read_row_group
from ple_rec.data.loader import Loader
from ple_rec.errors import DataError, UserError
from tests.vectors import (
    CONTENT,
    FINGERPRINT,
    GROUP_ROWS,
    ROWS,
    TASTE,
    VIDEOS,
    arrow_rows,
    vector_rows,
    vectors_of,
    write_vectors,
)

SHARED = ("user", "taste")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_vectors(tmp_path_factory.mktemp("vectors") / "data")


@pytest.fixture
def dataset(folder: Path) -> DatasetDirectory:
    return DatasetDirectory(folder)


def lists(values: Any, width: int = TASTE, kind: pa.DataType | None = None) -> RowGroupColumns:
    kind = kind or pa.list_(pa.float32(), width)
    return RowGroupColumns(pa.table({"taste": pa.array(values, kind)}), "part, row group 0")


def test_vectors_without_nulls_share_the_memory_of_arrow() -> None:
    values = np.arange(12, dtype=np.float32)
    array = pa.FixedSizeListArray.from_arrays(pa.array(values), TASTE)
    source = RowGroupColumns(pa.table({"taste": array}), "part")
    read = vector_values(source, "taste", TASTE)
    assert read.tolist() == values.reshape(-1, TASTE).tolist()
    assert np.shares_memory(read, array.values.to_numpy())
    sliced = RowGroupColumns(pa.table({"taste": array.slice(1, 2)}), "part")
    assert vector_values(sliced, "taste", TASTE).tolist() == [[3, 4, 5], [6, 7, 8]]


def test_decoded_vectors_and_those_in_file_order_are_not_copied(tmp_path: Path) -> None:
    path = write_vectors(tmp_path / "data")
    columns = vector_rows(ROWS["train"], 0)
    columns["taste"] = np.nan_to_num(columns["taste"])
    write_part(path / "train" / "part-00000.parquet", arrow_rows(columns), FINGERPRINT, GROUP_ROWS)
    (path / "_SUCCESS").write_text("")
    dataset = DatasetDirectory(path)
    selection = dataset.select(drop=[], tasks=[])
    group = dataset.row_groups("train", [])[1]
    table = read_columns(group, selection.all_column_names())
    decoded = decode(table, selection, group.place)
    arranged = decoded.arrange()
    buffer = table["taste"].chunk(0).flatten().to_numpy()
    for each in (decoded, arranged):
        assert np.shares_memory(each.vectors[0].values, buffer)
        assert each.vectors[1].values is dataset.vector_tables["content"].values_RW
    assert decoded.arrange(np.array([2, 0])).vectors[0].values.tolist() == columns["taste"][[34, 32]].tolist()


@pytest.mark.parametrize(
    "kind",
    [pa.list_(pa.float64()), pa.large_list(pa.float32()), pa.list_(pa.int16(), TASTE), pa.list_(pa.float32(), TASTE)],
    ids=str,
)
def test_other_types_of_lists_convert(kind: pa.DataType) -> None:
    read = vector_values(lists([[1, 2, 3], None, [4, 5, 6]], kind=kind), "taste", TASTE)
    assert np.array_equal(read, np.array([[1, 2, 3], [np.nan] * TASTE, [4, 5, 6]]), equal_nan=True)
    assert read.dtype == np.float32


REFUSALS: dict[str, tuple[Callable[[], RowGroupColumns], str]] = {
    "another width": (
        lambda: lists([[1.0, 2.0]], width=2),
        "part, row group 0, column 'taste': type fixed_size_list<item: float>[2]; it must be "
        "fixed_size_list<float>[3] or convert to it",
    ),
    "one list longer": (lambda: lists([[1, 2, 3], [1, 2, 3, 4]], kind=pa.list_(pa.float32())), "it must be fixed_size"),
    "text": (lambda: lists([["a"]], kind=pa.list_(pa.string())), "the column has no vectors"),
    "no lists": (lambda: lists([1.0], kind=pa.float32()), "the column has no vectors"),
    "NaN": (
        lambda: lists([[1, 2, 3], None, [1, np.nan, 3]]),
        "part, row group 0, column 'taste', row 2: got nan among the numbers of the vector; a vector is null, or all "
        "its numbers are finite",
    ),
    "infinite": (lambda: lists([[1, 2, -np.inf]]), "row 0: got -inf among the numbers"),
    "null": (lambda: lists([[1, None, 3]]), "row 0: got nan among the numbers"),
}


@pytest.mark.parametrize(("source", "words"), REFUSALS.values(), ids=REFUSALS)
def test_bad_vectors_are_refused(source: Callable[[], RowGroupColumns], words: str) -> None:
    with pytest.raises(DataError) as caught:
        vector_values(source(), "taste", TASTE)
    assert words in str(caught.value)


def test_a_row_outside_the_frozen_table_is_refused(dataset: DatasetDirectory) -> None:
    selection = dataset.select(drop=[], tasks=[])
    columns = vector_rows(8, 0) | {"content": np.array([0, 1, 2, VIDEOS, VIDEOS + 1, 0, 0, 0], np.int64)}
    with pytest.raises(DataError) as caught:
        decode(arrow_rows(columns), selection, "part")
    assert str(caught.value).startswith(
        f"part, column 'content', row 4: row {VIDEOS + 1}; the frozen table of 'content' has the rows 1 to {VIDEOS}"
    )


def _loader(
    dataset: DatasetDirectory, *, shuffle: bool, by_request: bool = False, rank: int = 0, world: int = 1
) -> Loader:
    selection = replace(dataset.select(drop=[], tasks=[]), requests=SHARED if by_request else ())
    return Loader(
        dataset,
        "train",
        selection,
        batch_size=48,
        rank=rank,
        world_size=world,
        virtual_shards=4,
        seed=3,
        shuffle=shuffle,
        by_request=by_request,
    )


def _check_rows(batch: Batch) -> list[int]:
    """Compare each row of a batch with the row of its number, which `age` tells; return the numbers."""
    expected = vector_rows(ROWS["train"], 0)
    row_of = {age: row for row, age in enumerate(expected["age"].tolist())}
    rows = [row_of[age] for age in batch.dense_BF[: batch.rows, 0].tolist()]
    assert batch.vectors_BW is not None
    assert np.array_equal(batch.vectors_BW[: batch.rows].numpy(), vectors_of(expected)[rows], equal_nan=True)
    assert not batch.vectors_BW[batch.rows :].any()
    assert batch.labels_BK[: batch.rows, 0].tolist() == expected["liked"][rows].tolist()
    return rows


@pytest.mark.parametrize(("shuffle", "by_request"), [(False, False), (True, False), (True, True)])
def test_every_row_comes_with_its_own_vectors_in_every_order(
    shuffle: bool, by_request: bool, dataset: DatasetDirectory
) -> None:
    loader = _loader(dataset, shuffle=shuffle, by_request=by_request)
    batches = list(loader.epoch(1))
    rows = [row for batch in batches for row in _check_rows(batch)]
    assert sorted(rows) == list(range(ROWS["train"]))
    assert (rows == sorted(rows)) is False  # Shards are read in turn, even without a permutation.
    assert batches[-1].rows < 48
    resumed = list(loader.epoch(1, start_step=5))
    assert [_check_rows(batch) for batch in resumed] == [_check_rows(batch) for batch in batches[5:]]
    ranks = [
        list(_loader(dataset, shuffle=shuffle, by_request=by_request, rank=rank, world=2).epoch(1)) for rank in (0, 1)
    ]
    of_ranks = [sorted(_check_rows(a) + _check_rows(b)) for a, b in zip(*ranks, strict=True)]
    assert of_ranks == [sorted(_check_rows(batch)) for batch in batches]


def test_a_vector_may_divide_requests(dataset: DatasetDirectory) -> None:
    """Rows of one user have one taste, missing ones included; the frozen vector differs from row to row."""
    selection = dataset.select(drop=[], tasks=[])
    group = dataset.row_groups("train", [])[0]
    expected = vector_rows(ROWS["train"], 0)
    user, content = expected["user"][:GROUP_ROWS], expected["content"][:GROUP_ROWS]
    for names, differs in (
        (("taste",), user[1:] != user[:-1]),
        (("content",), content[1:] != content[:-1]),
        (("taste", "content"), (user[1:] != user[:-1]) | (content[1:] != content[:-1])),
    ):
        starts = read_row_group(group, replace(selection, requests=names)).request_starts()
        if names == ("taste",):
            # Two users without a taste are alike.
            both_missing = np.isnan(expected["taste"][:GROUP_ROWS, 0])
            differs = differs & ~(both_missing[1:] & both_missing[:-1])
        assert starts.tolist() == [True, *differs.tolist()]


def test_vectors_are_selected_by_name(dataset: DatasetDirectory) -> None:
    assert [f.name for f in dataset.select(drop=[], tasks=[]).vectors] == ["taste", "content"]
    assert [f.name for f in dataset.select(drop=["taste"], tasks=[]).vectors] == ["content"]
    chosen = dataset.select(drop=[], tasks=[], vectors=["taste"])
    assert [f.name for f in chosen.vectors] == ["taste"]
    assert "content" not in chosen.column_names()
    assert dataset.select(drop=[], tasks=[], vectors=[]).frozen_bytes == 0
    assert dataset.select(drop=[], tasks=[]).frozen_bytes == 4 * CONTENT * (VIDEOS + 1)
    with pytest.raises(UserError) as caught:
        dataset.select(drop=[], tasks=[], vectors=["tast"])
    assert str(caught.value) == (
        f"data.vectors: got 'tast'; {dataset.path} has taste, content. Fix: did you mean 'taste'?"
    )
    with pytest.raises(UserError, match=r"data\.drop: lists all features"):
        dataset.select(drop=["user", "age", "taste", "content"], tasks=[])


def test_threads_share_one_frozen_table(dataset: DatasetDirectory) -> None:
    tables: list[Any] = []

    def read() -> None:
        tables.append(dataset.vector_tables["content"].values_RW)

    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(table) for table in tables}) == 1
    assert np.isnan(tables[0][0]).all()


@pytest.mark.parametrize("damage", ["missing", "changed", "other rows"])
def test_a_damaged_frozen_table_is_refused(damage: str, folder: Path, tmp_path: Path) -> None:
    path = shutil.copytree(folder, tmp_path / "data")
    file = path / "vectors" / "content.parquet"
    if damage == "missing":
        file.unlink()
    else:
        table = pq.read_table(file)
        pq.write_table(table.slice(1) if damage == "other rows" else table.take(list(range(VIDEOS))[::-1]), file)
        if damage == "other rows":
            (path / "_SUCCESS").write_text("")
    dataset = DatasetDirectory(path)
    with pytest.raises(DataError) as caught:
        read_row_group(dataset.row_groups("train", [])[0], dataset.select(drop=[], tasks=[]))
    assert str(file) in caught.value.place
    # Nothing of it is read if the model does not read the feature.
    read_row_group(dataset.row_groups("train", [])[0], dataset.select(drop=["content"], tasks=[]))
