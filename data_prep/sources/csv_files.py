"""Conversion of CSV files to Parquet files in a staging folder, in bounded memory.

The result of a conversion is named by a digest of the CSV file's content and of the way in which it is read (delimiter,
header, column types), so that a later run can use it again. Blank lines are skipped.
"""

from __future__ import annotations

import csv
import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_prep.failures import disk_full_error, is_disk_full
from data_prep.sources.csv_types import INTEGER, Reading, find_utc_offsets, resolve_reading
from data_prep.sources.find import FoundFile
from data_prep.sources.footers import Meter, read_footer, read_verified_footer
from data_prep.sources.table import POSITION, RawFile
from data_prep.sources.text import (
    CountingStream,
    TextSource,
    count_rows,
    csv_error,
    find_row,
    open_text,
    text_lines,
    utf8_error,
)
from ple_rec.config.prep import ColumnType, CsvConfig
from ple_rec.config.words import toml_key
from ple_rec.errors import DataError, PleRecError, UserError
from ple_rec.text.suggest import did_you_mean

logger = logging.getLogger(__name__)

ROW_GROUP_ROWS = 262_144  # Rows of a row group of a conversion.
_VERSION = 3  # Version of the format of conversions. A conversion of another version is made again.
_SOURCE = b"ple_rec.source"  # Key of the digest in the metadata of a conversion.


def convert_csv(
    files: Sequence[FoundFile],
    digests: Sequence[str],
    config: CsvConfig,
    key: str,
    staging: Path,
    meter: Meter,
    *,
    all_types: bool = True,
    inferred: Mapping[str, ColumnType] = {},
) -> list[RawFile]:
    """Convert CSV files to Parquet, or find their conversions by an earlier run.

    Args:
        files: CSV files, in order.
        digests: Digest of the content of each file.
        config: CSV configuration of the files.
        key: Key of that configuration: `log.csv`.
        staging: Folder for Parquet files; it is created.
        meter: Meter of the bytes that are read.
        all_types: True to refuse a type that is declared for a column which no file has. Files to predict may lack the
            labels, so prediction passes False.
        inferred: Types that an earlier preparation inferred for undeclared columns, by column.

    Returns:
        Parquet files, in the order of `files`.

    Raises:
        DataError: A file is not sound, or a cell does not fit its column.
        UserError: A type is declared for a column that no file has (with `all_types`), or `staging` cannot be written.
    """
    headers = [_header(file, config, key) for file in files]
    known = dict.fromkeys(name for header in headers for name in header)
    for name in config.types if known and all_types else ():
        if name not in known:
            fix = did_you_mean(name, known) or f"the columns are {', '.join(known)}"
            raise UserError(
                f"{key}.types.{toml_key(name)}",
                "no file has this column",
                "a type belongs to a column of the files",
                fix,
            )
    reading = resolve_reading(files, headers, config, key, inferred)
    make_staging(staging)
    make_source = partial(
        TextSource,
        delimiter=config.delimiter,
        header=config.header,
        key=key,
        inferred=reading.inferred,
        offsets=find_utc_offsets(files, headers, reading),
    )
    return [
        as_raw_file(file, _find_or_convert(file, header, digest, reading, staging, meter), digest, make_source(file))
        for file, header, digest in zip(files, headers, digests, strict=True)
    ]


def _header(file: FoundFile, config: CsvConfig, key: str) -> list[str]:
    """Return the names of a file's columns; refuse a header line that is missing or has names that cannot be used."""
    if not config.header:
        return list(config.columns)
    lines = text_lines(file)
    try:
        names = next((row for row in csv.reader(lines, delimiter=config.delimiter) if row), None)
    except csv.Error as error:
        raise DataError(
            f"{file.display_name}, line 1", str(error), "the first line names the columns", "correct it"
        ) from error
    finally:
        lines.close()  # type: ignore[attr-defined]  # The generator holds the file open.
    hint = f"correct the line, or set {key}.header = false and {key}.columns"
    place, rule = f"{file.display_name}, line 1", "the first line gives every column a name of its own"
    if names is None:
        rule, hint = "the first line names the columns", "remove it, or write it again"
        raise DataError(file.display_name, "the file is empty", rule, hint)
    duplicates = sorted({name for name in names if names.count(name) > 1})
    if "" in names:
        raise DataError(place, f"column {names.index('') + 1} has no name", rule, hint)
    if duplicates:
        raise DataError(place, f"{duplicates[0]!r} stands twice", rule, hint)
    if any("\ufffd" in name for name in names):
        raise utf8_error(file, 1, config.delimiter.join(names))
    if any(name.lower() == POSITION for name in names):
        raise DataError(place, f"has a column {POSITION!r}", "prep uses this name itself", "rename it")
    return names


