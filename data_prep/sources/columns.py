"""Columns of raw files: their types in plain terms, and which of them the pipeline can read."""

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
from ple_rec.text.suggest import nearest

Columns = tuple[tuple[str, pa.DataType], ...]  # Names and types in the order of the file. A name may stand twice.
NO_VALUE = "__HIVE_DEFAULT_PARTITION__"  # Hive's folder of rows without a value.
_INTEGER = re.compile(r"-?[0-9]{1,18}")  # An integer that fits int64.
_PLAIN = re.compile(r"[^\W\d]\w*")  # A name that needs no quotes.
_MAX_NAMES = 12  # Names that a message lists.


@dataclass(frozen=True)
class Reader:
    """Key of a configuration whose expression reads a column.

    Args:
        key: File and key: `feed.toml: sparse[3].value`.
        text: Expression of that key.
    """

    key: str
    text: str

    def __str__(self) -> str:
        """Return key and expression: feed.toml: sparse[3].value `user_id % 10`."""
        return f"{self.key} `{self.text}`"

    def takes_for_a_column(self, name: str) -> bool:
        """Return True if the name stands in double quotes among other words, where its author may have meant a text."""
        return f'"{name}"' in self.text and self.text.strip() != f'"{name}"'


class _File(Protocol):
    @property
    def shown(self) -> str: ...
    @property
    def partitions(self) -> Mapping[str, str]: ...
    @property
    def columns(self) -> Columns: ...


def plain(kind: pa.DataType) -> pa.DataType:
    """Return the type without its layout in memory, so that types of the same values are equal."""
    if pt.is_dictionary(kind) or pt.is_run_end_encoded(kind):
        return plain(kind.value_type)
    if pt.is_large_string(kind) or pt.is_string_view(kind):
        return pa.string()
    if pt.is_large_binary(kind) or pt.is_binary_view(kind):
        return pa.binary()
    if any(
        test(kind)
        for test in (pt.is_list, pt.is_large_list, pt.is_fixed_size_list, pt.is_list_view, pt.is_large_list_view)
    ):
        return pa.list_(plain(kind.value_type))
    if pt.is_timestamp(kind) and kind.tz is not None:
        return pa.timestamp(kind.unit, "UTC")  # Parquet itself stores moments without the name of a zone.
    return kind


