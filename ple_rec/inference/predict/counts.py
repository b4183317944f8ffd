"""Counts of the ids of an input that the model has no table row for, and of missing ones.

Shape suffixes: S sparse features, F single-valued ones, N rows of a chunk, V items of a bag feature.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ple_rec.config.schema import DatasetSchema
from ple_rec.data.arrow import BoolArray, IdArray, IntArray
from ple_rec.data.columns import Columns, Selection

# Counts of each feature, by column of `counts_S3`.
IDS, WITHOUT_ROW, MISSING = range(3)


@dataclass(frozen=True)
class Missing:
    """Flags of missing values. A dataset directory has none, since row 0 stands for missing and unknown values there.

    Args:
        single_FN: Flags of single-valued features.
        bags_V: Flags of the items of every bag feature.
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
        shared = {table.name: table.allocated - table.hash_rows for table in schema.tables}
        self._shared_F1 = np.array([[shared[feature.table]] for feature in selection.single]).reshape(-1, 1)
        self._shared = [shared[feature.table] for feature in selection.bags]

    def count(self, columns: Columns, missing: Missing | None, start: int, stop: int) -> IntArray:
        """Return the counts of rows [start, stop) of a chunk, (S, 3)."""
        counts_S3 = np.zeros((self._single + len(self._bags), 3), np.int64)
        ids_FN = columns.ids_FN[:, start:stop]
        counts_S3[: self._single, IDS] = stop - start
        counts_S3[: self._single, WITHOUT_ROW] = _without_row(ids_FN, self._shared_F1).sum(1)
        if missing is not None:
            counts_S3[: self._single, MISSING] = missing.single_FN[:, start:stop].sum(1)
        for i, (bag, shared) in enumerate(zip(columns.bags, self._shared, strict=True)):
            first, last = bag.offsets[start], bag.offsets[stop]
            without = _without_row(bag.values[first:last], np.array(shared)).sum()
            absent = 0 if missing is None else missing.bags_V[i][first:last].sum()
            counts_S3[self._single + i] = last - first, without, absent
        return counts_S3


def _without_row(ids: IdArray, shared: IntArray) -> BoolArray:
    without: BoolArray = (ids == 0) | (ids >= shared)
    return without


def shares_of(features: Sequence[str], counts_S3: IntArray) -> dict[str, dict[str, float]]:
    """Return for each feature the share of unknown values in present ones, and the share of missing values in all."""
    shares = {}
    for name, (ids, without, missing) in zip(features, counts_S3.tolist(), strict=True):
        present = ids - missing
        shares[name] = {
            "unknown": (without - missing) / present if present else 0.0,
            "missing": missing / ids if ids else 0.0,
        }
    return shares
