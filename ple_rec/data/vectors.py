"""Vectors of a row group, and frozen tables, whose vectors are stored once for all rows that have them.

Shape suffixes: N rows of a row group, W numbers of a vector, R rows of a frozen table with row 0.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from ple_rec.config.schema import SCHEMA_FILE, VECTORS_DIR, VectorFeature
from ple_rec.data.arrow import FloatArray, IdArray, IntArray, RowGroupColumns, frozen_rows, vector_values
from ple_rec.data.integrity import Digests, read_footer
from ple_rec.errors import DataError
from ple_rec.storage import Location
from ple_rec.storage.arrow import open_parquet

_FIX = "prepare the dataset again"


@dataclass(frozen=True)
class VectorColumn:
    """Vectors of the rows of a row group, with NaN for a missing one.

    Args:
        values: Vectors of the rows (N, W); with `rows_N`, those of a frozen table (R, W), which all columns share.
        rows_N: Row of the frozen table for each row; None without a frozen table.
    """

    values: FloatArray
    rows_N: IdArray | None = None

    @property
    def nbytes(self) -> int:
        """Size of the column in bytes, without the frozen table."""
        return self.values.nbytes if self.rows_N is None else self.rows_N.nbytes

    def take(self, rows_N: IntArray) -> VectorColumn:
        """Return the rows with these indices, in this order."""
        if self.rows_N is None:
            return VectorColumn(self.values.take(rows_N, axis=0))
        return VectorColumn(self.values, self.rows_N.take(rows_N))

    def copy_rows(self, rows: slice, out_NW: FloatArray) -> None:
        """Copy the vectors of a slice of the rows to an array."""
        out_NW[:] = self.values[rows] if self.rows_N is None else self.values[self.rows_N[rows]]

    def comparison_columns(self) -> list[FloatArray | IdArray]:
        """Return arrays of N numbers that are all equal in two rows if and only if these have the same vector."""
        return list(self.values.T) if self.rows_N is None else [self.rows_N]


class FrozenTable:
    """Frozen table of a dataset or of an exported model, which is read when it is first used, once for all threads.

    Args:
        digests: Digests of the folder that has the table.
        feature: Vector feature that reads the table.
    """

    def __init__(self, digests: Digests, feature: VectorFeature) -> None:
        assert feature.table is not None
        self._digests, self.feature, self.rows = digests, feature, feature.table.rows
        self._lock = threading.Lock()
        self._values_RW: FloatArray | None = None

    @property
    def name(self) -> str:
        """Path of the file in its folder."""
        return f"{VECTORS_DIR}/{self.feature.name}.parquet"

    @property
    def file(self) -> Location:
        """File of the table."""
        return self._digests.folder / self.name

    @property
    def values_RW(self) -> FloatArray:
        """Vectors by row; row 0 has NaN, for a missing vector.

        Raises:
            DataError: The file is missing or damaged, or does not fit `schema.toml`.
        """
        with self._lock:
            if self._values_RW is None:
                self._values_RW = self._read()
            return self._values_RW

    def keys(self) -> pa.Table:
        """Return the keys of the rows from 1 on, and their day if the table is dated.

        Raises:
            DataError: The file is missing or damaged.
        """
        assert self.feature.table is not None
        day = ["day"] if self.feature.table.dated else []
        return pa.concat_tables(self._row_groups([*(f"key_{key}" for key in self.feature.table.keys), *day]))

    def _read(self) -> FloatArray:
        values_RW = np.empty((self.rows + 1, self.feature.width), np.float32)
        values_RW[0] = np.nan
        row = 1
        for table in self._row_groups(["vector"]):
            source = RowGroupColumns(table, str(self.file))
            values_RW[row : row + len(table)] = vector_values(source, "vector", self.feature.width)
            row += len(table)
        return values_RW

    def _row_groups(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        """Yield columns of each row group, after a check of the footer; pages have checksums."""
        try:
            self._digests.check_footer(self.name, read_footer(self.file))
            with open_parquet(self.file) as parquet:
                if (rows := parquet.metadata.num_rows) != self.rows:
                    raise DataError(str(self.file), f"{rows} rows", f"{SCHEMA_FILE} says {self.rows}", _FIX)
                for group in range(max(1, parquet.num_row_groups)):
                    groups = [group] if parquet.num_row_groups else []
                    yield parquet.read_row_groups(groups, list(columns), use_threads=False)
        except (OSError, ValueError, pa.ArrowException) as error:
            rule = "it has the vectors of a frozen table"
            raise DataError(str(self.file), f"unreadable ({error})", rule, _FIX) from error


def read_column(source: RowGroupColumns, feature: VectorFeature, tables: Mapping[str, FrozenTable]) -> VectorColumn:
    """Return the vectors of a row group.

    Args:
        source: Columns of the row group.
        feature: Vector feature.
        tables: Frozen tables by name of the feature.

    Raises:
        DataError: A vector has another length or a number that is not finite, the column has another type, or a row is
            outside the frozen table.
    """
    if feature.table is None:
        return VectorColumn(vector_values(source, feature.name, feature.width))
    table = tables[feature.name]
    return VectorColumn(table.values_RW, frozen_rows(source, feature.name, table.rows))
