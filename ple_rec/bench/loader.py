"""`ple-rec bench loader`: rows per second from Parquet to batches, and the memory that takes.

Each contender reads the same columns of the same split. pyarrow alone, which only decodes, is the limit.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sized
from functools import partial
from pathlib import Path

from ple_rec.bench.harness import Contender, Pass, race
from ple_rec.bench.report import Reporter, Results, race_figures, race_headline, race_lines
from ple_rec.data.dataset import Dataset
from ple_rec.data.order import rows_per_shard

_PER_ROW_ROWS = 16_384  # of the dataset that gives row by row, which is slow


def run(args: argparse.Namespace) -> int:
    """Measure, print."""
    report = Reporter(args)
    with tempfile.TemporaryDirectory(prefix="ple-rec-bench-") as folder:
        data: Path | None = args.data
        if data is None:
            from ple_rec.bench.feed import write_feed

            data = Path(folder) / "feed"
            report.say(f"writing {args.rows:,} synthetic rows")
            write_feed(data, args.rows)
        results = measure(data, args.batch_size, args.shards, args.repeats, report.say)
    report.finish(results, race_figures(results), race_headline(results, "loader", "reading batches"), race_lines)
    return 0


def measure(data: Path, batch_size: int, shards: int, repeats: int, say: Callable[[str], None]) -> Results:
    """Race the contenders on a dataset directory.

    Raises:
        UserError: no dataset there, or sizes that do not divide.
        DataError: it is damaged.
    """
    rows_per_shard(batch_size, shards, 1)
    dataset = Dataset(data)
    selection = dataset.select(drop=[], tasks=[])
    groups = dataset.row_groups("train", selection.column_names())
    rows = sum(group.rows for group in groups)
    contenders = [
        Contender("loader", "ple-rec loader", partial(our_loader, data, batch_size, shards)),
        Contender("pyarrow", "pyarrow row groups (the limit)", partial(plain_pyarrow, data)),
        Contender("dataloader_0", "DataLoader, 0 workers", partial(dataloader, data, batch_size, 0)),
        Contender(
            "dataloader_2", "DataLoader, 2 workers", partial(dataloader, data, batch_size, 2), pinned=False, workers=2
        ),
        Contender("dataloader_rows", "DataLoader, row by row", partial(dataloader_of_rows, data, batch_size)),
    ]
    return {
        "subject": "loader",
        "unit": "rows",
        "limit": "pyarrow",
        "data": {
            "rows": rows,
            "row_groups": len(groups),
            "columns": len(selection.column_names()),
            "bytes_per_row": sum(file.stat().st_size for file in (data / "train").glob("*.parquet")) / rows,
        },
        "settings": {"batch_size": batch_size, "virtual_shards": shards, "repeats": repeats},
        "measured": {m.contender.name: m.record() for m in race(contenders, repeats, say)},
    }


def our_loader(data: Path, batch_size: int, shards: int) -> Pass:
    """Epoch after epoch of the loader of training, shuffled, on one rank."""
    import torch

    from ple_rec.data.loader import Loader

    torch.set_num_threads(1)
    dataset = Dataset(data)
    selection = dataset.select(drop=[], tasks=[])
    loader = Loader(dataset, "train", selection, batch_size=batch_size, rank=0, world_size=1, virtual_shards=shards)
    epochs = iter(range(1 << 30))
    return lambda: sum(batch.rows for batch in loader.epoch(next(epochs)))


def plain_pyarrow(data: Path) -> Pass:
    """Decoding alone, row group by row group."""
    from ple_rec.data.dataset import read_columns

    dataset = Dataset(data)
    names = dataset.select(drop=[], tasks=[]).column_names()
    groups = dataset.row_groups("train", names)
    return lambda: sum(read_columns(group, names).num_rows for group in groups)


def dataloader(data: Path, batch_size: int, workers: int) -> Pass:
    """The DataLoader of torch over an iterable dataset that shuffles inside each row group."""
    import torch
    from torch.utils.data import DataLoader

    from ple_rec.bench.torch_datasets import RowGroups

    torch.set_num_threads(1)
    loader = DataLoader(RowGroups(data, batch_size), batch_size=None, num_workers=workers)
    return partial(_rows_of, loader)


def dataloader_of_rows(data: Path, batch_size: int) -> Pass:
    """The DataLoader of torch over a dataset that gives one sample at a time, of which it takes the first few."""
    import torch
    from torch.utils.data import DataLoader

    from ple_rec.bench.torch_datasets import Rows

    torch.set_num_threads(1)
    loader = DataLoader(Rows(data, _PER_ROW_ROWS), batch_size=batch_size, shuffle=True)
    return partial(_rows_of, loader)


def _rows_of(batches: Iterable[Mapping[str, Sized]]) -> int:
    return sum(len(batch["label"]) for batch in batches)
