"""The beginnings of CSV files, for a look at a log that is too long to be converted for one."""

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

FIRST_BYTES = BLOCK_BYTES + (1 << 20)  # of the first file, unpacked: types are inferred from its first block
OTHER_BYTES = 48 << 20  # of all others together
MOST_FILES = 768
_LEAST_BYTES = 1 << 16  # of a file
_PACKED = 5  # a text is about so much longer than its gzip file, where that cannot be measured
_CHUNK = 1 << 20
_TRIES = 64  # line ends that may lie in an open quote


@dataclass(frozen=True)
class Sampled:
    """A table, or the beginnings of its files.

    Args:
        table: What can be read.
        rows: Of all files; an estimate where `whole` is false.
        files: All of them.
        size: Of all files, in bytes.
        whole: Whether `table` is all there is.
    """

    table: RawTable
    rows: int
    files: int
    size: int
    whole: bool

    @classmethod
    def all_of(cls, table: RawTable) -> Sampled:
        """A table that is there whole."""
        return cls(table, table.rows, len(table.files), sum(file.size for file in table.files), whole=True)


@dataclass(frozen=True)
class _Prefix:
    """The beginning of a file: its text in bytes, what of the packed file that took, and whether that is all."""

    file: FoundFile
    text: int
    packed: int
    whole: bool


def sample_csv(
    name: str,
    found: Sequence[FoundFile],
    config: CsvConfig,
    staging: Path,
    say: Callable[[str], None] | None = None,
    *,
    inferred: Mapping[str, ColumnType] = {},
) -> Sampled:
    """The beginnings of the CSV files of a table, converted: at most `FIRST_BYTES + OTHER_BYTES` of text are read.

    Args:
        name: `log`, or the name of a side table.
        found: The files, in order; of more than `MOST_FILES` so many are read, evenly spread.
        config: How they read.
        staging: A folder for what is made.
        say: Told what is done.
        inferred: Types that an earlier preparation inferred for undeclared columns, by column.

    Raises:
        DataError: A file is not sound, or a cell does not fit its column, as far as they are read.
        UserError: A declared column stands in no file.
    """
    make_staging(staging)
    count = min(len(found), MOST_FILES)
    chosen = [found[i * len(found) // count] for i in range(count)]
    if say is not None:
        say(f"{name}: reading the beginnings of {count:,} of {len(found):,} CSV file(s)")
    share = max(OTHER_BYTES // count, _LEAST_BYTES)
    prefixes = []
    for i, file in enumerate(chosen):
        prefixes.append(_prefix(file, FIRST_BYTES if i == 0 else share, staging / f"{name}-{i}.begin"))
    key = "log.csv" if name == "log" else f"sides.{name}.csv"
    digests = [f"{name} {i}" for i in range(count)]  # as many conversions, whatever the content
    beginnings = [prefix.file for prefix in prefixes]
    files = convert_csv(beginnings, digests, config, key, staging, Meter(name, 0, None), inferred=inferred)
    table = raw_table(name, files, table_schema(files))
    whole = len(chosen) == len(found) and all(prefix.whole for prefix in prefixes)
    rows = table.rows if whole else _rows(found, prefixes, table.rows)
    return Sampled(table, rows, len(found), sum(file.size for file in found), whole)


def _prefix(file: FoundFile, limit: int, target: Path) -> _Prefix:
    """The first rows of a file, about `limit` bytes, as a file of their own."""
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
    """The text up to its last line end that lies in no quotes."""
    end = len(text)
    for _ in range(_TRIES):
        end = text.rfind(b"\n", 0, end)
        if end < 0:
            break
        if text.count(b'"', 0, end) % 2 == 0:
            return text[: end + 1]
    return text[: text.rfind(b"\n") + 1] or text


def _rows(found: Sequence[FoundFile], prefixes: Sequence[_Prefix], rows: int) -> int:
    """Rows of all files, by their sizes and by the rows of the beginnings."""
    first = prefixes[0]
    measured = _is_packed(found[0]) and first.packed
    factor = first.text / first.packed if measured else _PACKED
    text = sum(file.size * (factor if _is_packed(file) else 1) for file in found)
    return round(rows * text / max(sum(prefix.text for prefix in prefixes), 1))


def _is_packed(file: FoundFile) -> bool:
    return file.path.lower().endswith(".gz")
