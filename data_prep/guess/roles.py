"""What the columns of a log may be, by their names, types and values; every guess with its reason."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

from data_prep.expressions.syntax import KEYWORDS
from ple_rec.errors import UserError

Kind = Literal["number", "text", "bool", "time", "list", "other"]

_BINARY = {
    *("click", "clicked", "clk", "like", "liked", "share", "shared", "follow", "followed", "forward"),
    *("forwarded", "comment", "commented", "favorite", "favourite", "fav", "collect", "collected", "buy"),
    *("bought", "purchase", "purchased", "pay", "paid", "order", "ordered", "conversion", "converted"),
    *("cart", "install", "installed", "download", "downloaded", "subscribe", "subscribed", "finish"),
    *("finished", "complete", "completed", "skip", "skipped", "hate", "dislike", "report", "enter", "view"),
    *("viewed", "watched", "label", "target", "y"),
}
_WATCHED = {
    *("play", "played", "watch", "watched", "watching", "dwell", "stay", "view", "viewed", "listen", "listened"),
    *("read", "reading"),
}
_DURATION = {"time", "times", "ms", "s", "sec", "secs", "second", "seconds", "duration", "minutes", "length"}
_AMOUNT = {"rating", "stars", "completion", "revenue", "gmv", "spend", "spent"}
_SIZE = {"amount", "value"}
_USER = {
    *("user", "uid", "userid", "member", "memberid", "customer", "customerid", "visitor", "visitorid"),
    *("account", "viewer", "viewerid", "shopper", "buyer", "client", "person", "reader", "listener", "player"),
}
_ITEM = {
    *("item", "itemid", "video", "videoid", "vid", "photo", "article", "product", "productid", "sku", "ad"),
    *("adid", "doc", "document", "movie", "song"),
}
_ID = {"id", "ids", "uuid", "guid", "key", "hash", "uid", "vid", "sku", "code"}
_TIME = {"time", "timestamp", "ts", "datetime", "date", "day", "dt", "created", "at", "event", "ms"}
_ROW = {"request", "impression", "event", "session", "row", "index", "idx", "log", "trace"}
_SEPARATORS = ("|", ";", ",")
_UNITS = ((1e17, "ns"), (1e14, "us"), (1e11, "ms"), (1e8, "s"))
_FEW = 64  # values of an integer column that is taken for a category
_MANY = 1_000  # values from which rare ones share a row
_ROWS_OF_A_KEY = 10  # fewer rows a value, and a column such as session_id tells nothing that returns
_UNIQUE = 0.95  # distinct share of the rows from which a column is taken for a key of the row
_SKEWED = 20  # 99th percentile over median


@dataclass(frozen=True)
class Column:
    """A column of the sample.

    Args:
        name: Its name.
        kind: What its type is for a guess.
        values: Its values that are not null; of lists the items.
        type: Its type.
        rows: Number of rows, nulls among them.
        nulls: Number of nulls.
        distinct: Number of values.
        feature: Name of a feature or a task of it; no other column has it.
        odd: True where some numbers are not finite.
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

    @classmethod
    def of(cls, name: str, column: pa.ChunkedArray, taken: set[str]) -> Column:
        """Return the column of a table.

        Args:
            name: Its name.
            column: The column.
            taken: Names that other columns have; its own is added.
        """
        values = column.drop_null()
        kind = _kind(column.type)
        if kind == "list":
            values = pc.list_flatten(values).drop_null()
        finite = pc.is_finite(values) if pa.types.is_floating(column.type) else None
        odd = finite is not None and not pc.all(finite).as_py()
        values = values.filter(finite) if odd else values
        distinct = pc.count_distinct(values).as_py() if kind in ("number", "text", "bool", "list") else 0
        feature = re.sub(r"[^A-Za-z0-9_]", "_", name)
        feature = feature if re.match(r"[A-Za-z_]", feature) else f"_{feature}"
        while feature in taken:
            feature += "_"
        taken.add(feature)
        return cls(name, kind, values, column.type, len(column), column.null_count, distinct, feature, bool(odd))

    @property
    def words(self) -> frozenset[str]:
        """Words of the name."""
        spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", self.name).lower()
        return frozenset(re.split(r"[^a-z0-9]+", spaced))

    @property
    def is_integer(self) -> bool:
        """True for integers."""
        return bool(pa.types.is_integer(self.type))

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
        """The column as an expression reads it."""
        plain = re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", self.name) and self.name.lower() not in KEYWORDS
        return self.name if plain else '"' + self.name.replace('"', '""') + '"'


