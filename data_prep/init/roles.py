"""Guesses of the roles of a log's columns by their names, types and values, each with its reason."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

from data_prep.init.column import EXACT, Column, Names, words_of
from data_prep.init.questions import question_of
from data_prep.init.times import Time, row_time, time_of
from data_prep.sources.list_texts import Cut
from data_prep.sources.table import shown_value
from ple_rec.errors import UserError

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
_ROW = {"request", "impression", "event", "session", "row", "index", "idx", "log", "trace"}
_SEPARATORS = ("|", ";", ",")
_QUANTITY = {  # Words for numbers that are amounts, not ids.
    *_DURATION,
    *_AMOUNT,
    *_SIZE,
    *("age", "price", "cost", "fee", "count", "cnt", "num", "number", "total", "sum", "avg", "mean", "score", "rate"),
    *("ratio", "height", "width", "weight", "size", "views", "likes", "plays", "clicks", "distance", "bytes", "mbps"),
    *("days", "hours", "years", "year", "quantity", "qty", "balance", "level", "rank", "position", "percent", "n"),
}
_BOTS = "it tells bots from people; `where` of [log] leaves out the rows of bots"
_AGENTS = "device, system and browser in one text, which is new with each release; write them as columns of their own"
_PLACES = (
    "the place in the list at which the item was shown is decided by the ranking itself and unknown when the feed is "
    "ranked; its effect is a bias, not a feature. `carry` keeps it, to slice metrics by"
)
_NO_FEATURES: Mapping[tuple[str, ...], str] = {  # Reason by the words of a name.
    **{("bot",): _BOTS, ("robot",): _BOTS, ("crawler",): _BOTS},
    **{("user", "agent"): _AGENTS, ("useragent",): _AGENTS},
    **{("position",): _PLACES, ("pos",): _PLACES, ("slot",): _PLACES, ("rank",): _PLACES},
}
_MAX_CATEGORIES = 64  # Distinct values up to which integers are a category.
MANY = 1_000  # Distinct values from which on rare values share a row.
_MIN_ROWS_OF_KEY = 10  # With fewer rows per value, the values of a column such as session_id do not return.
_UNIQUE = 0.95  # Share of distinct values from which on a column is a key of the row.
_SKEWED = 20  # 99th percentile over median from which on a number is skewed.
_MIN_ROWS_OF_ID = 10  # Rows per value from which on a number may be an id, if its name does not tell.
_MAX_SHIFT = 0.1  # Distance of the mean from the middle, over the range, up to which numbers are spread evenly.
_MIN_ID = 1_000  # If so few values are all as large as this, they are ids.


@dataclass(frozen=True)
class Label:
    """Label of a task.

    Args:
        column: Column of the label.
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
    """Feature of the model.

    Args:
        name: Name of the feature.
        keys: Other keys of its entry in the TOML file, with values in TOML.
        dense: True for `[[dense]]`.
        why: Reason of the guess.
        table: Name of its embedding table; empty for a dense feature.
        values: Values of the sample that get rows of the table; None if later days cannot bring other values.
    """

    name: str
    keys: Mapping[str, str]
    dense: bool
    why: str
    table: str = ""
    values: pa.Array | None = None


@dataclass(frozen=True)
class Roles:
    """Guessed roles of all columns.

    Args:
        time: Time of a row; None if the log has none.
        user: Column of the user; None if the log has none.
        labels: Labels of the tasks.
        features: Features of the model.
        left_out: Reason for each column that is of no use, by column.
        questions: Question to the user about each column that is unclear, by column.
        columns: All columns without those of `questions`.
    """

    time: Time | None
    user: Column | None
    labels: tuple[Label, ...]
    features: tuple[Feature, ...]
    left_out: Mapping[str, str]
    questions: Mapping[str, str]
    columns: tuple[Column, ...]

    @property
    def vocabularies(self) -> dict[str, pa.Array]:
        """Values of the sample by embedding table, over the features that share it, for tables that may grow."""
        values: dict[str, list[pa.Array]] = {}
        for feature in self.features:
            if feature.values is not None:
                values.setdefault(feature.table, []).append(feature.values)
        return {table: pa.concat_arrays(arrays) for table, arrays in values.items()}


