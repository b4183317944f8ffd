"""Tables in files: what comes back of each precision, bags, sizes, and what no table can hold."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ple_rec.config.choices import TablePrecision
from ple_rec.errors import DataError, UserError
from ple_rec.inference.tables import ChangedRows, StoredTable, check_dim, row_bytes, write_table
from tests.inference.exported import PRECISIONS

ROWS, DIM = 300, 16


@pytest.fixture(scope="module")
def weight() -> Tensor:
    torch.manual_seed(0)
    return torch.randn(ROWS, DIM) * 0.1


def stored(folder: Path, weight: Tensor, precision: TablePrecision) -> StoredTable:
    file = folder / f"t.{precision}"
    with file.open("wb") as stream:
        write_table(stream, weight, precision)
    return StoredTable(file, len(weight), weight.shape[1], precision)


# Half a step of the codes over the range of a row; of fp16 half a unit in the last of 11 bits of its largest value.
BOUND = {"fp32": 0.0, "fp16": 2**-11, "int8": 0.5 / 255, "int4": 0.5 / 15 + 2e-3}


@pytest.mark.parametrize("precision", PRECISIONS)
def test_rows_come_back_within_half_a_step(tmp_path: Path, weight: Tensor, precision: TablePrecision) -> None:
    ids = torch.randint(0, ROWS, (50,), dtype=torch.int32)
    rows = weight[ids.long()]
    wide = rows.abs().amax(1) if precision == "fp16" else rows.amax(1) - rows.amin(1)
    difference = (stored(tmp_path, weight, precision).pool(ids) - rows).abs().amax(1)
    assert (difference <= BOUND[precision] * wide * 1.01).all()
    if precision != "fp32":
        assert difference.max() > 0


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("weighted", [False, True])
def test_bags_are_sums(tmp_path: Path, weight: Tensor, precision: TablePrecision, weighted: bool) -> None:
    table = stored(tmp_path, weight, precision)
    ids = torch.randint(0, ROWS, (50,), dtype=torch.int32)
    offsets = torch.tensor([0, 3, 3, 10, 50], dtype=torch.int32)
    weights = torch.rand(50) if weighted else None
    rows = table.pool(ids) * (1 if weights is None else weights[:, None])
    expected = torch.stack([rows[a:b].sum(0) for a, b in pairwise(offsets.tolist())])
    torch.testing.assert_close(table.pool(ids, offsets, weights), expected, rtol=1e-5, atol=1e-6)
    assert table.pool(ids[:0], torch.zeros(3, dtype=torch.int32)).tolist() == [[0.0] * DIM] * 2
    assert table.pool(ids[:0]).shape == (0, DIM)


@pytest.mark.parametrize("precision", ["int8", "int4"])
@pytest.mark.parametrize("weighted", [False, True])
def test_changed_rows_give_the_bits_of_a_whole_table(
    tmp_path: Path, weight: Tensor, precision: TablePrecision, weighted: bool
) -> None:
    torch.manual_seed(1)
    table, new = stored(tmp_path, weight, precision), weight.clone()
    ids = torch.randint(0, ROWS, (2000,), dtype=torch.int32)
    offsets = torch.tensor([0, 0, 3, 900, 1300, 2000], dtype=torch.int32)
    weights = torch.rand(2000) if weighted else None
    for rows in (torch.tensor([0, 5, ROWS - 1]), torch.arange(0, ROWS, 7), torch.arange(0)):
        new[rows] = torch.randn(len(rows), DIM)
        whole, old = stored(tmp_path, new, precision), table.pool(ids)
        older, rows = table, rows.to(torch.int32)
        table = older.with_changes(ChangedRows(rows, whole.stored_rows(rows)))
        assert torch.equal(table.pool(ids), whole.pool(ids))
        assert torch.equal(table.pool(ids, offsets, weights), whole.pool(ids, offsets, weights))
        assert torch.equal(older.pool(ids), old)
        assert table.pool(ids[:0]).shape == (0, DIM)
    assert table.overlay_bytes == (3 + 43 - 1) * (4 + row_bytes(DIM, precision))


def test_sizes_are_those_of_the_docs(tmp_path: Path, weight: Tensor) -> None:
    share = {
        p: (tmp_path / f"t.{p}").stat().st_size / (4 * ROWS * DIM) for p in PRECISIONS if stored(tmp_path, weight, p)
    }
    assert share == {"fp32": 1.0, "fp16": 0.5, "int8": 0.375, "int4": 0.1875}
    assert row_bytes(DIM, "int8") == 24  # a byte a value, a scale and a bias


def test_what_a_precision_cannot_hold(tmp_path: Path, weight: Tensor) -> None:
    with pytest.raises(UserError, match="table t has 5 columns"):
        check_dim("t", 5, "int4")
    wrong = weight.clone()
    wrong[7, 3] = float("nan")
    with pytest.raises(UserError, match=r"t.int8, row 7: a value that is not finite"):
        stored(tmp_path, wrong, "int8")
    wrong[7, 3] = 1e6
    with pytest.raises(UserError, match=r"t.fp16, row 7.*export with --precision fp32"):
        stored(tmp_path, wrong, "fp16")
    with (tmp_path / "t.fp16").open("wb") as file:
        write_table(file, weight, "fp16")
        with pytest.raises(UserError, match=rf"t.fp16, row {ROWS + 7}: "):  # the second shard of the table
            write_table(file, wrong, "fp16")


def test_a_file_of_another_size_is_refused(tmp_path: Path, weight: Tensor) -> None:
    stored(tmp_path, weight, "fp32")
    with pytest.raises(DataError, match=r"t.fp32: has 19200 bytes; 301 rows of 16 columns in fp32 take 19264"):
        StoredTable(tmp_path / "t.fp32", ROWS + 1, DIM, "fp32")