def _kind(kind: pa.DataType) -> Kind:
    if pa.types.is_boolean(kind):
        return "bool"
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return "number"
    if pa.types.is_string(kind):
        return "text"
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return "time"
    if pa.types.is_list(kind) and (pa.types.is_string(kind.value_type) or pa.types.is_integer(kind.value_type)):
        return "list"
    return "other"


@dataclass(frozen=True)
class Time:
    """The time of a row.

    Args:
        column: The column.
        unit: Its unit, as `time.unit`.
        why: Reason of the guess.
    """

    column: Column
    unit: str
    why: str


@dataclass(frozen=True)
class Label:
    """A label.

    Args:
        column: The column.
        kind: Kind of the task.
        value: Expression of the label.
        why: Reason of the guess.
    """

    column: Column
    kind: Literal["binary", "regression"]
    value: str
    why: str


@dataclass(frozen=True)
class Feature:
    """A feature.

    Args:
        name: Its name.
        keys: Keys of its entry in the TOML file beside the name, as TOML writes their values.
        dense: True for `[[dense]]`.
        why: Reason of the guess.
    """

    name: str
    keys: Mapping[str, str]
    dense: bool
    why: str


@dataclass(frozen=True)
class Roles:
    """What all columns may be.

    Args:
        time: The time of a row.
        user: The user.
        labels: The labels.
        features: The features.
        rare: Tables with so many values that rare ones share a row.
        left_out: Columns of no use, each with its reason.
        spread: Column with the most values.
    """

    time: Time | None
    user: Column | None
    labels: tuple[Label, ...]
    features: tuple[Feature, ...]
    rare: tuple[str, ...]
    left_out: Mapping[str, str]
    spread: Column

    @property
    def when(self) -> Column | None:
        """The column that holds the time of a row."""
        return None if self.time is None else self.time.column


def guess_roles(rows: pa.Table, labels: Sequence[str] = ()) -> Roles:
    """Guess what the columns of a log are.

    Args:
        rows: A sample of the log.
        labels: Columns that the user names as labels; none: they are guessed too.

    Raises:
        UserError: no column looks like a label, or one that is named is none.
    """
    names: set[str] = set()
    columns = {name: Column.of(name, rows[name], names) for name in rows.column_names}
    time = _time(columns)
    rest = {name: column for name, column in columns.items() if time is None or name != time.column.name}
    tasks = _labels(rest, labels)
    outcomes = {task.column.name for task in tasks} | {c.name for c in rest.values() if _is_outcome(c)}
    user = _user(rest)
    left_out = dict.fromkeys(sorted(outcomes - {task.column.name for task in tasks}), "an outcome, with one value")
    if labels:
        left_out = {name: "an outcome, which is not known when a score is needed" for name in left_out}
    features: list[Feature] = []
    rare: list[str] = []
    tables: dict[str, Column] = {}
    for column in (column for name, column in rest.items() if name not in outcomes):
        if why := _useless(column, time, column is user):
            left_out[column.name] = why
        else:
            features.append(_feature(column, tables, rare))
    if time is not None and time.unit != "date" and "hour" not in names:
        features.append(Feature("hour", {"value": '"time.hour"'}, dense=False, why="habits follow the hour of the day"))
    if not features:
        raise UserError("--from", "no column of the log can be a feature", "a model reads features", "name other files")
    spread = max((c for c in rest.values() if c.kind in ("number", "text")), key=lambda column: column.distinct)
    return Roles(time, user, tuple(tasks), tuple(features), tuple(rare), left_out, spread)