def unreadable(kind: pa.DataType) -> str | None:
    """Return why the pipeline does not read a plain type, and the fix; None if it reads the type."""
    tests: tuple[tuple[Callable[[pa.DataType], bool], str], ...] = (
        (
            pt.is_null,
            "no row has a value, so that its type is unknown; write it with a type, which for CSV stands in csv.types",
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
        return None if good else "lists hold integers, floats or strings; write it so"
    good = (
        pt.is_integer(kind) or pt.is_float32(kind) or pt.is_float64(kind) or pt.is_string(kind) or pt.is_boolean(kind)
    )
    good = good or pt.is_date(kind) or pt.is_timestamp(kind) or pt.is_decimal(kind)
    return (
        None
        if good
        else "columns hold numbers, text, truth values, dates, timestamps or lists; write its parts as columns"
    )


def table_schema(files: Sequence[_File]) -> pa.Schema:
    """Return the columns of the first file, then those of the folders."""
    folders = {name: [file.partitions.get(name, "") for file in files] for file in files for name in file.partitions}
    fields = [pa.field(name, kind) for name, kind in files[0].columns]
    have = {name for name, _ in files[0].columns}
    for name, values in folders.items():
        kind = pa.int64() if _are_integers(set(values)) else pa.string()
        fields += [] if name in have else [pa.field(name, kind)]
    return pa.schema(fields)


def _are_integers(values: Collection[str]) -> bool:
    """Return True if all values are integers, and no two of them are the same integer, such as 7 and 007."""
    return all(_INTEGER.fullmatch(value) for value in values) and len(set(map(int, values))) == len(values)


def column_fix(name: str, known: Sequence[str], words: Sequence[str] = ()) -> str:
    """Return the fix for an unknown name.

    Args:
        name: Name that no column has.
        known: Names of the columns.
        words: Other words that expressions know, such as columns of side tables.
    """
    if name in words:
        return f"leave the double quotes out: {name} without them is no column of these files, and is known"
    table, dot, _ = name.partition(".")
    # The words `time.hour` and the like belong to no side table.
    if dot and table != "time" and any(word.startswith(f"{table}.") for word in words):
        return f"leave the double quotes out, if {name} is a column of the side table"
    lower = {other.lower(): other for other in (*words, *known)}
    near = nearest(name.lower(), lower, cutoff=0.5)
    if near is not None:
        quotes = "" if _PLAIN.fullmatch(lower[near]) else "; in an expression this name stands in double quotes"
        return f"did you mean {lower[near]!r}?{quotes}"
    more = f" and {len(known) - _MAX_NAMES} more" if len(known) > _MAX_NAMES else ""
    return f"use one of {', '.join(known[:_MAX_NAMES])}{more}"


def check_columns(
    files: Sequence[_File],
    needed: Sequence[str],
    place: str,
    readers: Mapping[str, Reader] = MappingProxyType({}),
    words: Sequence[str] = (),
) -> None:
    """Check columns of files, as `RawTable.check_columns` describes."""
    first: dict[str, tuple[str, pa.DataType]] = {}
    for file in files:
        kinds = dict(file.columns)
        times = Counter(name.lower() for name, _ in file.columns)
        if missing := [name for name in needed if name not in kinds and name not in file.partitions]:
            raise _missing(file, missing, place, readers, words)
        for name in needed:
            where, reader = f"{file.shown}, column {name!r}", readers.get(name)
            by = f" ({reader})" if reader is not None else ""
            _check_name(file, name, where, kinds, times)
            if name in file.partitions:
                if file.partitions[name] == NO_VALUE:
                    raise DataError(
                        where,
                        f"the folder {name}={NO_VALUE} gives it no value",
                        f"{reader or place} needs one in every row",
                        "leave the folder out by a glob, or write the column into the files",
                    )
                continue
            reason = unreadable(kinds[name])
            if reason is not None:
                rule, _, fix = reason.rpartition("; ")
                rule = f"{rule}{by}" if rule else f"{reader or place} cannot use it"
                raise DataError(where, f"type {kinds[name]}", rule, fix)
            other, kind = first.setdefault(name, (file.shown, kinds[name]))
            if kind != kinds[name]:
                raise DataError(
                    where,
                    f"type {kinds[name]}, but {kind} in {other}",
                    f"a column has one type in all files of a table{by}",
                    "write the files with one type",
                )


def _missing(
    file: _File, names: Sequence[str], place: str, readers: Mapping[str, Reader], words: Sequence[str]
) -> DataError:
    """Return the error of columns that a file lacks. It names the reader of each column, and a similar name."""
    known = [*(name for name, _ in file.columns), *file.partitions]
    who = {name: str(readers.get(name, place)) for name in names}
    fixes = {}
    for name in names:
        fixes[name], reader = column_fix(name, known, words), readers.get(name)
        if reader is not None and reader.takes_for_a_column(name):
            fixes[name] = f"a text takes single quotes: '{name}'; if a column is meant, {fixes[name]}"
    if len(names) == 1:
        where, rule = f"{file.shown}, column {names[0]!r}", f"{who[names[0]]} needs it in every file"
        return DataError(where, "there is no such column", rule, fixes[names[0]])
    shown = names[:_MAX_NAMES]
    more = f", and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
    lines = "".join(f"\n  column {name!r}: {who[name]} needs it in every file; {fixes[name]}" for name in shown)
    value = f"there are no columns {', '.join(map(repr, shown))}{more}"
    return DataError(file.shown, value, "a column that is read stands in every file", f"correct each of them:{lines}")


def _check_name(file: _File, name: str, where: str, kinds: Mapping[str, pa.DataType], times: Mapping[str, int]) -> None:
    """Check that the file and its folders together have a column of this name once."""
    if times[name.lower()] > 1:
        spellings = [other for other in kinds if other.lower() == name.lower()]
        twice = "the file has it twice" if len(spellings) == 1 else f"the file has {' and '.join(map(repr, spellings))}"
        raise DataError(
            where,
            twice,
            "engines do not tell names apart by their order or case",
            "write the file with names that differ",
        )
    in_folders = [other for other in file.partitions if other.lower() == name.lower()]
    if len(in_folders) + times[name.lower()] > 1:
        raise DataError(
            where,
            f"the folder {in_folders[0]}={file.partitions[in_folders[0]]} gives it too",
            "a column comes from one of them",
            "rename the folder, or write the files without the column",
        )
