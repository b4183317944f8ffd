"""The row of a value that counts as unknown is the one that a look-up without the value gives it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ple_rec.config.schema import Table
from ple_rec.data import unknown_rows
from ple_rec.data.dataset import DatasetDirectory
from ple_rec.data.lookup import VocabularyLookup
from ple_rec.data.unknown_rows import rows_of_unknown
from tests.datasets import write_dataset

INTEGERS = [7, -3, None, 2**40, 0, None, 11, 12]
TEXTS = ["a", "émile", None, "", "zz", "10", None, "b"]
IN_USE = np.array([1, 2, 4, 5, 8], np.int32)


@pytest.mark.parametrize("values", [INTEGERS, TEXTS])
@pytest.mark.parametrize("batch_rows", [3, 1000])
def test_values_have_the_hash_row_of_a_vocabulary_without_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, values: list[Any], batch_rows: int
) -> None:
    monkeypatch.setattr(unknown_rows, "_READ_ROWS", batch_rows)
    write_dataset(tmp_path / "data", rows=64)
    raw = pa.array(values)
    days = pa.array([None if value is None else 19_000 for value in values], pa.int32())
    rows = pa.array(range(1, len(values) + 1), pa.int32())
    vocabulary = pa.table({"raw": raw, "row": rows, "count": pa.array([1] * len(values)), "day": days})
    pq.write_table(vocabulary, tmp_path / "data" / "vocab" / "user.parquet", row_group_size=3)
    other = tmp_path / "other.parquet"
    pq.write_table(vocabulary.slice(0, 1).set_column(0, "raw", pa.array([99 if values is INTEGERS else "?"])), other)
    in_use = raw.take(pa.array(IN_USE - 1))
    for hash_rows in (0, 5):
        table = Table(name="user", rows=9, capacity=16, hash_rows=hash_rows)
        expected = VocabularyLookup.of_table(other, table).rows(in_use, "here")
        assert rows_of_unknown(DatasetDirectory(tmp_path / "data"), table, IN_USE).tolist() == expected.to_pylist()
        assert (expected.to_numpy() > 0).all() == bool(hash_rows)
