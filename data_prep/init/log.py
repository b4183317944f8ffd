"""Preview of an unknown log: its files, a sample of its rows, and the days that it spans."""

from __future__ import annotations

import csv
import os
import re
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from data_prep.expressions import parse, word_of
from data_prep.expressions.syntax import quoted_name
from data_prep.init.times import Time, days_of
from data_prep.sources.columns import NO_VALUE, check_columns
from data_prep.sources.files import discover
from data_prep.sources.find import FoundFile, find_files, format_of
from data_prep.sources.remote import open_raw_parquet
from data_prep.sources.sample import MOST_FILES, Sampled, sample_csv
from data_prep.sources.table import RawFile
from data_prep.sources.text import open_text
from ple_rec.config.prep import CsvConfig, FilesConfig
from ple_rec.config.prep_inputs import Format
from ple_rec.errors import PleRecError, UserError
from ple_rec.storage import is_address

SAMPLE_ROWS = 65_536  # Rows that are read of each file of the sample.
_MAX_NAMES = 10  # Names in a folder that a message lists.
_TSV_ENDINGS = (".tsv", ".tsv.gz")  # Prep does not take these endings for CSV, so `log.format` must name it.
_SAMPLE_FILES = 3  # The first, the middle and the last file.
_DELIMITERS = (",", "\t", ";", "|")
_NULLS = ("NULL", "null", "NA", "N/A", "NaN", "nan", "None", "\\N")  # Words for a missing value in CSV files.


@dataclass(frozen=True)
class LogPreview:
    """Log with a sample of its rows.

    Args:
        source: Value of `prep --from`: folder, file or address.
        files: Value of `log.files`: the files of the log below the source.
        csv: CSV configuration of the files; None for Parquet.
        sampled: Files of the log. For CSV, the beginnings that were read.
        rows: Rows of some files, with the columns that prep can read, in plain types.
        unreadable: Reason for each column that prep cannot read, by column.
        format: Value of `log.format` if the names of the files do not show it; else None.
    """

    source: str
    files: tuple[str, ...]
    csv: CsvConfig | None
    sampled: Sampled
    rows: pa.Table
    unreadable: Mapping[str, str]
    format: Format | None

    def offset(self, column: str) -> str:
        """Return the UTC offset of a column's times in the first file; +00:00 if there is none or more than one."""
        offsets = self.sampled.table.offsets(column)
        return offsets[0] if len(offsets) == 1 else "+00:00"

    def days(self, time: Time) -> list[date] | None:
        """Return the days that have a row, at the UTC offset of the times; None if only a part of a CSV log was read.

        Args:
            time: Time of a row.
        """
        if not self.sampled.whole:
            return None
        column, days = time.column.name, set[date]()
        offset = datetime.strptime(self.offset(column), "%z").utcoffset() or timedelta()
        for file in self.sampled.table.files:
            if column in file.partitions:
                days |= set(days_of(pa.array([file.partitions[column]]).cast(time.column.type), time.unit, offset))
                continue
            with open_raw_parquet(file.path) as parquet:
                for batch in parquet.iter_batches(batch_size=1 << 20, columns=[column]):
                    days |= set(days_of(batch[0].cast(time.column.type), time.unit, offset))
        return sorted(days)


@contextmanager
def open_log(paths: Sequence[str]) -> Iterator[LogPreview]:
    """Open a log and read a sample of its rows.

    Args:
        paths: One folder, or Parquet or CSV files or globs.

    Raises:
        UserError: A file does not exist, the files have two formats, or there is no row or no column.
        DataError: A file is not sound.
    """
    source, files, form = _place(paths)
    config = FilesConfig(files=files, format=form)
    listed, kind = _find_files(config, source)
    with tempfile.TemporaryDirectory(prefix="ple-rec-") as folder:
        staging = Path(folder) / "csv"
        if kind != "csv":
            reading, sampled = None, Sampled.all_of(discover("log", config, source, staging, digest=False))
        else:
            reading = CsvConfig(delimiter=_delimiter(listed[0]))
            for file in listed[:MOST_FILES]:
                _check_header(file, reading)
            sampled = sample_csv("log", listed, reading, staging)
            if nulls := _nulls(_sample_rows(sampled, _unreadable(sampled))):
                reading = reading.model_copy(update={"nulls": ("", *nulls)})
                sampled = sample_csv("log", listed, reading, Path(folder) / "again")
        unreadable = _unreadable(sampled)
        rows = _sample_rows(sampled, unreadable)
        if not rows.num_rows:
            rule = "columns are guessed by their values"
            raise UserError(
                " ".join(paths), "no row, or no column that all files have", rule, "name the files of one log"
            )
        yield LogPreview(source, files, reading, sampled, rows, unreadable, form)


def _find_files(config: FilesConfig, source: str) -> tuple[list[FoundFile], Format]:
    """Return the files of the log, and their format.

    Raises:
        UserError: There are no files, or files of two formats. The message names `--from` in place of a key, since
            there is no configuration yet.
    """
    try:
        return find_files("log", config, source)
    except UserError as error:
        rule, fix = error.rule, error.fix
        if config.files == (".",):
            names = sorted(entry.name for entry in Path(source).iterdir())
            contents = ", ".join(names[:_MAX_NAMES]) + (
                f" and {len(names) - _MAX_NAMES} more" if names[_MAX_NAMES:] else ""
            )
            if not any(format_of(path.name) for path in Path(source).rglob("*")):
                rule = f"{source} has {contents or 'nothing'}"
                fix = "name a folder with .parquet, .csv or .tsv files, or the files themselves"
        if "format = " in fix:
            fix = "name files of one format, whose names end in .parquet, .csv, .csv.gz or .tsv"
        raise UserError(error.place.replace("log.files", "--from", 1), error.value, rule, fix) from None


