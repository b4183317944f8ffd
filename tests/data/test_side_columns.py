"""Columns beside those of a model: their order is that of the batches, their types are checked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from ple_rec.config.base import Split
from ple_rec.data.dataset import DatasetDirectory
from ple_rec.data.loader import Loader
from ple_rec.data.side_columns import codes, flags, numbers
from ple_rec.errors import DataError, UserError
from tests.datasets import numbered, write_dataset, write_row_groups

ROWS = 400


def _sides(split: Split, table: pa.Table) -> pa.Table:
    table = numbered(split, table)
    row = np.arange(len(table))
    missing = row % 7 == 0
    table = table.append_column("share", pa.array(1 / (row + 1), pa.float32(), mask=missing))
    table = table.append_column("session", pa.array(-(row // 3), pa.int16(), mask=missing))
    table = table.append_column("explored", pa.array(row % 5, pa.int8(), mask=missing))
    return table.append_column("tab", pa.array(["auto"] * len(table)))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> DatasetDirectory:
    """Several parts, and row groups of several sizes."""
    folder = tmp_path_factory.mktemp("sides") / "data"
    write_dataset(folder, rows=ROWS, row_group_rows=[64, 3, 31], parts=3, edit=_sides)
    return DatasetDirectory(folder)


def test_the_order_is_that_of_an_evaluation(dataset: DatasetDirectory) -> None:
    loader = Loader(
        dataset,
        "train",
        dataset.select(drop=[], tasks=[]),
        batch_size=48,
        rank=0,
        world_size=1,
        virtual_shards=1,
        shuffle=False,
    )
    batches = [batch.group_B[: batch.rows].numpy() for batch in loader.epoch(0) if batch.group_B is not None]
    assert np.concatenate(batches).tolist() == numbers(dataset, "train", "request", "--by").tolist()
    assert len(np.concatenate(batches)) == ROWS


def test_values(dataset: DatasetDirectory) -> None:
    row = np.arange(ROWS)
    share, session = numbers(dataset, "train", "share", "--x"), codes(dataset, "train", "session", "--x")
    missing = row % 7 == 0
    assert np.isnan(share[missing]).all()
    assert share[~missing].tolist() == (1 / (row + 1))[~missing].astype(np.float32).tolist()
    assert (session[missing] == -1).all()
    assert session[~missing].tolist() == np.unique(-(row // 3)[~missing], return_inverse=True)[1].tolist()
    assert flags(dataset, "train", "explored", "--x").tolist() == ((row % 5 > 0) & ~missing).tolist()
    assert not flags(dataset, "valid", "watched", "--x").all()  # bool


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("sesion", r'--by: got "sesion"; .*part-00000.parquet has no such column. Fix: did you mean "session"\?'),
        ("tab", r'--by: got "tab"; its type is string in .*, but it must hold integers. Fix: use one of user, item'),
        ("share", r"--by: got \"share\"; its type is float in .*, but it must hold integers"),
    ],
)
def test_a_column_that_will_not_do(dataset: DatasetDirectory, name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        codes(dataset, "train", name, "--by")


def test_parts_that_differ(tmp_path: Path) -> None:
    schema = write_dataset(tmp_path / "data", rows=ROWS, parts=2, edit=_sides)
    file = tmp_path / "data" / "train" / "part-00001.parquet"
    table = pa.parquet.read_table(file)
    i = table.column_names.index("session")
    write_row_groups(file, [table.set_column(i, "session", table["session"].cast(pa.int64()))], schema.fingerprint)
    said = r"part-00001.parquet: column 'session' is int64; in .*00000.parquet it is int16"
    with pytest.raises(DataError, match=said):
        codes(DatasetDirectory(tmp_path / "data"), "train", "session", "--by")
