"""Embedding tables of an export, one file each, in four precisions.

`export` writes the files by `write_table`. A server reads them as `StoredTable`, in which `RequestLookups`
(`lookups.py`) looks up the features of requests.

    precision   bytes of a row
    fp32        4 D
    fp16        2 D
    int8        D + 8             codes of one byte; scale and bias of the row in fp32
    int4        ceil(D / 2) + 4   codes of half a byte; scale and bias of the row in fp16

    value = scale * code + bias

int8 and int4 are FBGEMM's row-wise quantisation, by operators of torch, so fbgemm_gpu is not needed.

Shape suffixes: R rows of the table, V ids, B bags (`offsets_B1` has B + 1 entries), D columns, P bytes of a row, N rows
of a chunk, E changed rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from ple_rec.config.choices import TablePrecision
from ple_rec.errors import DataError, Option, UserError

# Number of rows that are converted at a time.
_CHUNK_ROWS = 1 << 18
_quantised = torch.ops.quantized


def row_bytes(dim: int, precision: TablePrecision) -> int:
    """Return the number of bytes of a row, P.

    Args:
        dim: Number of columns, D.
        precision: Precision of the table.
    """
    return {"fp32": 4 * dim, "fp16": 2 * dim, "int8": dim + 8, "int4": -(-dim // 2) + 4}[precision]


def check_dim(table: str, dim: int, precision: TablePrecision) -> None:
    """Refuse a table that cannot be stored in a precision.

    Raises:
        UserError: The precision is int4, and D is odd.
    """
    if precision == "int4" and dim % 2:
        raise UserError(
            f"{Option.PRECISION} {precision}",
            f"table {table} has {dim} columns",
            "two columns share a byte, so their number is even",
            f"export with {Option.PRECISION.with_value('int8')}, or train with an even embeddings.dim",
        )


def stored_chunks(weight_RD: Tensor, precision: TablePrecision, name: str, first_row: int) -> Iterator[Tensor]:
    """Yield rows of a table as they are stored, in chunks (N, P) of bytes.

    Args:
        weight_RD: Rows, on the CPU, in fp32 or fp16.
        precision: Precision of the stored rows.
        name: Name of the table, for messages.
        first_row: Number of the first row, for messages.

    Raises:
        UserError: A value is not finite, or beyond the range of fp16 in a table of fp16.
    """
    for begin in range(0, len(weight_RD), _CHUNK_ROWS):
        chunk_RD = weight_RD[begin : begin + _CHUNK_ROWS].float()
        stored = chunk_RD.half() if precision == "fp16" else chunk_RD
        if not stored.isfinite().all():
            row = first_row + begin + int(stored.isfinite().all(1).int().argmin())
            raise UserError(
                f"{name}, row {row}",
                "a value that is not finite",
                f"a table in {precision} has finite values",
                "train again from an earlier checkpoint"
                if precision != "fp16"
                else f"export with {Option.PRECISION.with_value('fp32')}",
            )
        if precision == "int8":
            stored = _quantised.embedding_bag_byte_prepack(chunk_RD.contiguous())
        elif precision == "int4":
            stored = _quantised.embedding_bag_4bit_prepack(chunk_RD.contiguous())
        yield stored.contiguous().view(torch.uint8)


def write_table(file: BinaryIO, weight_RD: Tensor, precision: TablePrecision) -> None:
    """Append rows of a table to its file.

    Args:
        file: File of the table.
        weight_RD: Rows, on the CPU, in fp32 or fp16.
        precision: Precision of the file.

    Raises:
        UserError: A value is not finite, or beyond the range of fp16 in a file of fp16.
    """
    first_row = file.tell() // row_bytes(weight_RD.shape[1], precision)
    for chunk_NP in stored_chunks(weight_RD, precision, Path(file.name).name, first_row):
        file.write(chunk_NP.numpy().data)


class StoredTable:
    """Table that is read into memory from its file.

    The file is not memory-mapped, although processes could then share it: shortening it in place (`rsync --inplace`)
    would end them by SIGBUS, and changing it would change their scores.

    Args:
        file: File that `write_table` wrote.
        rows: Number of rows, R.
        dim: Number of columns, D.
        precision: Precision of the file.

    Raises:
        DataError: The file does not have the size of such a table.
    """

    def __init__(self, file: Path, rows: int, dim: int, precision: TablePrecision) -> None:
        self.rows, self.dim, self.precision = rows, dim, precision
        width = row_bytes(dim, precision)
        if (size := file.stat().st_size) != rows * width:
            rule = f"{rows} rows of {dim} columns in {precision} take {rows * width}"
            raise DataError(str(file), f"has {size} bytes", rule, "export the run again")
        bytes_RP = torch.from_numpy(read_bytes(file, rows * width)).view(rows, width)
        dtype = {"fp32": torch.float32, "fp16": torch.float16}.get(precision)
        self._stored = bytes_RP if dtype is None else bytes_RP.view(dtype)

    @property
    def overlay_bytes(self) -> int:
        """Number of bytes that the table has besides those of a whole version; 0 without changed rows."""
        return 0

    def with_changes(self, changes: ChangedRows) -> OverlaidTable:
        """Return a table in which some rows are replaced, and which shares all other rows with this one."""
        return OverlaidTable(self, changes)

    def stored_rows(self, ids_V: Tensor) -> Tensor:
        """Return rows as they are stored.

        Args:
            ids_V: Rows of the table, int32.
        """
        return self._stored.index_select(0, ids_V)

    def pool(self, ids_V: Tensor, offsets_B1: Tensor | None = None, weights_V: Tensor | None = None) -> Tensor:
        """Return the (weighted) sum of the rows of each bag, (B, D) in fp32.

        Args:
            ids_V: Rows of the table, int32.
            offsets_B1: Index of each bag's first id, and the end of the last bag; None if every id is a bag of its own.
            weights_V: Weights of the ids, which need `offsets_B1`; None if all are 1.
        """
        return self._pool_stored(self._stored, ids_V, offsets_B1, weights_V)

    def _pool_stored(
        self, stored: Tensor, ids_V: Tensor, offsets_B1: Tensor | None, weights_V: Tensor | None
    ) -> Tensor:
        """Return the sums of `pool` from stored rows, of which `ids_V` are numbers."""
        if self.precision in ("fp32", "fp16"):
            rows_VD = stored.index_select(0, ids_V).float()
            if offsets_B1 is None:
                return rows_VD
            places_V = torch.arange(len(rows_VD), dtype=offsets_B1.dtype)
            weights = None if weights_V is None else weights_V.float()
            if not len(rows_VD):
                return rows_VD.new_zeros(len(offsets_B1) - 1, self.dim)
            return F.embedding_bag(
                places_V, rows_VD, offsets_B1, mode="sum", per_sample_weights=weights, include_last_offset=True
            )
        if offsets_B1 is None:
            offsets_B1 = torch.arange(len(ids_V) + 1)
        read = _quantised.embedding_bag_byte_rowwise_offsets
        if self.precision == "int4":
            read = _quantised.embedding_bag_4bit_rowwise_offsets
        offsets_B1 = offsets_B1.to(ids_V.dtype)
        out_BD: Tensor = read(stored, ids_V, offsets_B1, per_sample_weights=weights_V, include_last_offset=True)
        return out_BD


@dataclass(frozen=True)
class ChangedRows:
    """Rows of a table that replace those of an older version.

    Args:
        rows_E: Row numbers, ascending, int32.
        stored_EP: The rows as they are stored.
    """

    rows_E: Tensor
    stored_EP: Tensor

    def after(self, older: ChangedRows) -> ChangedRows:
        """Return the union with older changes; of two changes of one row, this one holds."""
        rows = torch.cat([self.rows_E, older.rows_E]).numpy()
        # NumPy returns the first place of each row, and the places of this change come first.
        rows_E, places_E = np.unique(rows, return_index=True)
        stored_EP = torch.cat([self.stored_EP, older.stored_EP]).index_select(0, torch.from_numpy(places_E))
        return ChangedRows(torch.from_numpy(rows_E), stored_EP)


class OverlaidTable(StoredTable):
    """Table that shares the rows of an older version, except for the changed ones, of which it has its own.

    A look-up copies the stored rows of its ids into a small array, and runs the operator of `StoredTable` on them. The
    sums therefore have the bits of a table that was stored whole.

    Args:
        older: Table of the older version.
        changes: Rows that have changed since.
    """

    def __init__(self, older: StoredTable, changes: ChangedRows) -> None:
        self.rows, self.dim, self.precision, self._stored = older.rows, older.dim, older.precision, older._stored
        # The changes of successive versions are merged, so a look-up has one search however many there are.
        self.changes: ChangedRows = changes.after(older.changes) if isinstance(older, OverlaidTable) else changes

    @property
    def overlay_bytes(self) -> int:
        """Number of bytes of the changed rows and their numbers."""
        return self.changes.rows_E.nbytes + self.changes.stored_EP.nbytes

    def stored_rows(self, ids_V: Tensor) -> Tensor:
        """Return rows as they are stored."""
        # NumPy takes half the time of torch here, since a request has few ids of each table.
        stored_VP, rows_E, ids = super().stored_rows(ids_V), self.changes.rows_E.numpy(), ids_V.numpy()
        if not len(rows_E):
            return stored_VP
        places_V = np.minimum(rows_E.searchsorted(ids), len(rows_E) - 1)
        (changed,) = (rows_E[places_V] == ids).nonzero()
        if len(changed):
            stored_VP.numpy()[changed] = self.changes.stored_EP.numpy()[places_V[changed]]
        return stored_VP

    def pool(self, ids_V: Tensor, offsets_B1: Tensor | None = None, weights_V: Tensor | None = None) -> Tensor:
        """Return the (weighted) sum of the rows of each bag, (B, D) in fp32."""
        places_V = torch.arange(len(ids_V), dtype=ids_V.dtype)
        return self._pool_stored(self.stored_rows(ids_V), places_V, offsets_B1, weights_V)


def read_bytes(file: Path, size: int) -> NDArray[np.uint8]:
    """Return the bytes of a file, read without a second copy and without holding the interpreter's lock."""
    content, read = np.empty(size, np.uint8), 0
    with file.open("rb", buffering=0) as stream:
        while count := stream.readinto(content[read:].data):
            read += count
    if read < size:
        raise DataError(
            str(file),
            f"has {read} bytes",
            f"it had {size} when it was opened, and the files of a version never change",
            "stop the process that writes to the version",
        )
    return content
