"""Parquet row groups as torch's datasets, written as one would without a loader of one's own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor
from torch.utils.data import Dataset as MapDataset
from torch.utils.data import IterableDataset, get_worker_info

from ple_rec.data.columns import Selection
from ple_rec.data.dataset import Dataset, RowGroup, read_columns

Sample = dict[str, Tensor]


def _opened(data: Path) -> tuple[Selection, list[str], list[RowGroup]]:
    dataset = Dataset(data)
    selection = dataset.select(drop=[], tasks=[])
    names = selection.column_names()
    return selection, names, dataset.row_groups("train", names)


def tensors(table: pa.Table, selection: Selection) -> Sample:
    """The single-valued columns of a row group: `ids`, `dense`, `label` and `space`, a row each."""

    def stacked(names: list[str], dtype: torch.dtype) -> Tensor:
        columns = [torch.from_numpy(np.array(table[name].to_numpy())).to(dtype) for name in names]
        return torch.stack(columns, dim=1) if columns else torch.empty(len(table), 0, dtype=dtype)

    return {
        "ids": stacked([feature.name for feature in selection.single], torch.int64),
        "dense": stacked([feature.name for feature in selection.dense], torch.float32),
        "label": stacked([task.label for task in selection.tasks], torch.float32),
        "space": stacked([task.space for task in selection.tasks if task.space is not None], torch.float32),
    }


class RowGroups(IterableDataset[Sample]):
    """Batches from row groups in random order, shuffled inside; every worker reads row groups of its own."""

    def __init__(self, data: Path, batch_size: int) -> None:
        self.data, self.batch_size, self.epoch = data, batch_size, 0

    def __iter__(self) -> Iterator[Sample]:
        selection, names, groups = _opened(self.data)
        worker = get_worker_info()
        generator = torch.Generator().manual_seed(self.epoch)
        self.epoch += 1
        order = torch.randperm(len(groups), generator=generator).tolist()
        for i in order if worker is None else order[worker.id :: worker.num_workers]:
            columns = tensors(read_columns(groups[i], names), selection)
            rows = torch.randperm(groups[i].rows, generator=generator)
            for batch in rows.split(self.batch_size):
                yield {name: values[batch] for name, values in columns.items()}


class Rows(MapDataset[Sample]):
    """One sample at a time, from the first `rows` rows in memory."""

    def __init__(self, data: Path, rows: int) -> None:
        selection, names, groups = _opened(data)
        read, found = [], 0
        for group in groups:
            if found >= rows:
                break
            read.append(read_columns(group, names))
            found += group.rows
        self.columns = tensors(pa.concat_tables(read).slice(0, rows), selection)

    def __len__(self) -> int:
        """Rows."""
        return len(self.columns["label"])

    def __getitem__(self, row: int) -> Sample:
        """A sample."""
        return {name: values[row] for name, values in self.columns.items()}
