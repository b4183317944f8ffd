"""Column of a sample of an unknown log, for `ple-rec init`: values, expression, and a name for the column's feature."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

from data_prep.init.json_fields import own_name, source_expression
from data_prep.sources.list_texts import StructuredText, structured_text

_MAX_CHARACTERS = 60  # Of a name without a suffix such as `_2`; the name of a table is part of a file name.
_PREP_COLUMNS = ("group", "subgroup", "log_day", "sample_weight")  # Columns that prep adds to a dataset.


class Names:
    """Names of features, tasks and columns of a dataset that are taken; `add` makes a new one. Case is ignored."""

    def __init__(self) -> None:
        self._names: set[str] = set(_PREP_COLUMNS)

    def __contains__(self, name: str) -> bool:
        """Return whether a name, or the name of a column that prep would make for a task of this name, is taken."""
        return not self._names.isdisjoint(_reserved_names(name))

    def add(self, column: str, column_number: int) -> str:
        """Make a name for a column from its own name, and return it.

        Args:
            column: Name of the column in the log.
            column_number: Number of the column in the log, from 1. It names a column whose own name has no ASCII letter
                or digit.
        """
        plain = unicodedata.normalize("NFKD", column).encode("ascii", "ignore").decode()
        first = "_".join(re.findall(r"[A-Za-z0-9]+", plain)) or f"column_{column_number}"
        first = (f"_{first}" if first[0].isdigit() else first)[:_MAX_CHARACTERS].rstrip("_")
        name, number = first, 1
        while name in self:
            number += 1
            name = f"{first}_{number}"
        self._names |= _reserved_names(name)
        return name


def _reserved_names(name: str) -> set[str]:
    """Return a name in lower case, and the names of the columns that prep would make for a task of that name."""
    lower = name.lower()
    return {lower, f"label_{lower}", f"space_{lower}"}


Kind = Literal["number", "text", "bool", "time", "list", "other"]

_DECIMAL_COMMA = r"^[+-]?[0-9]+(,[0-9]+)?$"  # Such as `12` and `12,50`.
_THOUSANDS = r"([0-9]+|[1-9][0-9]{0,2}(,[0-9]{3})+)([.][0-9]*)?"
PLAIN_THOUSANDS = f"^[+-]?{_THOUSANDS}$"  # Such as `12` and `1,234.50`.
_THOUSANDS_WITH_UNIT = f"^[^0-9.,]{{0,4}}{_THOUSANDS}[^0-9.,]{{0,4}}$"  # Such as `$1,234.50` and ` 51,494 EUR`.
_EITHER_MARK = r"^[+-]?[0-9]+([.,][0-9]+)?$"  # Such as `12,50` and `12.50`.
_DOTTED_THOUSANDS = r"^[+-]?([0-9]+|[1-9][0-9]{0,2}([.][0-9]{3})+)(,[0-9]+)?$"  # Such as `1.234,50`.
_MIN_COMMAS = 0.3  # If at least this share of a column's texts has a comma, commas are read as decimal marks.
EXACT_FLOAT64 = 2.0**53  # A float64 holds every integer below it.
_EXACT_FLOAT32 = 2.0**24  # A float32 holds every integer below it.


@dataclass(frozen=True)
class Column:
    """Column of the sample of a log.

    Args:
        name: Name of the column.
        kind: Kind of the values, by which roles are guessed.
        values: Values without nulls, NaN and infinities; for lists, all their items; for texts with decimal commas, the
            numbers.
        type: Type in the raw file; for decimals, their type after `_decimals_to_numbers`.
        rows: Number of rows, including nulls.
        nulls: Number of rows whose value is null, NaN or infinite.
        distinct: Number of distinct values, for lists of distinct items; 0 if `kind` is "other".
        feature: Name for the feature or task of the column; no other column has it.
        has_non_finite: True if some numbers are NaN or infinite.
        number: Number of the column in the log, from 1.
        source: Expression of prep.toml that reads the column: its quoted name, or a call of `json` for a JSON field.
        own_name: Name whose words decide the role: the column's name, or the path of a JSON field, such as `net.mbps`.
    """

    name: str
    kind: Kind
    values: pa.Array
    type: pa.DataType
    rows: int
    nulls: int
    distinct: int
    feature: str
    has_non_finite: bool
    number: int
    source: str
    own_name: str

    @classmethod
    def from_rows(cls, field: pa.Field, column: pa.ChunkedArray, feature: str, number: int) -> Column:
        """Create the description of a column from its rows.

        Args:
            field: Name of the column, with the metadata of a JSON field (`json_fields.py`).
            column: Rows of the column.
            feature: Name for a feature or task of the column.
            number: Number of the column in the log, from 1.
        """
        kind = _kind(column.type)
        if pa.types.is_decimal(column.type):
            column = _decimals_to_numbers(column)
        values = column.drop_null().combine_chunks()
        if kind == "text" and _has_decimal_commas(values) and not has_thousands(values):
            kind, values = "number", pc.replace_substring(values, ",", ".").cast(pa.float64())
        present = len(values)
        if kind == "list":
            values = pc.list_flatten(values).drop_null()
        elif kind == "number" and pa.types.is_floating(values.type):
            values = values.filter(pc.is_finite(values))
        has_non_finite = kind == "number" and len(values) < present
        nulls = len(column) - (len(values) if has_non_finite else present)
        distinct = pc.count_distinct(values).as_py() if kind != "other" else 0
        return cls(
            field.name,
            kind,
            values,
            column.type,
            len(column),
            nulls,
            distinct,
            feature,
            has_non_finite,
            number,
            source_expression(field),
            own_name(field),
        )

    @cached_property
    def words(self) -> frozenset[str]:
        """Words of the name."""
        return split_words(self.own_name)

    @cached_property
    def last_words(self) -> frozenset[str]:
        """Words of the last name in the path of a JSON field; for other columns, the words of the name."""
        return split_words(self.own_name.rpartition(".")[2]) if self.own_name != self.name else self.words

    @cached_property
    def is_integer(self) -> bool:
        """True for integers, and for whole floats below 2^53, which pandas makes of integers with nulls."""
        if self.kind != "number" or pa.types.is_integer(self.type):
            return self.kind == "number"
        whole = pc.and_(pc.equal(pc.floor(self.values), self.values), pc.less(pc.abs(self.values), EXACT_FLOAT64))
        return len(self.values) > 0 and bool(pc.all(whole).as_py())

    @cached_property
    def may_be_rounded(self) -> bool:
        """True for whole floats, some of which may be integers that have lost their last digits.

        These are at least 2^24 in float32, or 2^53 in float64.
        """
        if self.kind != "number" or not pa.types.is_floating(self.values.type) or not len(self.values):
            return False
        exact = _EXACT_FLOAT32 if pa.types.is_float32(self.values.type) else EXACT_FLOAT64
        whole = pc.all(pc.equal(pc.floor(self.values), self.values)).as_py()
        return bool(whole) and pc.max(pc.abs(self.values)).as_py() >= exact

    @cached_property
    def structure(self) -> StructuredText | None:
        """Structure of the texts if they are lists or JSON; None for other values."""
        return structured_text(self.values) if self.kind == "text" else None

    @property
    def is_binary(self) -> bool:
        """True if all values are 0 or 1, or truth values."""
        if self.kind == "bool":
            return True
        return self.kind == "number" and 0 < self.distinct <= 2 and set(self.values.unique().to_pylist()) <= {0, 1}

    @property
    def finite_condition(self) -> str:
        """Expression of prep.toml that is true if the number is finite in float32, as which prep stores it."""
        return f"abs({self.expression}) < 3e38"

    @property
    def expression(self) -> str:
        """Expression of prep.toml for the value."""
        return f"cast(replace({self.source}, ',', '.') as double)" if self.has_decimal_commas else self.source

    @property
    def has_decimal_commas(self) -> bool:
        """True for texts that are numbers with a decimal comma."""
        return self.kind == "number" and pa.types.is_string(self.type)

    @property
    def id_expression(self) -> str:
        """Expression of prep.toml for the value as an id, which is an integer or a text."""
        whole = self.kind != "number" or pa.types.is_integer(self.type)
        return self.expression if whole else f"cast({self.expression} as int)"


def split_words(name: str) -> frozenset[str]:
    """Return the words of a name: `user` and `id` for user_id, userId and "User ID"."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
    return frozenset(re.split(r"[^a-z0-9]+", spaced))


