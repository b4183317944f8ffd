"""Samples of tables of CSV files, for `ple-rec init` and `ple-rec prep --dry-run`.

Only the beginnings of the files are converted to Parquet, since a whole log takes too long for a first look.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from data_prep.sources.columns import table_schema
from data_prep.sources.csv_files import convert_csv, make_staging
from data_prep.sources.csv_types import BLOCK_BYTES
from data_prep.sources.find import FoundFile
from data_prep.sources.footers import Meter
from data_prep.sources.table import RawTable, raw_table
from data_prep.sources.text import open_text
from ple_rec.config.prep import ColumnType, CsvConfig

# The numbers of bytes below count the text of a file, which is unpacked if it is a gzip file.
FIRST_BYTES = BLOCK_BYTES + (1 << 20)  # Bytes that are read of the first file; types are inferred from its first block.
OTHER_BYTES = 48 << 20  # Bytes that are read of all other files together.
MAX_FILES = 768  # Most files whose beginnings are read.
_MIN_BYTES = 1 << 16  # Fewest bytes that are read of each other file.
_GZIP_FACTOR = 5  # Size of a text divided by the size of its gzip file, where it cannot be measured.
_CHUNK = 1 << 20
_MAX_LINE_ENDS = 64  # Line ends that are tried from the end of a text, since a line end may lie inside quotes.


@dataclass(frozen=True)
class TableSample:
    """A whole table, or a table of the beginnings of its files.

    Args:
        table: Raw table of the rows that are sampled.
        rows: Number of rows in all files; an estimate if `is_complete` is false.
        files: Number of all files.
        size: Size of all files in bytes.
        is_complete: True if `table` has all rows of all files.
    """

    table: RawTable
    rows: int
    files: int
    size: int
    is_complete: bool

    @classmethod
    def complete(cls, table: RawTable) -> TableSample:
        """Return the sample that has all rows of a table."""
        return cls(table, table.rows, len(table.files), sum(file.size for file in table.files), is_complete=True)


@dataclass(frozen=True)
class _Prefix:
    """Beginning of a CSV file, which was written to a file of its own.

    Args:
        file: File with the beginning; its name in messages is that of the user's file.
        text_bytes: Size of the beginning.
        packed_bytes: Number of bytes of the user's file that hold the beginning: of a gzip file packed bytes, 0 if
            their number is unknown.
        is_complete: True if the whole file is read.
    """

    file: FoundFile
    text_bytes: int
    packed_bytes: int
    is_complete: bool


def sample_csv(
    name: str,
    files: Sequence[FoundFile],
    config: CsvConfig,
    staging: Path,
    progress: Callable[[str], None] | None = None,
    *,
    inferred: Mapping[str, ColumnType] = {},
) -> TableSample:
    """Convert the beginnings of a table's CSV files, about `FIRST_BYTES + OTHER_BYTES` of text in all.

    Args:
        name: `log`, or the name of a side table.
        files: CSV files, in order. Of more than `MAX_FILES`, files at equal distances are read.
        config: CSV configuration of the files.
        staging: Folder for the beginnings and their conversions.
        progress: Callback that gets a line of text about the work; None to report nothing.
        inferred: Types that an earlier preparation inferred for undeclared columns, by column.

    Raises:
        DataError: The beginning of a file is not sound, or a cell in it does not fit its column.
        UserError: A type is declared for a column that no file has, or the folder cannot be written.
    """
    make_staging(staging)
    count = min(len(files), MAX_FILES)
    chosen = [files[i * len(files) // count] for i in range(count)]
    if progress is not None:
        progress(f"{name}: reading the beginnings of {count:,} of {len(files):,} CSV file(s)")
    share = max(OTHER_BYTES // count, _MIN_BYTES)
    prefixes = []
    for i, file in enumerate(chosen):
        prefixes.append(_write_prefix(file, FIRST_BYTES if i == 0 else share, staging / f"{name}-{i}.begin"))
    key = "log.csv" if name == "log" else f"sides.{name}.csv"
    digests = [f"{name} {i}" for i in range(count)]  # Each beginning gets its own conversion, even if two are equal.
    beginnings = [prefix.file for prefix in prefixes]
    converted = convert_csv(beginnings, digests, config, key, staging, Meter(name, 0, None), inferred=inferred)
    table = raw_table(name, converted, table_schema(converted))
    is_complete = len(chosen) == len(files) and all(prefix.is_complete for prefix in prefixes)
    rows = table.rows if is_complete else _estimate_rows(files, prefixes, table.rows)
    return TableSample(table, rows, len(files), sum(file.size for file in files), is_complete)


def _write_prefix(file: FoundFile, limit: int, target: Path) -> _Prefix:
    """Write the first rows of a file, about `limit` bytes of text, to a file of their own."""
    data = bytearray()
    with open_text(file) as stream:
        while len(data) < limit and (chunk := stream.read(min(limit - len(data), _CHUNK))):
            data += chunk
        packed_bytes = stream.bytes_read()
        is_complete = not stream.read(1)
    text = bytes(data) if is_complete else _complete_rows(bytes(data))
    target.write_bytes(text)
    return _Prefix(
        replace(file, path=str(target)), len(text), packed_bytes * len(text) // max(len(data), 1), is_complete
    )


def _complete_rows(text: bytes) -> bytes:
    """Return the rows of a text that are complete: all up to its last line end outside of quotes.

    If no such line end is found near the end, the last line end is taken; a text without line ends is returned whole.
    """
    end = len(text)
    for _ in range(_MAX_LINE_ENDS):
        end = text.rfind(b"\n", 0, end)
        if end < 0:
            break
        if text.count(b'"', 0, end) % 2 == 0:
            return text[: end + 1]
    return text[: text.rfind(b"\n") + 1] or text


def _estimate_rows(files: Sequence[FoundFile], prefixes: Sequence[_Prefix], rows: int) -> int:
    """Estimate the number of rows of all files from the sizes of the files and the `rows` of their beginnings."""
    first = prefixes[0]
    measured = _is_packed(files[0]) and first.packed_bytes
    factor = first.text_bytes / first.packed_bytes if measured else _GZIP_FACTOR
    text = sum(file.size * (factor if _is_packed(file) else 1) for file in files)
    return round(rows * text / max(sum(prefix.text_bytes for prefix in prefixes), 1))


def _is_packed(file: FoundFile) -> bool:
    return file.path.lower().endswith(".gz")
