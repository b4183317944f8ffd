"""Histories in batches against a loop over the log; requests, id dropout, memory, and files that do not fit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from ple_rec.data.batch import Batch
from ple_rec.data.dataset import DatasetDirectory
from ple_rec.data.loader import Loader
from tests.histories import ITEMS, ROWS, Columns, events_of, expected_history, write_histories

KEYS = [*(f"liked.{name}" for name in ITEMS), "liked_age"]


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> tuple[DatasetDirectory, Columns]:
    """The dataset, and the log whose group column has the number of the row."""
    path = tmp_path_factory.mktemp("histories") / "data"
    numbers = np.arange(sum(ROWS.values()))
    columns = write_histories(path, change={"user_group": numbers})
    return DatasetDirectory(path), columns


def _loader(dataset: DatasetDirectory, *, requests: tuple[str, ...] = (), drop: tuple[str, ...] = ()) -> Loader:
    selection = replace(dataset.select(drop=drop, tasks=[]), requests=requests)
    return Loader(
        dataset, "train", selection, batch_size=60, rank=0, world_size=1, virtual_shards=4, by_request=bool(requests)
    )


def _histories(batch: Batch) -> Iterator[tuple[int, dict[str, list[int]]]]:
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
