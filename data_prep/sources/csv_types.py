"""Types of the columns of CSV files, and the way in which pyarrow reads the files with these types.

A column has one type in all files: the declared one, else the one that an earlier run inferred, else the type that
pyarrow infers from the first 16 MiB of the first file that has rows and the column. A column that looks numeric stays
text if a cell of these 16 MiB looks like an id: in integers, any cell with a leading zero, a plus sign, blanks or a
hexadecimal prefix; in decimal numbers, a leading zero, a plus sign, or an integer of 16 digits or more. If they were
read as numbers, the ids 007 and 7 would become one. A later cell of that kind is an error in a column of integers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.types as pt

from data_prep.sources.find import FoundFile
from data_prep.sources.table import ZERO_OFFSETS
from data_prep.sources.text import CountingStream, Hint, csv_error, open_text
from ple_rec.config.prep import ColumnType, CsvConfig
from ple_rec.config.words import toml_key

BLOCK_BYTES = 1 << 24  # Types are inferred from one block, and no row may be longer.
INTEGER = r"^(0|-?[1-9][0-9]*)$"  # An integer in its usual form.
# 007, +7, and integers of 16 digits or more, which a double may round.
_ID_IN_DECIMALS = r"^[ \t]*(-?0[0-9]|\+[0-9]|-?[0-9]{16,}$)"
_DECIMAL = re.compile(r"[+-]?([0-9]+\.[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_OFFSET = r"(?P<offset>[+-][0-9]{2}:?(?:[0-9]{2})?)$"  # The end of a timestamp with a zone.
_SAME_AS_BEFORE = "as in the files that were prepared before"  # Reason for a type that an earlier run inferred.
# Arrow types by their names in a configuration, and the other way round.
TYPES: dict[ColumnType, pa.DataType] = {
    "int32": pa.int32(),
    "int64": pa.int64(),
    "float": pa.float32(),
    "double": pa.float64(),
    "string": pa.string(),
    "bool": pa.bool_(),
    "date": pa.date32(),
    "timestamp": pa.timestamp("us"),
    "timestamptz": pa.timestamp("us", "UTC"),
}
NAMES: dict[pa.DataType, ColumnType] = {kind: name for name, kind in TYPES.items()}


@dataclass(frozen=True)
class Reading:
    """Way in which the CSV files of a table are read: configuration, column types and the reasons for the types.

    Args:
        config: CSV configuration of the files.
        key: Key of that configuration.
        types: Types by column. While types are inferred, columns may be missing, and pyarrow infers their types.
        reasons: Reason for the type, for messages, of each column whose type is not declared.
    """

    config: CsvConfig
    key: str
    types: Mapping[str, pa.DataType]
    reasons: Mapping[str, str]

    @property
    def integers(self) -> set[str]:
        """Undeclared columns of integers. `open` reads them as text; its caller checks and converts them."""
        return {name for name in self.reasons if pt.is_integer(self.types[name])}

    @property
    def inferred(self) -> dict[str, ColumnType]:
        """Names of the types of undeclared columns, by column. Columns of type null are left out."""
        return {name: NAMES[self.types[name]] for name in self.reasons if self.types[name] in NAMES}

    def hint(self, name: str, cell: str) -> Hint:
        """Return why a column has its type, and the fix for a cell that does not fit it."""
        if name not in self.types:  # The error occurs while types are inferred.
            return "by default", "correct the cell"
        kind, key = self.types[name], f"{self.key}.types.{toml_key(name)}"
        other = "double" if pt.is_integer(kind) and _DECIMAL.fullmatch(cell) else "string"
        fix = f'correct the cell, set {key} = "{other}", or add it to {self.key}.nulls if it means a missing value'
        # Another type would make the datasets and models of the earlier files invalid.
        if self.reasons.get(name) == _SAME_AS_BEFORE:
            fix = f'correct the cell, or prepare these files again with {key} = "{other}"'
        if pt.is_timestamp(kind):  # No other type would help, since a time is needed.
            form = f"YYYY-MM-DD HH:MM:SS{'+HH:MM' if kind.tz else ''}, at most 6 digits of a second"
            fix = f"correct the cell ({form}), or add it to {self.key}.nulls if it means a missing value"
        return self.reasons.get(name, f"by {key}"), fix

    def open(self, stream: CountingStream, threads: bool = True) -> pacsv.CSVStreamingReader:
        """Return a pyarrow reader of a CSV stream; it counts rows in its errors only if `threads` is false."""
        return pacsv.open_csv(
            pa.PythonFile(stream, mode="r"),
            read_options=pacsv.ReadOptions(
                use_threads=threads,
                block_size=BLOCK_BYTES,
                column_names=None if self.config.header else list(self.config.columns),
            ),
            parse_options=pacsv.ParseOptions(delimiter=self.config.delimiter, newlines_in_values=True),
            convert_options=pacsv.ConvertOptions(
                column_types={**self.types, **dict.fromkeys(self.integers, pa.string())},
                null_values=list(self.config.nulls),
                strings_can_be_null=True,
            ),
        )

    def as_text(self, names: Iterable[str]) -> Reading:
        """Return a reading that reads the columns `names` as text, as if this type were declared."""
        reasons = {name: reason for name, reason in self.reasons.items() if name not in names}
        return replace(self, types={**self.types, **dict.fromkeys(names, pa.string())}, reasons=reasons)


def resolve_reading(
    files: Sequence[FoundFile],
    headers: Sequence[Sequence[str]],
    config: CsvConfig,
    key: str,
    inferred: Mapping[str, ColumnType],
) -> Reading:
    """Decide how the CSV files of a table are read: a type for every column.

    The type is null for a column without a value in the rows from which its type was inferred.

    Args:
        files: Files of a table.
        headers: Columns of each file.
        config: CSV configuration of the files.
        key: Key of that configuration.
        inferred: Types that an earlier preparation inferred for undeclared columns, by column.

    Raises:
        DataError: The beginning of a file is not sound, or a cell does not fit its declared column.
    """
    earlier = {name: kind for name, kind in inferred.items() if name not in config.types}
    types = {name: TYPES[kind] for name, kind in (earlier | config.types).items()}
    reading = Reading(config, key, types, dict.fromkeys(earlier, _SAME_AS_BEFORE))
    for file, header in zip(files, headers, strict=True):
        if not set(header) <= set(reading.types):
            reading = _infer(file, header, reading)
    rest = {name: pa.null() for header in headers for name in header if name not in reading.types}
    return replace(reading, types={**reading.types, **rest})


def find_utc_offsets(
    files: Sequence[FoundFile], headers: Sequence[Sequence[str]], reading: Reading
) -> dict[str, tuple[str, ...]]:
    """Return the UTC offsets in the timestamps of each column with a zone, such as +08:00, without +00:00.

    Only the beginning of the first file with rows is read.

    Args:
        files: Files of a table.
        headers: Columns of each file.
        reading: Reading of the files.

    Raises:
        DataError: The beginning of a file is not sound.
    """
    zoned = [name for name, kind in reading.types.items() if pt.is_timestamp(kind) and kind.tz is not None]
    for file, header in zip(files, headers, strict=True) if zoned else ():
        first = _first_batch(file, header, reading.as_text(zoned))
        if first is not None and first.num_rows:
            return {name: offsets for name in header if name in zoned and (offsets := _offsets(first[name]))}
    return {}


def _offsets(texts: pa.Array) -> tuple[str, ...]:
    """Return the UTC offsets at the ends of texts, in the form +08:00, sorted and without +00:00."""
    suffixes = pc.struct_field(pc.extract_regex(texts, _OFFSET), "offset").drop_null().unique().to_pylist()
    written = {f"{text[:3]}:{text[3:].lstrip(':') or '00'}" for text in suffixes}
    return tuple(sorted(written - set(ZERO_OFFSETS)))


def _infer(file: FoundFile, header: Sequence[str], reading: Reading) -> Reading:
    """Return the reading with inferred types for columns of the file without a type; unchanged if it has no rows."""
    first = _first_batch(file, header, reading)
    if first is None or not first.num_rows:
        return reading
    types, reasons, ids = dict(reading.types), dict(reading.reasons), _id_columns(file, header, reading, first)
    for name in header:
        if name in types:
            continue
        kind = pa.string() if name in ids else first.schema.field(name).type
        if pt.is_timestamp(kind):
            kind = pa.timestamp("us", "UTC" if kind.tz else None)  # Later cells may have fractions of a second.
        elif pt.is_time(kind) or pt.is_binary(kind):
            kind = pa.string()  # Bytes that are not UTF-8 are refused when the file is converted.
        types[name], reasons[name] = kind, f"inferred from the first 16 MiB of {file.display_name}"
    return replace(reading, types=types, reasons=reasons)


def _first_batch(file: FoundFile, header: Sequence[str], reading: Reading) -> pa.RecordBatch | None:
    """Return the first rows of a file, or None if it has none. pyarrow infers the types that the reading lacks."""
    with open_text(file) as stream:
        try:
            with reading.open(stream, threads=False) as reader:
                return reader.read_next_batch()
        except StopIteration:
            return None
        except pa.ArrowInvalid as error:
            if "Empty CSV file" in str(error):
                return None
            raise csv_error(file, reading.config.delimiter, error, header, reading.hint) from error


def _id_columns(file: FoundFile, header: Sequence[str], reading: Reading, first: pa.RecordBatch) -> set[str]:
    """Return the columns that pyarrow reads as numbers although a cell of the first rows looks like an id."""
    numbers = [
        name
        for name in header
        if name not in reading.types and (pt.is_integer(kind := first.schema.field(name).type) or pt.is_floating(kind))
    ]
    texts = _first_batch(file, header, reading.as_text(numbers)) if numbers else None
    ids: set[str] = set()
    if texts is None:
        return ids
    for name in numbers:
        if pt.is_integer(first.schema.field(name).type):
            is_id = pc.invert(pc.match_substring_regex(texts[name], INTEGER))
        else:
            is_id = pc.match_substring_regex(texts[name], _ID_IN_DECIMALS)
        if pc.any(is_id).as_py():
            ids.add(name)
    return ids
