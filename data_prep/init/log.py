"""Preview of an unknown log for `ple-rec init`: its files, a sample of its rows, and the days on which it has rows."""

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

from data_prep.expressions import column_to_word, parse
from data_prep.expressions.syntax import quoted_name
from data_prep.init.json_fields import with_json_fields
from data_prep.init.times import Time, distinct_days
from data_prep.sources.columns import NO_VALUE, check_columns
from data_prep.sources.files import discover
from data_prep.sources.find import FoundFile, find_files, format_of
from data_prep.sources.remote import open_raw_parquet
from data_prep.sources.sample import MAX_FILES, TableSample, sample_csv
from data_prep.sources.table import RawFile
from data_prep.sources.text import open_text
from ple_rec.config.prep import CsvConfig, FilesConfig
from ple_rec.config.prep_inputs import Format
from ple_rec.errors import PleRecError, UserError
from ple_rec.storage import is_address

SAMPLE_ROWS = 65_536  # Largest number of rows that `LogPreview.rows` has from each of its files.
_MAX_NAMES_LISTED = 10  # Greatest number of names in a folder that a message lists.
_TSV_ENDINGS = (".tsv", ".tsv.gz")  # `ple-rec prep` reads files with these endings only if `log.format` is "csv".
_SAMPLE_FILES = 3  # `LogPreview.rows` comes from the first, the middle and the last file.
_DELIMITERS = (",", "\t", ";", "|")
_NULL_WORDS = ("NULL", "null", "NA", "N/A", "NaN", "nan", "None", "\\N")  # Words for a missing value in CSV files.


@dataclass(frozen=True)
class LogPreview:
    """Log with a sample of its rows.

    Args:
        source: Folder of the log on this machine, as the value of `prep --from`.
        files: Value of `log.files`: files of the log below the source, or globs.
        csv: CSV options of the files; None for Parquet.
        table_sample: Files of the log as Parquet: all of a Parquet log, but only the beginnings of long CSV files.
        rows: Sample of the rows of `table_sample`, from some of its files, with the columns that prep can read,
            and with a further column for each field of a JSON column (`json_fields.py`).
        unreadable: Reason why a column is left out, by its name: prep cannot read it, or it has no value.
        format: Value of `log.format`; None if the names of the files show their format.
    """

    source: str
    files: tuple[str, ...]
    csv: CsvConfig | None
    table_sample: TableSample
    rows: pa.Table
    unreadable: Mapping[str, str]
    format: Format | None

    def utc_offset(self, column: str) -> str:
        """Return the UTC offset of a column's times in the first file; +00:00 if there is none or more than one."""
        offsets = self.table_sample.table.utc_offsets(column)
        return offsets[0] if len(offsets) == 1 else "+00:00"

    def days_with_rows(self, time: Time) -> list[date] | None:
        """Return the days that have a row, at the UTC offset of the times; None if only a part of a CSV log was read.

        This reads the whole column of times.

        Args:
            time: Column of the time of a row, with its unit.
        """
        if not self.table_sample.is_complete:
            return None
        column, days = time.column.name, set[date]()
        offset = datetime.strptime(self.utc_offset(column), "%z").utcoffset() or timedelta()
        for file in self.table_sample.table.files:
            if column in file.partitions:
                days |= set(
                    distinct_days(pa.array([file.partitions[column]]).cast(time.column.type), time.unit, offset)
                )
                continue
            with open_raw_parquet(file.path) as parquet:
                for batch in parquet.iter_batches(batch_size=1 << 20, columns=[column]):
                    days |= set(distinct_days(batch[0].cast(time.column.type), time.unit, offset))
        return sorted(days)