def _find_or_convert(
    file: FoundFile, header: Sequence[str], digest: str, reading: Reading, staging: Path, meter: Meter
) -> Path:
    """Return the path of the conversion of a file, which an earlier run has left or which is made now."""
    types = [[name, str(reading.types[name])] for name in header]
    determinants = [_VERSION, digest, reading.config.model_dump(mode="json"), types]
    source = hashlib.sha256(json.dumps(determinants).encode()).hexdigest()
    target = staging / f"{source}.parquet"
    if not is_conversion_of(target, source):
        schema = pa.schema([(name, reading.types[name]) for name in header], {_SOURCE: source.encode()})
        _convert(file, header, reading, target, schema, meter)
    return target


def as_raw_file(file: FoundFile, target: Path, digest: str, text: TextSource) -> RawFile:
    """Return the conversion of a text file as a raw file with the name of the text file.

    The stamp is empty, since the conversion is not checked for changes.
    """
    raw = read_footer(replace(file, path=str(target.absolute()), stamp=()), digest)
    return replace(raw, converted=True, text=text)


def is_conversion_of(target: Path, source: str) -> bool:
    """Return True if a Parquet file is sound and was converted from `source`. A damaged file is removed.

    Args:
        target: Parquet file.
        source: Digest of the content of the text file and of the way in which it is read, which the metadata of a
            conversion holds.
    """
    footer = read_verified_footer(target)
    return footer is not None and (footer.metadata or {}).get(_SOURCE) == source.encode()


def make_staging(staging: Path) -> None:
    """Create the folder for conversions. Raises UserError if the system refuses."""
    try:
        staging.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable_error(staging, error) from error


def _unwritable_error(staging: Path, error: OSError) -> PleRecError:
    if is_disk_full(error):
        return disk_full_error(str(error))
    reason = error.strerror or " ".join(str(error).split())[-200:]
    fix = "free some space, or use another folder"
    return UserError(str(staging), f"cannot be written ({reason})", "CSV files are converted there", fix)


def write_conversion(
    target: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch | pa.Table], check: Callable[[int], None]
) -> None:
    """Write rows to a Parquet file, which gets its name only when it is complete.

    Args:
        target: Parquet file.
        schema: Schema of the rows, with the metadata of `add_source_key`.
        batches: Rows. One row group and one batch of them are in memory at a time.
        check: Function that gets the number of written rows before the file gets its name, and raises an error if the
            number is wrong.

    Raises:
        UserError: The file cannot be written, or the disk is full.
    """
    unfinished = target.with_suffix(".tmp")
    rows, pending = 0, schema.empty_table()
    try:
        with pq.ParquetWriter(
            unfinished, schema, compression="zstd", compression_level=1, write_page_checksum=True
        ) as writer:
            for batch in batches:
                new = batch if isinstance(batch, pa.Table) else pa.Table.from_batches([batch])
                pending = pa.concat_tables([pending, new.replace_schema_metadata(schema.metadata)])
                rows += new.num_rows
                while pending.num_rows >= ROW_GROUP_ROWS:
                    writer.write_table(pending.slice(0, ROW_GROUP_ROWS), ROW_GROUP_ROWS)
                    pending = pending.slice(ROW_GROUP_ROWS)
            if pending.num_rows:
                writer.write_table(pending, ROW_GROUP_ROWS)
        check(rows)
        unfinished.replace(target)
    except OSError as error:
        raise _unwritable_error(target.parent, error) from error
    finally:
        unfinished.unlink(missing_ok=True)


def add_source_key(schema: pa.Schema, source: str) -> pa.Schema:
    """Return the schema with the metadata by which `is_conversion_of` recognises `source`."""
    return schema.with_metadata({_SOURCE: source.encode()})


def _convert(
    file: FoundFile, header: Sequence[str], reading: Reading, target: Path, schema: pa.Schema, meter: Meter
) -> None:
    with open_text(file) as stream:

        def check(rows: int) -> None:
            _check_rows(file, header, reading.config, stream, rows)

        try:
            write_conversion(target, schema, _batches(file, stream, reading, meter), check)
        except pa.ArrowInvalid as error:
            raise _conversion_error(file, header, reading, error) from error


