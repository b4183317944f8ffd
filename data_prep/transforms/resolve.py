"""The expressions of a configuration, parsed: which columns of which table they read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

import ibis.expr.types as ir
import pyarrow as pa
import pyarrow.types as pt

from data_prep.expressions import Expression, name_of, parse
from data_prep.expressions.kinds import kind_of
from data_prep.expressions.source import AS_TEXT, kind_fix
from data_prep.expressions.syntax import quoted_name
from data_prep.sources.columns import Reader
from data_prep.sources.files import RawTable
from data_prep.sources.table import Want, shown_value
from ple_rec.config.prep import DaySplit, HeldOutSplit, PrepConfig
from ple_rec.config.problems import ConfigError
from ple_rec.config.words import toml_key
from ple_rec.errors import DataError, PleRecError, UserError

THRESHOLD = "threshold"
_TYPE: Mapping[str, str] = {  # of a CSV column
    "number": '"double"',
    "integer": '"int64"',
    "time": '"timestamp", or "timestamptz" where the cells carry an offset',
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
        prepared: True for the configuration of a dataset that is there already, of which a name that hides a column of
            the log keeps its meaning.
    """

    config: PrepConfig
    place: str
    parsed: Mapping[str, Expression]
    log_columns: tuple[str, ...]
    side_columns: Mapping[str, tuple[str, ...]]
    tables: Mapping[str, RawTable] = field(default_factory=dict)
    prepared: bool = False

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
            (place, value), fix = table.example(column), error.fix
            if date is not None and fix == AS_TEXT:
                fix = _keep_text(*date)
            odd = table.misfit(column, "number") if _is_text_of_csv(table, column) else None
            if odd is not None and odd[1] != value:  # the others are numbers
                (place, value), fix = odd, _mend_cell(table)
            found = f"{value}, and {error.value}" if value else error.value
            raise DataError(place, found, f"{error.rule} ({self.place}: {key})", fix) from None

    def quoted(self, key: str) -> str:
        """Return a key of the configuration with its expression, where it has one, for messages."""
        return f"{key} `{shown_value(self.parsed[key].text)[1:-1]}`" if key in self.parsed else key

    def wrong_type(
        self,
        key: str,
        value: ir.Value,
        rule: str,
        want: Want | Literal["condition"] | None = None,
        fix: str | None = None,
    ) -> PleRecError:
        """Return the error of an expression of a type that its key does not take: the log's where it is a bare column.

        Args:
            key: Key of the configuration.
            value: The expression there.
            rule: Rule that the type breaks.
            want: Kind of value that is needed.
            fix: Fix where the file of the column gives none; None for one that follows from both kinds.
        """
        kind = value.type().copy(nullable=True)
        if fix is None:
            fix = kind_fix(kind_of(value), want or "id", self.parsed[key].text)
        if isinstance(value, ir.DateValue | ir.TimestampValue) and want in ("id", "day"):
            fix = next((_keep_text(*each) for each in self._csv_dates(key)), fix)
        read = self.bare_column(key)
        if read is None:
            return UserError(f"{self.place}: {key}", f"`{self.parsed[key].text}` is of type {kind}", rule, fix)
        table, column = read
        (place, example), rule = table.example(column), f"{rule} ({self.place}: {key})"
        if want == "condition":
            want = "number"  # a label or a condition of text may be a number that the type of the CSV column hides
        if want is not None and want in _TYPE and _is_text_of_csv(table, column):
            if (odd := table.misfit(column, want)) is not None:
                return DataError(odd[0], f"{odd[1]}, for which the column is text", rule, _mend_cell(table))
            fix = f"set {_csv_key(table)}.types.{toml_key(column)} = {_TYPE[want]}"
        return DataError(place, f"{example}, of type {kind}" if example else f"type {kind}", rule, fix)

    def bare_column(self, key: str) -> tuple[RawTable, str] | None:
        """Return the column that an expression hands on as it is, with its table; None for any other expression."""
        return self._column_of(key) if self.parsed[key].is_column else None

    def check_columns(self, table: RawTable) -> None:
        """Check that the files of a table have the columns that are read, and that `[derived]` hides none of the log.

        Raises:
            DataError: Files lack columns; the message says what reads them.
            ConfigError: A derived column has the name of a column of the log.
        """
        if table.name == "log":
            if not self.prepared:
                self._check_derived(table)
            words = [*self.config.derived, *(TIME_WORDS if self.config.time is not None else ())]
            words += [f"{name}.{column}" for name, columns in self.side_columns.items() for column in columns]
            table.check_columns(self.log_columns, self.place, self._readers(table.name), words)
        else:
            place = f"{self.place}: sides.{table.name}"
            table.check_columns(self.side_columns[table.name], place, self._readers(table.name))

    def _check_derived(self, log: RawTable) -> None:
        """Refuse derived columns that hide a column of the log: which one an expression means could not be seen."""
        hidden = [name for name in self.config.derived if name in log.schema.names]
        if hidden:
            rule = "a derived column has a name that no column of the log has"
            problems = [
                UserError(f"derived.{name}", f"{log.files[0].shown} has a column {name!r}", rule, _other_name(name))
                for name in hidden
            ]
            raise ConfigError.of(self.place, [str(problem) for problem in problems])

    def _readers(self, table: str) -> dict[str, Reader]:
        """Return what reads each column of a table first."""
        keys = self.config.sides[table].on if table in self.config.sides else ()
        readers = {name: Reader(f"{self.place}: sides.{table}.on", name) for name in keys}
        for key, expression in self.parsed.items():
            for word in expression.columns:
                owner, column = owner_of(key, word, self.config)
                if owner == table:
                    readers.setdefault(column, Reader(f"{self.place}: {key}", expression.text))
        return readers

    def _column_of(self, key: str) -> tuple[RawTable, str] | None:
        """The first column of a file that an expression reads, where the files are known."""
        return next(self._columns_of(key), None)

    def _columns_of(self, key: str) -> Iterator[tuple[RawTable, str]]:
        for word in self.parsed[key].columns:
            table, column = owner_of(key, word, self.config)
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
    return f'set {_csv_key(table)}.types.{toml_key(column)} = "string"'


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
        found[f"sparse[{i}].value"] = quoted_name(feature.name) if feature.value is None else feature.value
        found[f"sparse[{i}].weights"] = feature.weights
    for i, number in enumerate(config.dense):
        found[f"dense[{i}].value"] = quoted_name(number.name) if number.value is None else number.value
    for i, task in enumerate(config.tasks):
        if task.threshold is not None:
            found[f"tasks[{i}].threshold.value"] = task.threshold.value
            found[f"tasks[{i}].threshold.by"] = task.threshold.by
        found[f"tasks[{i}].label"] = quoted_name(task.name) if task.label is None else task.label
        found[f"tasks[{i}].space"] = task.space
    found |= {"weight": config.weight, "group": config.group}
    if config.sampling is not None:
        found["sampling.keep"] = config.sampling.keep
        found |= {f"sampling.hash[{i}]": text for i, text in enumerate(config.sampling.hash)}
    found |= {f"carry.{name}": text for name, text in config.carry.items()}
    return {key: text for key, text in found.items() if text is not None}


