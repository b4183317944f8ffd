"""Rates of a preparation: how often something happened before the day of a row, such as the like rate of a video.

Rates with the same key share one *counted table*, which prep counts from the log. For the expressions of features it is
like a side table: `by_video_id.video_like_rate`, `by_video_id.video_like_rate_count`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field, field_validator, model_validator

from ple_rec.config.base import Config, Name, NonNegativeFloat, PositiveFloat
from ple_rec.config.prep_columns import DenseSpec
from ple_rec.config.prep_inputs import Expression

DAY = "day"  # Column of a counted table: days since 1970-01-01.
_WINDOW, _DELAY = re.compile(r"all|[1-9]\d{0,4}d"), re.compile(r"\d{1,5}d")
# Expression that is a column of the log or a side table. A column `key2` might have the name of another key's column.
_COLUMN = re.compile(r"(?:\w+\.)?(?!key\d+$)([A-Za-z_]\w*)", re.ASCII | re.IGNORECASE)
_RESERVED = re.compile(rf"{DAY}|key\d+", re.ASCII | re.IGNORECASE)  # Names that columns of counted tables may have.
_MAX_TABLE_NAME = 100  # Greatest number of characters of the name of a counted table, which names a file.
_MAX_FACTOR = 1e9  # With a prior and a unit of at most this, every rate of int64 sums is a finite float32.


class RateSpec(Config):
    """Rate over rows of earlier days with the same key: (sum + prior * mean) / (count + prior).

    `count` and `sum` are of the values of `of` in the rows of the window with the same key, `mean` is the mean of all
    rows of the window. A rate becomes the dense features NAME and NAME_count; without `of`, only NAME_count.
    """

    name: Name
    key: Annotated[tuple[Expression, ...], Field(min_length=1)] = Field(
        description="columns or expressions of text or integers; rows with the same values are counted together"
    )
    of: Expression | None = Field(
        None, description="boolean or number whose mean is the rate; default: none, rows are counted alone"
    )
    window: str = Field(description='"7d": the seven days before the day of the row; "all": all days before it')
    delay: str = Field("0d", description="days right before the day of the row that it does not see either")
    prior: NonNegativeFloat = Field(
        20.0, le=_MAX_FACTOR, description="number of further rows, with the mean of all rows, that each key gets"
    )
    unit: PositiveFloat | None = Field(
        None,
        le=_MAX_FACTOR,
        description="unit in which `of` is rounded and added, e.g. 0.001; needed if it has fractions",
    )

    @field_validator("window")
    @classmethod
    def _window_is_days(cls, text: str) -> str:
        if not _WINDOW.fullmatch(text):
            raise ValueError(f'got {text!r}; write a number of days from 1 as "7d", or "all"')
        return text

    @field_validator("delay")
    @classmethod
    def _delay_is_days(cls, text: str) -> str:
        if text.startswith("-"):
            raise ValueError(f'got {text!r}; a row sees no row of its own day or a later one, so write "0d" or more')
        if not _DELAY.fullmatch(text):
            raise ValueError(f'got {text!r}; write a number of days as "0d" or "1d"')
        return text

    @model_validator(mode="after")
    def _unit_needs_values(self) -> RateSpec:
        if self.unit is not None and self.of is None:
            raise ValueError("unit belongs to `of`; drop it, or name the number that is counted")
        return self

    @property
    def window_days(self) -> int | None:
        """Number of days of the window; None for all days."""
        return None if self.window == "all" else int(self.window[:-1])

    @property
    def delay_days(self) -> int:
        """Number of days right before the day of a row that it does not see."""
        return int(self.delay[:-1])

    @property
    def count_column(self) -> str:
        """Name of the feature, and of the column of a counted table, with the count."""
        return f"{self.name}_count"

    @property
    def sum_column(self) -> str:
        """Name of the column of a counted table with the sum; a rate without `of` has none."""
        return f"{self.name}_sum"

    @property
    def stored_columns(self) -> tuple[str, ...]:
        """Columns of the counted table that belong to the rate."""
        return (self.count_column,) if self.of is None else (self.count_column, self.sum_column)

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that expressions read, and names of the features: NAME and NAME_count, or only the latter."""
        return (self.count_column,) if self.of is None else (self.name, self.count_column)

    def features(self, table: str) -> tuple[DenseSpec, ...]:
        """Return the dense features of the rate; `table` is the name of its counted table."""
        return tuple(
            DenseSpec(
                name=name,
                value=f"{table}.{name}",
                normaliser="log" if name == self.count_column else "standard",
            )
            for name in self.columns
        )


