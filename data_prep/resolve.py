"""The expressions of a configuration, parsed: which columns of which table they read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import ibis.expr.types as ir
import pyarrow as pa
import pyarrow.types as pt

from data_prep.expressions import Expression, parse
from data_prep.sources.columns import Reader
from data_prep.sources.files import RawTable
from data_prep.sources.table import Want, shown_value
from ple_rec.config.prep import DaySplit, HeldOutSplit, PrepConfig
from ple_rec.config.problems import ConfigError
from ple_rec.errors import DataError, PleRecError, UserError

THRESHOLD = "threshold"
_TYPE: Mapping[str, str] = {  # of a CSV column
    "number": '"double"',
    "integer": '"int64"',
    "time": '"timestamp", or "timestamptz" where the cells carry an offset',
}
_NO_CAST: Mapping[str | None, str] = {  # of a date or a timestamp, which expressions do not cast
    "id": "write the column as text or as an integer",
    "number": "write the column as a number; of the row's time there are time.day, time.hour and time.weekday",
}
TIME_WORDS = ("time.day", "time.hour", "time.weekday")


@dataclass(frozen=True)
class Resolved:
    """A configuration with its expressions parsed.

    Args:
        config: The configuration.
        place: Its name in messages.
        parsed: By key of the configuration, `tasks[0].label` for one.
        log_columns: Columns of the log that are read.
        side_columns: Columns of every side table that are read, by side.
        tables: The files, `log` and side tables by name, where they are found already; for messages.
    """

    config: PrepConfig
    place: str
    parsed: Mapping[str, Expression]
    log_columns: tuple[str, ...]
    side_columns: Mapping[str, tuple[str, ...]]
    tables: Mapping[str, RawTable] = field(default_factory=dict)

    def build(self, key: str, names: Mapping[str, ir.Value]) -> ir.Value:
        """The expression at a key of the configuration.

        Raises:
            UserError: It reads a name that is not there.
            DataError: A column has a type that it does not take.
        """
        try:
            return self.parsed[key].build(names)
        except UserError as error:
            read = self._column_of(key)
            if read is None or any(name not in names for name in self.parsed[key].columns):
                raise UserError(f"{self.place}: {error.place}", error.value, error.rule, error.fix) from None
            date = next((each for each in self._csv_dates(key) if each[1] in error.value), None)
            table, column = date or read
            (place, value), fix = table.example(column), error.fix if date is None else _keep_text(*date)
            odd = table.misfit(column, "number") if _is_text_of_csv(table, column) else None
            if odd is not None and odd[1] != value:  # the others are numbers
                (place, value), fix = odd, _mend_cell(table)
            found = f"{value}, and {error.value}" if value else error.value
            raise DataError(place, found, f"{error.rule} ({self.place}: {key})", fix) from None

    def quoted(self, key: str) -> str:
        """Return a key of the configuration with its expression, where it has one, for messages."""
        return f"{key} `{shown_value(self.parsed[key].text)[1:-1]}`" if key in self.parsed else key

    def wrong_type(self, key: str, value: ir.Value, rule: str, fix: str, want: Want | None = None) -> PleRecError:
        """Return the error of an expression of a type that its key does not take: the log's where it is a bare column.

        Args:
            key: Key of the configuration.
            value: The expression there.
            rule: Rule that the type breaks.
            fix: Fix where the file of the column gives none.
            want: Kind of value that is needed.
        """
        kind = value.type().copy(nullable=True)
        if isinstance(value, ir.DateValue | ir.TimestampValue) and want in _NO_CAST:
            fix = _NO_CAST[want]
        if isinstance(value, ir.DateValue | ir.TimestampValue) and want not in ("time", "integer"):
            fix = next((_keep_text(*each) for each in self._csv_dates(key)), fix)
        read = self.bare_column(key)
        if read is None:
            return UserError(f"{self.place}: {key}", f"`{self.parsed[key].text}` is of type {kind}", rule, fix)
        table, column = read
        (place, example), rule = table.example(column), f"{rule} ({self.place}: {key})"
        if want is not None and want in _TYPE and _is_text_of_csv(table, column):
            if (odd := table.misfit(column, want)) is not None:
                return DataError(odd[0], f"{odd[1]}, for which the column is text", rule, _mend_cell(table))
            fix = f"set {_csv_key(table)}.types.{column} = {_TYPE[want]}"
        return DataError(place, f"{example}, of type {kind}" if example else f"type {kind}", rule, fix)

    def bare_column(self, key: str) -> tuple[RawTable, str] | None:
        """Return the column that an expression hands on as it is, with its table; None for any other expression."""
        read = self._column_of(key)
        text = self.parsed[key].text.strip().strip('"').rpartition(".")[2].strip('"')
        return read if read is not None and text == read[1] else None

    def check_columns(self, table: RawTable) -> None:
        """Check that the files of a table have the columns that are read.

        Raises:
            DataError: Which do not, and what reads them.
        """
        if table.name == "log":
            words = [*self.config.derived, *(TIME_WORDS if self.config.time is not None else ())]
            words += [f"{name}.{column}" for name, columns in self.side_columns.items() for column in columns]
            table.check_columns(self.log_columns, self.place, self._readers(table.name), words)
        else:
            place = f"{self.place}: sides.{table.name}"
            table.check_columns(self.side_columns[table.name], place, self._readers(table.name))

    def _readers(self, table: str) -> dict[str, Reader]:
        """What reads each column of a table first."""
        keys = self.config.sides[table].on if table in self.config.sides else ()
        found = {name: Reader(f"{self.place}: sides.{table}.on", name) for name in keys}
        for key, expression in self.parsed.items():
            for name in expression.columns:
                owner, column = _owner(key, name, self.config)
                if owner == table:
                    found.setdefault(column, Reader(f"{self.place}: {key}", expression.text))
        return found

    def _column_of(self, key: str) -> tuple[RawTable, str] | None:
        """The first column of a file that an expression reads, where the files are known."""
        return next(self._columns_of(key), None)

    def _columns_of(self, key: str) -> Iterator[tuple[RawTable, str]]:
        for name in self.parsed[key].columns:
            table, column = _owner(key, name, self.config)
            if table is not None and table in self.tables:
                yield self.tables[table], column

    def _csv_dates(self, key: str) -> Iterator[tuple[RawTable, str]]:
        """Columns of CSV files that an expression reads and that are dates or timestamps there."""
        for table, column in self._columns_of(key):
            if _csv_key(table) and column in table.schema.names and pt.is_temporal(table.schema.field(column).type):
                yield table, column


def _csv_key(table: RawTable) -> str:
    """Key that says how CSV files read; empty for other files."""
    text = table.files[0].text
    return "" if text is None else text.key


def _is_text_of_csv(table: RawTable, column: str) -> bool:
    is_text = table.schema.field(column).type == pa.string()
    return bool(_csv_key(table)) and column not in table.files[0].partitions and is_text


def _keep_text(table: RawTable, column: str) -> str:
    return f'set {_csv_key(table)}.types.{column} = "string"'


def _mend_cell(table: RawTable) -> str:
    return f"mend the cell, or add it to {_csv_key(table)}.nulls if it means none"


def texts(config: PrepConfig) -> dict[str, str]:
    """Every expression of a configuration by its key, in the order in which a row goes through them."""
    found: dict[str, str | None] = {"log.where": config.log.where}
    for name, side in config.sides.items():
        found |= {f"sides.{name}.on.{column}": text for column, text in side.on.items()}
        found[f"sides.{name}.day"] = side.day
    if config.time is not None:
        found["time.value"] = config.time.value
    found |= {f"derived.{name}": text for name, text in config.derived.items()}
    if isinstance(config.split, DaySplit):
        found["split.valid_hash"] = config.split.valid_hash
    elif isinstance(config.split, HeldOutSplit):
        found["split.hash"] = config.split.hash
    else:
        found["split.value"] = config.split.value
    found |= {f"checks.{name}": text for name, text in config.checks.items()}
    for i, feature in enumerate(config.sparse):
        found[f"sparse[{i}].value"] = feature.source
        found[f"sparse[{i}].weights"] = feature.weights
    for i, number in enumerate(config.dense):
        found[f"dense[{i}].value"] = number.source
    for i, task in enumerate(config.tasks):
        if task.threshold is not None:
            found[f"tasks[{i}].threshold.value"] = task.threshold.value
            found[f"tasks[{i}].threshold.by"] = task.threshold.by
        found[f"tasks[{i}].label"] = task.source
        found[f"tasks[{i}].space"] = task.space
    found |= {"weight": config.weight, "group": config.group}
    if config.sampling is not None:
        found["sampling.keep"] = config.sampling.keep
        found |= {f"sampling.hash[{i}]": text for i, text in enumerate(config.sampling.hash)}
    found |= {f"carry.{name}": text for name, text in config.carry.items()}
    return {key: text for key, text in found.items() if text is not None}


def resolve(config: PrepConfig, place: str) -> Resolved:
    """Parse every expression of a configuration.

    Args:
        config: The configuration.
        place: Its name in messages.

    Raises:
        ConfigError: Every problem of the expressions, together.
    """
    parsed, problems = _parsed(config)
    log: dict[str, None] = {}
    sides: dict[str, dict[str, None]] = {name: dict.fromkeys(side.on) for name, side in config.sides.items()}
    for key, expression in parsed.items():
        for name in expression.columns:
            table, column = _owner(key, name, config)
            if table is not None:
                (log if table == "log" else sides[table]).setdefault(column)
    if problems:
        raise ConfigError.of(place, problems)
    return Resolved(config, place, parsed, tuple(log), {name: tuple(columns) for name, columns in sides.items()})


def expression_problems(config: PrepConfig) -> list[str]:
    """What is wrong with the expressions of a configuration, a line each."""
    return _parsed(config)[1]


def _parsed(config: PrepConfig) -> tuple[dict[str, Expression], list[str]]:
    """The expressions that can be read, by key, and what is wrong with the others."""
    parsed: dict[str, Expression] = {}
    problems: list[str] = []
    for key, text in texts(config).items():
        try:
            parsed[key] = parse(text, key)
        except UserError as error:
            problems.append(str(error))
    return parsed, problems


def _owner(key: str, name: str, config: PrepConfig) -> tuple[str | None, str]:
    """Table and column that a name means in the expression at a key; no table where it is computed."""
    side, _, inner = name.partition(".")
    if name in config.derived or name in TIME_WORDS or (name == THRESHOLD and _may_read_threshold(key, config)):
        return None, name
    if key.startswith("sides.") and key.endswith(".day"):
        return key.split(".")[1], name
    return (side, inner) if inner and side in config.sides else ("log", name)


def _may_read_threshold(key: str, config: PrepConfig) -> bool:
    return any(key == f"tasks[{i}].label" and task.threshold is not None for i, task in enumerate(config.tasks))
