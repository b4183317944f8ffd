"""Column of an unknown log: its values, its expression, and the name of its feature."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

from data_prep.expressions.syntax import quoted_name
from data_prep.sources.list_texts import StructuredText, structured_text

_MAX_CHARACTERS = 60  # Characters of a name, since the name of a table is part of a file name.
_PREP_COLUMNS = ("group", "log_day", "sample_weight")  # Columns that prep writes itself.


class Names:
    """Names in a dataset. Two names differ in more than upper and lower case."""

    def __init__(self) -> None:
        self._names: set[str] = set(_PREP_COLUMNS)

    def __contains__(self, name: str) -> bool:
        """Return whether the dataset has this name, or a name that prep makes of it."""
        return not self._names.isdisjoint(_forms(name))

    def add(self, column: str, place: int) -> str:
        """Return a new name for a column.

        Args:
            column: Name of the column.
            place: Number of the column in the log, from 1. It names a column without an ASCII letter or digit.
        """
        plain = unicodedata.normalize("NFKD", column).encode("ascii", "ignore").decode()
        first = "_".join(re.findall(r"[A-Za-z0-9]+", plain)) or f"column_{place}"
        first = (f"_{first}" if first[0].isdigit() else first)[:_MAX_CHARACTERS].rstrip("_")
        name, number = first, 1
        while name in self:
            number += 1
            name = f"{first}_{number}"
        self._names |= _forms(name)
        return name


def _forms(name: str) -> set[str]:
    """Return a name as engines compare it, and the names of the columns that prep makes for a task of that name."""
    lower = name.lower()
    return {lower, f"label_{lower}", f"space_{lower}"}


Kind = Literal["number", "text", "bool", "time", "list", "other"]

_DECIMAL_COMMA = r"^[+-]?[0-9]+(,[0-9]+)?$"
_THOUSANDS = r"([0-9]+|[1-9][0-9]{0,2}(,[0-9]{3})+)([.][0-9]*)?"
PLAIN_THOUSANDS = f"^[+-]?{_THOUSANDS}$"
_SIGNED_THOUSANDS = f"^[^0-9.,]{{0,4}}{_THOUSANDS}[^0-9.,]{{0,4}}$"  # Such as `$1,234.50` and ` 51,494 EUR`.
_EITHER_MARK = r"^[+-]?[0-9]+([.,][0-9]+)?$"
_DOTTED_THOUSANDS = r"^[+-]?([0-9]+|[1-9][0-9]{0,2}([.][0-9]{3})+)(,[0-9]+)?$"
_MIN_COMMAS = 0.3  # Share of texts with a comma from which commas are read as decimal marks.
EXACT = 2.0**53  # A float64 holds every integer below it.
_EXACT_FLOAT32 = 2.0**24  # A float32 holds every integer below it.


@dataclass(frozen=True)
class Column:
    """A column of the sample.

    Args:
        name: Name of the column.
        kind: Kind of the values, by which roles are guessed.
        values: Values without nulls and without numbers that are not finite. For lists, the items.
        type: Type in the raw file.
        rows: Number of rows, including nulls.
        nulls: Number of rows without a value, or with a number that is not finite.
        distinct: Number of distinct values.
        feature: Name for a feature or task of the column, which no other column has.
        odd: True if some numbers are not finite.
        place: Number of the column in the log, from 1.
    """

    name: str
    kind: Kind
    values: pa.Array
    type: pa.DataType
    rows: int
    nulls: int
    distinct: int
    feature: str
    odd: bool
    place: int

    @classmethod
    def of(cls, name: str, column: pa.ChunkedArray, feature: str, place: int) -> Column:
        """Return the column of a table.

        Args:
            name: Name of the column.
            column: Rows of the column.
            feature: Name for a feature or task of the column.
            place: Number of the column in the log, from 1.
        """
        kind = _kind(column.type)
        if pa.types.is_decimal(column.type):
            column = _as_expressions_read(column)
        values = column.drop_null().combine_chunks()
        if kind == "text" and _has_decimal_commas(values) and not has_thousands(values):
            kind, values = "number", pc.replace_substring(values, ",", ".").cast(pa.float64())
        present = len(values)
        if kind == "list":
            values = pc.list_flatten(values).drop_null()
        elif kind == "number" and pa.types.is_floating(values.type):
            values = values.filter(pc.is_finite(values))
        odd = kind == "number" and len(values) < present
        nulls = len(column) - (len(values) if odd else present)
        distinct = pc.count_distinct(values).as_py() if kind != "other" else 0
        return cls(name, kind, values, column.type, len(column), nulls, distinct, feature, odd, place)

    @cached_property
    def words(self) -> frozenset[str]:
        """Words of the name."""
        return words_of(self.name)

    @cached_property
    def is_integer(self) -> bool:
        """True for integers, and for floats that are all whole, which pandas makes of integers with nulls."""
        if self.kind != "number" or pa.types.is_integer(self.type):
            return self.kind == "number"
        whole = pc.and_(pc.equal(pc.floor(self.values), self.values), pc.less(pc.abs(self.values), EXACT))
        return len(self.values) > 0 and bool(pc.all(whole).as_py())

    @cached_property
    def is_rounded(self) -> bool:
        """True for whole floats, some of them so large that their type does not hold every integer of that size."""
        if self.kind != "number" or not pa.types.is_floating(self.values.type) or not len(self.values):
            return False
        exact = _EXACT_FLOAT32 if pa.types.is_float32(self.values.type) else EXACT
        whole = pc.all(pc.equal(pc.floor(self.values), self.values)).as_py()
        return bool(whole) and pc.max(pc.abs(self.values)).as_py() >= exact

    @cached_property
    def structure(self) -> StructuredText | None:
        """Structure of the texts, if they are lists or JSON."""
        return structured_text(self.values) if self.kind == "text" else None

    @property
    def is_binary(self) -> bool:
        """True if all values are 0 or 1, or truth values."""
        if self.kind == "bool":
            return True
        return self.kind == "number" and 0 < self.distinct <= 2 and set(self.values.unique().to_pylist()) <= {0, 1}

    @property
    def finite(self) -> str:
        """Expression that is true if the number is finite."""
        return f"abs({self.expression}) < 3e38"

    @property
    def expression(self) -> str:
        """Expression of the value."""
        name = quoted_name(self.name)
        return f"cast(replace({name}, ',', '.') as double)" if self.has_decimal_commas else name

    @property
    def has_decimal_commas(self) -> bool:
        """True for texts that are numbers with a decimal comma."""
        return self.kind == "number" and pa.types.is_string(self.type)

    @property
    def id_expression(self) -> str:
        """Expression of the value as an id: an integer or a text."""
        whole = self.kind != "number" or pa.types.is_integer(self.type)
        return self.expression if whole else f"cast({self.expression} as int)"


def words_of(name: str) -> frozenset[str]:
    """Return the words of a name: `user` and `id` for user_id, userId and "User ID"."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
    return frozenset(re.split(r"[^a-z0-9]+", spaced))


