"""Reduce the configuration of a preparation to what the inputs of a model need.

`data_prep.inputs.read` reads raw logs for a prediction by the reduced configuration, so the log needs only the columns
that the model's features, the requested id columns and `log.where` read. Id columns are copied to the output.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from data_prep.expressions import column_to_word, parse
from data_prep.sources.columns import column_fix
from data_prep.sources.table import RawTable
from data_prep.transforms.resolve import Resolved
from data_prep.transforms.words import ROW_TIME, TIME_WORDS, is_rate_word, locate_word, word_qualifiers
from ple_rec.config.prep import DaySplit, LogConfig, PrepConfig
from ple_rec.config.prep_columns import DenseSpec, SparseSpec, VectorSpec
from ple_rec.config.prep_rates import CountedTable
from ple_rec.config.schema import DatasetSchema
from ple_rec.errors import DataError, Option, UserError
from ple_rec.text.suggest import nearest_name

ID_PREFIX = "id__"  # Prefix of id columns; no feature has it, since no feature's name has two underscores in a row.
GROUP = "group"  # Name of the id column with the value of the key `group` of prep.toml, such as the user.
_NO_SPLIT = DaySplit(by="day", train=(1, 1), valid=(2, 2), test=(3, 3))  # A required key; this split reads no column.


def inputs_config(config: PrepConfig, features: Collection[str], ids: Mapping[str, str]) -> PrepConfig:
    """Return a configuration that has only some features of a preparation, and id columns in place of `carry`.

    It also has the features that are items of its histories, since their values decide the order of events. `carry` has
    the columns that are copied to the output. The configuration has no tasks, so no dataset directory can be made from
    it.

    Args:
        config: Configuration of the preparation.
        features: Names of the features, among them those of histories.
        ids: Expressions of the id columns, by name.
    """
    histories = tuple(history for history in config.histories if history.name in features)
    features = {*features, *(item for history in histories for item in history.items)}
    sparse = tuple(feature for feature in config.sparse if feature.name in features)
    dense = tuple(number for number in config.dense if number.name in features)
    vectors = tuple(vector for vector in config.vectors if vector.name in features)
    numbers = (*(each for each in config.dense_features if each.name in features), *vectors)
    texts = [config.log.where, *(f.source for f in sparse), *(f.weights for f in sparse), *(n.source for n in numbers)]
    texts += [text for history in histories for text in (history.key, history.where)]
    words = words_read(config, [text for text in (*texts, *ids.values()) if text is not None])
    sides_read = {name: side for name, side in config.sides.items() if any(w.startswith(f"{name}.") for w in words)}
    counted = {i for table in counted_tables_read(config, words).values() for i in table.rates}
    # The rates are counted already, so `of` may be any expression that reads no column.
    rates = [rate if rate.of is None else rate.model_copy(update={"of": "0"}) for rate in config.rates]
    joins_by_day = bool(counted) or any(side.day is not None for side in sides_read.values())
    needs_time = joins_by_day or bool(histories) or reads_time(config, words)
    left_out: dict[str, Any] = {
        "checks": {},
        "tasks": (),
        "weight": None,
        "group": None,
        "sampling": None,
        "slices": None,
    }
    return config.model_copy(
        update={
            "sparse": sparse,
            "dense": dense,
            "vectors": vectors,
            "histories": histories,
            "rates": tuple(rate for i, rate in enumerate(rates) if i in counted),
            "sides": sides_read,
            "time": config.time if needs_time else None,
            "derived": {name: text for name, text in config.derived.items() if name in words},
            "split": _NO_SPLIT,
            "carry": {f"{ID_PREFIX}{name}": text for name, text in ids.items()},
            **left_out,
        }
    )


def reads_time(config: PrepConfig, words: Collection[str]) -> bool:
    """Return True if one of the words of expressions is the time of the row, or a part of it.

    `time` is the time of the row unless it is a derived column, or the dataset records a column of the log `time`.
    """
    has_column = ROW_TIME in config.found.columns.get("log", {}) or ROW_TIME in config.derived
    row_time = [] if has_column else [ROW_TIME]
    return config.time is not None and any(word in words for word in (*row_time, *TIME_WORDS))


def counted_tables_read(config: PrepConfig, words: Collection[str]) -> dict[str, CountedTable]:
    """Return the counted tables of rates that words of expressions name, such as `by_video_id.video_like_rate`."""
    names = {word.partition(".")[0] for word in words if is_rate_word(word, config)}
    return {name: table for name, table in config.counted_tables.items() if name in names}


def words_read(config: PrepConfig, texts: Iterable[str], *, joins: bool = True) -> set[str]:
    """Return all words that expressions read, including those that the words themselves need.

    A word is a column of the log, `side.column`, a derived column, or the time or a part of it, such as `time.hour`.
    Derived columns and the time are expressions, whose words are included.

    Args:
        config: Configuration of the preparation.
        texts: Texts of the expressions.
        joins: True to include the words by which a side table or rates are joined: the keys and, if the table is dated
            or has rates, the time.
    """
    words: set[str] = set()
    todo = list(texts)
    while todo:
        for word in parse(todo.pop(), "inputs", word_qualifiers(config)).columns:
            if word in words:
                continue
            words.add(word)
            table = word.partition(".")[0]
            side = config.sides.get(table) if joins else None
            counted = config.counted_tables[table] if joins and is_rate_word(word, config) else None
            if word in config.derived:
                todo.append(config.derived[word])
            elif side is not None:
                todo += side.on.values()
            elif counted is not None:
                todo += counted.key
            is_dated = counted is not None or (side is not None and side.day is not None)
            if config.time is not None and (is_dated or reads_time(config, [word])):
                todo.append(config.time.value)
    return words


def check_inputs(resolved: Resolved, table: RawTable) -> None:
    """Refuse files of a log or side table that lack a column; the message names the features that read the column.

    Args:
        resolved: Configuration that `inputs_config` has returned, with its parsed expressions.
        table: Files of the log, or of one of its side tables.

    Raises:
        DataError: A file lacks a column.
    """
    side = None if table.name == "log" else table.name
    needed = resolved.columns_in(table) if side is None else resolved.side_columns[side]
    for file in table.files:
        columns = [*(name for name, _ in file.columns), *file.partitions]
        if missing := [column for column in needed if column not in columns]:
            readers = {column: _readers(resolved.config, column, side) for column in missing}
            readers_text = "; ".join(f"{column!r} for {', '.join(readers[column])}" for column in missing)
            raise DataError(
                file.display_name,
                f"lacks column{'s' if len(missing) > 1 else ''} {', '.join(map(repr, missing))}",
                f"a prediction reads what training read ({resolved.place}): {readers_text}",
                _missing_column_fix(missing[0], readers[missing[0]], columns),
            )


def _readers(config: PrepConfig, column: str, side: str | None) -> list[str]:
    """Return the features and options that read a column of the log, or of the side table `side`.

    A column of a side table that no feature or option names is one of its join keys; then all readers of the side table
    are returned.
    """
    texts: dict[str, Sequence[str | None]] = {f"feature {f.name}": (f.source, f.weights) for f in config.sparse}
    texts |= {f"feature {number.name}": (number.source,) for number in (*config.dense_features, *config.vectors)}
    texts |= {f"history {each.name}": (each.key, each.where) for each in config.histories}
    texts |= {"log.where": (config.log.where,)}
    texts |= {f"{Option.IDS} {name.removeprefix(ID_PREFIX)}": (text,) for name, text in config.carry.items()}
    words = {who: words_read(config, [text for text in read if text is not None]) for who, read in texts.items()}
    name = column_to_word(column) if side is None else f"{side}.{column}"
    readers = [reader for reader, read in words.items() if name in read]
    return readers or [reader for reader, read in words.items() if any(word.startswith(f"{side}.") for word in read)]


def _missing_column_fix(column: str, readers: Sequence[str], columns: Sequence[str]) -> str:
    if all(reader.startswith(f"{Option.IDS} ") for reader in readers):
        return f"leave it out of {Option.IDS}"
    if list(readers) == ["log.where"]:
        return f"write the column into every file, or pass {Option.ALL_ROWS}"
    near = nearest_name(column, columns, cutoff=0.7)
    renamed = "" if near is None else f"if {near!r} is meant, rename it; else "
    return f"{renamed}write what is lacking into every file, null where a row has no value"


def id_expressions(
    config: PrepConfig, names: Sequence[str], log: RawTable, *, optional: Collection[str] = ()
) -> dict[str, str]:
    """Return the expressions of the id columns, by name, in the order of `names`.

    If the group, the first entry of the key `group`, is just a column of the log, such as `user_id`, the id column
    `group` is called `user_id`, so that asking for both gives one column. It keeps its name if `user_id` also names a
    feature or a column of `carry` that reads something else.

    Args:
        config: Configuration of the preparation.
        names: Names of columns of the log, `side.column`, `group`, features, or columns of `carry`.
        log: Files of the log.
        optional: Those of the names that are left out, without an error, if they are unknown or read anything but
            columns of the log and the time.

    Raises:
        UserError: A name is none of those that `names` may have, and is not in `optional`.
    """
    known = (
        dict(config.carry)
        | {f.name: f.source for f in config.sparse}
        | {d.name: d.source for d in config.dense_features}
    )
    group = GROUP
    if config.group is not None:
        expression = config.group_entries[0]
        log_column_name = log_column(config, expression, log)
        if (
            log_column_name is not None
            and log_column(config, known.get(log_column_name, expression), log) == log_column_name
        ):
            group = log_column_name
        known[GROUP] = expression
    columns, ids = list(log.schema.names), dict[str, str]()
    available = {*map(column_to_word, columns), *TIME_WORDS, *config.derived}
    if config.time is not None:
        available.add(ROW_TIME)
    for requested in names:
        name = group if requested == GROUP else requested
        side = name.partition(".")[0]
        if name in known:
            text = known[name]
        elif name in columns:
            text = _quoted(name)
        elif "." in name and side in config.sides:
            text = name
        elif requested in optional:
            continue
        else:
            raise UserError(
                Option.IDS,
                f'got "{name}"',
                "it is a column of the raw logs, or one that prep.toml names: group, a feature, a column of carry",
                column_fix(name, columns, [*known]),
            )
        if requested not in optional or words_read(config, [text]) <= available:
            ids[name] = text
    return ids


def log_column(config: PrepConfig, text: str, log: RawTable) -> str | None:
    """Return the column of the log that an expression consists of; None for any other expression."""
    expression = parse(text, "inputs", word_qualifiers(config))
    if not expression.is_column:
        return None
    table, column = locate_word("inputs", expression.columns[0], config)
    return column if table == "log" and column in log.schema.names else None


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def config_from_schema(schema: DatasetSchema) -> PrepConfig:
    """Return the configuration for a dataset without `prep.toml`: each feature is the raw column of the same name."""
    return PrepConfig.model_construct(
        name=schema.name,
        log=LogConfig(files=("log",)),  # A required key; these files are not read.
        sparse=tuple(
            SparseSpec(name=feature.name, table=feature.table, bag=feature.bag, weights=feature.weights)
            for feature in schema.sparse
        ),
        dense=tuple(DenseSpec(name=number.name) for number in schema.dense),
        vectors=tuple(VectorSpec(name=vector.name, width=vector.width) for vector in schema.vectors),
        tasks=(),
        split=_NO_SPLIT,
    )