def guess_roles(rows: pa.Table, labels: Sequence[str] = (), unreadable: Mapping[str, str] = {}) -> Roles:
    """Guess the roles of a log's columns.

    Args:
        rows: Sample of the log.
        labels: Columns that the user names as labels; empty to guess them, too.
        unreadable: Reason for each column that prep cannot read, by column.

    Raises:
        UserError: No column looks like a label, a column that the user names is none, or no column can be a feature.
    """

    def may_be_label(column: Column) -> bool:
        """Return whether a column of numbers may be a label. A label may have lost digits, so it raises no question."""
        return column.kind == "number" and (column.name in labels or _is_outcome(column))

    names = Names()
    columns = {}
    for place, name in enumerate(rows.column_names, 1):
        columns[name] = Column.of(name, rows[name], names.add(name, place), place)
    times = {name: time for name, c in columns.items() if (time := time_of(c, _ID, _USER | _ITEM)) is not None}
    questions = {
        name: question
        for name, column in columns.items()
        if name not in times and not may_be_label(column) and (question := question_of(column))
    }
    columns = {name: column for name, column in columns.items() if name not in questions}
    time = row_time(times.values(), _USER | _ITEM)
    rest = {name: column for name, column in columns.items() if time is None or name != time.column.name}
    tasks = _labels(rest, [name for name in rest if name not in times], labels, {**unreadable, **questions})
    known = {task.column.name for task in tasks}
    outcomes = known | {name for name, column in rest.items() if name not in times and _is_outcome(column)}
    user = _user(column for name, column in rest.items() if name not in times and not _no_feature(column))
    left_out: dict[str, str] = dict.fromkeys(sorted(outcomes - known), "an outcome, with one value")
    if labels:
        left_out = {name: "an outcome, which is not known when a score is needed" for name in left_out}
    features: list[Feature] = []
    tables: dict[str, Column] = {}
    for column in (column for name, column in rest.items() if name not in outcomes):
        why = _useless(column, column is user)
        if column.kind == "time" or column.name in times:
            why = "another time" if time is not None else "a time that too many rows lack, or not in 2000 to 2099"
        if why:
            left_out[column.name] = why
        else:
            features.append(_feature(column, tables))
    if time is not None and time.unit != "date" and "hour" not in names:
        why = "habits follow the hour of the day"
        features.append(Feature("hour", {"value": '"time.hour"'}, dense=False, why=why, table="hour"))
    if not features:
        raise UserError("--from", "no column of the log can be a feature", "a model reads features", "name other files")
    left_out |= unreadable
    return Roles(time, user, tuple(tasks), tuple(features), left_out, questions, tuple(columns.values()))


def _labels(
    columns: Mapping[str, Column], likely: Sequence[str], names: Sequence[str], unreadable: Mapping[str, str]
) -> list[Label]:
    for name in names:
        if name in unreadable:
            raise UserError("--label", f"{name} is not read", unreadable[name], "write the column so, or name another")
        if name not in columns:
            raise UserError("--label", f"got {name!r}", f"the log has {', '.join(columns)}", "name a column of the log")
        if not columns[name].is_binary and columns[name].kind != "number":
            rule = "a label is 0 or 1, a truth value or a number"
            raise UserError("--label", f"{name} is {columns[name].type}", rule, "name another, or write its expression")
    if names:
        return [_label(columns[name], "named by --label") for name in names]
    labels = []
    for column in map(columns.__getitem__, likely):
        if not _is_outcome(column) or column.distinct < 2:
            continue
        named = ", ".join(sorted(column.words & (_BINARY | _WATCHED | _AMOUNT)))
        values = "0 and 1" if column.is_binary else "numbers"
        labels.append(_label(column, f"its name says {named!r}, its values are {values}"))
    if not labels:
        binary = [name for name in likely if columns[name].is_binary and columns[name].distinct == 2]
        near = f"e.g. --label {binary[-1]}" if binary else "with 0 and 1, or with a number to predict"
        unclear = [name for name in unreadable if words_of(name) & (_BINARY | _WATCHED | _AMOUNT)]
        near += "".join(f"; or mend {name}: {unreadable[name]}" for name in unclear)
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
    scale = 10 ** round(math.log10(deviation)) if math.isfinite(deviation) else 1
    value = column.expression if scale == 1 else f"{column.expression} / {scale:g}"
    unit = "" if scale == 1 else f"; the unit is about a standard deviation, {deviation:.3g}"
    return Label(column, "regression", value, why + unit)


def _user(columns: Iterable[Column]) -> Column | None:
    users = [column for column in columns if column.words & _USER and (column.is_integer or column.kind == "text")]
    return min(users, key=lambda column: (not column.words & _ID, len(column.name)), default=None)


def _no_feature(column: Column) -> str:
    """Return why a column is no feature by its name; empty if the name does not tell."""
    if column.words & _DURATION:  # For example position_ms, the place in a video.
        return ""
    return next((why for words, why in _NO_FEATURES.items() if column.words.issuperset(words)), "")


