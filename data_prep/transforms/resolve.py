"""Parsing of the expressions of a configuration of data preparation, and errors that name the column at fault.

`resolve` parses all expressions and finds out which columns of the log and of the side tables they read. A side table
is a table of users or items that is joined to the log. `words.py` explains keys and words.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Literal, NamedTuple

import ibis.expr.types as ir
import pyarrow as pa
import pyarrow.types as pt

from data_prep.expressions import Expression
from data_prep.expressions.decimals import MAX_EXPONENT
from data_prep.expressions.kinds import kind_of
from data_prep.expressions.source import kind_fix
from data_prep.sources.columns import ColumnUse
from data_prep.sources.files import RawTable
from data_prep.sources.table import ColumnPurpose, shown_value
from data_prep.transforms.words import ROW_TIME, TIME_WORDS, is_join_key, locate_word, other_name_fix, parse_expressions
from ple_rec.config.prep import PrepConfig
from ple_rec.config.problems import ConfigError
from ple_rec.config.words import toml_key
from ple_rec.errors import DataError, PleRecError, UserError

# Types to declare for a column of a CSV file, by the kind of value that is needed.
_CSV_TYPE: Mapping[str, str] = {
    "number": '"double"',
    "integer": '"int64"',
    "time": '"timestamp", or "timestamptz" where the cells carry an offset',
}


class SideColumn(NamedTuple):
    """Name of a side table, and of one of its columns."""

    side: str
    column: str


@dataclass(frozen=True)
class Resolved:
    """Configuration with its expressions parsed.

    Args:
        config: Configuration of the preparation.
        place: Name of the configuration in messages.
        parsed: Expressions by key of the configuration, such as `tasks[0].label`.
        log_words: Columns of the log that expressions read. `ROW_TIME` may be among them although it is no column; see
            `reads_row_time`.
        side_columns: Columns that are read by expressions or as join keys, by side table.
        tables: Files of the log, under the name `log`, and of each side table; empty before the files are known.
        is_from_dataset: True for the configuration of an existing dataset, in which a derived column may hide a column
            of the log.
        offset_seconds: Local time minus UTC, in seconds, for the dates and hours of times in expressions.
        frozen: Column of a side table from which each frozen table of vectors is read, by the name of the feature.
    """

    config: PrepConfig
    place: str
    parsed: Mapping[str, Expression]
    log_words: tuple[str, ...]
    side_columns: Mapping[str, tuple[str, ...]]
    tables: Mapping[str, RawTable] = field(default_factory=dict)
    is_from_dataset: bool = False
    offset_seconds: int = 0
    frozen: Mapping[str, SideColumn] = field(default_factory=dict)

    @property
    def log_columns(self) -> tuple[str, ...]:
        """Columns of the log that expressions read."""
        return self.columns_in(self.tables["log"]) if "log" in self.tables else self.log_words

    def columns_in(self, log: RawTable) -> tuple[str, ...]:
        """Return the columns of a log that expressions read; the log may be known before `tables` is set."""
        return tuple(word for word in self.log_words if word != ROW_TIME or not self.reads_row_time(log))

    def reads_row_time(self, log: RawTable) -> bool:
        """Return True if `ROW_TIME` in expressions is the time of the row, since the log has no such column.

        In an expression that is computed before the time, such as `time.value` itself, the word can only be a column of
        the log. If the dataset records the columns of its log, they decide, and not those of the present log.
        """
        columns = self.config.found.columns.get("log", log.schema.names)
        early = [key for key in self.parsed if key in ("log.where", "time.value") or is_join_key(key, self.config)]
        is_column = ROW_TIME in columns or any(ROW_TIME in self.parsed[key].columns for key in early)
        return ROW_TIME in self.log_words and self.config.time is not None and not is_column

    def build(self, key: str, values: Mapping[str, ir.Value]) -> ir.Value:
        """Return the value of the expression at a key of the configuration.

        Args:
            key: Key of the configuration.
            values: Values that the expression may read, by word.

        Raises:
            DataError: A value has a type that the expression does not accept. The error shows a cell of a column that
                the expression reads.
            UserError: The expression reads an unknown name; or it has a value of a wrong type, but reads no column of
                which a cell could be shown.
        """
        try:
            return self.parsed[key].build(values, self.offset_seconds)
        except UserError as error:
            read = self._column_of(key)
            if read is None or any(name not in values for name in self.parsed[key].columns):
                raise UserError(f"{self.place}: {error.place}", error.value, error.rule, error.fix) from None
            # The message names the first column that it quotes, else the first one that the expression reads.
            table, column = next((pair for pair in self._columns_of(key) if f"{pair[1]}`" in error.value), read)
            (place, value), fix = table.find_example(column), error.fix
            misfit = table.find_misfit(column, "number") if _is_text_of_csv(table, column) else None
            # CSV inference makes a column text if one cell is no number, so this cell is the cause.
            if misfit is not None and misfit[1] != value:
                (place, value), fix = misfit, _mend_cell_fix(table)
            value = f"{value}, and {error.value}" if value else error.value
            raise DataError(place, value, f"{error.rule} ({self.place}: {key})", fix) from None

    def quoted(self, key: str) -> str:
        """Return a key of the configuration for messages, followed by its expression if it has one."""
        return f"{key} `{shown_value(self.parsed[key].text)[1:-1]}`" if key in self.parsed else key

    def wrong_type(
        self,
        key: str,
        value: ir.Value,
        rule: str,
        want: ColumnPurpose | Literal["condition"] | None = None,
        fix: str | None = None,
    ) -> PleRecError:
        """Return the error for an expression whose type is wrong for its key.

        If the expression is the name of a column, it is a `DataError` with the file of the column and an example cell.

        Args:
            key: Key of the configuration.
            value: Value of the expression at the key.
            rule: Rule that the type breaks.
            want: Kind of value that is needed; None for any other kind.
            fix: Fix, unless a better one follows from the column's file; None for a general fix by the types.
        """
        kind = value.type().copy(nullable=True)
        if fix is None:
            fix = kind_fix(kind_of(value), want or "id", self.parsed[key].text)
        if isinstance(value, ir.DateValue | ir.TimestampValue) and want in ("id", "day"):
            fix = next((_text_type_fix(*each) for each in self._csv_dates(key)), fix)
        read = self.bare_column(key)
        if read is None:
            return UserError(f"{self.place}: {key}", f"`{self.parsed[key].text}` is of type {kind}", rule, fix)
        table, column = read
        if want == "id" and (unit := _decimal_unit(table, column)):
            fix = f"write units({self.parsed[key].text}, '{unit}')"
        (place, example), rule = table.find_example(column), f"{rule} ({self.place}: {key})"
        if want == "condition":
            want = "number"  # The column may hold numbers, and one odd cell has made CSV inference choose text.
        if want is not None and want in _CSV_TYPE and _is_text_of_csv(table, column):
            if (misfit := table.find_misfit(column, want)) is not None:
                return DataError(misfit[0], f"{misfit[1]}, which makes the column text", rule, _mend_cell_fix(table))
            fix = f"set {_csv_key(table)}.types.{toml_key(column)} = {_CSV_TYPE[want]}"
        return DataError(place, f"{example}, of type {kind}" if example else f"type {kind}", rule, fix)

    def joined_columns(self, side: str) -> tuple[str, ...]:
        """Return the columns of a side table that are joined to the log: all but those that only frozen tables have."""
        keys = {f"vectors[{i}].value" for i, vector in enumerate(self.config.vectors) if vector.name in self.frozen}
        located = (
            locate_word(key, word, self.config)
            for key, expression in self.parsed.items()
            if key not in keys
            for word in expression.columns
        )
        read = {column for table, column in located if table == side} | self.config.sides[side].on.keys()
        return tuple(column for column in self.side_columns[side] if column in read)

    def bare_column(self, key: str) -> tuple[RawTable, str] | None:
        """Return the table and the column of an expression that is one column.

        The result is None for any other expression, and as long as no files are known.
        """
        return self._column_of(key) if self.parsed[key].is_column else None

    def check_columns(self, table: RawTable) -> None:
        """Check that the files of a table have all columns that are read.

        For the log, check also that no derived column hides a column, and that no history has the name of a column that
        is read, unless `is_from_dataset` is true.

        Raises:
            DataError: Files lack columns; the message names the expressions that read them.
            ConfigError: A derived column or a history has the name of a column of the log.
        """
        if table.name == "log":
            if not self.is_from_dataset:
                self._check_names(table)
            words = [*self.config.derived, *(TIME_WORDS if self.config.time is not None else ())]
            words += [f"{name}.{column}" for name, columns in self.side_columns.items() for column in columns]
            table.check_columns(self.columns_in(table), self.place, self._readers(table.name), words)
        else:
            place = f"{self.place}: sides.{table.name}"
            table.check_columns(self.side_columns[table.name], place, self._readers(table.name))

    def _check_names(self, log: RawTable) -> None:
        """Raise an error for derived columns and histories with the name of a column of the log."""
        rule = "a derived column must not have the name of a column of the log"
        hidden = [name for name in self.config.derived if name in log.schema.names]
        places = {f"derived.{name}": (name, rule, other_name_fix(name)) for name in hidden}
        rule = "a request in the raw form has one value of each name, so a history has no name of a column that is read"
        columns = self.columns_in(log)
        for i, history in enumerate(self.config.histories):
            if history.name in columns:
                places[f"histories[{i}].name"] = history.name, rule, "choose another name"
        if places:
            file = log.files[0].display_name
            problems = [
                UserError(place, f"{file} has a column {name!r}", rule, fix)
                for place, (name, rule, fix) in places.items()
            ]
            raise ConfigError.from_problems(self.place, [str(problem) for problem in problems])

    def _readers(self, table: str) -> dict[str, ColumnUse]:
        """Return the first use of each column of a table: the key and the text of an expression that reads it."""
        keys = self.config.sides[table].on if table in self.config.sides else ()
        readers = {name: ColumnUse(f"{self.place}: sides.{table}.on", name) for name in keys}
        for key, expression in self.parsed.items():
            for word in expression.columns:
                owner, column = locate_word(key, word, self.config)
                if owner == table:
                    readers.setdefault(column, ColumnUse(f"{self.place}: {key}", expression.text))
        return readers

    def _column_of(self, key: str) -> tuple[RawTable, str] | None:
        """Return the first column of a file that an expression reads; None if it reads none, or no files are known."""
        return next(self._columns_of(key), None)

    def _columns_of(self, key: str) -> Iterator[tuple[RawTable, str]]:
        for word in self.parsed[key].columns:
            table, column = locate_word(key, word, self.config)
            is_row_time = table == "log" and column not in self.log_columns
            if table is not None and table in self.tables and not is_row_time:
                yield self.tables[table], column

    def _csv_dates(self, key: str) -> Iterator[tuple[RawTable, str]]:
        """Yield the columns of CSV files that an expression reads and that hold dates or timestamps."""
        for table, column in self._columns_of(key):
            if _csv_key(table) and column in table.schema.names and pt.is_temporal(table.schema.field(column).type):
                yield table, column


def _csv_key(table: RawTable) -> str:
    """Return the key of the configuration for the CSV format of a table; empty if its files have another format."""
    text = table.files[0].text
    return "" if text is None else text.key


def _is_text_of_csv(table: RawTable, column: str) -> bool:
    is_text = table.schema.field(column).type == pa.string()
    return bool(_csv_key(table)) and column not in table.files[0].partitions and is_text


def _decimal_unit(table: RawTable, column: str) -> str:
    """Return the smallest unit of a column of decimals, such as `0.01`; an empty text for any other column."""
    kind = table.schema.field(column).type if column in table.schema.names else None
    if isinstance(kind, pa.Decimal128Type) and 0 < kind.scale <= MAX_EXPONENT:
        return f"{Decimal(1).scaleb(-kind.scale):f}"
    return ""


def _text_type_fix(table: RawTable, column: str) -> str:
    return f'set {_csv_key(table)}.types.{toml_key(column)} = "string"'


def _mend_cell_fix(table: RawTable) -> str:
    return f"correct the cell, or add it to {_csv_key(table)}.nulls if it means a missing value"


def resolve(
    config: PrepConfig,
    place: str,
    *,
    is_from_dataset: bool = False,
    offset_seconds: int | None = None,
    freeze_vectors: bool = True,
) -> Resolved:
    """Parse every expression of a configuration.

    Args:
        config: Configuration whose expressions are parsed.
        place: Name of the configuration in messages.
        is_from_dataset: True for the configuration of an existing dataset; see `Resolved`.
        offset_seconds: Local time minus UTC, in seconds; None for that of the configuration. It is an argument since a
            configuration that is reduced to some features may have no `[time]`.
        freeze_vectors: True if vectors of side tables are stored in frozen tables; False if they are joined to the rows
            of the log, as other columns of side tables are.

    Raises:
        ConfigError: Expressions are not valid; the message lists all problems.
    """
    parsed, problems = parse_expressions(config)
    log: dict[str, None] = {}
    sides: dict[str, dict[str, None]] = {name: dict.fromkeys(side.on) for name, side in config.sides.items()}
    for key, expression in parsed.items():
        for word in expression.columns:
            table, column = locate_word(key, word, config)
            if table is not None:
                (log if table == "log" else sides[table]).setdefault(column)
    if problems:
        raise ConfigError.from_problems(place, problems)
    side_columns = {name: tuple(columns) for name, columns in sides.items()}
    return Resolved(
        config,
        place,
        parsed,
        tuple(log),
        side_columns,
        is_from_dataset=is_from_dataset,
        frozen=_frozen_columns(config, parsed) if freeze_vectors else {},
        offset_seconds=config.offset_seconds if offset_seconds is None else offset_seconds,
    )


def _frozen_columns(config: PrepConfig, parsed: Mapping[str, Expression]) -> dict[str, SideColumn]:
    """Return the column of each vector feature whose expression is only a column of a side table."""
    frozen = {}
    for i, vector in enumerate(config.vectors):
        key = f"vectors[{i}].value"
        if parsed[key].is_column:
            table, column = locate_word(key, parsed[key].columns[0], config)
            if table in config.sides:
                frozen[vector.name] = SideColumn(table, column)
    return frozen


def expression_problems(config: PrepConfig) -> list[str]:
    """Return the problems of the expressions of a configuration, one message for each."""
    return parse_expressions(config)[1]
