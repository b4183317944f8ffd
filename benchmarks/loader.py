"""Rate of reading batches from Parquet: our loader, torch's DataLoader, and pyarrow alone, which only decodes.

Each runs on one core, except a DataLoader with workers: it may use all cores. The peak memory in the table does not
include the workers.

    python -m benchmarks.loader [--data DIR] [--far s3://bucket/DIR]
"""

from __future__ import annotations

import argparse
import itertools
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from benchmarks.feed import write_feed
from benchmarks.harness import BenchmarkCase, Pass, PassResult, parser, race, report, say, scratch_folder, time_work
from ple_rec.config.load import load_config
from ple_rec.config.run import RunConfig
from ple_rec.data.columns import Selection
from ple_rec.data.dataset import DatasetDirectory, RowGroup, read_columns
from ple_rec.data.loader import Loader
from ple_rec.distributed.process_group import process_group
from ple_rec.models.weighting import task_weights
from ple_rec.storage import Location, location
from ple_rec.training.context import build_context
from ple_rec.training.non_finite_guard import NonFiniteGuard
from ple_rec.training.step import train_step

_USERS = 100_000  # Rows of the user table of the synthetic dataset.
_SHARDS = 16  # Virtual shards of our loader.
_SMALL_BATCH = 64  # Samples of a training step that is bound by the host.
_CORES = os.sched_getaffinity(0)


class RowGroups(IterableDataset[dict[str, Tensor]]):
    """Batches of the training split for torch's DataLoader, as people usually write them.

    Row groups are read in random order, and the rows are shuffled within each row group. Each worker reads other row
    groups. Bags (lists of ids) are decoded, but do not become tensors.
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
    """Return the features and tasks of a dataset, the names of their columns, and the row groups of train."""
    dataset = DatasetDirectory(data)
    selection = dataset.select(drop=[], tasks=[])
    names = selection.column_names()
    return selection, names, dataset.row_groups("train", names)


def _tensors(table: pa.Table, selection: Selection) -> dict[str, Tensor]:
    """Return the columns of a row group as tensors with a row per sample.

    The columns of "space" are 1 in the rows that have the label of a task.
    """

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
def ple_rec_loader(data: Location, batch_size: int) -> Iterator[Pass]:
    """Read a shuffled epoch in each pass, by the loader that training uses."""
    _pin()
    dataset = DatasetDirectory(data)
    selection = dataset.select(drop=[], tasks=[])
    loader = Loader(dataset, "train", selection, batch_size=batch_size, rank=0, world_size=1, virtual_shards=_SHARDS)
    epochs = itertools.count()
    yield lambda: time_work(lambda: sum(batch.rows for batch in loader.epoch(next(epochs))), loader.rows)


@contextmanager
def loader_beside_training(data: Location, batch_size: int) -> Iterator[Pass]:
    """Read as `ple_rec_loader` does, while another thread of this process trains on a core of its own.

    The steps are small ones, so nearly all their time is that of the host, as in a training on a GPU. Both threads need
    Python's global interpreter lock.
    """
    overrides = [
        f"data.path={data}",
        f"train.batch_size_per_rank={_SMALL_BATCH}",
        "runtime.device=cpu",
        "runtime.threads=1",
    ]
    config = load_config(RunConfig, "bench-feed", overrides)
    with process_group(config.runtime) as ranks, ple_rec_loader(data, batch_size) as read:
        context, stop = build_context(config, ranks), threading.Event()
        guard = NonFiniteGuard([task.name for task in context.selection.tasks], ranks.device)
        weights_K = task_weights(context.tasks, 0)
        with closing(context.loader.epoch(0)) as epoch:
            batches = itertools.cycle(list(itertools.islice(epoch, 8)))

        def train() -> None:
            os.sched_setaffinity(0, {min(_CORES)})
            while not stop.is_set():
                train_step(context, guard, next(batches), 0, weights_K)

        with ThreadPoolExecutor(1) as pool:
            training = pool.submit(train)
            try:
                yield read
            finally:
                stop.set()
            training.result()


@contextmanager
def torch_loader(data: Location, batch_size: int, workers: int) -> Iterator[Pass]:
    """Read an epoch in each pass, by torch's DataLoader; with 0 workers, this process reads."""
    if workers == 0:
        _pin()
    loader = DataLoader(RowGroups(data, batch_size), batch_size=None, num_workers=workers)

    def read_epoch() -> PassResult:
        rows = 0

        def read() -> None:
            nonlocal rows
            for batch in loader:
                rows += len(batch["label"])

        return time_work(read, 0)._replace(amount=rows)

    yield read_epoch


@contextmanager
def pyarrow_alone(data: Location) -> Iterator[Pass]:
    """Decode all row groups in each pass, without batches."""
    _pin()
    _, names, groups = _open(data)
    rows = sum(group.rows for group in groups)
    yield lambda: time_work(lambda: [read_columns(group, names) for group in groups], rows)


def _pin() -> None:
    """Restrict this process, and the threads that it starts later, to one core."""
    torch.set_num_threads(1)
    os.sched_setaffinity(0, {max(_CORES)})


def main() -> None:
    """Measure and print."""
    args = _arguments().parse_args()
    with scratch_folder() as name:
        data: Location | None = args.data
        if data is None:
            data = Path(name, "data")
            say(f"writing {args.rows:,} rows")
            write_feed(data, _USERS, args.rows)
        cases = [
            BenchmarkCase("ple-rec loader", partial(ple_rec_loader, data, args.batch_size)),
            BenchmarkCase("ple-rec loader beside a training", partial(loader_beside_training, data, args.batch_size)),
            BenchmarkCase("DataLoader, 0 workers", partial(torch_loader, data, args.batch_size, 0)),
            BenchmarkCase("DataLoader, 2 workers", partial(torch_loader, data, args.batch_size, 2)),
            BenchmarkCase("pyarrow alone", partial(pyarrow_alone, data), is_baseline=True),
        ]
        if args.far is not None:
            cases.insert(1, BenchmarkCase("ple-rec loader, far", partial(ple_rec_loader, args.far, args.batch_size)))
        report(args, "rows", cases, race(cases, args.repeats))


def _arguments() -> argparse.ArgumentParser:
    arguments = parser(__doc__)
    arguments.add_argument("--data", type=location, metavar="DIR", help="a dataset directory; default: a synthetic one")
    arguments.add_argument(
        "--far",
        type=location,
        metavar="ADDRESS",
        help="a copy of the dataset in an object store, which is read as a further case",
    )
    arguments.add_argument(
        "--rows", type=int, default=1 << 20, metavar="N", help="rows of the synthetic data; default 1 M"
    )
    arguments.add_argument("--batch-size", type=int, default=4096, metavar="N", help="rows of a batch; default 4096")
    return arguments


if __name__ == "__main__":
    main()