def _kind(type_: pa.DataType) -> Kind:
    if pa.types.is_boolean(type_):
        return "bool"
    if (
        pa.types.is_integer(type_)
        or pa.types.is_float32(type_)
        or pa.types.is_float64(type_)
        or pa.types.is_decimal(type_)
    ):
        return "number"
    if pa.types.is_string(type_):
        return "text"
    if pa.types.is_timestamp(type_) or pa.types.is_date(type_):
        return "time"
    if pa.types.is_list(type_) and (pa.types.is_string(type_.value_type) or pa.types.is_integer(type_.value_type)):
        return "list"
    return "other"


def _decimals_to_numbers(decimals: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return decimals as expressions of prep.toml read them: integers if their scale is 0, else floats.

    Decimals of scale 0 that exceed int64 are returned unchanged.
    """
    if decimals.type.scale != 0:
        return decimals.cast(pa.float64())
    try:
        return decimals.cast(pa.int64())
    except pa.ArrowInvalid:
        return decimals


def has_thousands(texts: pa.Array) -> bool:
    """Return whether all texts are numbers, some have commas, and three digits follow each comma, as for thousands.

    A number may have a sign or a unit; empty texts are ignored.
    """
    numbers = pc.match_substring_regex(texts, f"^$|{_THOUSANDS_WITH_UNIT}")
    return bool(pc.all(numbers).as_py() and pc.any(pc.match_substring(texts, ",")).as_py())


def has_unclear_commas(texts: pa.Array) -> bool:
    """Return whether all texts are numbers, and some have commas whose meaning is unclear.

    The texts are those of a column that `Column.from_rows` has not read as numbers with decimal commas. Examples are
    `12,50` beside `12.50`, `1.234,50`, and `12,50` in few rows beside `12`.
    """
    if not pc.any(pc.match_substring(texts, ",")).as_py():
        return False
    return any(pc.all(pc.match_substring_regex(texts, form)).as_py() for form in (_EITHER_MARK, _DOTTED_THOUSANDS))


def _has_decimal_commas(texts: pa.Array) -> bool:
    """Return whether all texts are numbers, at least 30 % of them with a comma before their decimals."""
    if not len(texts) or not pc.all(pc.match_substring_regex(texts, _DECIMAL_COMMA)).as_py():
        return False
    return bool(pc.mean(pc.match_substring(texts, ",").cast(pa.float64())).as_py() >= _MIN_COMMAS)
