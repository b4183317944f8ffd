"""Counts of the ids of an input that are missing, or have no row of their own in the model's tables.

A value that training did not see has no row of its own: it is read from row 0, which also stands for missing values, or
from rows at the end of the table that unknown values share by their hash.

Shape suffixes: S sparse features (first those with single values, then bags), F features with single values, N rows of
a chunk, V ids of a bag feature. The 3 of `counts_S3` are the columns `IDS`, `WITHOUT_ROW` and `MISSING`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ple_rec.config.schema import DatasetSchema
from ple_rec.data.arrow import BoolArray, IdArray, IntArray
from ple_rec.data.columns import Columns, Selection

# Columns of `counts_S3`: all ids, ids without a row of their own (missing ones included), and missing ids.
IDS, WITHOUT_ROW, MISSING = range(3)


@dataclass(frozen=True)
class Missing:
    """Flags of missing values in raw logs. A dataset cannot have them: its row 0 stands for missing and unknown values.

    Args:
        single_FN: Flags of the features with single values.
        bags_V: Flags of the ids of each bag feature.
    """

    single_FN: BoolArray
    bags_V: tuple[BoolArray, ...]


class IdCounter:
    """Counter of ids by feature: all ids, those in row 0 or in a row for unknown values, and missing ones.

    Args:
        selection: Features to count.
        schema: Schema of the dataset, which says which rows of a table unknown values share.
    """

    def __init__(self, selection: Selection, schema: DatasetSchema) -> None:
        self._single, self._bags = len(selection.single), selection.bags
        first_hash_row = {table.name: table.allocated_rows - table.hash_rows for table in schema.tables}
        self._first_hash_row_F1 = np.array([[first_hash_row[feature.table]] for feature in selection.single]).reshape(
            -1, 1
        )
        self._first_hash_rows = [first_hash_row[feature.table] for feature in selection.bags]

    def count(self, columns: Columns, missing: Missing | None, start: int, stop: int) -> IntArray:
        """Return the counts of rows [start, stop) of a chunk, (S, 3)."""
        counts_S3 = np.zeros((self._single + len(self._bags), 3), np.int64)
        ids_FN = columns.ids_FN[:, start:stop]
        counts_S3[: self._single, IDS] = stop - start
        counts_S3[: self._single, WITHOUT_ROW] = _without_row(ids_FN, self._first_hash_row_F1).sum(1)
        if missing is not None:
            counts_S3[: self._single, MISSING] = missing.single_FN[:, start:stop].sum(1)
        for i, (bag, first_hash_row) in enumerate(zip(columns.bags, self._first_hash_rows, strict=True)):
            first, last = bag.offsets[start], bag.offsets[stop]
            without = _without_row(bag.values[first:last], np.array(first_hash_row)).sum()
            absent = 0 if missing is None else missing.bags_V[i][first:last].sum()
            counts_S3[self._single + i] = last - first, without, absent
        return counts_S3


def _without_row(ids: IdArray, first_hash_row: IntArray) -> BoolArray:
    without: BoolArray = (ids == 0) | (ids >= first_hash_row)
    return without


def compute_shares(features: Sequence[str], counts_S3: IntArray) -> dict[str, dict[str, float]]:
    """Return for each feature the share of unknown values among present ones, and of missing values among all.

    Counts of a dataset have no missing ids, so its missing values are part of the share of unknown values.
    """
    shares = {}
    for name, (ids, without, missing) in zip(features, counts_S3.tolist(), strict=True):
        present = ids - missing
        shares[name] = {
            "unknown": (without - missing) / present if present else 0.0,
            "missing": missing / ids if ids else 0.0,
        }
    return shares
