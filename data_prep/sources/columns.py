"""Columns of raw files: their types, and the checks that a preparation can read them.

A raw file is a Parquet file of the log or of a side table. A column may also come from the name of a folder: `day=1`, a
Hive partition, gives a column `day`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

import pyarrow as pa
import pyarrow.types as pt

from ple_rec.errors import DataError
from ple_rec.text.suggest import nearest_name

Columns = tuple[tuple[str, pa.DataType], ...]  # Names and types in the order of the file. A name may stand twice.
NO_VALUE = "__HIVE_DEFAULT_PARTITION__"  # Hive puts rows without a day into a folder `day=` with this text.
_INTEGER = re.compile(r"-?[0-9]{1,18}")  # An integer that fits int64.
_PLAIN = re.compile(r"[^\W\d]\w*")  # A name that needs no quotes.
_MAX_NAMES = 12  # Names that a message lists.


@dataclass(frozen=True)
class ColumnUse:
    """Key of a configuration whose expression reads a column; an error about the column names it.

    Args:
        key: File and key: `feed.toml: sparse[3].value`.
        text: Expression of that key.
    """

    key: str
    text: str

    def __str__(self) -> str:
        """Return key and expression: feed.toml: sparse[3].value `user_id % 10`."""
        return f"{self.key} `{self.text}`"

    def may_mean_text(self, name: str) -> bool:
        """Return True if `name` stands in double quotes inside a longer expression, where a text may be meant."""
        return f'"{name}"' in self.text and self.text.strip() != f'"{name}"'


class _File(Protocol):
    """Raw file, as far as these checks need it; see `data_prep.sources.table.RawFile`."""

    @property
    def display_name(self) -> str: ...
    @property
    def partitions(self) -> Mapping[str, str]: ...
    @property
    def columns(self) -> Columns: ...


def plain_type(kind: pa.DataType) -> pa.DataType:
    """Return a type without its layout in memory (dictionary, large, view), so that types of equal values are equal."""
    if pt.is_dictionary(kind) or pt.is_run_end_encoded(kind):
        return plain_type(kind.value_type)
    if pt.is_large_string(kind) or pt.is_string_view(kind):
        return pa.string()
    if pt.is_large_binary(kind) or pt.is_binary_view(kind):
        return pa.binary()
    if any(
        test(kind)
        for test in (pt.is_list, pt.is_large_list, pt.is_fixed_size_list, pt.is_list_view, pt.is_large_list_view)
    ):
        return pa.list_(plain_type(kind.value_type))
    if pt.is_timestamp(kind) and kind.tz is not None:
        return pa.timestamp(kind.unit, "UTC")  # Parquet itself stores moments without the name of a zone.
    return kind


def unreadable_reason(kind: pa.DataType) -> str | None:
    """Return why the pipeline does not read a type; None if it does.

    The reason ends with the fix, after "; " unless it is only the fix. The type is one that `plain_type` returns.
    """
    tests: tuple[tuple[Callable[[pa.DataType], bool], str], ...] = (
        (
            pt.is_null,
            "no row has a value, so its type is unknown; write it with a type, or for CSV files set csv.types",
        ),
        (pt.is_decimal256, "engines read decimals of at most 38 digits; write it with fewer digits, or as text"),
        (pt.is_float16, "half precision is not read; write it as float"),
        (pt.is_binary, "bytes are not text; write it as a string"),
        (pt.is_fixed_size_binary, "bytes are not text; write it as a string"),
        (pt.is_time, "a time without a day; write it as an integer"),
        (pt.is_duration, "write it as an integer"),
    )
    for test, reason in tests:
        if test(kind):
            return reason
    if pt.is_list(kind):
        value = kind.value_type
        good = pt.is_integer(value) or pt.is_float32(value) or pt.is_float64(value) or pt.is_string(value)
        return None if good else "lists hold integers, floats or strings; write it as one of these"
    good = (
        pt.is_integer(kind) or pt.is_float32(kind) or pt.is_float64(kind) or pt.is_string(kind) or pt.is_boolean(kind)
    )
    good = good or pt.is_date(kind) or pt.is_timestamp(kind) or pt.is_decimal(kind)
    return (
        None
        if good
        else "columns hold numbers, text, booleans, dates, timestamps or lists; write its fields as columns"
    )


def raw_type(kind: pa.DataType) -> str:
    """Return the name of a type in `ple_rec.config.raw_form`; the type is one that `unreadable_reason` accepts.

    Integers of every width are `int64`, since prep refuses a number beyond int64.
    """
    if pt.is_list(kind):
        return f"list<{raw_type(kind.value_type)}>"
    if pt.is_decimal(kind):
        return f"decimal({kind.precision}, {kind.scale})"
    if pt.is_timestamp(kind):
        return "timestamp" if kind.tz is None else "timestamptz"
    names: tuple[tuple[Callable[[pa.DataType], bool], str], ...] = (
        (pt.is_integer, "int64"),
        (pt.is_float32, "float"),
        (pt.is_float64, "double"),
        (pt.is_string, "string"),
        (pt.is_boolean, "bool"),
        (pt.is_date, "date"),
    )
    return next(name for test, name in names if test(kind))


def table_schema(files: Sequence[_File]) -> pa.Schema:
    """Return the schema of a table: the columns of its first file, then those that folder names give to any file.

    A column of folder names is `int64` if its values are distinct integers in all files, otherwise `string`.
    """
    folders = {name: [file.partitions.get(name, "") for file in files] for file in files for name in file.partitions}
    fields = [pa.field(name, kind) for name, kind in files[0].columns]
    file_columns = {name for name, _ in files[0].columns}
    for name, values in folders.items():
        kind = pa.int64() if _are_integers(set(values)) else pa.string()
        fields += [] if name in file_columns else [pa.field(name, kind)]
    return pa.schema(fields)


def _are_integers(values: Collection[str]) -> bool:
    """Return True if all values are integers, and no two of them are the same integer, such as 7 and 007."""
    return all(_INTEGER.fullmatch(value) for value in values) and len(set(map(int, values))) == len(values)


def column_fix(name: str, known: Sequence[str], words: Sequence[str] = ()) -> str:
    """Return the fix for an unknown name.

    Args:
        name: Name that no column has.
        known: Names of the columns.
        words: Names that an expression may use beside columns of the file, such as `users.age` of a side table.
    """
    if name in words:
        return f"leave the double quotes out: {name} is not a column of these files, but expressions know the name"
    table, dot, column = name.partition(".")
    # The words `time.hour` and the like belong to no side table.
    if dot and table != "time" and any(word.startswith(f"{table}.") for word in words):
        return f"leave the double quotes out if {name} means a column of the side table"
    sides = {word.partition(".")[0] for word in words if "." in word} - {"time"}
    of_sides = [f"{side}.{column}" for side in sides] if dot else []
    similar = (
        nearest_name(name, (*words, *known), cutoff=0.8)
        or nearest_name(name, of_sides, cutoff=0.8)
        or nearest_name(name, (*words, *known), cutoff=0.5)
    )
    if similar is not None:
        is_qualified = "." in similar and similar not in known
        is_plain = is_qualified or _PLAIN.fullmatch(similar)
        quotes = "" if is_plain else "; in an expression this name stands in double quotes"
        return f"did you mean {similar!r}?{quotes}"
    more = f" and {len(known) - _MAX_NAMES} more" if len(known) > _MAX_NAMES else ""
    return f"use one of {', '.join(known[:_MAX_NAMES])}{more}"


def check_columns(
    files: Sequence[_File],
    needed: Sequence[str],
    place: str,
    uses: Mapping[str, ColumnUse] = MappingProxyType({}),
    words: Sequence[str] = (),
) -> None:
    """Refuse a needed column that a file lacks, has twice or gives no value, and types that differ or cannot be read.

    `RawTable.check_columns` describes the arguments and errors.
    """
    first: dict[str, tuple[str, pa.DataType]] = {}
    for file in files:
        kinds = dict(file.columns)
        name_counts = Counter(name.lower() for name, _ in file.columns)
        if missing := [name for name in needed if name not in kinds and name not in file.partitions]:
            raise _missing_columns_error(file, missing, place, uses, words)
        for name in needed:
            where, use = f"{file.display_name}, column {name!r}", uses.get(name)
            by = f" ({use})" if use is not None else ""
            _check_name(file, name, where, kinds, name_counts)
            if name in file.partitions:
                if file.partitions[name] == NO_VALUE:
                    raise DataError(
                        where,
                        f"the folder {name}={NO_VALUE} gives it no value",
                        f"{use or place} needs one in every row",
                        "leave the folder out of the pattern, or write the column into the files",
                    )
                continue
            reason = unreadable_reason(kinds[name])
            if reason is not None:
                rule, _, fix = reason.rpartition("; ")
                rule = f"{rule}{by}" if rule else f"{use or place} cannot use it"
                raise DataError(where, f"type {kinds[name]}", rule, fix)
            other, kind = first.setdefault(name, (file.display_name, kinds[name]))
            if kind != kinds[name]:
                raise DataError(
                    where,
                    f"type {kinds[name]}, but {kind} in {other}",
                    f"a column has one type in all files of a table{by}",
                    "write the files with one type",
                )


def _missing_columns_error(
    file: _File, names: Sequence[str], place: str, uses: Mapping[str, ColumnUse], words: Sequence[str]
) -> DataError:
    """Return the error about columns that a file lacks. It names the key that uses each column, and a similar name."""
    known = [*(name for name, _ in file.columns), *file.partitions]
    places = {name: str(uses.get(name, place)) for name in names}
    fixes = {}
    for name in names:
        fixes[name], use = column_fix(name, known, words), uses.get(name)
        if use is not None and use.may_mean_text(name):
            fixes[name] = f"write a text in single quotes: '{name}'; if a column is meant, {fixes[name]}"
    if len(names) == 1:
        where, rule = f"{file.display_name}, column {names[0]!r}", f"{places[names[0]]} needs it in every file"
        return DataError(where, "there is no such column", rule, fixes[names[0]])
    listed = names[:_MAX_NAMES]
    more = f", and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
    lines = "".join(f"\n  column {name!r}: {places[name]} needs it in every file; {fixes[name]}" for name in listed)
    value = f"there are no columns {', '.join(map(repr, listed))}{more}"
    return DataError(
        file.display_name, value, "a column that is read must be in every file", f"correct each of them:{lines}"
    )


def _check_name(
    file: _File, name: str, where: str, kinds: Mapping[str, pa.DataType], counts: Mapping[str, int]
) -> None:
    """Refuse a column that the file, or the file and a folder name, have twice, also with other upper or lower case.

    Args:
        file: File to check.
        name: Name of the column.
        where: Place for the message.
        kinds: Types of the file's columns, by name.
        counts: Number of the file's columns, by name in lower case.
    """
    if counts[name.lower()] > 1:
        spellings = [other for other in kinds if other.lower() == name.lower()]
        twice = "the file has it twice" if len(spellings) == 1 else f"the file has {' and '.join(map(repr, spellings))}"
        raise DataError(
            where,
            twice,
            "engines cannot tell columns apart whose names differ at most in case",
            "write the file with names that differ",
        )
    in_folders = [other for other in file.partitions if other.lower() == name.lower()]
    if len(in_folders) + counts[name.lower()] > 1:
        raise DataError(
            where,
            f"the folder {in_folders[0]}={file.partitions[in_folders[0]]} also gives it",
            "a column comes from the file or from the folder",
            "rename the folder, or write the files without the column",
        )
