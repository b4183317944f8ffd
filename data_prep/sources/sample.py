"""Samples of CSV files: only their beginnings are converted, since a whole log takes too long for a first look."""

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

FIRST_BYTES = BLOCK_BYTES + (1 << 20)  # Bytes of text of the first file. Types are inferred from its first block.
OTHER_BYTES = 48 << 20  # Bytes of text of all other files together.
MOST_FILES = 768
_MIN_BYTES = 1 << 16  # Bytes of text that are read of every file.
_GZIP_FACTOR = 5  # Length of a text over that of its gzip file, if it cannot be measured.
_CHUNK = 1 << 20
_MAX_LINE_ENDS = 64  # Line ends that are tried, since some may lie in an open quote.


@dataclass(frozen=True)
class Sampled:
    """Table, or the beginnings of its files.

    Args:
        table: Rows that can be read.
        rows: Number of rows in all files; an estimate if `whole` is false.
        files: Number of all files.
        size: Size of all files in bytes.
        whole: True if `table` has all rows.
    """

    table: RawTable
    rows: int
    files: int
    size: int
    whole: bool

    @classmethod
    def all_of(cls, table: RawTable) -> Sampled:
        """Return the sample that has all rows of a table."""
        return cls(table, table.rows, len(table.files), sum(file.size for file in table.files), whole=True)


@dataclass(frozen=True)
class _Prefix:
    """Beginning of a file.

    Args:
        file: File of its own with the beginning, under the name of the whole file.
        text: Bytes of its text.
        packed: Bytes of the packed file that hold this text.
        whole: True if the whole file is read.
    """

    file: FoundFile
    text: int
    packed: int
    whole: bool


def sample_csv(
    name: str,
    files: Sequence[FoundFile],
    config: CsvConfig,
    staging: Path,
    say: Callable[[str], None] | None = None,
    *,
    inferred: Mapping[str, ColumnType] = {},
) -> Sampled:
    """Convert the beginnings of a table's CSV files, about `FIRST_BYTES + OTHER_BYTES` of text in all.

    Args:
        name: `log`, or the name of a side table.
        files: CSV files, in order. At most `MOST_FILES` of them are read, evenly spread.
        config: CSV configuration of the files.
        staging: Folder for the beginnings and their conversions.
        say: Function that gets a line of text about the work; None for silence.
        inferred: Types that an earlier preparation inferred for undeclared columns, by column.

    Raises:
        DataError: The beginning of a file is not sound, or a cell in it does not fit its column.
        UserError: No file has a declared column.
    """
    make_staging(staging)
    count = min(len(files), MOST_FILES)
    chosen = [files[i * len(files) // count] for i in range(count)]
    if say is not None:
        say(f"{name}: reading the beginnings of {count:,} of {len(files):,} CSV file(s)")
    share = max(OTHER_BYTES // count, _MIN_BYTES)
    prefixes = []
    for i, file in enumerate(chosen):
        prefixes.append(_write_prefix(file, FIRST_BYTES if i == 0 else share, staging / f"{name}-{i}.begin"))
    key = "log.csv" if name == "log" else f"sides.{name}.csv"
    digests = [f"{name} {i}" for i in range(count)]  # Each beginning gets its own conversion, even if two are equal.
    beginnings = [prefix.file for prefix in prefixes]
    converted = convert_csv(beginnings, digests, config, key, staging, Meter(name, 0, None), inferred=inferred)
    table = raw_table(name, converted, table_schema(converted))
    whole = len(chosen) == len(files) and all(prefix.whole for prefix in prefixes)
    rows = table.rows if whole else _estimate_rows(files, prefixes, table.rows)
    return Sampled(table, rows, len(files), sum(file.size for file in files), whole)


def _write_prefix(file: FoundFile, limit: int, target: Path) -> _Prefix:
    """Write the first rows of a file, about `limit` bytes of text, to a file of their own."""
    data = bytearray()
    with open_text(file) as stream:
        while len(data) < limit and (chunk := stream.read(min(limit - len(data), _CHUNK))):
            data += chunk
        packed = stream.done()
        whole = not stream.read(1)
    text = bytes(data) if whole else _whole_rows(bytes(data))
    target.write_bytes(text)
    return _Prefix(replace(file, path=str(target)), len(text), packed * len(text) // max(len(data), 1), whole)


def _whole_rows(text: bytes) -> bytes:
    """Return the text up to its last line end outside of quotes."""
    end = len(text)
    for _ in range(_MAX_LINE_ENDS):
        end = text.rfind(b"\n", 0, end)
        if end < 0:
            break
        if text.count(b'"', 0, end) % 2 == 0:
            return text[: end + 1]
    return text[: text.rfind(b"\n") + 1] or text


def _estimate_rows(files: Sequence[FoundFile], prefixes: Sequence[_Prefix], rows: int) -> int:
    """Estimate the rows of all files by their sizes and the rows of the beginnings."""
    first = prefixes[0]
    measured = _is_packed(files[0]) and first.packed
    factor = first.text / first.packed if measured else _GZIP_FACTOR
    text = sum(file.size * (factor if _is_packed(file) else 1) for file in files)
    return round(rows * text / max(sum(prefix.text for prefix in prefixes), 1))


def _is_packed(file: FoundFile) -> bool:
    return file.path.lower().endswith(".gz")
