"""`SideTableInfo`: description of a side table that a server reads, the file `table.json` of a version of the table."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import Field

from ple_rec.config.base import Config, Name, Number
from ple_rec.config.prep_histories import HistorySpec
from ple_rec.config.prep_rates import RateSpec
from ple_rec.config.raw_form import RawType

INFO_FILE = "table.json"
TABLE_FILE = "table.parquet"


class SideValues(Config):
    """Description of the values of a side table, without their number and types.

    Args:
        latest_day: Newest day of a dated side table, YYYY-MM-DD; None if the table is not dated or has no rows.
        as_of: Local day, YYYY-MM-DD. The rates of a counted table are those that rows of this day have; the events of a
            history are before this day. None for any other table.
        utc_offset: Local time minus UTC, such as +08:00, of the day `as_of`.
        defaults: Values for keys that the table lacks, by column; the other columns are missing.
        rates: Rates of a counted table; empty for any other table.
        history: History whose events the table has; None for any other table.
    """

    latest_day: str | None = None
    as_of: str | None = None
    utc_offset: str = "+00:00"
    defaults: dict[str, Number] = Field({})
    rates: tuple[RateSpec, ...] = ()
    history: HistorySpec | None = None


class SideTableInfo(SideValues):
    """Content of `table.json`.

    Args:
        name: Name of the side table.
        key_columns: Names of the key columns.
        columns: Types of all columns by name, those of the keys included.
        rows: Number of rows, which have different keys.
        bytes: Number of bytes of the columns in memory.
    """

    name: Name
    key_columns: Annotated[tuple[str, ...], Field(min_length=1)]
    columns: dict[str, RawType]
    rows: int
    bytes: int

    def age_days(self, now: float) -> int | None:
        """Return the number of days that have passed since the day `as_of`; None without such a day.

        Args:
            now: Time in seconds since 1970-01-01 00:00 UTC.
        """
        if self.as_of is None:
            return None
        begin = datetime.fromisoformat(f"{self.as_of}T00:00:00{self.utc_offset}")
        return int((now - begin.timestamp()) // 86_400)
