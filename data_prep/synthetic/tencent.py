"""`tencent-synthetic`: a feed of the shape of the paper's, made block by block and never held as a whole.

It has two forms:

    Tencent           the dataset: days 1-7 train in order of time; day 8, in order of users, valid and test by user
    write_raw(...)    the same impressions as raw logs, day by day
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
from data_prep.synthetic.files import Layout, Written, run_shares, write_file
from data_prep.synthetic.world import DAYS, PAPER_ROWS, World
from ple_rec.config.base import Split
from ple_rec.config.schema import Table, Task
from ple_rec.errors import UserError

NAME = "tencent-synthetic"
FORMAT = 3  # raise it when the same rows and seed would give other bytes
ROW_GROUP_ROWS = 65_536
RAW_KEY = b"ple_rec.synthetic"
RAW_FILE_ROWS = 4_194_304
_PART_BLOCKS = 16
_FIRST_DAY = date(2020, 3, 2)
_TEST_DAY = DAYS - 1
_MANY = ("user_id", "video_id")
_APART = (*TRUTHS, "propensity")


@dataclass(frozen=True)
class Part:
    """Some blocks of the dataset: places in the order of time for train, else impressions of whole users.

    Args:
        index: Number among the parts of the same splits.
        splits: `train`, or `valid` and `test`.
        blocks: One row group of each split is made of each.
    """

    index: int
    splits: tuple[Split, ...]
    blocks: tuple[range, ...]


@dataclass(frozen=True)
class Tencent:
    """The dataset.

    Args:
        world: Sizes and seed.
    """

    world: World

    @property
    def tasks(self) -> tuple[Task, ...]:
        """Those of the paper."""
        return TASKS

    def recipe(self) -> dict[str, Any]:
        """Everything that decides the content."""
        return {"name": NAME, "format": FORMAT, "rows": self.world.rows, "seed": self.world.seed}

    def fields(self) -> Mapping[str, Any]:
        """Fields of `DatasetSchema`."""
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
        """Columns by whose values the statistics relate the labels; above all how a video starts."""
        return SLICES

    def names(self) -> Mapping[str, Mapping[int, str]]:
        """The words of a raw log, by table and row."""
        return {name: dict(enumerate(words, 1)) for name, words in WORDS.items()} | {"auto_play": {1: "0", 2: "1"}}

    def facts(self) -> Mapping[str, Any]:
        """None: the recipe says it."""
        return {}

    def layout(self) -> Layout:
        """Of the parts."""
        return Layout(dataset_schema(), _MANY, _APART)

    def row_group_rows(self) -> int:
        """Rows of a row group of train: 65,536, or fewer where ranks would find too few row groups."""
        return min(ROW_GROUP_ROWS, self.world.rows // 64)

    def parts(self) -> list[Part]:
        """The dataset, cut into parts that can be made in any order."""
        size = self.row_group_rows()
        train = self.world.blocks_of_days(range(_TEST_DAY), size)
        # The last day has 1 of 8 impressions of a user, and valid and test a half each. 16 row groups each at least.
        evaluated = list(self.world.blocks_of_users(min(2 * DAYS * ROW_GROUP_ROWS, self.world.rows // 20)))
        splits: tuple[tuple[tuple[Split, ...], list[range]], ...] = (("train",), train), (("valid", "test"), evaluated)
        return [
            Part(i, names, tuple(blocks[i * _PART_BLOCKS : (i + 1) * _PART_BLOCKS]))
            for names, blocks in splits
            for i in range(-(-len(blocks) // _PART_BLOCKS))
        ]

    def tables(self, parts: Sequence[Part]) -> Iterator[Iterator[tuple[Split, pa.Table]]]:
        """The row groups of each part, in order, each of one split."""
        feed = Feed(self.world)
        for part in parts:
            yield self._tables(feed, part)

    def _tables(self, feed: Feed, part: Part) -> Iterator[tuple[Split, pa.Table]]:
        for block in part.blocks:
            if part.splits == ("train",):
                yield "train", dataset_table(feed.at(block))
                continue
            made = feed.day_of_users(block, _TEST_DAY)
            table = dataset_table(made)
            valid = pa.array(self.world.is_valid(made.user))
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

    A file that is there already, complete and of the same rows, seed and number of files, stays as it is.

    Args:
        out: A folder.
        rows: Impressions.
        seed: Of the world.
        files: How many, 8 at least; by default so many that a file has at most 4.2 M rows.
        processes: How many at a time.
        progress: Told the rows of each file as it is ready.

    Returns:
        The files, in order of time.

    Raises:
        UserError: `rows` or `files` out of range, a file of that name with other content, or a disk that is full.
    """
    world = World(rows, seed)
    if files is not None and files < DAYS:
        raise UserError("files", f"got {files}", f"there is a file a day at least, that is {DAYS}", "ask for more")
    todo = _raw_files(out, world, files)
    try:
        out.mkdir(parents=True, exist_ok=True)
        for file in todo:
            file.check()
        for left in out.glob(f"*{UNFINISHED}"):
            left.unlink(missing_ok=True)
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
class _RawFile:
    path: Path
    places: range
    label: bytes  # tells this file from one of another world

    def check(self) -> None:
        """Refuse to replace a file that is not this one."""
        if self.path.exists() and not self.is_ready():
            raise UserError(
                str(self.path),
                "exists and is another file",
                "raw logs replace nothing",
                "name another folder, or remove the file",
            )

    def is_ready(self) -> bool:
        """Whether the file is there and complete."""
        try:
            footer = pq.read_metadata(self.path)
        except (OSError, pa.ArrowInvalid):
            return False
        return (footer.metadata or {}).get(RAW_KEY) == self.label and footer.num_rows == len(self.places)


def _raw_files(out: Path, world: World, files: int | None) -> list[_RawFile]:
    found = []
    for day in range(DAYS):
        first, end = world.day_start(day), world.day_start(day + 1)
        a_day = -(-(end - first) // RAW_FILE_ROWS) if files is None else files // DAYS + (day < files % DAYS)
        for i in range(a_day):
            places = range(first + (end - first) * i // a_day, first + (end - first) * (i + 1) // a_day)
            label = {"format": FORMAT, "rows": world.rows, "seed": world.seed, "from": places.start, "to": places.stop}
            name = f"{_FIRST_DAY + timedelta(day)}-{i:03d}.parquet"
            found.append(_RawFile(out / name, places, json.dumps(label).encode()))
    return found


def _write_raw_files(world: World, files: list[_RawFile]) -> Iterator[Written]:
    feed = Feed(world)
    schema = raw_table(world, feed.at(range(1))).schema
    for file in files:
        if file.is_ready():
            yield Written(file.path, len(file.places), 0)
            continue
        blocks = (file.places[i : i + ROW_GROUP_ROWS] for i in range(0, len(file.places), ROW_GROUP_ROWS))
        tables = (raw_table(world, feed.at(block)) for block in blocks)
        yield write_file(file.path, tables, Layout(schema, _MANY, _APART, {RAW_KEY: file.label}))
