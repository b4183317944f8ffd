"""Inputs of a preparation: files of the log, tables that are joined to it (side tables), and the time of a row."""

from __future__ import annotations

import re
from datetime import date
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from ple_rec.config.base import Config

# SQL-like expression over the columns of a row, which `data_prep.expressions` parses.
Expression = Annotated[str, Field(min_length=1)]
Format = Literal["parquet", "csv"]
ColumnType = Literal["int32", "int64", "float", "double", "string", "bool", "date", "timestamp", "timestamptz"]

# Smallest date that `earliest` and `latest` may be: the first local day that begins after 1970-01-01 00:00 UTC at every
# offset, so that no time is negative.
_FIRST_DAY = "1970-01-02"
_OFFSET = re.compile(r"([+-])(\d\d):(\d\d)")


class CsvConfig(Config):
    """Format of CSV files; `.gz` files are decompressed while they are read."""

    delimiter: Annotated[str, Field(min_length=1, max_length=1)] = Field(",", description="character between cells")
    header: bool = Field(True, description="true if the first line of every file names the columns")
    columns: tuple[str, ...] = Field((), description="names of the columns, if header = false")
    nulls: tuple[str, ...] = Field(("",), description="cells that stand for a missing value")
    types: dict[str, ColumnType] = Field(
        {},
        description="types of columns, by name; other types are guessed from the first 16 MiB of the first file; "
        "timestamp: YYYY-MM-DD HH:MM:SS, timestamptz: timestamp with an offset",
    )

    @field_validator("delimiter")
    @classmethod
    def _delimiter_is_ascii(cls, text: str) -> str:
        if not text.isascii() or text in '"\r\n\0':
            raise ValueError("a delimiter is an ASCII character, no quote and no line end")
        return text

    @model_validator(mode="after")
    def _columns_replace_header(self) -> CsvConfig:
        if self.header == bool(self.columns):
            raise ValueError("give `columns` where header = false, and only there")
        return self


class FilesConfig(Config):
    """Files of one table, which have the same format and schema."""

    files: Annotated[tuple[str, ...], Field(min_length=1)] = Field(
        description="paths, folders or globs below --from, or s3://bucket/key; folders named key=value become columns"
    )
    format: Format | None = Field(None, description="format of the files; default: by the ends of their names")
    csv: CsvConfig = CsvConfig()


class LogConfig(FilesConfig):
    """Log with one row for each impression."""

    where: Expression | None = Field(
        None, description="condition of the rows to read, on columns of the log alone; default: all rows"
    )


class SideConfig(FilesConfig):
    """Side table: a table that is joined to the log, such as features of users."""

    on: Annotated[dict[str, Expression], Field(min_length=1)] = Field(
        description="join condition: for each key column of this table, the expression of the log that it must equal"
    )
    day: Expression | None = Field(
        None,
        description="column with the date of a row of this table (a local date, text that begins with YYYY-MM-DD, or "
        "YYYYMMDD); a log row is then joined with the latest row of the same key whose date is not after the log "
        "row's day",
    )
    keep: Literal["first", "last"] | None = Field(
        None,
        description="row that is kept if several have the same key (and day, if `day` is set), in the order of the "
        "files' names and of their rows; default: such rows are an error",
    )


class TimeConfig(Config):
    """Time of a row."""

    value: Expression = Field(description="column or expression of the time")
    unit: Literal["s", "ms", "us", "ns", "timestamp", "date"] = Field(
        description="s to ns: integers since 1970-01-01 UTC; timestamp: a timestamp of Parquet, or ISO text in CSV, "
        "UTC unless it has an offset; date: a local date, text that begins with YYYY-MM-DD, or the integer YYYYMMDD",
    )
    utc_offset: str = Field("+00:00", description="local time minus UTC, e.g. +08:00; days begin at local midnight")
    earliest: str = Field(
        "2000-01-01", description="earliest day of a row; an earlier one is an error, since it means a wrong unit"
    )
    latest: str = Field(
        "2099-12-31", description="latest day of a row; a later one is an error, since it means a wrong unit"
    )

    @field_validator("utc_offset")
    @classmethod
    def _offset(cls, text: str) -> str:
        match = _OFFSET.fullmatch(text)
        if match is None or int(match[2]) > 14 or int(match[3]) > 59:
            raise ValueError(
                f"got {text!r}; write an offset as +HH:MM or -HH:MM, less than 15 hours; for a zone with daylight "
                'saving, write the local date as a column, and set unit = "date"'
            )
        return text

    @field_validator("earliest", "latest")
    @classmethod
    def _date(cls, text: str) -> str:
        if iso_date(text) < _FIRST_DAY:
            raise ValueError(f"got {text!r}; a day is {_FIRST_DAY} or later, so that no time is before 1970 in UTC")
        return iso_date(text)

    @model_validator(mode="after")
    def _a_date_has_no_offset(self) -> TimeConfig:
        if self.unit == "date" and self.offset_seconds:
            raise ValueError('utc_offset with unit = "date"; a date is local already, so drop it')
        return self

    @property
    def offset_seconds(self) -> int:
        """Local time minus UTC, in seconds."""
        match = _OFFSET.fullmatch(self.utc_offset)
        assert match is not None  # The validator `_offset` has matched it.
        seconds = int(match[2]) * 3600 + int(match[3]) * 60
        return -seconds if match[1] == "-" else seconds


def iso_date(text: str) -> str:
    """Return a date, in any form of ISO 8601 that Python reads, as YYYY-MM-DD.

    Raises:
        ValueError: The text is not a date in such a form.
    """
    try:
        return date.fromisoformat(text).isoformat()
    except ValueError:
        raise ValueError(f"got {text!r}; write a day as YYYY-MM-DD") from None
