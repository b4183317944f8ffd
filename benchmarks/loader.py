"""Reading of batches from Parquet on one core: our loader, torch's DataLoader, and pyarrow alone, which only decodes.

The workers of a DataLoader run on other cores, and the table leaves out their memory.

python -m benchmarks.loader [--data DIR] [--far s3://bucket/DIR]
"""

from __future__ import annotations

import argparse
import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from benchmarks.feed import write_feed
from benchmarks.harness import Pass, PassResult, Way, parser, race, report, say, scratch, timed
from ple_rec.data.columns import Selection
from ple_rec.data.dataset import DatasetDirectory, RowGroup, read_columns
from ple_rec.data.loader import Loader
from ple_rec.storage import Location, location

_USERS, _SHARDS = 100_000, 16


class RowGroups(IterableDataset[dict[str, Tensor]]):
    """Batches of shuffled row groups in random order, in the usual form for torch's DataLoader.

    Every worker reads row groups of its own. Only columns of single values are read into tensors.
    """

    def __init__(self, data: Location, batch_size: int) -> None:
        self._data, self._batch_size, self._epoch = data, batch_size, 0

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        selection, names, groups = _open(self._data)
        worker = get_worker_info()
        generator = torch.Generator().manual_seed(self._epoch)
        self._epoch += 1
        order = torch.randperm(len(groups), generator=generator).tolist()
        for i in order if worker is None else order[worker.id :: worker.num_workers]:
            columns = _tensors(read_columns(groups[i], names), selection)
            for rows in torch.randperm(groups[i].rows, generator=generator).split(self._batch_size):
                yield {name: values[rows] for name, values in columns.items()}


def _open(data: Location) -> tuple[Selection, list[str], list[RowGroup]]:
    dataset = DatasetDirectory(data)
    selection = dataset.select(drop=[], tasks=[])
    names = selection.column_names()
    return selection, names, dataset.row_groups("train", names)


def _tensors(table: pa.Table, selection: Selection) -> dict[str, Tensor]:
    def stacked(names: list[str], dtype: torch.dtype) -> Tensor:
        columns = [torch.from_numpy(np.array(table[name].to_numpy())).to(dtype) for name in names]
        return torch.stack(columns, dim=1) if columns else torch.empty(len(table), 0, dtype=dtype)

    return {
        "ids": stacked([feature.name for feature in selection.single], torch.int64),
        "dense": stacked([feature.name for feature in selection.dense], torch.float32),
        "label": stacked([task.label for task in selection.tasks], torch.float32),
        "space": stacked([task.space for task in selection.tasks if task.space is not None], torch.float32),
    }


@contextmanager
def ours(data: Location, batch_size: int) -> Iterator[Pass]:
    """Read an epoch by the loader of training, shuffled."""
    _pin()
    dataset = DatasetDirectory(data)
    selection = dataset.select(drop=[], tasks=[])
    loader = Loader(dataset, "train", selection, batch_size=batch_size, rank=0, world_size=1, virtual_shards=_SHARDS)
    epochs = itertools.count()
    yield lambda: timed(lambda: sum(batch.rows for batch in loader.epoch(next(epochs))), loader.rows)


@contextmanager
def dataloader(data: Location, batch_size: int, workers: int) -> Iterator[Pass]:
    """Read an epoch by torch's DataLoader."""
    if workers == 0:
        _pin()
    loader = DataLoader(RowGroups(data, batch_size), batch_size=None, num_workers=workers)

    def once() -> PassResult:
        rows = 0

        def read() -> None:
            nonlocal rows
            for batch in loader:
                rows += len(batch["label"])

        return timed(read, 0)._replace(amount=rows)

    yield once


@contextmanager
def pyarrow_alone(data: Location) -> Iterator[Pass]:
    """Decode every row group."""
    _pin()
    _, names, groups = _open(data)
    rows = sum(group.rows for group in groups)
    yield lambda: timed(lambda: [read_columns(group, names) for group in groups], rows)


def _pin() -> None:
    """Give this process, with the threads that it starts later, one core."""
    torch.set_num_threads(1)
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def main() -> None:
    """Measure and print."""
    args = _arguments().parse_args()
    with scratch() as name:
        data: Location | None = args.data
        if data is None:
            data = Path(name, "data")
            say(f"writing {args.rows:,} rows")
            write_feed(data, _USERS, args.rows)
        ways = [
            Way("ple-rec loader", partial(ours, data, args.batch_size)),
            Way("DataLoader, 0 workers", partial(dataloader, data, args.batch_size, 0)),
            Way("DataLoader, 2 workers", partial(dataloader, data, args.batch_size, 2)),
            Way("pyarrow alone", partial(pyarrow_alone, data), limit=True),
        ]
        if args.far is not None:
            ways.insert(1, Way("ple-rec loader, far", partial(ours, args.far, args.batch_size)))
        report(args, "rows", ways, race(ways, args.repeats))


def _arguments() -> argparse.ArgumentParser:
    arguments = parser(__doc__)
    arguments.add_argument("--data", type=location, metavar="DIR", help="a dataset directory; default: a synthetic one")
    arguments.add_argument("--far", type=location, metavar="ADDRESS", help="a copy of it in a store, to be read too")
    arguments.add_argument("--rows", type=int, default=1 << 20, metavar="N", help="of the synthetic one; default 1 M")
    arguments.add_argument("--batch-size", type=int, default=4096, metavar="N", help="rows of a batch; default 4096")
    return arguments


if __name__ == "__main__":
    main()