def resolve(config: PrepConfig, place: str, *, prepared: bool = False) -> Resolved:
    """Parse every expression of a configuration.

    Args:
        config: The configuration.
        place: Its name in messages.
        prepared: True for the configuration of a dataset that is there already.

    Raises:
        ConfigError: Every problem of the expressions, together.
    """
    parsed, problems = _parsed(config)
    log: dict[str, None] = {}
    sides: dict[str, dict[str, None]] = {name: dict.fromkeys(side.on) for name, side in config.sides.items()}
    for key, expression in parsed.items():
        for word in expression.columns:
            table, column = owner_of(key, word, config)
            if table is not None:
                (log if table == "log" else sides[table]).setdefault(column)
    if problems:
        raise ConfigError.of(place, problems)
    side_columns = {name: tuple(columns) for name, columns in sides.items()}
    return Resolved(config, place, parsed, tuple(log), side_columns, prepared=prepared)


def expression_problems(config: PrepConfig) -> list[str]:
    """What is wrong with the expressions of a configuration, a line each."""
    return _parsed(config)[1]


def _parsed(config: PrepConfig) -> tuple[dict[str, Expression], list[str]]:
    """Return the expressions that can be read, by key, and what is wrong with the others."""
    parsed: dict[str, Expression] = {}
    problems: list[str] = []
    for key, text in texts(config).items():
        try:
            expression = parse(text, key, tables_of(config))
            for word in expression.columns:
                _check_known(key, text, word, config)
            parsed[key] = expression
        except UserError as error:
            problems.append(str(error))
    return parsed, problems


