"""Splits of a dataset directory, to be predicted.

Shape suffixes: N rows of a chunk.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from ple_rec.config.base import Split
from ple_rec.config.words import suggestion
from ple_rec.data.columns import Selection, decode
from ple_rec.data.dataset import Dataset, RowGroup, read_columns
from ple_rec.errors import Option, UserError
from ple_rec.inference.predict.inputs import Chunk

SPLIT = "split"


class DatasetInput:
    """Splits, one after the other, in file order.

    Args:
        dataset: Dataset directory.
        selection: Features that the model reads.
        splits: Names of the splits.
        ids: Columns of the parts to carry along; where there are several splits, their name comes too, as `split`.

    Raises:
        UserError: A split has no rows, or a column is not there.
        DataError: A part is damaged.
    """

    def __init__(self, dataset: Dataset, selection: Selection, splits: Sequence[Split], ids: Sequence[str]) -> None:
        self.dataset, self.selection, self.splits, self.ids = dataset, selection, tuple(splits), tuple(ids)
        if len(self.splits) > 1 and SPLIT in self.ids:
            rule = "of several splits, a column of that name says which a row is of"
            raise UserError(Option.IDS, f'got "{SPLIT}"', rule, "leave it out")
        needed = [*selection.column_names(), *self.ids]
        self._groups: dict[Split, list[RowGroup]] = {}
        for split in self.splits:
            there = dataset.row_groups(split, selection.column_names())[0].footer.schema.to_arrow_schema().names
            if unknown := [name for name in self.ids if name not in there]:
                fix = "name columns of the parts"
                raise UserError(Option.IDS, f'got "{unknown[0]}"', suggestion(unknown[0], there), fix)
            self._groups[split] = dataset.row_groups(split, needed)
        self.rows = sum(group.rows for groups in self._groups.values() for group in groups)

    def sections(self, first: int) -> Generator[Generator[Chunk]]:
        """Yield a section for each split."""
        start = 0
        for split, groups in self._groups.items():
            rows = sum(group.rows for group in groups)
            if first < start + rows:
                yield self._chunks(split, start, max(first - start, 0))
            start += rows

    def _chunks(self, split: Split, start: int, skip: int) -> Generator[Chunk]:
        for group in self._groups[split]:
            if skip < group.rows:
                yield self._chunk(split, group, start, skip)
            start, skip = start + group.rows, max(skip - group.rows, 0)

    def _chunk(self, split: Split, group: RowGroup, start: int, skip: int) -> Chunk:
        names = list(dict.fromkeys([*self.selection.column_names(), *self.ids]))
        table = read_columns(group, names).slice(skip)
        columns = decode(table, self.selection, group.place).arrange()
        ids = table.select(list(self.ids))
        if len(self.splits) > 1:
            ids = ids.append_column(SPLIT, pa.repeat(split, len(table)))
        next_N = np.arange(start + skip + 1, start + group.rows + 1)
        return Chunk(columns, ids, next_N, lambda row: f"{group.place}, row {skip + row}")

    def identity(self) -> dict[str, Any]:
        """Return the dataset's fingerprint, which its parts carry, and the splits."""
        return {"dataset": self.dataset.schema.fingerprint, "splits": list(self.splits), "rows": self.rows}

    def check_unchanged(self) -> None:
        """Do nothing: every row group is compared with its footer when it is read."""
