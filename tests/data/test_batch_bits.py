"""Every bit of the batches of two datasets, in every order that a loader has, is what it was when the test was made."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from ple_rec.config.base import Split
from ple_rec.data.columns import Selection
from ple_rec.data.dataset import DatasetDirectory
from ple_rec.data.loader import Loader
from ple_rec.data.slice_columns import slice_columns
from ple_rec.data.slices import Slicing
from tests.data import oracle
from tests.datasets import set_column, write_dataset
from tests.training.requests import SHARED, repeated

PREPARED = Path(__file__).parents[1] / "golden/artefacts/data/golden"


class Order(NamedTuple):
    loader: dict[str, Any]
    prepared: str  # digest of the batches of PREPARED
    synthetic: str


ORDERS: Mapping[str, Order] = {
    "shuffled": Order({}, "67ff75a0421faf90", "d77e556b7b58f95d"),
    "in pieces": Order({"buffer_bytes": 1000}, "67ff75a0421faf90", "d77e556b7b58f95d"),
    "in file order": Order({"shuffle": False}, "d9b85f6d1da770fa", "d62b5126ed04b496"),
    "requests of shuffled rows": Order({"requests": True}, "694bf3af4b8c5063", "225e80f6fd302feb"),
    "requests in file order": Order({"requests": True, "shuffle": False}, "9a3e6495b545a400", "4af2f0b212ccc25c"),
    "shuffled requests": Order({"requests": True, "by_request": True}, "1c25ac776f807f4a", "5aa5f331382220b5"),
    "shuffled requests in pieces": Order(
        {"requests": True, "by_request": True, "buffer_bytes": 1000}, "1c25ac776f807f4a", "5aa5f331382220b5"
    ),
}


def _digest(dataset: DatasetDirectory, selection: Selection, *, requests: bool = False, **order: Any) -> str:
    selection = selection if requests else replace(selection, requests=())
    loader = Loader(dataset, "train", selection, batch_size=24, rank=0, world_size=1, virtual_shards=4, seed=3, **order)
    found = hashlib.sha256()
    for batch in loader.epoch(1):
        beside = [batch.slices_BC, *([batch.requests.request_B, batch.requests.first_R] if batch.requests else [])]
        for part in (*oracle.bits(batch), *(str(None if x is None else x.tolist()).encode() for x in beside)):
            found.update(part)
    return found.hexdigest()[:16]


def _selection(dataset: DatasetDirectory, requests: tuple[str, ...], sliced_by: str, values: list[int]) -> Selection:
    (column,) = slice_columns(dataset, "train", [sliced_by])
    slices = (Slicing(column, pa.array(values, column.kind)),)
    return replace(dataset.select(drop=[], tasks=[]), requests=requests, slices=slices)


@pytest.mark.parametrize("order", ORDERS)
def test_batches_of_a_prepared_dataset(order: str) -> None:
    dataset = DatasetDirectory(PREPARED)
    selection = _selection(dataset, ("length", "age"), "age", [2, 1])
    assert _digest(dataset, selection, **ORDERS[order].loader) == ORDERS[order].prepared


def _plain(split: Split, table: pa.Table) -> pa.Table:
    """Rows of requests, whose numbers no library rounds otherwise."""
    for name in ("age", "price", "score", "watch_time"):
        table = set_column(table, name, pc.round(table[name], 1).combine_chunks())
    return repeated(split, table)


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory: pytest.TempPathFactory) -> DatasetDirectory:
    path = tmp_path_factory.mktemp("bits") / "data"
    write_dataset(path, rows=300, row_group_rows=(70, 50, 110), edit=_plain)
    return DatasetDirectory(path)


@pytest.mark.parametrize("order", ORDERS)
def test_batches_of_a_synthetic_dataset(synthetic: DatasetDirectory, order: str) -> None:
    selection = _selection(synthetic, SHARED, "user", [3, 1, 2])
    assert _digest(synthetic, selection, **ORDERS[order].loader) == ORDERS[order].synthetic
