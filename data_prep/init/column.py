"""A column of a log of which nothing is known yet: its values, its expression, and the name of its feature."""

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

_LONGEST = 60  # characters; a table's name is part of a file's name
_OF_PREP = ("group", "log_day", "sample_weight")  # columns that prep writes itself


class Names:
    """The names of a dataset, which differ by more than their case."""

    def __init__(self) -> None:
        self._taken: set[str] = set(_OF_PREP)

    def __contains__(self, name: str) -> bool:
        """Return whether a name, or one that prep makes of it, is taken."""
        return not self._taken.isdisjoint(_forms(name))

    def add(self, column: str, place: int) -> str:
        """Return a new name for a column.

        Args:
            column: Name of the column.
            place: Number of the column among those that are read; it names one without an ASCII letter or digit.
        """
        plain = unicodedata.normalize("NFKD", column).encode("ascii", "ignore").decode()
        first = "_".join(re.findall(r"[A-Za-z0-9]+", plain)) or f"column_{place}"
        first = (f"_{first}" if first[0].isdigit() else first)[:_LONGEST].rstrip("_")
        name, number = first, 1
        while name in self:
            number += 1
            name = f"{first}_{number}"
        self._taken |= _forms(name)
        return name


def _forms(name: str) -> set[str]:
    """Return a name as engines compare it, and the names of the columns that prep makes for a task of that name."""
    lower = name.lower()
    return {lower, f"label_{lower}", f"space_{lower}"}


Kind = Literal["number", "text", "bool", "time", "list", "other"]

_DECIMAL_COMMA = r"^[+-]?[0-9]+(,[0-9]+)?$"
_THOUSANDS = r"^[+-]?([0-9]+|[1-9][0-9]{0,2}(,[0-9]{3})+)([.][0-9]*)?$"
_EITHER_MARK = r"^[+-]?[0-9]+([.,][0-9]+)?$"
_DOTTED_THOUSANDS = r"^[+-]?([0-9]+|[1-9][0-9]{0,2}([.][0-9]{3})+)(,[0-9]+)?$"
_WITH_COMMA = 0.3  # least share of texts with a comma where they are numbers with a decimal comma
EXACT = 2.0**53  # floats below it hold every integer
_EXACT_FLOAT32 = 2.0**24  # Floats of 32 bits below it hold every integer.


@dataclass(frozen=True)
class Column:
    """A column of the sample.

    Args:
        name: Its name.
        kind: Kind of its values, by which roles are guessed.
        values: Its values that are there, numbers finite; of lists the items.
        type: Its type.
        rows: Number of rows, nulls among them.
        nulls: Number of rows without a value, or with a number that is not finite.
        distinct: Number of values.
        feature: Name of a feature or a task of it; no other column has it.
        odd: True where some numbers are not finite.
        place: Number of the column among those that are read.
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
            name: Its name.
            column: The column.
            feature: Name of a feature or a task of it.
            place: Its number among the columns that are read.
        """
        values = column.drop_null().combine_chunks()
        if pa.types.is_decimal(values.type):
            values = values.cast(pa.float64())  # Expressions read decimals so.
        kind = _kind(column.type)
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
        """True for integers, and for floats that are all whole, as pandas makes them of integers with gaps."""
        if self.kind != "number" or pa.types.is_integer(self.type):
            return self.kind == "number"
        whole = pc.and_(pc.equal(pc.floor(self.values), self.values), pc.less(pc.abs(self.values), EXACT))
        return len(self.values) > 0 and bool(pc.all(whole).as_py())

    @cached_property
    def is_rounded(self) -> bool:
        """True for floats that are all whole, some of them so large that their type has not every integer there."""
        if self.kind != "number" or not pa.types.is_floating(self.values.type) or not len(self.values):
            return False
        exact = _EXACT_FLOAT32 if pa.types.is_float32(self.values.type) else EXACT
        whole = pc.all(pc.equal(pc.floor(self.values), self.values)).as_py()
        return bool(whole) and pc.max(pc.abs(self.values)).as_py() >= exact

    @cached_property
    def structure(self) -> StructuredText | None:
        """Lists or JSON that stand in the texts."""
        return structured_text(self.values) if self.kind == "text" else None

    @property
    def is_binary(self) -> bool:
        """True where all values are 0 or 1, or truth values."""
        if self.kind == "bool":
            return True
        return self.kind == "number" and 0 < self.distinct <= 2 and set(self.values.unique().to_pylist()) <= {0, 1}

    @property
    def finite(self) -> str:
        """The condition that the number is finite."""
        return f"abs({self.expression}) < 3e38"

    @property
    def expression(self) -> str:
        """The expression of its value."""
        name = quoted_name(self.name)
        return f"cast(replace({name}, ',', '.') as double)" if self.has_decimal_commas else name

    @property
    def has_decimal_commas(self) -> bool:
        """True for numbers that stand in texts."""
        return self.kind == "number" and pa.types.is_string(self.type)

    @property
    def id_expression(self) -> str:
        """The expression of its value as an id, an integer or a text."""
        whole = self.kind != "number" or pa.types.is_integer(self.type)
        return self.expression if whole else f"cast({self.expression} as int)"


def words_of(name: str) -> frozenset[str]:
    """Return the words of a name: of user_id, userId and "User ID" they are user and id."""
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


def has_thousands(texts: pa.Array) -> bool:
    """Return whether all texts are numbers, and each comma in them has three digits behind it, as between thousands."""
    numbers = pc.match_substring_regex(texts, _THOUSANDS)
    return bool(pc.all(numbers).as_py() and pc.any(pc.match_substring(texts, ",")).as_py())


def has_unclear_commas(texts: pa.Array) -> bool:
    """Return whether all texts are numbers, some of them with commas that have another meaning than dots.

    Such as `12,50` beside `12.50`, `1.234,50`, and `12,50` in few rows beside `12`.
    """
    if not pc.any(pc.match_substring(texts, ",")).as_py():
        return False
    return any(pc.all(pc.match_substring_regex(texts, form)).as_py() for form in (_EITHER_MARK, _DOTTED_THOUSANDS))


def _has_decimal_commas(texts: pa.Array) -> bool:
    """Return whether all texts are numbers, many of them with a comma before their decimals."""
    if not len(texts) or not pc.all(pc.match_substring_regex(texts, _DECIMAL_COMMA)).as_py():
        return False
    return bool(pc.mean(pc.match_substring(texts, ",").cast(pa.float64())).as_py() >= _WITH_COMMA)
