"""What a preparation reads: the files of the log and of side tables, and when a row happened."""

from __future__ import annotations

import re
from datetime import date
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from ple_rec.config.base import Config

Expression = Annotated[str, Field(min_length=1)]
Format = Literal["parquet", "csv"]  # of raw files
ColumnType = Literal["int32", "int64", "float", "double", "string", "bool", "date", "timestamp", "timestamptz"]

_FIRST_DAY = "1970-01-02"
_OFFSET = re.compile(r"([+-])(\d\d):(\d\d)")


class CsvConfig(Config):
    """How CSV files read; `.gz` ones are unpacked on the way."""

    delimiter: Annotated[str, Field(min_length=1, max_length=1)] = Field(",", description="one character")
    header: bool = Field(True, description="whether the first line of every file names the columns")
    columns: tuple[str, ...] = Field((), description="names of the columns, where no line names them")
    nulls: tuple[str, ...] = Field(("",), description="cells that stand for a missing value")
    types: dict[str, ColumnType] = Field(
        {},
        description="type of a column by name; the others are what the first 16 MiB of the first file look like; "
        "timestamp: YYYY-MM-DD HH:MM:SS, timestamptz: the same with an offset",
    )

    @field_validator("delimiter")
    @classmethod
    def _cuts_cells(cls, text: str) -> str:
        if not text.isascii() or text in '"\r\n\0':
            raise ValueError("a delimiter is an ASCII character, no quote and no line end")
        return text

    @model_validator(mode="after")
    def _names_once(self) -> CsvConfig:
        if self.header == bool(self.columns):
            raise ValueError("give `columns` where header = false, and only there")
        return self


class FilesConfig(Config):
    """Files of one table, of one format and one schema."""

    files: Annotated[tuple[str, ...], Field(min_length=1)] = Field(
        description="paths, folders or globs below --from, or s3://bucket/key; folders named key=value become columns"
    )
    format: Format | None = Field(None, description="default: what the names end in")
    csv: CsvConfig = CsvConfig()


class LogConfig(FilesConfig):
    """The log: one row for each impression."""

    where: Expression | None = Field(None, description="rows to take, by columns of the log alone; default: all")


class SideConfig(FilesConfig):
    """A table that is joined to the log, such as the features of users. Its columns are read as `side.column`."""

    on: Annotated[dict[str, Expression], Field(min_length=1)] = Field(
        description="key columns of the side table, each with the expression of the log that it must equal"
    )
    day: Expression | None = Field(
        None,
        description="column of the side table that dates its rows (a local date, text YYYY-MM-DD, or YYYYMMDD); then a "
        "log row meets the latest row of its key that is not after the log row's day",
    )
    keep: Literal["first", "last"] | None = Field(
        None,
        description="which of several rows of a key (where dated, of a key and day) counts, in the order of the files' "
        "names and their rows; default: they are refused",
    )


class TimeConfig(Config):
    """When a row happened."""

    value: Expression = Field(description="column or expression")
    unit: Literal["s", "ms", "us", "ns", "timestamp", "date"] = Field(
        description="s to ns: integers since 1970-01-01 UTC; timestamp: one of Parquet, or ISO text in CSV, UTC where "
        "it carries no offset; date: a local date, text that begins with YYYY-MM-DD, or the integer YYYYMMDD"
    )
    utc_offset: str = Field("+00:00", description="local time, which cuts the days, minus UTC, e.g. +08:00")
    earliest: str = Field("2000-01-01", description="no row is before this day, or the unit is taken to be wrong")
    latest: str = Field("2099-12-31", description="no row is after this day")

    @field_validator("utc_offset")
    @classmethod
    def _offset(cls, text: str) -> str:
        found = _OFFSET.fullmatch(text)
        if found is None or int(found[2]) > 14 or int(found[3]) > 59:
            raise ValueError(
                f"got {text!r}; an offset reads +HH:MM or -HH:MM, at most 14 hours; of a zone with daylight saving "
                'write the local date as a column, and set unit = "date"'
            )
        return text

    @field_validator("earliest", "latest")
    @classmethod
    def _date(cls, text: str) -> str:
        if iso_date(text) < _FIRST_DAY:
            raise ValueError(f"got {text!r}; days are counted from 1970, so it is {_FIRST_DAY} or later")
        return iso_date(text)

    @model_validator(mode="after")
    def _a_date_has_no_offset(self) -> TimeConfig:
        if self.unit == "date" and self.offset_seconds:
            raise ValueError('utc_offset with unit = "date"; a date is local already, so drop it')
        return self

    @property
    def offset_seconds(self) -> int:
        """Local time minus UTC, in seconds."""
        found = _OFFSET.fullmatch(self.utc_offset)
        assert found is not None
        seconds = int(found[2]) * 3600 + int(found[3]) * 60
        return -seconds if found[1] == "-" else seconds


def iso_date(text: str) -> str:
    """A day as YYYY-MM-DD.

    Raises:
        ValueError: `text` is no such day.
    """
    try:
        return date.fromisoformat(text).isoformat()
    except ValueError:
        raise ValueError(f"got {text!r}; a day reads YYYY-MM-DD") from None