def tables_of(config: PrepConfig) -> tuple[str, ...]:
    """Return the names before a dot that mean something else than a column whose own name has the dot."""
    return ("time", *config.sides)


def owner_of(key: str, word: str, config: PrepConfig) -> tuple[str | None, str]:
    """Return the table and the column that a word means in the expression at a key; no table where it is computed."""
    name = name_of(word)
    if key.startswith("sides.") and key.endswith(".day"):
        return key.split(".")[1], name
    if name != word:
        return "log", name
    if word in config.derived or word in TIME_WORDS or (word == THRESHOLD and _may_read_threshold(key, config)):
        return None, word
    side, _, inner = word.partition(".")
    return (side, inner) if inner and side in config.sides else ("log", word)


def _check_known(key: str, text: str, word: str, config: PrepConfig) -> None:
    """Refuse a word whose value is not known yet where the expression at a key is computed.

    `log.where` and the keys of side tables are computed first, then the time, then derived columns in their order.

    Raises:
        UserError: The word is computed later, or not at all.
    """
    table, _ = owner_of(key, word, config)
    timeless = config.time is None and table is None and word in TIME_WORDS
    first = key == "log.where" or _is_key_of_a_side(key, config)
    dated = key == "time.value" and any(side.day is not None for side in config.sides.values())

    def refuse(rule: str, fix: str) -> None:
        raise UserError(key, f"`{text}` reads {word}", rule, fix)

    if timeless:
        refuse("times are those of [time], and there is none", "add [time]")
    elif first and table != "log":
        fix = "write it over columns of the log alone"
        if key == "log.where":
            fix += '; or leave such rows out by a rule of [checks], on_bad_row = "drop" and a max_bad_fraction for them'
        refuse("it is computed before side tables are joined, and before [time] and [derived]", fix)
    elif dated and table not in (None, "log"):
        refuse("dated side tables are joined by the time, which is computed before", "take the time from the log")
    elif key == "time.value" and table is None:
        refuse("the time is computed first of all", "write it over columns of the log alone")
    elif key.startswith("derived.") and word in config.derived and table is None:
        name, names = key.removeprefix("derived."), list(config.derived)
        rule = "a derived column reads columns and the derived columns above it"
        if word == name:
            refuse(f"{rule}, not itself", _other_name(name))
        elif names.index(word) > names.index(name):
            refuse(rule, f"write derived.{word} above derived.{name}")


def _is_key_of_a_side(key: str, config: PrepConfig) -> bool:
    return any(key == f"sides.{name}.on.{column}" for name, side in config.sides.items() for column in side.on)


def _other_name(name: str) -> str:
    return f"choose another name, e.g. derived.{name}_2, and use it where the derived column is meant"


def _may_read_threshold(key: str, config: PrepConfig) -> bool:
    return any(key == f"tasks[{i}].label" and task.threshold is not None for i, task in enumerate(config.tasks))
