"""A log of which nothing is known yet: where its files lie, rows of it, and the days that it spans."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_prep.sources.files import discover
from data_prep.sources.find import FoundFile, find_files
from data_prep.sources.remote import is_remote
from data_prep.sources.sample import Sampled, sample_csv
from data_prep.sources.table import RawFile, opened
from data_prep.sources.text import open_text
from ple_rec.config.prep import CsvConfig, FilesConfig
from ple_rec.errors import UserError

SAMPLE_ROWS = 65_536  # of each file that is looked at
_PLACES = 3  # first, middle and last file
_DELIMITERS = (",", "\t", ";", "|")
_NULLS = ("NULL", "null", "NA", "N/A", "NaN", "nan", "None", "\\N")  # words that CSV files write for a missing value
_PER_DAY = {"s": 86_400, "ms": 86_400 * 10**3, "us": 86_400 * 10**6, "ns": 86_400 * 10**9}
_EPOCH = date(1970, 1, 1)


@dataclass(frozen=True)
class Log:
    """A log that is open for a look at it.

    Args:
        source: Folder, file or address that `prep --from` takes.
        files: Files of the log below it, as `log.files` takes them.
        csv: How its CSV files are read; None for Parquet.
        sampled: Its files, of CSV what was read of them.
        rows: Rows of some of them, with the columns that every file has, of plain types.
    """

    source: str
    files: tuple[str, ...]
    csv: CsvConfig | None
    sampled: Sampled
    rows: pa.Table

    def offset(self, column: str) -> str:
        """Return the offset from UTC of the times of a column, by the first file; that of UTC where it names none."""
        offsets = self.sampled.table.offsets(column)
        return offsets[0] if len(offsets) == 1 else "+00:00"

    def days(self, column: str, unit: str) -> list[date] | None:
        """Return the days that have a row, cut by `offset`; None for a CSV log of which only a part was read.

        Args:
            column: Column that holds the time.
            unit: Unit of it, as `time.unit`.
        """
        if not self.sampled.whole:
            return None
        days: set[date] = set()
        hours, minutes = map(int, self.offset(column).split(":"))
        offset = timedelta(hours=hours, minutes=minutes if hours >= 0 else -minutes)
        for file in self.sampled.table.files:
            if column in file.partitions:
                days |= set(days_of(pa.array([file.partitions[column]]), unit, offset))
                continue
            with pq.ParquetFile(opened(file)) as parquet:
                for batch in parquet.iter_batches(batch_size=1 << 20, columns=[column]):
                    days |= set(days_of(batch[0], unit, offset))
        return sorted(days)


def days_of(times: pa.Array, unit: str, offset: timedelta = timedelta()) -> list[date]:
    """Return the days of times, each once; what is no time has none.

    Args:
        times: The times.
        unit: Their unit, as `time.unit`.
        offset: Offset from UTC of timestamps.
    """
    times = times.drop_null()
    if unit in _PER_DAY:
        numbers = pc.divide(times.cast(pa.int64()), _PER_DAY[unit]).unique().to_pylist()
        return [_EPOCH + timedelta(days=number) for number in numbers]
    if pa.types.is_timestamp(times.type):
        times = pc.add(times.cast(pa.timestamp("us"), safe=False), pa.scalar(offset, pa.duration("us")))
    if pa.types.is_temporal(times.type):
        return list(times.cast(pa.date32(), safe=False).unique().to_pylist())
    texts = pc.utf8_slice_codeunits(times.cast(pa.string()), 0, 10).unique().to_pylist()
    return [day for text in texts if (day := _date_of(text)) is not None]


def _date_of(text: str) -> date | None:
    try:
        return date.fromisoformat(text)  # YYYY-MM-DD, and YYYYMMDD too
    except ValueError:
        return None


@contextmanager
def open_log(paths: Sequence[str]) -> Iterator[Log]:
    """Open files of a log for a look at them.

    Args:
        paths: A folder, or one or more Parquet or CSV files or globs.

    Raises:
        UserError: no such file, files of two formats, no row or no column.
        DataError: a file is not sound.
    """
    source, files = _place(paths)
    config = FilesConfig(files=files)
    listed, kind = find_files("log", config, source)
    with tempfile.TemporaryDirectory(prefix="ple-rec-") as folder:
        staging = Path(folder) / "csv"
        if kind == "parquet":
            csv, sampled = None, Sampled.all_of(discover("log", config, source, staging, digest=False))
            rows = _rows(sampled)
        else:
            csv = CsvConfig(delimiter=_delimiter(listed[0]))
            sampled = sample_csv("log", listed, csv, staging)
            rows = _rows(sampled)
            if nulls := _nulls(rows):
                csv = csv.model_copy(update={"nulls": ("", *nulls)})
                sampled = sample_csv("log", listed, csv, Path(folder) / "again")
                rows = _rows(sampled)
        if headless := [name for name in rows.column_names if csv is not None and re.fullmatch(r"-?[0-9.]+|", name)]:
            fix = "put a line of names first; a log without one is told by `columns` of [log.csv] (docs/prep.md)"
            value = f"its first line has the cell {headless[0]!r}"
            raise UserError(sampled.table.files[0].shown, value, "the first line names the columns", fix)
        if not rows.num_rows:
            rule = "columns are guessed by their values"
            raise UserError(
                " ".join(paths), "no row, or no column that all files have", rule, "name the files of one log"
            )
        yield Log(source, files, csv, sampled, rows)


def _place(paths: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    """Return what `--from` and `log.files` are for some paths."""
    if remote := [path for path in paths if is_remote(path)]:
        fix = "copy some files of the log here, and give the address to `prep` alone"
        raise UserError("--from", f"got {remote[0]}", "what is looked at lies on this machine", fix)
    if len(paths) == 1 and Path(paths[0]).is_dir():
        return paths[0], (".",)
    if any(Path(path).is_absolute() for path in paths):
        paths = [str(Path.cwd() / path) for path in paths]
    folder = os.path.commonpath([Path(path).parent for path in paths]) or "."
    return folder, tuple(os.path.relpath(path, folder) for path in paths)


def _delimiter(file: FoundFile) -> str:
    with open_text(file) as stream:
        line = stream.read(1 << 16).partition(b"\n")[0].decode(errors="replace")
    return max(_DELIMITERS, key=line.count)


def _nulls(rows: pa.Table) -> list[str]:
    """Return the words for a missing value that text columns have."""
    texts = [rows[name] for name in rows.column_names if pa.types.is_string(rows[name].type)]
    return [word for word in _NULLS if any(pc.any(pc.equal(text, word)).as_py() for text in texts)]


def _rows(sampled: Sampled) -> pa.Table:
    """Return the first rows of some of the files, with the columns of their folders."""
    files = [file for file in sampled.table.files if file.rows]
    schema = pa.schema([field for field in sampled.table.schema if all(_has(file, field.name) for file in files)])
    places = sorted({i * (len(files) - 1) // max(_PLACES - 1, 1) for i in range(_PLACES)}) if files else []
    tables = [_beginning(files[i], schema) for i in places]
    return pa.concat_tables(tables) if tables else schema.empty_table()


def _has(file: RawFile, name: str) -> bool:
    """Return whether a file has a column, once."""
    return name in file.partitions or [column for column, _ in file.columns].count(name) == 1


def _beginning(file: RawFile, schema: pa.Schema) -> pa.Table:
    with pq.ParquetFile(opened(file)) as parquet:
        batch = next(parquet.iter_batches(batch_size=SAMPLE_ROWS))
    columns = []
    for field in schema:
        if field.name in file.partitions:
            columns.append(pa.array([file.partitions[field.name]] * batch.num_rows).cast(field.type))
        else:
            columns.append(batch[field.name].cast(field.type))
    return pa.table(columns, schema=schema)
