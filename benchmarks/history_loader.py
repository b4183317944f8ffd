"""Rate of reading batches with a history from a table of events, beside lists of the same ids in each row.

    python -m benchmarks.history_loader [--rows N] [--batch-size N]

Both datasets have the same rows and give the same batches, of 3 items and an age for each of the last 50 events. The
rows are in the order of time, as `ple-rec prep` writes those of the training split. A rate is rows for each second of
CPU time of the process, so other programs change it little. The last lines say what a history takes on disk, for each
row: the bytes of its columns and of its events; and how long it takes to compare events with their digests.

Shape suffixes: N rows, E events, V events of the histories of all rows.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from benchmarks.harness import BenchmarkCase, Pass, PassResult, parser, race, report, say, scratch_folder
from data_prep.output.parts import write_part
from data_prep.output.writer import finish
from ple_rec.config.base import SPLITS
from ple_rec.config.schema import (
    HISTORIES_DIR,
    DatasetSchema,
    HistoryFeature,
    HistoryItem,
    SparseFeature,
    SplitInfo,
    Table,
    Task,
)
from ple_rec.data.dataset import DatasetDirectory
from ple_rec.data.integrity import FileDigest
from ple_rec.data.loader import Loader
from ple_rec.text import align_columns

_LENGTH, _ROWS_PER_USER, _ROWS_PER_VIDEO, _AUTHORS, _TABS = 50, 500, 20, 500, 8
_AGE_EDGES = (60, 600, 3_600, 21_600, 86_400, 259_200, 604_800, 2_592_000)
_ITEMS = ("video", "author", "tab")
_ROW_GROUP_ROWS = 65_536
_SHARDS = 16  # Virtual shards of the loader.
# A row has two offsets of its history and a time, of 8 bytes each.
_BYTES_PER_ROW = 24
Arrays = Mapping[str, NDArray[Any]]


def _rows(count: int) -> dict[str, NDArray[Any]]:
    """Return the columns of a log whose rows are in the order of time, with a history of each row.

    Every row is an event, too. Events are numbered by user and time; `order` has the row of each event. The history of
    a row consists of the events `watched_begin` to `watched_end` - 1.
    """
    rng = np.random.default_rng(0)
    users, videos = max(1, count // _ROWS_PER_USER), max(1, count // _ROWS_PER_VIDEO)
    user_N, time_N = rng.integers(0, users, count), 1_700_000_000 + np.arange(count) // 8
    # The square of a uniform number makes some videos far more frequent than others.
    video_N = (videos * rng.random(count) ** 2).astype(np.int64)
    order_E = np.lexsort([time_N, user_N])
    first_N = np.searchsorted(user_N[order_E], user_N)
    # Events of the same second are not before the row.
    end_N = np.searchsorted(user_N[order_E] * (1 << 32) + time_N[order_E], user_N * (1 << 32) + time_N)
    return {
        "user": user_N.astype(np.int32),
        "video": video_N.astype(np.int32),
        "author": (video_N % _AUTHORS).astype(np.int32),
        "tab": rng.integers(0, _TABS, count).astype(np.int32),
        "label": (rng.random(count) < 0.5).astype(np.float32),
        "log_time": time_N,
        "watched_begin": np.maximum(first_N, end_N - _LENGTH),
        "watched_end": end_N,
        "order": order_E,
    }


def _lists(rows: Arrays) -> dict[str, pa.Array]:
    """Return the history of each row as lists of ids, by name of the column."""
    begin_N, lengths_N = rows["watched_begin"], rows["watched_end"] - rows["watched_begin"]
    offsets = np.append(0, np.cumsum(lengths_N))
    event_V = np.arange(offsets[-1]) + np.repeat(begin_N - offsets[:-1], lengths_N)
    row_V = rows["order"][event_V]
    age_V = np.repeat(rows["log_time"], lengths_N) - rows["log_time"][row_V]
    ids = {name: rows[name][row_V] for name in _ITEMS} | {
        "age": (1 + np.searchsorted(_AGE_EDGES, age_V, side="right")).astype(np.int32)
    }
    return {
        f"watched_{name}s": pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(ids_V))
        for name, ids_V in ids.items()
    }


def _write(folder: Path, rows: Arrays, *, events: bool) -> None:
    """Write a dataset whose history is a table of events and two numbers a row, or lists in the rows."""
    count, order_E = len(rows["user"]), rows["order"]
    names = ["user", *_ITEMS, "label"]
    columns: dict[str, Any] = {name: rows[name] for name in names}
    columns |= {name: rows[name] for name in ("log_time", "watched_begin", "watched_end")} if events else _lists(rows)
    table = pa.table(columns)
    sizes = {name: int(rows[name].max()) + 1 for name in ("user", *_ITEMS)} | {"watched_age": len(_AGE_EDGES) + 2}
    bags = {f"watched_{name}s": "watched_age" if name == "age" else name for name in (*_ITEMS, "age")}
    small = table.slice(0, min(count, 1_000))
    splits = {split: table if split == "train" else small for split in SPLITS}
    history = HistoryFeature(
        name="watched",
        items=tuple(HistoryItem(feature=name, table=name) for name in _ITEMS),
        length=_LENGTH,
        age_edges=_AGE_EDGES,
        events=count,
    )
    schema = DatasetSchema(
        version=1,
        name="history",
        fingerprint="history",
        tables=tuple(Table(name=name, rows=size) for name, size in sizes.items()),
        sparse=(
            *(SparseFeature(name=name, table=name) for name in ("user", *_ITEMS)),
            *(SparseFeature(name=name, table=table, bag=True) for name, table in ({} if events else bags).items()),
        ),
        histories=(history,) if events else (),
        tasks=(Task(name="label", kind="binary", label="label"),),
        splits={
            split: SplitInfo(rows=len(part), row_groups=-(-len(part) // _ROW_GROUP_ROWS))
            for split, part in splits.items()
        },
    )
    for split, part in splits.items():
        (folder / split).mkdir(parents=True)
        write_part(folder / split / "part-00000.parquet", part, "history", _ROW_GROUP_ROWS)
    if events:
        (folder / HISTORIES_DIR / "watched").mkdir(parents=True)
        for name in ("log_time", *_ITEMS):
            np.save(folder / HISTORIES_DIR / "watched" / f"{name}.npy", rows[name][order_E])
    finish(folder, schema, "history", {"columns": {}})


@contextmanager
def read_batches(data: Path, batch_size: int, drop: tuple[str, ...]) -> Iterator[Pass]:
    """Read a shuffled epoch in each pass, by the loader that training uses."""
    torch.set_num_threads(1)
    dataset = DatasetDirectory(data)
    selection = dataset.select(drop=drop, tasks=[])
    loader = Loader(dataset, "train", selection, batch_size=batch_size, rank=0, world_size=1, virtual_shards=_SHARDS)
    epochs = itertools.count()

    def read_epoch() -> PassResult:
        begun = time.process_time()
        rows = sum(batch.rows for batch in loader.epoch(next(epochs)))
        return PassResult(rows, time.process_time() - begun)

    yield read_epoch


def _digest_seconds(folder: Path) -> float:
    """Return the seconds of CPU time for the digests of 1 GiB of files of events, which are read again and again."""
    files = list((folder / "events" / HISTORIES_DIR).rglob("*.npy"))
    count, begun = -(-(1 << 30) // sum(file.stat().st_size for file in files)), time.process_time()
    size = sum(FileDigest.from_file(file).bytes for _ in range(count) for file in files)
    return (time.process_time() - begun) * (1 << 30) / size


def _sizes(folder: Path, rows: Arrays) -> list[tuple[str, ...]]:
    """Return a table of the bytes a row of both forms: as numbers, and as the files have them."""
    count = len(rows["user"])

    def column_bytes(form: str, *beginnings: str) -> int:
        footer = pq.read_metadata(folder / form / "train" / "part-00000.parquet")
        chunks = (
            footer.row_group(i).column(j) for i in range(footer.num_row_groups) for j in range(footer.num_columns)
        )
        return sum(chunk.total_compressed_size for chunk in chunks if chunk.path_in_schema.startswith(beginnings))

    ids = int((rows["watched_end"] - rows["watched_begin"]).sum()) * (len(_ITEMS) + 1)
    arrays = sum(file.stat().st_size for file in (folder / "events" / HISTORIES_DIR).rglob("*.npy"))
    return [
        ("bytes a row", "as numbers", "in files"),
        ("lists in rows", f"{4 * ids / count:.1f}", f"{column_bytes('lists', 'watched') / count:.1f}"),
        (
            "  parts of the events' form",
            f"{_BYTES_PER_ROW:.1f}",
            f"{column_bytes('events', 'watched', 'log_time') / count:.1f}",
        ),
        ("  events", f"{arrays / count:.1f}", f"{arrays / count:.1f}"),
    ]


def main() -> None:
    """Measure and print."""
    arguments = parser(__doc__)
    arguments.add_argument("--rows", type=int, default=400_000, metavar="N", help="rows of the log; default 400,000")
    arguments.add_argument("--batch-size", type=int, default=4096, metavar="N", help="rows of a batch; default 4096")
    args: argparse.Namespace = arguments.parse_args()
    with scratch_folder() as name:
        folder, rows = Path(name), _rows(args.rows)
        mean = float((rows["watched_end"] - rows["watched_begin"]).mean())
        say(f"a row has {mean:.1f} events on average")
        for form in ("events", "lists"):
            _write(folder / form, rows, events=form == "events")
        cases = {
            "events": ("events", ()),
            "lists in rows": ("lists", ()),
            "no history": ("events", ("watched",)),
        }
        listed = [
            BenchmarkCase(
                title, partial(read_batches, folder / form, args.batch_size, drop), is_baseline=form == "lists"
            )
            for title, (form, drop) in cases.items()
        ]
        report(args, "rows", listed, race(listed, args.repeats))
        digests = f"digests of 1 GiB of events: {_digest_seconds(folder):.2f} s of CPU time"
        sys.stdout.write("\n".join(["", *align_columns(_sizes(folder, rows)), "", digests, ""]))


if __name__ == "__main__":
    main()
