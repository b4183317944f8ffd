"""`tencent-synthetic`: a feed of short videos like that of the PLE paper, generated block by block.

It has two forms, with the same impressions:

    Tencent           design of a dataset: the first seven days are train, in order of time; the last day is divided by
                      user into valid and test, in order of users
    write_raw(...)    raw logs, with one or more files per day
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
from data_prep.synthetic.files import ParquetLayout, WrittenFile, run_shares, write_file
from data_prep.synthetic.world import DAYS, PAPER_ROWS, World
from ple_rec.config.base import Split
from ple_rec.config.schema import Table, Task
from ple_rec.errors import UserError

NAME = "tencent-synthetic"
FORMAT = 3  # Increase this number with each change that alters the bytes of the same rows and seed.
ROW_GROUP_ROWS = 65_536
RAW_KEY = b"ple_rec.synthetic"  # Key in the footer of a raw log; the value says what the file contains.
RAW_FILE_ROWS = 4_194_304  # Largest number of rows of a raw log, unless the number of files is given.
_PART_BLOCKS = 16  # Largest number of blocks of a part.
_FIRST_DAY = date(2020, 3, 2)
_TEST_DAY = DAYS - 1
_WITHOUT_DICTIONARY = ("user_id", "video_id")  # Columns without a dictionary in Parquet.
_BYTE_STREAM_SPLIT = (*TRUTHS, "propensity")  # Columns with this Parquet encoding.


@dataclass(frozen=True)
class TencentPart:
    """Unit of work: blocks of impressions that become one Parquet file in each of its splits.

    Args:
        index: Number among the parts of the same splits, which is also in the name of their files.
        splits: Splits with a file: `train`, or `valid` and `test`.
        blocks: Ranges of impressions, each of which becomes one row group of each split. For train, a block is a range
            of positions in the order of time. For valid and test, it is a range of positions in the order of users; it
            covers whole users, and only their impressions of the last day are written.
    """

    index: int
    splits: tuple[Split, ...]
    blocks: tuple[range, ...]


@dataclass(frozen=True)
class Tencent:
    """Design of the dataset (`prepare.Design`).

    Args:
        world: Sizes and seed of the feed.
    """

    world: World

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The tasks: vtr, vcr, share, comment and ctr."""
        return TASKS

    def recipe(self) -> dict[str, Any]:
        """Return all that determines the content of the dataset."""
        return {"name": NAME, "format": FORMAT, "rows": self.world.rows, "seed": self.world.seed}

    def schema_fields(self) -> Mapping[str, Any]:
        """Return the fields of `DatasetSchema` that the design determines."""
        tables = tuple(Table(name=name, rows=rows) for name, rows in table_rows(self.world).items())
        return {
            "name": NAME,
            "tables": tables,
            "sparse": SPARSE,
            "dense": DENSE,
            "tasks": TASKS,
            "group": "user_id",
        }

    def slice_columns(self) -> tuple[str, ...]:
        """Return the columns by whose values the statistics slice the rows for correlations between labels."""
        return SLICES

    def raw_values(self) -> Mapping[str, Mapping[int, str]]:
        """Return the raw values of the features that are words, and of `auto_play`, by table and row."""
        return {name: dict(enumerate(words, 1)) for name, words in WORDS.items()} | {"auto_play": {1: "0", 2: "1"}}

    def extra_statistics(self) -> Mapping[str, Any]:
        """Return nothing, since the recipe describes the data."""
        return {}

    def layout(self) -> ParquetLayout:
        """Return schema and encodings of the Parquet files."""
        return ParquetLayout(dataset_schema(), _WITHOUT_DICTIONARY, _BYTE_STREAM_SPLIT)

    def row_group_rows(self) -> int:
        """Return the largest number of rows of a row group of train: 65,536, but at most 1/64 of all rows.

        So even a small dataset has row groups for many ranks.
        """
        return min(ROW_GROUP_ROWS, self.world.rows // 64)

    def parts(self) -> list[TencentPart]:
        """Return the parts of the dataset, which can be generated in any order."""
        size = self.row_group_rows()
        train = self.world.blocks_of_days(range(_TEST_DAY), size)
        # About 1 of 8 impressions is on the last day, and valid and test have half of the users each. So a block of
        # 2 x 8 x 65,536 impressions gives both a row group of about 65,536 rows. Small datasets have smaller blocks.
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
                yield "train", dataset_table(feed.block_at(block))
                continue
            impressions = feed.day_of_users(block, _TEST_DAY)
            table = dataset_table(impressions)
            valid = pa.array(self.world.is_in_valid_split(impressions.user))
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
    """Write raw logs as Parquet files by day, named `YYYY-MM-DD-NNN.parquet`, with rows in the order of time.

    Files that an earlier call with the same rows, seed and number of files has completed are not written again. Its
    unfinished files are removed.

    Args:
        out: Folder of the files.
        rows: Number of impressions.
        seed: Seed of everything that is random.
        files: Number of files, at least 8; None for the least number with which a file has at most 4.2 M rows.
        processes: Number of processes that write files.
        progress: Function that is called with the number of rows of each complete file, old or new.

    Returns:
        Paths of the files, in order of time.

    Raises:
        UserError: `rows` or `files` is out of range, a file of the same name has other content, or the disk is full.
    """
    world = World(rows, seed)
    if files is not None and files < DAYS:
        raise UserError("files", f"got {files}", f"each of the {DAYS} days has at least one file", "set more")
    logs = _raw_files(out, world, files)
    try:
        out.mkdir(parents=True, exist_ok=True)
        for file in logs:
            file.check()
        for unfinished in out.glob(f"*{UNFINISHED}"):
            unfinished.unlink(missing_ok=True)
        for written in run_shares(_write_raw_files, (world,), logs, processes):
            if progress is not None:
                progress(written.rows)
    except OSError as error:
        raise UserError(
            str(out),
            f"could not be written ({error.strerror or error})",
            "the folder must be writable, on a disk with enough free space",
            "free some space and start again: finished files are kept",
        ) from error
    return [file.path for file in logs]


@dataclass(frozen=True)
class _RawLog:
    path: Path
    places: range  # Positions of the impressions in the order of time.
    identity: bytes  # Value of RAW_KEY in the footer, by which the content of the file is recognised.

    def check(self) -> None:
        """Raise an error if a file of the same name with other content exists."""
        if self.path.exists() and not self.is_ready():
            raise UserError(
                str(self.path),
                "exists and has other content",
                "raw logs do not replace other files",
                "choose another folder, or remove the file",
            )

    def is_ready(self) -> bool:
        """Return True if the file exists, has the identity of this log, and all its rows."""
        try:
            footer = pq.read_metadata(self.path)
        except (OSError, pa.ArrowInvalid):
            return False
        return (footer.metadata or {}).get(RAW_KEY) == self.identity and footer.num_rows == len(self.places)


def _raw_files(out: Path, world: World, files: int | None) -> list[_RawLog]:
    logs = []
    for day in range(DAYS):
        first, end = world.day_start(day), world.day_start(day + 1)
        files_of_day = -(-(end - first) // RAW_FILE_ROWS) if files is None else files // DAYS + (day < files % DAYS)
        for i in range(files_of_day):
            places = range(first + (end - first) * i // files_of_day, first + (end - first) * (i + 1) // files_of_day)
            value = {"format": FORMAT, "rows": world.rows, "seed": world.seed, "from": places.start, "to": places.stop}
            name = f"{_FIRST_DAY + timedelta(day)}-{i:03d}.parquet"
            logs.append(_RawLog(out / name, places, json.dumps(value).encode()))
    return logs


def _write_raw_files(world: World, files: list[_RawLog]) -> Iterator[WrittenFile]:
    feed = Feed(world)
    schema = raw_table(world, feed.block_at(range(1))).schema
    for file in files:
        if file.is_ready():
            yield WrittenFile(file.path, len(file.places), 0)  # The number of row groups is not needed.
            continue
        blocks = (file.places[i : i + ROW_GROUP_ROWS] for i in range(0, len(file.places), ROW_GROUP_ROWS))
        tables = (raw_table(world, feed.block_at(block)) for block in blocks)
        yield write_file(
            file.path, tables, ParquetLayout(schema, _WITHOUT_DICTIONARY, _BYTE_STREAM_SPLIT, {RAW_KEY: file.identity})
        )
