"""`RawForm`: how an exported model computes its features from raw columns, the file `raw.json` of a version.

A request in the raw form has the columns of the log and of its side tables, not the features that the expressions of
`prep.toml` compute from them. `data_prep.inputs.raw_form` writes the file at an export, as queries in DuckDB's SQL; the
server runs them (`ple_rec.inference.raw_request`), so it needs neither `prep.toml` nor an expression parser.

A type of a column is `int64`, `float`, `double`, `string`, `bool`, `date`, `timestamp`, `timestamptz`,
`decimal(precision, scale)` or `list<type>`. A timestamp is in UTC and has microseconds; `timestamptz` is written with
an offset.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Any, Literal

from pydantic import Field

from ple_rec.config.base import Config, Name, NonNegativeInt, PositiveInt
from ple_rec.config.prep_histories import HistorySpec
from ple_rec.config.prep_rates import RateSpec

RAW_FILE = "raw.json"
ROWS = "rows"  # Name of the table that a query reads.
POSITION = "__position"  # Integer column of that table with the number of a row, from 0.
EVENT_KEY, EVENT_TIME = "key", "time"  # Columns of events, and of the query of a history.
REASON = "__reason"  # Integer column of a result: number of the first rule that a row breaks, from 1; 0 for none.
BASE_TYPES = ("int64", "float", "double", "string", "bool", "date", "timestamp", "timestamptz")
_BASE = rf"({'|'.join(BASE_TYPES)}|decimal\(\d+, \d+\))"
RawType = Annotated[str, Field(pattern=rf"^({_BASE}|list<{_BASE}>)$")]


class RawColumn(Config):
    """Column of the log, or of a side table as `table.column`.

    Args:
        name: Name by which requests give the column.
        type: Type of a value.
        of: Owner: "user" if a feature of the user, or the key of a side table of the user, reads the column; else
            "item".
        features: Names of the features that read it; none for a column that only keys of side tables read.
        required: True if a row without a value is refused, as one without a time is.
    """

    name: str
    type: RawType
    of: Literal["user", "item"]
    features: tuple[str, ...]
    required: bool = False


class RawRule(Config):
    """Rule that every row must obey.

    Args:
        text: Text of the rule for messages.
        columns: Names of the raw columns that it reads.
    """

    text: str
    columns: tuple[str, ...]


class RawQuery(Config):
    """Query of the features of one owner.

    Args:
        sql: SELECT statement of DuckDB over the table `rows`. The result has the columns `raw__<feature>` and
            `weights__<feature>` of sparse features, the dense features and vectors by name, and `REASON`.
        columns: Names of the raw columns that it reads; the table also has `POSITION`.
        rules: Rules in the order of their numbers in `REASON`.
    """

    sql: str
    columns: tuple[str, ...]
    rules: tuple[RawRule, ...] = ()


class RawSide(Config):
    """Side table whose columns a request may leave to the server, which looks them up by keys.

    Args:
        name: Name of the side table.
        keys: SELECT statement of DuckDB over the table `rows`, with one column `key0`, `key1`, ... for each key column.
        key_columns: Key columns of the side table, in that order.
        reads: Names of the raw columns that the statement reads; some may be columns of other side tables.
        columns: Columns of the side table that features or keys of other side tables read, without its name.
        rates: Rates of the table if prep has counted it; empty for any other table.
        history: History whose events the table has; None for any other table. Such a table has no `columns` that
            requests may have; `RawHistory` reads it.
    """

    name: Name
    keys: str
    key_columns: tuple[str, ...]
    reads: tuple[str, ...]
    columns: tuple[str, ...]
    rates: tuple[RateSpec, ...] = ()
    history: HistorySpec | None = Field(None, exclude_if=lambda history: history is None)

    @property
    def is_from_dataset(self) -> bool:
        """True if the table is read from a dataset instead of raw files."""
        return bool(self.rates) or self.history is not None


class RawHistory(Config):
    """History that a request may leave to the server, which looks up the events of its key.

    Times are counted in units: those of `time.unit` of `prep.toml`, seconds for timestamps, days for dates.

    Args:
        name: Name of the history, and of the side table with its events.
        of: Owner of the history.
        query: Query of the columns `EVENT_KEY` and `EVENT_TIME`, key and time of each row.
        delay: Number of units right before a row whose events it does not see.
        units_per_second: Number of units in a second; 1 for dates.
        seconds_per_unit: Number of seconds in a unit; 1 for units that are no longer than a second.
    """

    name: Name
    of: Literal["user", "item"]
    query: RawQuery
    delay: NonNegativeInt
    units_per_second: PositiveInt = 1
    seconds_per_unit: PositiveInt = 1

    def seconds(self, units: Any) -> Any:
        """Return whole seconds from a number of units since 1970, or from an array of them."""
        return units // self.units_per_second * self.seconds_per_unit


class RawForm(Config):
    """Content of `raw.json`.

    Args:
        columns: Raw columns of requests.
        user: Query of the user's features; None if there are none.
        item: Query of the items' features; None if there are none.
        sides: Side tables whose columns features read, and those with the events of histories.
        histories: Histories of the model.
    """

    columns: tuple[RawColumn, ...]
    user: RawQuery | None = None
    item: RawQuery | None = None
    sides: tuple[RawSide, ...] = ()
    histories: tuple[RawHistory, ...] = Field((), exclude_if=lambda histories: not histories)

    def describe(self, keys: Collection[str] = ()) -> dict[str, list[dict[str, Any]]]:
        """Return descriptions of the raw columns that features read, `{"user": [...], "items": [...]}`, for JSON.

        Args:
            keys: Names of further columns, which only the keys of side tables read.
        """
        return {
            key: [
                column.model_dump(mode="json", exclude={"of"})
                for column in self.columns
                if column.of == owner and (column.features or column.name in keys)
            ]
            + [
                {"name": history.name, "type": "events", "features": [history.name], "required": False}
                for history in self.histories
                if history.of == owner
            ]
            for key, owner in (("user", "user"), ("items", "item"))
        }