@contextmanager
def open_log(paths: Sequence[str]) -> Iterator[LogPreview]:
    """Open a log and read a sample of its rows.

    CSV files are converted to Parquet in a temporary folder, which is removed at the end of the `with` block.

    Args:
        paths: Paths of the log: one folder, or any number of Parquet or CSV files or globs.

    Raises:
        UserError: A path is an address, a file does not exist, the files have two formats, the first line of a CSV file
            does not name its columns, or no row or column can be read.
        DataError: A file is damaged.
    """
    source, files, config_format = _source_files_and_format(paths)
    config = FilesConfig(files=files, format=config_format)
    listed, found_format = _find_files(config, source)
    with tempfile.TemporaryDirectory(prefix="ple-rec-") as folder:
        staging = Path(folder) / "csv"
        if found_format != "csv":
            csv_config, sample = None, TableSample.complete(discover("log", config, source, staging, digest=False))
        else:
            csv_config = CsvConfig(delimiter=_delimiter(listed[0]))
            for file in listed[:MAX_FILES]:
                _check_header(file, csv_config)
            sample = sample_csv("log", listed, csv_config, staging)
            if nulls := _null_words(_sample_rows(sample, _unreadable_columns(sample))):
                # A column of numbers was read as texts if it has such words, so the files are converted again.
                csv_config = csv_config.model_copy(update={"nulls": ("", *nulls)})
                sample = sample_csv("log", listed, csv_config, Path(folder) / "again")
        unreadable = _unreadable_columns(sample)
        rows = _sample_rows(sample, unreadable)
        if not rows.num_rows:
            rule = "the roles of columns are guessed by their values"
            raise UserError(
                " ".join(paths), "no row, or no column that all files have", rule, "name the files of one log"
            )
        yield LogPreview(source, files, csv_config, sample, with_json_fields(rows), unreadable, config_format)


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
            contents = ", ".join(names[:_MAX_NAMES_LISTED]) + (
                f" and {len(names) - _MAX_NAMES_LISTED} more" if names[_MAX_NAMES_LISTED:] else ""
            )
            if not any(format_of(path.name) for path in Path(source).rglob("*")):
                rule = f"{source} has {contents or 'nothing'}"
                fix = "name a folder with .parquet, .csv or .tsv files, or the files themselves"
        # The fix of `find_files` tells the user to set `log.format` in a configuration, which does not exist yet.
        if "format = " in fix:
            fix = "name files of one format, whose names end in .parquet, .csv, .csv.gz or .tsv"
        raise UserError(error.place.replace("log.files", "--from", 1), error.value, rule, fix) from None


def _check_header(file: FoundFile, config: CsvConfig) -> None:
    """Check that the first line of a CSV file names its columns.

    Raises:
        UserError: The file is empty, or its first line does not name each column, or names one twice.
    """
    names = next(csv.reader([_first_line(file)], delimiter=config.delimiter), [])
    rule = "the first line names the columns, each once"
    if not names:
        raise UserError(file.display_name, "is empty", rule, "remove it, or write it again")
    if numbers := [name for name in names if re.fullmatch(r"-?[0-9.]+", name)]:
        fix = "put a line of names first; for a log without one, set `columns` of [log.csv] (docs/prep.md)"
        raise UserError(file.display_name, f"its first line has the cell {numbers[0]!r}", rule, fix)
    if "" in names:
        value = f"column {names.index('') + 1} has no name"
        raise UserError(
            file.display_name, value, rule, "name it; pandas leaves its index out by to_csv(..., index=False)"
        )
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(file.display_name, f"{twice[0]!r} stands twice in its first line", rule, "rename one")


def _unreadable_columns(sample: TableSample) -> dict[str, str]:
    """Return the reason for each column that prep cannot read, or that has no value, by name of the column."""
    # One check is enough for files that have the same columns and types, and that lack the values of the same partition
    # columns (day=2024-01-31 in the path).
    file_of_columns = {
        (file.columns, *((k, v == NO_VALUE) for k, v in file.partitions.items())): file
        for file in _files_with_rows(sample)
    }
    empty = [field.name for field in sample.table.schema if pa.types.is_null(field.type)]
    reasons = dict.fromkeys(empty, "it has no value")
    for name in dict.fromkeys(
        name for file in file_of_columns.values() for name in (*file.partitions, *dict(file.columns))
    ):
        if name in reasons:
            continue
        try:
            check_columns(list(file_of_columns.values()), [name], "prep")
            # The quoted name must be read as the column again.
            if parse(quoted_name(name), "value").columns != (column_to_word(name),):
                reasons[name] = "its name cannot be written in an expression"
        except PleRecError as error:
            missing = error.value == "there is no such column"
            reasons[name] = "not every file has it" if missing else f"{error.value}; {error.rule}; {error.fix}"
    return reasons


