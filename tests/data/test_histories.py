"""Histories in batches against a look-up in the log; requests, id dropout, memory, and files that do not fit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from ple_rec.config.schema import SUCCESS_FILE
from ple_rec.data.batch import Batch
from ple_rec.data.dataset import DatasetDirectory, read_row_group
from ple_rec.data.loader import Loader
from ple_rec.data.verify import dataset_problems
from ple_rec.errors import DataError
from tests.data.test_remote import uploaded
from tests.data_prep.oracle_logs import prepared, random_rows
from tests.histories import ITEMS, LENGTH, ROWS, Columns, events_of, expected_history, log_rows, write_histories

KEYS = [*(f"liked.{name}" for name in ITEMS), "liked_age"]
Ids = dict[str, list[int]]


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> tuple[DatasetDirectory, Columns]:
    """The dataset, and the log whose group column has the number of the row."""
    path = tmp_path_factory.mktemp("histories") / "data"
    numbers = np.arange(sum(ROWS.values()))
    columns = write_histories(path, change={"user_group": numbers})
    return DatasetDirectory(path), columns


def _loader(
    dataset: DatasetDirectory, *, requests: tuple[str, ...] = (), drop: tuple[str, ...] = (), **options: Any
) -> Loader:
    selection = replace(dataset.select(drop=drop, tasks=[]), requests=requests)
    sizes = {"batch_size": 60, "rank": 0, "world_size": 1, "virtual_shards": 4, "by_request": bool(requests)}
    return Loader(dataset, "train", selection, **sizes | options)


def _histories(batch: Batch) -> Iterator[tuple[int, Ids]]:
    """The number of each row of the log, and the ids of its keys."""
    assert batch.sparse is not None
    assert batch.group_B is not None
    ids = {
        name: [jagged.values().tolist()[a:b] for a, b in pairwise(jagged.offsets().tolist())]
        for name, jagged in batch.sparse.to_dict().items()
    }
    for i, row in enumerate(batch.group_B[: batch.rows].tolist()):
        yield row, {name: values[i] for name, values in ids.items()}


def test_a_batch_has_the_events_before_each_row(log: tuple[DatasetDirectory, Columns]) -> None:
    dataset, columns = log
    rows, lengths, events = 0, set(), events_of(columns)
    for batch in _loader(dataset).epoch(0):
        assert batch.sparse is not None
        assert batch.sparse.keys() == ["user", *ITEMS, *KEYS]
        lengths_SB = batch.sparse.lengths().view(len(batch.sparse.keys()), -1)
        assert batch.sparse.length_per_key_or_none() == lengths_SB.sum(dim=1).tolist()
        assert not lengths_SB[:, batch.rows :].any()
        for row, ids in _histories(batch):
            assert [ids[name] for name in KEYS] == expected_history(columns, events, row)
            assert [ids[name] for name in ITEMS] == [[columns[name][row]] for name in ITEMS]
            lengths.add(len(ids["liked_age"]))
            rows += 1
    assert rows == ROWS["train"]
    assert lengths == set(range(7))


def test_dropped_items_and_histories_are_no_keys(log: tuple[DatasetDirectory, Columns]) -> None:
    dataset, _ = log
    cases = {
        ("video", "user"): ["author", "tab", "liked.author", "liked.tab", "liked_age"],
        ("liked",): ["user", *ITEMS],
        ITEMS: ["user"],
    }
    for drop, keys in cases.items():
        batch = next(_loader(dataset, drop=drop).epoch(0))
        assert batch.sparse is not None
        assert batch.sparse.keys() == keys


def test_a_shared_history_is_in_the_first_row_of_a_request(log: tuple[DatasetDirectory, Columns]) -> None:
    dataset, columns = log
    events, rows, requests, last = events_of(columns), 0, 0, -1
    for batch in _loader(dataset, requests=("user", "liked")).epoch(0):
        assert batch.requests is not None
        first = set(batch.requests.first_R.tolist())
        for i, (row, ids) in enumerate(_histories(batch)):
            expected = expected_history(columns, events, row) if i in first else [[]] * len(KEYS)
            assert [ids[name] for name in KEYS] == expected
            assert len(ids["user"]) == (i in first)
            assert i in first or all(columns[name][row] == columns[name][last] for name in ("user", "log_time"))
            last = row
            rows += 1
        requests += len(first & set(range(batch.rows)))
    assert rows == ROWS["train"]
    assert requests < rows / 2


def test_rows_with_equal_events_and_another_time_are_other_requests(tmp_path: Path) -> None:
    times = log_rows()["log_time"]
    times[1] += 1
    write_histories(tmp_path / "data", change={"log_time": times})
    dataset = DatasetDirectory(tmp_path / "data")
    selection = replace(dataset.select(drop=[], tasks=[]), requests=("liked",))
    decoded = read_row_group(dataset.row_groups("train", [])[0], selection)
    assert decoded.request_starts()[:7].tolist() == [True, True, True, True, False, False, True]


def test_an_evaluation_reads_the_events_of_all_splits(log: tuple[DatasetDirectory, Columns]) -> None:
    dataset, columns = log
    events = events_of(columns)
    loader = Loader(
        dataset, "test", dataset.select(drop=[], tasks=[]), batch_size=64, rank=0, world_size=1, virtual_shards=1
    )
    for batch in loader.epoch(0):
        for row, ids in _histories(batch):
            assert row >= ROWS["train"] + ROWS["valid"]
            assert [ids[name] for name in KEYS] == expected_history(columns, events, row)


SHARES = {"liked.video": 0.5, "liked.tab": 0.2}


def _dropped(dataset: DatasetDirectory, epoch: int, **options: Any) -> dict[int, Ids]:
    """The histories of the rows of an epoch with id dropout, by the number of the row."""
    batches = _loader(dataset, id_dropout=SHARES, **options).epoch(epoch)
    return {row: {name: ids[name] for name in KEYS} for batch in batches for row, ids in _histories(batch)}


def test_id_dropout_replaces_a_share_of_the_items(log: tuple[DatasetDirectory, Columns]) -> None:
    dataset, columns = log
    events, zeros = events_of(columns), dict.fromkeys(KEYS, 0)
    dropped, count = _dropped(dataset, 0), 0
    for row, ids in dropped.items():
        whole = dict(zip(KEYS, expected_history(columns, events, row), strict=True))
        assert ids["liked.author"] == whole["liked.author"]
        assert ids["liked_age"] == whole["liked_age"]
        for name in SHARES:
            assert all(actual in (0, before) for actual, before in zip(ids[name], whole[name], strict=True))
            zeros[name] += sum(before > 0 and not actual for actual, before in zip(ids[name], whole[name], strict=True))
        count += len(whole["liked_age"])
        assert ids == dropped[3 * (row // 3)], "the rows of a request have the same ids"
    known = (1 - 1 / 40, 1 - 1 / 4)  # Ids are uniform, and row 0 is one of them.
    for (name, share), possible in zip(SHARES.items(), known, strict=True):
        assert zeros[name] / count == pytest.approx(share * possible, abs=0.04)


def test_id_dropout_depends_on_the_row_alone(log: tuple[DatasetDirectory, Columns]) -> None:
    dataset, _ = log
    dropped = _dropped(dataset, 0)
    assert _dropped(dataset, 0, batch_size=24, virtual_shards=2, buffer_bytes=1) == dropped
    # The loader of a dataset that was opened again maps the files again.
    assert _dropped(DatasetDirectory(dataset.path), 0) == dropped
    assert _dropped(dataset, 1) != dropped
    assert _dropped(dataset, 0, seed=1) != dropped
    # An event is not dropped in all rows that it precedes, nor kept in all of them.
    columns = log[1]
    by_event: dict[int, set[bool]] = {}
    for row, ids in dropped.items():
        for i, video in enumerate(ids["liked.video"]):
            by_event.setdefault(int(columns["liked_begin"][row]) + i, set()).add(video == 0)
    assert sum(len(drops) == 2 for drops in by_event.values()) > len(by_event) / 2


def test_a_history_takes_24_bytes_a_row(log: tuple[DatasetDirectory, Columns]) -> None:
    dataset, _ = log
    group = dataset.row_groups("train", [])[0]
    with_history, without = (
        read_row_group(group, dataset.select(drop=drop, tasks=[])).arrange(np.arange(group.rows))
        for drop in ((), ("liked",))
    )
    assert with_history.nbytes - without.nbytes == 24 * group.rows


def _change(name: str, row: int, value: int) -> dict[str, NDArray[Any]]:
    values = log_rows()[name].copy()
    values[row] = value
    return {name: values}


COUNT = len(events_of(log_rows())["user"])


@pytest.mark.parametrize(
    ("name", "value", "column", "actual", "rule"),
    [
        ("liked_begin", -1, "liked_begin", "event -1", "events are numbered from 0"),
        ("liked_begin", COUNT, "liked_end", "event ", "it is not below liked_begin, the first event of the row"),
        ("liked_end", COUNT + 1, "liked_end", f"event {COUNT + 1}", f"schema.toml says {COUNT} events"),
        ("liked_begin", 0, "liked_end", "events 0 to ", f"a history of 'liked' has at most {LENGTH} events"),
        ("log_time", 5, "log_time", "time 5", "a row must not be earlier than the last event of its history 'liked'"),
    ],
)
def test_a_row_that_does_not_fit_the_events_is_refused(
    tmp_path: Path, name: str, value: int, column: str, actual: str, rule: str
) -> None:
    rows = log_rows()
    row = int(np.flatnonzero(rows["liked_begin"][:64] > LENGTH)[-1])
    write_histories(tmp_path / "data", change=_change(name, row, value))
    with pytest.raises(DataError) as caught:
        next(_loader(DatasetDirectory(tmp_path / "data")).epoch(0))
    place = f"{tmp_path / 'data/train/part-00000.parquet'}, row group 0, column '{column}', row {row}"
    assert caught.value.place == place
    assert caught.value.value.startswith(actual)
    assert caught.value.rule == rule
    assert caught.value.fix == "prepare the dataset again"
    assert [problem.place for problem in dataset_problems(tmp_path / "data")] == [place]


def test_a_row_without_a_time_is_refused(tmp_path: Path) -> None:
    times = np.ma.masked_equal(log_rows()["log_time"], log_rows()["log_time"][9])
    write_histories(tmp_path / "data", change={"log_time": times})
    with pytest.raises(DataError, match=r"column 'log_time', row 9: null; every row has a number there"):
        next(_loader(DatasetDirectory(tmp_path / "data")).epoch(0))


@pytest.mark.parametrize(
    ("name", "array", "rule"),
    [
        ("video", np.full(COUNT, 40, np.int32), "table 'video' has rows 0 to 39"),
        ("tab", np.full(COUNT, -1, np.int32), "table 'tab' has rows 0 to 3"),
        ("author", np.zeros(COUNT, np.int64), f"it must have type int32 and shape ({COUNT},)"),
        ("log_time", np.zeros(COUNT + 1, np.int64), f"it must have type int64 and shape ({COUNT},)"),
        ("log_time", None, "it has a column of the events of a history"),
    ],
)
def test_a_file_of_events_that_does_not_fit_is_refused(
    tmp_path: Path, name: str, array: NDArray[Any] | None, rule: str
) -> None:
    write_histories(tmp_path / "data")
    file = tmp_path / f"data/histories/liked/{name}.npy"
    if array is None:
        file.write_bytes(b"no array")
    else:
        np.save(file, array)
    # With its digest, the damage is found before the content is read.
    with pytest.raises(DataError, match=r"so the file has changed since the dataset was prepared"):
        next(_loader(DatasetDirectory(tmp_path / "data")).epoch(0))
    assert [problem.place for problem in dataset_problems(tmp_path / "data")] == [str(file)]
    (tmp_path / "data" / SUCCESS_FILE).write_text("")
    with pytest.raises(DataError) as caught:
        next(_loader(DatasetDirectory(tmp_path / "data")).epoch(0))
    assert caught.value.place.startswith(str(file))
    assert caught.value.rule.startswith(rule)
    assert [problem.place.partition(",")[0] for problem in dataset_problems(tmp_path / "data")] == [str(file)]


def test_a_run_checks_only_the_files_that_it_reads(tmp_path: Path) -> None:
    write_histories(tmp_path / "data")
    (tmp_path / "data/histories/liked/tab.npy").unlink()
    dataset = DatasetDirectory(tmp_path / "data")
    assert next(_loader(dataset, drop=("tab",)).epoch(0)).rows == 60
    with pytest.raises(DataError, match=r"tab.npy: unreadable"):
        next(_loader(dataset).epoch(0))


def test_a_dataset_without_problems_has_none(log: tuple[DatasetDirectory, Columns]) -> None:
    assert list(dataset_problems(log[0].path)) == []


def test_a_store_gives_the_same_batches(log: tuple[DatasetDirectory, Columns], address: str) -> None:
    dataset, _ = log
    assert isinstance(dataset.path, Path)
    remote = DatasetDirectory(uploaded(dataset.path, address))
    for here, there in zip(_loader(dataset).epoch(0), _loader(remote).epoch(0), strict=True):
        assert list(_histories(here)) == list(_histories(there))


def test_a_prepared_dataset_gives_the_events_that_it_stores(tmp_path: Path) -> None:
    dataset = DatasetDirectory(prepared(tmp_path, random_rows(0)))
    assert list(dataset_problems(dataset.path)) == []
    rows = pq.read_table(tmp_path / "out" / "train")
    loader = Loader(
        dataset,
        "train",
        dataset.select(drop=[], tasks=[]),
        batch_size=len(rows),
        rank=0,
        world_size=1,
        virtual_shards=1,
        shuffle=False,
    )
    (batch,) = loader.epoch(0)
    assert batch.sparse is not None
    for history in dataset.schema.histories:
        lists = [batch.sparse[column.name] for column in history.columns()]
        read = [
            list(zip(*(jagged.values().tolist()[a:b] for jagged in lists), strict=True))
            for a, b in pairwise(lists[0].offsets().tolist())
        ]
        events = [np.load(tmp_path / f"out/histories/{history.name}/{item.feature}.npy") for item in history.items]
        times = np.load(tmp_path / f"out/histories/{history.name}/log_time.npy")
        begins, ends = (rows[f"{history.name}_{side}"].to_pylist() for side in ("begin", "end"))
        assert max(map(len, read)) > 1
        for row, (begin, end) in enumerate(zip(begins, ends, strict=True)):
            ages = [rows["log_time"][row].as_py() - int(time) for time in times[begin:end]]
            buckets = [1 + sum(edge <= age for edge in history.age_edges) for age in ages]
            ids = [ids[begin:end].tolist() for ids in events]
            assert read[row] == list(zip(*ids, buckets, strict=True))