def _check_header(file: FoundFile, config: CsvConfig) -> None:
    """Check that the first line of a CSV file names its columns.

    Raises:
        UserError: The first line does not name the columns.
    """
    names = next(csv.reader([_first_line(file)], delimiter=config.delimiter), [])
    rule = "the first line names the columns, each once"
    if not names:
        raise UserError(file.shown, "is empty", rule, "take it away, or write it again")
    if numbers := [name for name in names if re.fullmatch(r"-?[0-9.]+", name)]:
        fix = "put a line of names first; for a log without one, set `columns` of [log.csv] (docs/prep.md)"
        raise UserError(file.shown, f"its first line has the cell {numbers[0]!r}", rule, fix)
    if "" in names:
        value = f"column {names.index('') + 1} has no name"
        raise UserError(file.shown, value, rule, "name it; pandas leaves its index out by to_csv(..., index=False)")
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(file.shown, f"{twice[0]!r} stands twice in its first line", rule, "rename one")


def _unreadable(sampled: Sampled) -> dict[str, str]:
    """Return the reason for each column that prep cannot read."""
    file_of_columns = {
        (file.columns, *((k, v == NO_VALUE) for k, v in file.partitions.items())): file for file in _full(sampled)
    }
    empty = [field.name for field in sampled.table.schema if pa.types.is_null(field.type)]
    reasons = dict.fromkeys(empty, "it has no value")
    for name in dict.fromkeys(
        name for file in file_of_columns.values() for name in (*file.partitions, *dict(file.columns))
    ):
        if name in reasons:
            continue
        try:
            check_columns(list(file_of_columns.values()), [name], "prep")
            if parse(quoted_name(name), "value").columns != (word_of(name),):
                reasons[name] = "an expression does not read its name"
        except PleRecError as error:
            missing = error.value == "there is no such column"
            reasons[name] = "not every file has it" if missing else f"{error.value}; {error.rule}; {error.fix}"
    return reasons


def _full(sampled: Sampled) -> list[RawFile]:
    """Return the files that have a row."""
    return [file for file in sampled.table.files if file.rows]


def _place(paths: Sequence[str]) -> tuple[str, tuple[str, ...], Format | None]:
    """Return the values of `--from`, `log.files` and `log.format` for some paths."""
    if remote := [path for path in paths if is_address(path)]:
        fix = "copy some files of the log here, and give the address to `prep` alone"
        raise UserError("--from", f"got {remote[0]}", "init reads files of this machine alone", fix)
    if len(paths) == 1 and Path(paths[0]).is_dir():
        below = [path.name for path in Path(paths[0]).rglob("*") if path.is_file()]
        if any(map(format_of, below)):
            return paths[0], (".",), None
        patterns = tuple(f"**/*{end}" for end in _TSV_ENDINGS if any(name.lower().endswith(end) for name in below))
        return paths[0], patterns or (".",), "csv" if patterns else None
    form: Format | None = "csv" if all(path.lower().endswith(_TSV_ENDINGS) for path in paths) else None
    if any(Path(path).is_absolute() for path in paths):
        paths = [str(Path.cwd() / path) for path in paths]
    folder = os.path.commonpath([Path(path).parent for path in paths]) or "."
    return folder, tuple(os.path.relpath(path, folder) for path in paths), form


def _first_line(file: FoundFile) -> str:
    with open_text(file) as stream:
        return (
            stream.read(1 << 16).lstrip(b"\r\n").partition(b"\n")[0].decode("utf-8-sig", errors="replace").rstrip("\r")
        )


def _delimiter(file: FoundFile) -> str:
    return max(_DELIMITERS, key=_first_line(file).count)


def _nulls(rows: pa.Table) -> list[str]:
    """Return the words for a missing value that text columns have."""
    texts = [rows[name] for name in rows.column_names if pa.types.is_string(rows[name].type)]
    return [word for word in _NULLS if any(pc.any(pc.equal(text, word)).as_py() for text in texts)]


def _sample_rows(sampled: Sampled, unreadable: Collection[str]) -> pa.Table:
    """Return the first rows of some of the files, with the columns of their folders."""
    files = _full(sampled)
    schema = pa.schema([field for field in sampled.table.schema if field.name not in unreadable])
    places = sorted({i * (len(files) - 1) // max(_SAMPLE_FILES - 1, 1) for i in range(_SAMPLE_FILES)}) if files else []
    tables = [_beginning(files[i], schema) for i in places]
    return pa.concat_tables(tables) if tables else schema.empty_table()


def _beginning(file: RawFile, schema: pa.Schema) -> pa.Table:
    with open_raw_parquet(file.path) as parquet:
        batch = next(parquet.iter_batches(batch_size=SAMPLE_ROWS))
    columns = []
    for field in schema:
        if field.name in file.partitions:
            columns.append(pa.array([file.partitions[field.name]] * batch.num_rows).cast(field.type))
        else:
            columns.append(batch[field.name].cast(field.type))
    return pa.table(columns, schema=schema)
