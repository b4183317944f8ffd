"""`SideTableInfo`: description of a side table that a server reads, the file `table.json` of a version of the table."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from ple_rec.config.base import Config, Name
from ple_rec.config.raw_form import RawType

INFO_FILE = "table.json"
TABLE_FILE = "table.parquet"


class SideTableInfo(Config):
    """Content of `table.json`.

    Args:
        name: Name of the side table.
        key_columns: Names of the key columns.
        columns: Types of all columns by name, those of the keys included.
        rows: Number of rows, which have different keys.
        latest_day: Newest day of a dated side table, YYYY-MM-DD; None if the table is not dated or has no rows.
        bytes: Number of bytes of the columns in memory.
    """

    name: Name
    key_columns: Annotated[tuple[str, ...], Field(min_length=1)]
    columns: dict[str, RawType]
    rows: int
    latest_day: str | None = None
    bytes: int