def _time(columns: Mapping[str, Column]) -> Time | None:
    """Return the column that tells most exactly when a row happened."""
    candidates = []
    for place, column in enumerate(columns.values()):
        unit = _unit(column)
        if unit is not None and not column.words & _WATCHED:
            exact = unit != "date"
            named = bool(column.words & _TIME)
            candidates.append((not exact, not named, place, Time(column, unit, _time_reason(column, unit))))
    return min(candidates, key=lambda each: each[:3])[3] if candidates else None


def _unit(column: Column) -> str | None:
    if column.kind == "time":
        return "date" if pa.types.is_date(column.type) else "timestamp"
    if not len(column.values) or column.nulls or not column.words & _TIME:
        return None
    if column.kind == "text":
        return "date" if pc.all(pc.match_substring_regex(column.values, r"^(19|20)\d\d-\d\d-\d\d")).as_py() else None
    if not column.is_integer:
        return None
    low, high = pc.min_max(column.values).as_py().values()
    if low >= 19_000_101 and high <= 29_991_231:
        return "date"
    return next((unit for least, unit in _UNITS if least <= low and high < least * 1e3), None)


def _time_reason(column: Column, unit: str) -> str:
    if column.kind == "time":
        return f"its type is {column.type}"
    return "its values are dates" if unit == "date" else f"its values are {unit} since 1970"


def _labels(columns: Mapping[str, Column], names: Sequence[str]) -> list[Label]:
    for name in names:
        if name not in columns:
            raise UserError("--label", f"got {name!r}", f"the log has {', '.join(columns)}", "name a column of the log")
        if not columns[name].is_binary and columns[name].kind != "number":
            rule = "a label is 0 or 1, a truth value or a number"
            raise UserError("--label", f"{name} is {columns[name].type}", rule, "name another, or write its expression")
    if names:
        return [_label(columns[name], "named by --label") for name in names]
    labels = []
    for column in columns.values():
        if not _is_outcome(column) or column.distinct < 2:
            continue
        named = ", ".join(sorted(column.words & (_BINARY | _WATCHED | _AMOUNT)))
        values = "0 and 1" if column.is_binary else "numbers"
        labels.append(_label(column, f"its name says {named!r}, its values are {values}"))
    if not labels:
        binary = [column.name for column in columns.values() if column.is_binary and column.distinct == 2]
        near = f"e.g. --label {binary[-1]}" if binary else "with 0 and 1, or with a number to predict"
        raise UserError(
            "--from", "no column looks like a label", "a model needs one", f"name it: --label COLUMN, {near}"
        )
    return sorted(labels, key=lambda label: label.kind)


def _is_outcome(column: Column) -> bool:
    if column.is_binary:
        return bool(column.words & _BINARY)
    if column.kind != "number":
        return False
    words = column.words
    of_action = (words & _WATCHED and words & _DURATION) or (words & _BINARY and words & _SIZE)
    return bool(words & _AMOUNT or of_action)


def _label(column: Column, why: str) -> Label:
    if column.is_binary:
        return Label(column, "binary", column.expression, why)
    deviation = pc.stddev(column.values).as_py() or 1.0
    scale = 10 ** round(math.log10(deviation))
    value = column.expression if scale == 1 else f"{column.expression} / {scale:g}"
    unit = "" if scale == 1 else f"; the unit is about a standard deviation, {deviation:.3g}"
    return Label(column, "regression", value, why + unit)


def _user(columns: Mapping[str, Column]) -> Column | None:
    users = [column for column in columns.values() if column.words & _USER and column.kind in ("number", "text")]
    users = [column for column in users if column.is_integer or column.kind == "text"]
    return min(users, key=lambda column: (not column.words & _ID, len(column.name)), default=None)