def _files_with_rows(sample: TableSample) -> list[RawFile]:
    """Return the files that have a row."""
    return [file for file in sample.table.files if file.rows]


def _source_files_and_format(paths: Sequence[str]) -> tuple[str, tuple[str, ...], Format | None]:
    """Return the values of `--from`, `log.files` and `log.format` that stand for some paths.

    Raises:
        UserError: A path is an address.
    """
    if remote := [path for path in paths if is_address(path)]:
        fix = "copy some files of the log here; `ple-rec prep` takes the address"
        raise UserError("--from", f"got {remote[0]}", "init reads only files of this machine", fix)
    if len(paths) == 1 and Path(paths[0]).is_dir():
        below = [path.name for path in Path(paths[0]).rglob("*") if path.is_file()]
        if any(map(format_of, below)):
            return paths[0], (".",), None
        patterns = tuple(f"**/*{end}" for end in _TSV_ENDINGS if any(name.lower().endswith(end) for name in below))
        return paths[0], patterns or (".",), "csv" if patterns else None
    config_format: Format | None = "csv" if all(path.lower().endswith(_TSV_ENDINGS) for path in paths) else None
    if any(Path(path).is_absolute() for path in paths):
        paths = [str(Path.cwd() / path) for path in paths]
    folder = os.path.commonpath([Path(path).parent for path in paths]) or "."
    return folder, tuple(os.path.relpath(path, folder) for path in paths), config_format


def _first_line(file: FoundFile) -> str:
    with open_text(file) as stream:
        return (
            stream.read(1 << 16).lstrip(b"\r\n").partition(b"\n")[0].decode("utf-8-sig", errors="replace").rstrip("\r")
        )


def _delimiter(file: FoundFile) -> str:
    """Return the delimiter that occurs most often in the first line of a CSV file."""
    return max(_DELIMITERS, key=_first_line(file).count)


def _null_words(rows: pa.Table) -> list[str]:
    """Return those words for a missing value that occur in text columns."""
    texts = [rows[name] for name in rows.column_names if pa.types.is_string(rows[name].type)]
    return [word for word in _NULL_WORDS if any(pc.any(pc.equal(text, word)).as_py() for text in texts)]


def _sample_rows(sample: TableSample, unreadable: Collection[str]) -> pa.Table:
    """Return the first rows of the first, the middle and the last file that has rows, without unreadable columns.

    Partition columns, which names of folders such as day=2024-01-31 give, are included.
    """
    files = _files_with_rows(sample)
    schema = pa.schema([field for field in sample.table.schema if field.name not in unreadable])
    indices = sorted({i * (len(files) - 1) // max(_SAMPLE_FILES - 1, 1) for i in range(_SAMPLE_FILES)}) if files else []
    tables = [_first_rows(files[i], schema) for i in indices]
    return pa.concat_tables(tables) if tables else schema.empty_table()


def _first_rows(file: RawFile, schema: pa.Schema) -> pa.Table:
    with open_raw_parquet(file.path) as parquet:
        batch = next(parquet.iter_batches(batch_size=SAMPLE_ROWS))
    columns = []
    for field in schema:
        if field.name in file.partitions:
            columns.append(pa.array([file.partitions[field.name]] * batch.num_rows).cast(field.type))
        else:
            columns.append(batch[field.name].cast(field.type))
    return pa.table(columns, schema=schema)