def _check_rows(file: FoundFile, header: Sequence[str], config: CsvConfig, stream: CountingStream, rows: int) -> None:
    """Refuse a conversion with another number of rows than the CSV file, since pyarrow may lose rows without an error.

    Without quotes, the rows of the file are its lines that are not blank. With quotes, a cell may hold line ends, so
    Python's csv reader counts the rows. If there is only one column, a blank line may be meant as a missing value, so a
    warning names the number of blank lines.

    Args:
        file: File that was converted.
        header: Columns of the file.
        config: CSV configuration of the file.
        stream: Byte stream of the file, read to its end.
        rows: Number of rows in the conversion.

    Raises:
        DataError: The numbers of rows differ, or a quote is never closed.
    """
    expected, open_quote_line, blank = stream.line_count, None, 0
    if stream.has_quotes or len(header) == 1:
        expected, open_quote_line, blank = count_rows(file, config.delimiter)
    if open_quote_line is not None:
        raise DataError(
            f"{file.display_name}, line {open_quote_line}",
            "a cell begins with a quote that is not closed",
            "a cell in quotes ends at a quote before a delimiter or a line end",
            "close the quote, or double the quotes inside the cell",
        )
    expected = max(0, expected - int(config.header))
    if rows != expected:
        rule = f"the file has {expected:,} by a second count"
        raise DataError(
            file.display_name, f"pyarrow read {rows:,} rows", rule, "correct the quotes, or write the file again"
        )
    if blank and len(header) == 1:
        rule = 'in a file with one column, a missing value is written as ""'
        logger.warning(
            "%s: blank lines (%s) are not read as rows; %s. Fix: remove them, or write them so",
            file.display_name,
            blank,
            rule,
        )


def _batches(file: FoundFile, stream: CountingStream, reading: Reading, meter: Meter) -> Iterable[pa.RecordBatch]:
    """Yield the rows of a file in the types of the reading; none if the file is empty."""
    bytes_read, rows = 0, int(reading.config.header)
    try:
        reader = reading.open(stream)
    except pa.ArrowInvalid as error:
        if "Empty CSV file" in str(error):
            return
        raise
    with reader:
        for batch in reader:
            yield _with_integers(batch, reading, file, rows)
            rows += batch.num_rows
            meter.add(stream.bytes_read() - bytes_read)
            bytes_read = stream.bytes_read()


def _with_integers(batch: pa.RecordBatch, reading: Reading, file: FoundFile, rows_before: int) -> pa.RecordBatch:
    """Return the batch with the columns of `reading.integers` converted from text.

    Args:
        batch: Rows as pyarrow read them.
        reading: Reading of the file.
        file: File that is converted.
        rows_before: Number of rows before the batch, including the header.

    Raises:
        DataError: A cell is not an integer, or looks like an id, such as 007.
    """
    for name in reading.integers & set(batch.schema.names):
        texts, kind = batch[name], reading.types[name]
        wrong = pc.index(pc.match_substring_regex(texts, INTEGER), False).as_py()
        try:
            column = pc.cast(texts, kind) if wrong < 0 else None
        except pa.ArrowInvalid:  # An integer is too large for 64 bits.
            wrong = next(
                i for i, cell in enumerate(texts.to_pylist()) if cell and not -(1 << 63) <= int(cell) < 1 << 63
            )
        if wrong >= 0:
            line, _ = find_row(file, reading.config.delimiter, rows_before + wrong + 1)
            cell = texts[wrong].as_py()
            reason, fix = reading.hint(name, cell)
            place = f"{file.display_name}, line {line}, column {name!r}"
            raise DataError(place, f"got {cell[:80]!r}", f"the column is {kind}, {reason}", fix)
        batch = batch.set_column(batch.schema.names.index(name), pa.field(name, kind), column)
    return batch


def _conversion_error(file: FoundFile, header: Sequence[str], reading: Reading, error: Exception) -> DataError:
    """Return the error about a file that cannot be converted, with the line of the fault if it can be found.

    pyarrow counts rows only if it reads with one thread, so the file is read again.
    """
    with open_text(file) as stream:
        try:
            with reading.open(stream, threads=False) as reader:
                for _ in reader:
                    pass
        except pa.ArrowInvalid as located:
            error = located
    return csv_error(file, reading.config.delimiter, error, header, reading.hint)