def _useless(column: Column, time: Time | None, is_user: bool) -> str:
    """Return why a column is no feature; empty where it may be one."""
    if column.kind == "time" or (time is not None and _unit(column) is not None):
        return "another time"
    if column.nulls == column.rows:
        return "it has no value"
    if column.kind == "other":
        return f"its type is {column.type}"
    if column.distinct < 2:
        return "it has one value"
    unique = column.distinct >= _UNIQUE * (column.rows - column.nulls) and column.rows >= _MANY and not is_user
    if column.words & _ROW and not is_user and column.distinct * _ROWS_OF_A_KEY > column.rows - column.nulls:
        return "its name is that of a key, which few rows share"
    if unique and (column.kind == "text" or column.words & (_ID | _ROW)):
        return "nearly every row has a value of its own"
    return ""


def _feature(column: Column, tables: dict[str, Column], rare: list[str]) -> Feature:
    """Return the feature of a column; `tables` and `rare` get what it adds."""
    name = column.feature
    value = {} if column.expression == name else {"value": quoted(column.expression)}
    if column.kind == "bool":
        return Feature(name, {"value": quoted(f"cast({column.expression} as int)")}, dense=False, why="two values")
    if column.kind == "number" and not _is_category(column):
        normaliser = _normaliser(column)
        if column.odd:
            value = {"value": quoted(f"case when {column.finite} then {column.expression} end")}
        return Feature(name, value | {"normaliser": quoted(normaliser)}, dense=True, why=f"numbers{_shape(normaliser)}")
    separator = _separator(column)
    if column.kind == "list" or separator:
        items = column.values if not separator else pc.list_flatten(pc.split_pattern(column.values, separator))
        keys = {"value": quoted(f"split({column.expression}, '{separator}')")} if separator else value
        table = next((t for t, c in tables.items() if _overlap(items, c.values)), name)
        why = (
            f"lists of {column.distinct:,} values" if not separator else f"texts with {separator!r} between their parts"
        )
        shared = "" if table == name else f", which {table} has too"
        return Feature(name, keys | {"table": quoted(table), "bag": "true", "max_length": "50"}, False, why + shared)
    tables[name] = column
    if column.distinct >= _MANY:
        rare.append(name)
    return Feature(name, value, dense=False, why=f"{column.distinct:,} values in the sample")


def _is_category(column: Column) -> bool:
    if not column.is_integer:
        return False
    return bool(column.words & (_ID | _USER | _ITEM)) or column.distinct <= _FEW


def _normaliser(column: Column) -> str:
    low, median, high = pc.quantile(column.values, [0, 0.5, 0.99]).to_pylist()
    return "log" if low >= 0 and high > _SKEWED * max(median, 1e-9) else "standard"


def _shape(normaliser: str) -> str:
    return ", a few of them far above the others" if normaliser == "log" else ""


def _separator(column: Column) -> str:
    """Return what separates the parts of texts that are lists; empty where they are none."""
    if column.kind != "text":
        return ""
    for separator in _SEPARATORS:
        parts = pc.split_pattern(column.values, separator)
        several = pc.mean(pc.greater(pc.list_value_length(parts), 1).cast(pa.float64())).as_py()
        items = pc.list_flatten(parts)
        if several >= 0.3 and pc.count_distinct(items).as_py() <= len(items) / 2:
            return separator
    return ""


def _overlap(items: pa.Array, values: pa.Array) -> bool:
    """Return whether most of the items of lists are values of a column."""
    if items.type != values.type or not len(items):
        return False
    return bool(pc.mean(pc.is_in(items.unique(), values.unique()).cast(pa.float64())).as_py() > 0.5)


def quoted(text: str) -> str:
    """Return a text as TOML writes it."""
    if '"' in text and "'" not in text and text.isprintable():
        return f"'{text}'"
    return json.dumps(text, ensure_ascii=False)