def _useless(column: Column, is_user: bool) -> str:
    """Return why a column is no feature; empty if it may be one."""
    if column.nulls == column.rows:
        return "it has no value"
    if column.kind == "other":
        return f"its type is {column.type}"
    if column.distinct < 2:
        return "it has one value"
    if why := _no_feature(column):
        return why
    if _cut(column) is not None:
        return ""
    unique = column.distinct >= _UNIQUE * (column.rows - column.nulls) and column.rows >= MANY and not is_user
    if column.words & _ROW and not is_user and column.distinct * _MIN_ROWS_OF_KEY > column.rows - column.nulls:
        return "its name is that of a key, which few rows share"
    if unique and (column.kind == "text" or column.words & (_ID | _ROW)):
        return "nearly every row has a value of its own"
    return ""


def _feature(column: Column, tables: dict[str, Column]) -> Feature:
    """Return the feature of a column.

    Args:
        column: Column that is a feature.
        tables: Column of ids of each table. A new column of ids is added.
    """
    name = column.feature
    value = {} if column.expression == name else {"value": quoted(column.expression)}
    if column.kind == "bool":
        keys = {"value": quoted(f"cast({column.expression} as int)")}
        return Feature(name, keys, dense=False, why="two values", table=name)
    category = _category(column)
    if column.kind == "number" and not category:
        normaliser = _normaliser(column)
        if column.odd:
            value = {"value": quoted(f"case when {column.finite} then {column.expression} end")}
        return Feature(name, value | {"normaliser": quoted(normaliser)}, dense=True, why=f"numbers{_shape(normaliser)}")
    cut = _cut(column)
    if column.kind == "list" or cut is not None:
        items = column.values if cut is None else cut.items(column.values)
        keys = value if cut is None else {"value": quoted(cut.expression(column.expression))}
        table = next((t for t, c in tables.items() if _overlap(items, c.values)), name)
        keys |= {"table": quoted(table), "bag": "true", "max_length": "50"}
        shared = "" if table == name else f", which {table} has too"
        return Feature(name, keys, dense=False, why=_list_why(column, cut) + shared, table=table, values=items)
    if column.id_expression != name:
        value = {"value": quoted(column.id_expression)}
    tables[name] = column
    why = f"{column.distinct:,} values in the sample{category.rstrip()}"
    return Feature(name, value, dense=False, why=why, table=name, values=column.values)


def _list_why(column: Column, cut: Cut | None) -> str:
    """Return why a column is a bag."""
    if cut is None:
        return f"lists of {column.distinct:,} values"
    if column.structure is not None:
        return f"lists as text, such as {shown_value(column.structure.example)}"
    return f"texts with {cut.separator!r} between their parts"


def _category(column: Column) -> str:
    """Return why the numbers of a column are ids; empty if they are amounts, a space if the name alone says so."""
    if not column.is_integer:
        return ""
    if column.words & (_ID | _USER | _ITEM) or column.distinct <= _MAX_CATEGORIES:
        return " "
    if column.words & _QUANTITY:
        return ""
    low, high = pc.min_max(column.values).as_py().values()
    if max(-low, high) > EXACT:
        return ", some of them beyond 2^53: ids, not amounts"
    if column.distinct * _MIN_ROWS_OF_ID > column.rows - column.nulls:
        return ""
    if low >= _MIN_ID:
        return f", which return often and are {low:,} or more: ids, not amounts"
    middle, mean = (low + high) / 2, pc.mean(column.values).as_py()
    even = abs(mean - middle) <= _MAX_SHIFT * (high - low)
    if high - low < 2 * column.distinct and even:
        return f", which return often, spread evenly up to {high:,}: ids, not amounts"
    return ""


def _normaliser(column: Column) -> str:
    low, median, high = pc.quantile(column.values, [0, 0.5, 0.99]).to_pylist()
    return "log" if low >= 0 and high > _SKEWED * max(median, 1e-9) else "standard"


def _shape(normaliser: str) -> str:
    return ", a few of them far above the others" if normaliser == "log" else ""


def _cut(column: Column) -> Cut | None:
    """Return the way to cut texts that are lists into items; None for other columns."""
    if column.kind != "text":
        return None
    if column.structure is not None:
        return column.structure.cut
    for separator in _SEPARATORS:
        parts = pc.split_pattern(column.values, separator)
        several = pc.mean(pc.greater(pc.list_value_length(parts), 1).cast(pa.float64())).as_py()
        items = pc.list_flatten(parts)
        if several >= 0.3 and pc.count_distinct(items).as_py() <= len(items) / 2:
            return Cut((), separator)
    return None


def _overlap(items: pa.Array, values: pa.Array) -> bool:
    """Return whether more than half of the distinct items of lists are values of a column."""
    if items.type != values.type or not len(items):
        return False
    return bool(pc.mean(pc.is_in(items.unique(), values.unique()).cast(pa.float64())).as_py() > 0.5)


def quoted(text: str) -> str:
    """Return a text as TOML writes it."""
    if '"' in text and "'" not in text and text.isprintable():
        return f"'{text}'"
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