def _kind(kind: pa.DataType) -> Kind:
    if pa.types.is_boolean(kind):
        return "bool"
    if pa.types.is_integer(kind) or pa.types.is_float32(kind) or pa.types.is_float64(kind) or pa.types.is_decimal(kind):
        return "number"
    if pa.types.is_string(kind):
        return "text"
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return "time"
    if pa.types.is_list(kind) and (pa.types.is_string(kind.value_type) or pa.types.is_integer(kind.value_type)):
        return "list"
    return "other"


def _as_expressions_read(decimals: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return decimals as integers if their type has no fraction, else as floats; unchanged if one exceeds int64."""
    if decimals.type.scale != 0:
        return decimals.cast(pa.float64())
    try:
        return decimals.cast(pa.int64())
    except pa.ArrowInvalid:
        return decimals


def has_thousands(texts: pa.Array) -> bool:
    """Return whether all texts are numbers, and three digits follow each comma in them, as for thousands.

    A number may have a sign or a unit; empty texts are ignored.
    """
    numbers = pc.match_substring_regex(texts, f"^$|{_SIGNED_THOUSANDS}")
    return bool(pc.all(numbers).as_py() and pc.any(pc.match_substring(texts, ",")).as_py())


def has_unclear_commas(texts: pa.Array) -> bool:
    """Return whether all texts are numbers, and some have commas whose meaning is unclear.

    Examples are `12,50` beside `12.50`, `1.234,50`, and `12,50` in few rows beside `12`.
    """
    if not pc.any(pc.match_substring(texts, ",")).as_py():
        return False
    return any(pc.all(pc.match_substring_regex(texts, form)).as_py() for form in (_EITHER_MARK, _DOTTED_THOUSANDS))


def _has_decimal_commas(texts: pa.Array) -> bool:
    """Return whether all texts are numbers, many of them with a comma before their decimals."""
    if not len(texts) or not pc.all(pc.match_substring_regex(texts, _DECIMAL_COMMA)).as_py():
        return False
    return bool(pc.mean(pc.match_substring(texts, ",").cast(pa.float64())).as_py() >= _MIN_COMMAS)
