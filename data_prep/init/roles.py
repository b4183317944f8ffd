"""Guess the roles of a log's columns (time, user, labels, features) by their names, types and values.

`ple-rec init` writes each guess into prep.toml, with its reason as a comment.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

from data_prep.expressions.syntax import quoted_name
from data_prep.init.column import EXACT_FLOAT64, Column, Names, split_words
from data_prep.init.json_fields import json_column
from data_prep.init.questions import find_question
from data_prep.init.times import Time, choose_row_time, guess_time
from data_prep.sources.list_texts import Cut
from data_prep.sources.table import shown_value
from ple_rec.errors import UserError

# A column of 0 and 1, or of truth values, is a label if its name has one of these words.
_ACTION_WORDS = {
    *("click", "clicked", "clk", "like", "liked", "share", "shared", "follow", "followed", "forward"),
    *("forwarded", "comment", "commented", "favorite", "favourite", "fav", "collect", "collected", "buy"),
    *("bought", "purchase", "purchased", "pay", "paid", "order", "ordered", "conversion", "converted"),
    *("cart", "install", "installed", "download", "downloaded", "subscribe", "subscribed", "finish"),
    *("finished", "complete", "completed", "skip", "skipped", "hate", "dislike", "report", "enter", "view"),
    *("viewed", "watched", "label", "target", "y"),
}
# A number is a label if its name has one of these words and one of the next set, such as `play_time_ms`.
_WATCH_WORDS = {
    *("play", "played", "watch", "watched", "watching", "dwell", "stay", "view", "viewed", "listen", "listened"),
    *("read", "reading"),
}
_DURATION_WORDS = {"time", "times", "ms", "s", "sec", "secs", "second", "seconds", "duration", "minutes", "length"}
# A number is also a label if its name has one of these words, or an action word and one of the next set, such as
# `order_amount`.
_AMOUNT_WORDS = {"rating", "stars", "completion", "revenue", "gmv", "spend", "spent"}
_SIZE_WORDS = {"amount", "value"}
_USER_WORDS = {
    *("user", "uid", "userid", "member", "memberid", "customer", "customerid", "visitor", "visitorid"),
    *("account", "viewer", "viewerid", "shopper", "buyer", "client", "person", "reader", "listener", "player"),
}
ITEM_WORDS = {
    *("item", "itemid", "video", "videoid", "vid", "photo", "article", "product", "productid", "sku", "ad"),
    *("adid", "doc", "document", "movie", "song"),
}
ID_WORDS = {"id", "ids", "uuid", "guid", "key", "hash", "uid", "vid", "sku", "code"}
_ROW_KEY_WORDS = {"request", "impression", "event", "session", "row", "index", "idx", "log", "trace"}
_SEPARATORS = ("|", ";", ",")  # Separators of the items of lists that are written as text.
_QUANTITY_WORDS = {  # Words for numbers that are amounts, not ids.
    *_DURATION_WORDS,
    *_AMOUNT_WORDS,
    *_SIZE_WORDS,
    *("age", "price", "cost", "fee", "count", "cnt", "num", "number", "total", "sum", "avg", "mean", "score", "rate"),
    *("ratio", "height", "width", "weight", "size", "views", "likes", "plays", "clicks", "distance", "bytes", "mbps"),
    *("days", "hours", "years", "year", "quantity", "qty", "balance", "level", "rank", "position", "percent", "n"),
}
_BOT_REASON = "it tells bots from people; `where` of [log] leaves out the rows of bots"
_AGENT_REASON = (
    "device, system and browser in one text, which is new with each release; write them as columns of their own"
)
_POSITION_REASON = (
    "the place in the list at which the item was shown is decided by the ranking itself and unknown when the feed is "
    "ranked; its effect is a bias, not a feature. `carry` keeps it, to slice metrics by"
)
_NO_FEATURE_REASONS: Mapping[tuple[str, ...], str] = {  # By words that are all in the name of the column.
    **{("bot",): _BOT_REASON, ("robot",): _BOT_REASON, ("crawler",): _BOT_REASON},
    **{("user", "agent"): _AGENT_REASON, ("useragent",): _AGENT_REASON},
    **{
        ("position",): _POSITION_REASON,
        ("pos",): _POSITION_REASON,
        ("slot",): _POSITION_REASON,
        ("rank",): _POSITION_REASON,
    },
}
MAX_CATEGORIES = 64  # Integers with at most this many distinct values are categories.
MANY_VALUES = 1_000  # In tables with at least this many distinct values, rare values share a row.
_MIN_ROWS_OF_KEY = 10  # A column such as session_id with fewer rows per value than this is no feature.
_MIN_KEY_SHARE = 0.95  # A text or id with at least this many distinct values per row is a key of the row, no feature.
_MIN_LOG_SKEW = 20  # Ratio of 99th percentile and median above which the normaliser is "log".
_MIN_ROWS_OF_ID = 10  # If the name does not tell, integers are ids only with at least this many rows per value.
# Integers count as spread evenly if the distance of their mean from the middle is at most this share of their range.
_MAX_SHIFT = 0.1
_MIN_ID = 1_000  # Integers with enough rows per value that are all at least this large are ids.


@dataclass(frozen=True)
class Label:
    """Label of a task.

    Args:
        column: Column of the label.
        kind: Kind of the task.
        value: Expression of the label.
        why: Reason for the guess.
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
        keys: Other keys of its entry in prep.toml, with their values as TOML.
        is_dense: True for an entry in `[[dense]]`, False for one in `[[sparse]]`.
        why: Reason for the guess.
        table: Name of its embedding table; empty for a dense feature.
        values: Values in the sample that get rows of the table. None for a dense feature, and for truth values and
            hours of the day, all of whose values are known without the sample.
    """

    name: str
    keys: Mapping[str, str]
    is_dense: bool
    why: str
    table: str = ""
    values: pa.Array | None = None


@dataclass(frozen=True)
class Roles:
    """Guessed roles of the columns of a log.

    Args:
        time: Column of the time of a row, with its unit; None if the log has none.
        user: Column of the user; None if the log has none.
        labels: Labels of the tasks.
        features: Features of the model.
        left_out: Reason why a column is not used, by its name.
        questions: Question to the user about a column whose role or values are unclear, by its name.
        columns: All columns except those of `questions`.
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
        """`Feature.values` of all features that share an embedding table, concatenated, by table."""
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
        unreadable: Reason why prep cannot read a column, by its name.

    Raises:
        UserError: No column looks like a label, a column that the user names cannot be one, or none can be a feature.
    """

    def may_be_label(column: Column) -> bool:
        """Return whether a column of numbers may be a label. Unlike an id, a label may have lost digits."""
        return column.kind == "number" and (column.name in labels or _is_outcome(column))

    names = Names()
    columns = {}
    for number, name in enumerate(rows.column_names, 1):
        columns[name] = Column.from_rows(rows.schema.field(name), rows[name], names.add(name, number), number)
    json_fields = Counter(filter(None, map(json_column, rows.schema)))
    times = {
        name: time
        for name, c in columns.items()
        if (time := guess_time(c, ID_WORDS, _USER_WORDS | ITEM_WORDS)) is not None
    }
    questions = {
        name: question
        for name, column in columns.items()
        if name not in times
        and name not in json_fields
        and not may_be_label(column)
        and (question := find_question(column))
    }
    columns = {name: column for name, column in columns.items() if name not in questions and name not in json_fields}
    # Only a column of the log can be the time of a row, since `LogPreview.days_with_rows` reads the whole column.
    row_times = [times[name] for name in times if json_column(rows.schema.field(name)) is None]
    time = choose_row_time(row_times, _USER_WORDS | ITEM_WORDS)
    other_columns = {name: column for name, column in columns.items() if time is None or name != time.column.name}
    tasks = _guess_labels(
        other_columns, [name for name in other_columns if name not in times], labels, {**unreadable, **questions}
    )
    label_names = {task.column.name for task in tasks}
    outcomes = label_names | {
        name for name, column in other_columns.items() if name not in times and _is_outcome(column)
    }
    user = _guess_user(
        column for name, column in other_columns.items() if name not in times and not _no_feature_reason(column)
    )
    left_out: dict[str, str] = dict.fromkeys(sorted(outcomes - label_names), "an outcome, with one value")
    if labels:
        left_out = {name: "an outcome, which is not known when a score is needed" for name in left_out}
    features: list[Feature] = []
    tables: dict[str, Column] = {}
    for column in (column for name, column in other_columns.items() if name not in outcomes):
        why = _useless_reason(column, column is user)
        if column.kind == "time" or column.name in times:
            why = "another time" if time is not None else "a time that too many rows lack, or not in 2000 to 2099"
            if time is None and column.source != quoted_name(column.name):
                why = "a time; if it is that of the row, add [time] with its expression, and split by day"
        if why:
            left_out[column.name] = why
        else:
            features.append(_make_feature(column, tables))
    if time is not None and time.unit != "date" and "hour" not in names:
        why = "habits follow the hour of the day"
        features.append(Feature("hour", {"value": '"time.hour"'}, is_dense=False, why=why, table="hour"))
    if not features:
        raise UserError("--from", "no column of the log can be a feature", "a model reads features", "name other files")
    left_out |= {name: f"JSON, of which {count} fields are read" for name, count in json_fields.items()}
    left_out |= unreadable
    return Roles(time, user, tuple(tasks), tuple(features), left_out, questions, tuple(columns.values()))


def _guess_labels(
    columns: Mapping[str, Column], candidates: Sequence[str], names: Sequence[str], unreadable: Mapping[str, str]
) -> list[Label]:
    """Return the labels that the user names, or else the guessed labels, binary ones first.

    Args:
        columns: Columns of the log by name, without the time of a row.
        candidates: Names of the columns that may be guessed to be labels.
        names: Columns that the user names as labels.
        unreadable: Reason why a column is not read, by its name.

    Raises:
        UserError: A column that the user names cannot be a label, or no column looks like one.
    """
    for name in names:
        if name in unreadable:
            raise UserError(
                "--label",
                f"{name} is not read",
                unreadable[name],
                "write the column as this rule says, or name another",
            )
        if name not in columns:
            raise UserError("--label", f"got {name!r}", f"the log has {', '.join(columns)}", "name a column of the log")
        if not columns[name].is_binary and columns[name].kind != "number":
            rule = "a label is 0 or 1, a truth value or a number"
            raise UserError("--label", f"{name} is {columns[name].type}", rule, "name another, or write its expression")
    if names:
        return [_make_label(columns[name], "named by --label") for name in names]
    labels = []
    for column in map(columns.__getitem__, candidates):
        if not _is_outcome(column) or column.distinct < 2:
            continue
        named = ", ".join(sorted(column.words & (_ACTION_WORDS | _WATCH_WORDS | _AMOUNT_WORDS)))
        values = "0 and 1" if column.is_binary else "numbers"
        labels.append(_make_label(column, f"its name says {named!r}, its values are {values}"))
    if not labels:
        binary = [name for name in candidates if columns[name].is_binary and columns[name].distinct == 2]
        hint = f"e.g. --label {binary[-1]}" if binary else "with 0 and 1, or with a number to predict"
        unclear = [name for name in unreadable if split_words(name) & (_ACTION_WORDS | _WATCH_WORDS | _AMOUNT_WORDS)]
        hint += "".join(f"; or mend {name}: {unreadable[name]}" for name in unclear)
        raise UserError(
            "--from", "no column looks like a label", "a model needs one", f"name it: --label COLUMN, {hint}"
        )
    return sorted(labels, key=lambda label: label.kind)


def _is_outcome(column: Column) -> bool:
    if column.is_binary:
        return bool(column.words & _ACTION_WORDS)
    if column.kind != "number":
        return False
    words = column.words
    is_amount_of_action = (words & _WATCH_WORDS and words & _DURATION_WORDS) or (
        words & _ACTION_WORDS and words & _SIZE_WORDS
    )
    return bool(words & _AMOUNT_WORDS or is_amount_of_action)


def _make_label(column: Column, why: str) -> Label:
    if column.is_binary:
        return Label(column, "binary", column.expression, why)
    deviation = pc.stddev(column.values).as_py() or 1.0
    scale = 10 ** round(math.log10(deviation)) if math.isfinite(deviation) else 1
    value = column.expression if scale == 1 else f"{column.expression} / {scale:g}"
    unit = "" if scale == 1 else f"; the unit is about a standard deviation, {deviation:.3g}"
    return Label(column, "regression", value, why + unit)


def _guess_user(columns: Iterable[Column]) -> Column | None:
    users = [
        column for column in columns if column.last_words & _USER_WORDS and (column.is_integer or column.kind == "text")
    ]
    return min(users, key=lambda column: (not column.last_words & ID_WORDS, len(column.name)), default=None)


def _no_feature_reason(column: Column) -> str:
    """Return why the name of a column shows that it is no feature; empty if it does not."""
    if column.words & _DURATION_WORDS:  # For example position_ms, the place in a video.
        return ""
    return next((why for words, why in _NO_FEATURE_REASONS.items() if column.words.issuperset(words)), "")


def _useless_reason(column: Column, is_user: bool) -> str:
    """Return why a column cannot be a feature; empty if it can."""
    if column.nulls == column.rows:
        return "it has no value"
    if column.kind == "other":
        return f"its type is {column.type}"
    if column.distinct < 2:
        return "it has one value"
    if why := _no_feature_reason(column):
        return why
    if _guess_cut(column) is not None:
        return ""
    unique = (
        column.distinct >= _MIN_KEY_SHARE * (column.rows - column.nulls) and column.rows >= MANY_VALUES and not is_user
    )
    if (
        column.words & _ROW_KEY_WORDS
        and not is_user
        and column.distinct * _MIN_ROWS_OF_KEY > column.rows - column.nulls
    ):
        return "its name is that of a key, which few rows share"
    if unique and (column.kind == "text" or column.words & (ID_WORDS | _ROW_KEY_WORDS)):
        return "nearly every row has a value of its own"
    return ""


def _make_feature(column: Column, tables: dict[str, Column]) -> Feature:
    """Return the feature of a column.

    Args:
        column: Column that is a feature.
        tables: Columns with one id per row, by embedding table. If `column` is such a column, it is added. A column of
            lists shares the table of the first of these columns that has more than half of its items.
    """
    name = column.feature
    value = {} if column.expression == name else {"value": toml_text(column.expression)}
    if column.kind == "bool":
        keys = {"value": toml_text(f"cast({column.expression} as int)")}
        return Feature(name, keys, is_dense=False, why="two values", table=name)
    id_reason = _id_reason(column)
    if column.kind == "number" and not id_reason:
        normaliser = _guess_normaliser(column)
        if column.has_non_finite:
            value = {"value": toml_text(f"case when {column.finite_condition} then {column.expression} end")}
        return Feature(
            name,
            value | {"normaliser": toml_text(normaliser)},
            is_dense=True,
            why=f"numbers{_normaliser_reason(normaliser)}",
        )
    cut = _guess_cut(column)
    if column.kind == "list" or cut is not None:
        items = column.values if cut is None else cut.items(column.values)
        keys = value if cut is None else {"value": toml_text(cut.expression(column.expression))}
        table = next((t for t, c in tables.items() if _shares_values(items, c.values)), name)
        keys |= {"table": toml_text(table), "bag": "true", "max_length": "50"}
        shared = "" if table == name else f", which {table} has too"
        return Feature(name, keys, is_dense=False, why=_list_reason(column, cut) + shared, table=table, values=items)
    if column.id_expression != name:
        value = {"value": toml_text(column.id_expression)}
    tables[name] = column
    why = f"{column.distinct:,} values in the sample{id_reason.rstrip()}"
    return Feature(name, value, is_dense=False, why=why, table=name, values=column.values)


def _list_reason(column: Column, cut: Cut | None) -> str:
    """Return why a column is guessed to be a bag, that is, a feature with a list of ids per row."""
    if cut is None:
        return f"lists of {column.distinct:,} values"
    if column.structure is not None:
        return f"lists as text, such as {shown_value(column.structure.example)}"
    return f"texts with {cut.separator!r} between their parts"


def _id_reason(column: Column) -> str:
    """Return why the integers of a column are ids; empty if they are not, or if the values are no integers.

    The text goes on from "n values in the sample". It is " " if the name or a small number of values is the reason,
    which needs no words.
    """
    if not column.is_integer:
        return ""
    if column.words & (ID_WORDS | _USER_WORDS | ITEM_WORDS) or column.distinct <= MAX_CATEGORIES:
        return " "
    if column.words & _QUANTITY_WORDS:
        return ""
    low, high = pc.min_max(column.values).as_py().values()
    if max(-low, high) > EXACT_FLOAT64:
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


def _guess_normaliser(column: Column) -> str:
    low, median, high = pc.quantile(column.values, [0, 0.5, 0.99]).to_pylist()
    return "log" if low >= 0 and high > _MIN_LOG_SKEW * max(median, 1e-9) else "standard"


def _normaliser_reason(normaliser: str) -> str:
    return ", a few of them far above the others" if normaliser == "log" else ""


def _guess_cut(column: Column) -> Cut | None:
    """Return how texts that are lists are cut into items; None for other columns.

    Texts such as "[1, 2]" show how. Other texts are lists if at least 30 % of them have several parts between
    separators, and a part occurs twice or more on average.
    """
    if column.kind != "text":
        return None
    if column.structure is not None:
        return column.structure.cut
    for separator in _SEPARATORS:
        parts = pc.split_pattern(column.values, separator)
        share_of_lists = pc.mean(pc.greater(pc.list_value_length(parts), 1).cast(pa.float64())).as_py()
        items = pc.list_flatten(parts)
        if share_of_lists >= 0.3 and pc.count_distinct(items).as_py() <= len(items) / 2:
            return Cut((), separator)
    return None


def _shares_values(items: pa.Array, values: pa.Array) -> bool:
    """Return whether more than half of the distinct items of lists are values of a column."""
    if items.type != values.type or not len(items):
        return False
    return bool(pc.mean(pc.is_in(items.unique(), values.unique()).cast(pa.float64())).as_py() > 0.5)


def toml_text(text: str) -> str:
    """Return a text as a TOML string."""
    if '"' in text and "'" not in text and text.isprintable():
        return f"'{text}'"
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
