"""`tencent-synthetic`: a feed like that of the paper, generated block by block and never in memory as a whole.

It has two forms:

    Tencent           dataset: days 1-7 are train in order of time; day 8 is valid and test by user, in order of users
    write_raw(...)    raw logs of the same impressions, day by day
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_prep.output.writer import UNFINISHED
from data_prep.synthetic.columns import (
    DENSE,
    SLICES,
    SPARSE,
    TASKS,
    TRUTHS,
    WORDS,
    dataset_schema,
    dataset_table,
    raw_table,
    table_rows,
)
from data_prep.synthetic.feed import Feed
from data_prep.synthetic.files import ParquetLayout, Written, run_shares, write_file
from data_prep.synthetic.world import DAYS, PAPER_ROWS, World
from ple_rec.config.base import Split
from ple_rec.config.schema import Table, Task
from ple_rec.errors import UserError

NAME = "tencent-synthetic"
FORMAT = 3  # Raise this number with each change after which the same rows and seed give other bytes.
ROW_GROUP_ROWS = 65_536
RAW_KEY = b"ple_rec.synthetic"
RAW_FILE_ROWS = 4_194_304
_PART_BLOCKS = 16
_FIRST_DAY = date(2020, 3, 2)
_TEST_DAY = DAYS - 1
_PLAIN = ("user_id", "video_id")
_SPLIT_BYTES = (*TRUTHS, "propensity")


@dataclass(frozen=True)
class TencentPart:
    """Part of the dataset: some of its blocks.

    Args:
        index: Number among the parts of the same splits.
        splits: Tuple of `train`, or of `valid` and `test`.
        blocks: Places in the order of time for train; numbers of impressions of whole users for valid and test. Each
            block becomes one row group of each split.
    """

    index: int
    splits: tuple[Split, ...]
    blocks: tuple[range, ...]


@dataclass(frozen=True)
class Tencent:
    """Design of the dataset.

    Args:
        world: Sizes and seed.
    """

    world: World

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The tasks of the paper."""
        return TASKS

    def recipe(self) -> dict[str, Any]:
        """Return everything that determines the content."""
        return {"name": NAME, "format": FORMAT, "rows": self.world.rows, "seed": self.world.seed}

    def fields(self) -> Mapping[str, Any]:
        """Return fields of `DatasetSchema`."""
        tables = tuple(Table(name=name, rows=rows) for name, rows in table_rows(self.world).items())
        return {
            "name": NAME,
            "tables": tables,
            "sparse": SPARSE,
            "dense": DENSE,
            "tasks": TASKS,
            "group": "user_id",
        }

    def slices(self) -> tuple[str, ...]:
        """Return the columns for whose values the statistics have correlations of the labels, `auto_play` first."""
        return SLICES

    def names(self) -> Mapping[str, Mapping[int, str]]:
        """Return the words of a raw log, by table and row."""
        return {name: dict(enumerate(words, 1)) for name, words in WORDS.items()} | {"auto_play": {1: "0", 2: "1"}}

    def facts(self) -> Mapping[str, Any]:
        """Return nothing, since the recipe describes the data."""
        return {}

    def layout(self) -> ParquetLayout:
        """Return the layout of the parts."""
        return ParquetLayout(dataset_schema(), _PLAIN, _SPLIT_BYTES)

    def row_group_rows(self) -> int:
        """Return the rows of a row group of train: 65,536, or fewer if ranks would get too few row groups."""
        return min(ROW_GROUP_ROWS, self.world.rows // 64)

    def parts(self) -> list[TencentPart]:
        """Return the parts of the dataset, which can be generated in any order."""
        size = self.row_group_rows()
        train = self.world.blocks_of_days(range(_TEST_DAY), size)
        # A user has 1 of 8 impressions on the last day, and valid and test have half of the users each. So a block of
        # this size gives both a row group of the usual size. There are at least 16 blocks.
        evaluated = list(self.world.blocks_of_users(min(2 * DAYS * ROW_GROUP_ROWS, self.world.rows // 20)))
        splits: tuple[tuple[tuple[Split, ...], list[range]], ...] = (("train",), train), (("valid", "test"), evaluated)
        return [
            TencentPart(i, names, tuple(blocks[i * _PART_BLOCKS : (i + 1) * _PART_BLOCKS]))
            for names, blocks in splits
            for i in range(-(-len(blocks) // _PART_BLOCKS))
        ]

    def tables(self, parts: Sequence[TencentPart]) -> Iterator[Iterator[tuple[Split, pa.Table]]]:
        """Yield the row groups of each part, in order, with their split."""
        feed = Feed(self.world)
        for part in parts:
            yield self._tables(feed, part)

    def _tables(self, feed: Feed, part: TencentPart) -> Iterator[tuple[Split, pa.Table]]:
        for block in part.blocks:
            if part.splits == ("train",):
                yield "train", dataset_table(feed.at(block))
                continue
            impressions = feed.day_of_users(block, _TEST_DAY)
            table = dataset_table(impressions)
            valid = pa.array(self.world.is_valid(impressions.user))
            yield "valid", table.filter(valid)
            yield "test", table.filter(pc.invert(valid))


def write_raw(
    out: Path,
    rows: int = PAPER_ROWS,
    seed: int = 0,
    *,
    files: int | None = None,
    processes: int = 1,
    progress: Callable[[int], None] | None = None,
) -> list[Path]:
    """Write raw logs: Parquet files by day, rows in order of time, named `YYYY-MM-DD-NNN.parquet`.

    A complete file of the same rows, seed and number of files is not written again.

    Args:
        out: Folder of the files.
        rows: Number of impressions.
        seed: Seed of everything that is random.
        files: Number of files, at least 8; None for as many as give a file at most 4.2 M rows.
        processes: Number of processes that write files.
        progress: Function that gets the rows of each finished file.

    Returns:
        Paths of the files, in order of time.

    Raises:
        UserError: `rows` or `files` is out of range, a file of the same name has other content, or the disk is full.
    """
    world = World(rows, seed)
    if files is not None and files < DAYS:
        raise UserError("files", f"got {files}", f"each of the {DAYS} days has a file", "ask for more")
    todo = _raw_files(out, world, files)
    try:
        out.mkdir(parents=True, exist_ok=True)
        for file in todo:
            file.check()
        for unfinished in out.glob(f"*{UNFINISHED}"):
            unfinished.unlink(missing_ok=True)
        for written in run_shares(_write_raw_files, (world,), todo, processes):
            if progress is not None:
                progress(written.rows)
    except OSError as error:
        raise UserError(
            str(out),
            f"could not be written ({error.strerror or error})",
            "it needs a writable place with enough room",
            "free some space and start again: finished files are kept",
        ) from error
    return [file.path for file in todo]


@dataclass(frozen=True)
class _RawLog:
    path: Path
    places: range
    label: bytes  # Metadata that a file of another world does not have.

    def check(self) -> None:
        """Refuse to replace a file with other content."""
        if self.path.exists() and not self.is_ready():
            raise UserError(
                str(self.path),
                "exists and is another file",
                "raw logs replace nothing",
                "name another folder, or remove the file",
            )

    def is_ready(self) -> bool:
        """Return True if the file exists and is complete."""
        try:
            footer = pq.read_metadata(self.path)
        except (OSError, pa.ArrowInvalid):
            return False
        return (footer.metadata or {}).get(RAW_KEY) == self.label and footer.num_rows == len(self.places)


def _raw_files(out: Path, world: World, files: int | None) -> list[_RawLog]:
    logs = []
    for day in range(DAYS):
        first, end = world.day_start(day), world.day_start(day + 1)
        files_of_day = -(-(end - first) // RAW_FILE_ROWS) if files is None else files // DAYS + (day < files % DAYS)
        for i in range(files_of_day):
            places = range(first + (end - first) * i // files_of_day, first + (end - first) * (i + 1) // files_of_day)
            label = {"format": FORMAT, "rows": world.rows, "seed": world.seed, "from": places.start, "to": places.stop}
            name = f"{_FIRST_DAY + timedelta(day)}-{i:03d}.parquet"
            logs.append(_RawLog(out / name, places, json.dumps(label).encode()))
    return logs


def _write_raw_files(world: World, files: list[_RawLog]) -> Iterator[Written]:
    feed = Feed(world)
    schema = raw_table(world, feed.at(range(1))).schema
    for file in files:
        if file.is_ready():
            yield Written(file.path, len(file.places), 0)
            continue
        blocks = (file.places[i : i + ROW_GROUP_ROWS] for i in range(0, len(file.places), ROW_GROUP_ROWS))
        tables = (raw_table(world, feed.at(block)) for block in blocks)
        yield write_file(file.path, tables, ParquetLayout(schema, _PLAIN, _SPLIT_BYTES, {RAW_KEY: file.label}))