@dataclass(frozen=True)
class CountedTable:
    """Table of the counts and sums by key and day of all rates with the same key.

    Args:
        name: Name of the table, such as `by_video_id`.
        rates: Rates, by their index in the configuration.
    """

    name: str
    rates: dict[int, RateSpec]

    @property
    def key(self) -> tuple[str, ...]:
        """Expressions of the key."""
        return next(iter(self.rates.values())).key

    @property
    def key_columns(self) -> tuple[str, ...]:
        """Columns of the key: `video_id` for a key that is only this column, else `key1`, `key2` and so on."""
        matches = [_COLUMN.fullmatch(text) for text in self.key]
        names = [match[1] if match else "" for match in matches]
        columns = (column for rate in self.rates.values() for column in (*rate.stored_columns, *rate.columns))
        others = [DAY, *dict.fromkeys(columns)]
        lower = [name.lower() for name in (*names, *others)]
        return tuple(
            name if name and lower.count(name.lower()) == 1 else f"key{i}" for i, name in enumerate(names, start=1)
        )

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that expressions read, as `by_video_id.video_like_rate`."""
        return tuple(column for rate in self.rates.values() for column in rate.columns)


def table_name(key: Iterable[str]) -> str:
    """Return the name of the counted table of a key: `by_user_id_tab` for the columns `user_id` and `tab`."""
    return "by_" + re.sub(r"\W", "_", "_".join(key), flags=re.ASCII)


def counted_tables(rates: Iterable[RateSpec]) -> dict[str, CountedTable]:
    """Return the counted tables of rates by name, in the order of their first rates."""
    by_name: dict[str, dict[int, RateSpec]] = {}
    for i, rate in enumerate(rates):
        by_name.setdefault(table_name(rate.key), {})[i] = rate
    return {name: CountedTable(name, members) for name, members in by_name.items()}


def rate_problems(rates: Iterable[RateSpec], sides: Iterable[str], *, has_time: bool) -> list[str]:
    """Return the problems of the rates of a configuration.

    Args:
        rates: Rates of the configuration.
        sides: Names of the side tables.
        has_time: True if the configuration has `[time]`.
    """
    rates = list(rates)
    problems = [] if has_time or not rates else ["rates need [time], since they are counted by day; add it"]
    names = [rate.name for rate in rates]
    problems += [f"rate {name!r} is listed twice" for name in sorted({n for n in names if names.count(n) > 1})]
    problems += [
        f"rate {name!r}: columns of counted tables have such names; use another name"
        for name in names
        if _RESERVED.fullmatch(name)
    ]
    by_lower = {side.lower(): side for side in sides}
    names_of_tables: dict[str, str] = {}
    for name, table in counted_tables(rates).items():
        if len(name) > _MAX_TABLE_NAME:
            problems.append(
                f"rates by [{', '.join(table.key)}]: the name of their table is {len(name)} characters long, at most "
                f"{_MAX_TABLE_NAME} are possible; write the expression into [derived], and the name of the derived "
                "column into `key`"
            )
        if (other_name := names_of_tables.setdefault(name.lower(), name)) != name:
            problems.append(
                f"the tables of rates {other_name} and {name} differ only in case; write the same key in the same way"
            )
        if name.lower() in by_lower:
            problems.append(
                f"sides.{by_lower[name.lower()]}: the table of the rates by {', '.join(table.key)} has this name; use "
                "another name for the side table"
            )
        if other := next((rate for rate in table.rates.values() if rate.key != table.key), None):
            problems.append(
                f"rates by [{', '.join(table.key)}] and by [{', '.join(other.key)}] would share the table {name}; give "
                "one key another name by a derived column"
            )
    return problems
