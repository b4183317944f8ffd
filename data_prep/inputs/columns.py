"""Reduction of a preparation to the expressions, derived columns, side tables and times that a model's inputs need."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from data_prep.expressions import parse, word_of
from data_prep.sources.columns import column_fix
from data_prep.sources.table import RawTable
from data_prep.transforms.resolve import TIME_WORDS, Resolved, owner_of, tables_of
from ple_rec.config.prep import DaySplit, LogConfig, PrepConfig
from ple_rec.config.prep_columns import DenseSpec, SparseSpec
from ple_rec.config.schema import DatasetSchema
from ple_rec.errors import DataError, Option, UserError
from ple_rec.text.suggest import nearest

CARRIED = "id__"  # Prefix of the names of id columns; the name of a feature has no two underscores in a row.
GROUP = "group"
_NO_SPLIT = DaySplit(by="day", train=(1, 1), valid=(2, 2), test=(3, 3))  # A split is required; this reads no column.


def inputs_config(config: PrepConfig, features: Collection[str], ids: Mapping[str, str]) -> PrepConfig:
    """Return a configuration that has only some features of a preparation, and id columns.

    Everything else is neither checked nor read. Such a configuration cannot make a dataset directory.

    Args:
        config: Configuration of the preparation.
        features: Names of the features.
        ids: Expressions of the id columns, by name.
    """
    sparse = tuple(feature for feature in config.sparse if feature.name in features)
    dense = tuple(number for number in config.dense if number.name in features)
    texts = [config.log.where, *(f.source for f in sparse), *(f.weights for f in sparse), *(d.source for d in dense)]
    words = _words(config, [text for text in (*texts, *ids.values()) if text is not None])
    used = {name: side for name, side in config.sides.items() if any(w.startswith(f"{name}.") for w in words)}
    needs_time = words & set(TIME_WORDS) or any(side.day is not None for side in used.values())
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
            "sides": used,
            "time": config.time if needs_time else None,
            "derived": {name: text for name, text in config.derived.items() if name in words},
            "split": _NO_SPLIT,
            "carry": {f"{CARRIED}{name}": text for name, text in ids.items()},
            **left_out,
        }
    )


def _words(config: PrepConfig, texts: Iterable[str]) -> set[str]:
    """Return the words that expressions read, also through derived columns, keys of side tables and times."""
    words: set[str] = set()
    todo = list(texts)
    while todo:
        for word in parse(todo.pop(), "inputs", tables_of(config)).columns:
            if word in words:
                continue
            words.add(word)
            side = config.sides.get(word.partition(".")[0])
            if word in config.derived:
                todo.append(config.derived[word])
            elif side is not None:
                todo += side.on.values()
            if config.time is not None and (word in TIME_WORDS or (side is not None and side.day is not None)):
                todo.append(config.time.value)
    return words


def check_inputs(resolved: Resolved, table: RawTable) -> None:
    """Refuse files of a log or side table that lack a column; the message names the features that read the column.

    Args:
        resolved: Configuration of `inputs_config`, with its expressions.
        table: Files of the log, or of one of its side tables.

    Raises:
        DataError: A file lacks a column.
    """
    side = None if table.name == "log" else table.name
    needed = resolved.log_columns if side is None else resolved.side_columns[side]
    for file in table.files:
        columns = [*(name for name, _ in file.columns), *file.partitions]
        if missing := [column for column in needed if column not in columns]:
            readers = {column: _readers(resolved.config, column, side) for column in missing}
            each = "; ".join(f"{column!r} for {', '.join(readers[column])}" for column in missing)
            raise DataError(
                file.shown,
                f"lacks column{'s' if len(missing) > 1 else ''} {', '.join(map(repr, missing))}",
                f"a prediction reads what training read ({resolved.place}): {each}",
                _fix(missing[0], readers[missing[0]], columns),
            )


def _readers(config: PrepConfig, column: str, side: str | None) -> list[str]:
    """Return the readers of a column; the key of a side table is read by all who read the table."""
    texts: dict[str, Sequence[str | None]] = {f"feature {f.name}": (f.source, f.weights) for f in config.sparse}
    texts |= {f"feature {number.name}": (number.source,) for number in config.dense}
    texts |= {"log.where": (config.log.where,)}
    texts |= {f"{Option.IDS} {name.removeprefix(CARRIED)}": (text,) for name, text in config.carry.items()}
    words = {who: _words(config, [text for text in read if text is not None]) for who, read in texts.items()}
    name = word_of(column) if side is None else f"{side}.{column}"
    readers = [reader for reader, read in words.items() if name in read]
    return readers or [reader for reader, read in words.items() if any(word.startswith(f"{side}.") for word in read)]


def _fix(column: str, readers: Sequence[str], columns: Sequence[str]) -> str:
    if all(reader.startswith(f"{Option.IDS} ") for reader in readers):
        return f"leave it out of {Option.IDS}"
    if list(readers) == ["log.where"]:
        return f"write the column into every file, or pass {Option.ALL_ROWS}"
    near = nearest(column, columns, cutoff=0.7)
    renamed = "" if near is None else f"if {near!r} is meant, rename it; else "
    return f"{renamed}write what is lacking into every file, null where a row has no value"


def carried(config: PrepConfig, names: Sequence[str], log: RawTable, *, if_there: bool) -> dict[str, str]:
    """Return the expressions of the id columns, by name.

    If `group` is a column of the log, it gets the column's name, so that both names give one id column.

    Args:
        config: Configuration of the preparation.
        names: Names of columns of the log, `side.column`, `group`, features, or carried columns of the preparation.
        log: Files of the log.
        if_there: True to leave out id columns whose columns the log does not have.

    Raises:
        UserError: A name is none of these.
    """
    known = dict(config.carry) | {f.name: f.source for f in config.sparse} | {d.name: d.source for d in config.dense}
    group = GROUP
    if config.group is not None:
        own = log_column(config, config.group, log)
        if own is not None and log_column(config, known.get(own, config.group), log) == own:
            group = own
        known[GROUP] = config.group
    columns, ids = list(log.schema.names), {}
    for name in (group if name == GROUP else name for name in names):
        side = name.partition(".")[0]
        if name in known:
            ids[name] = known[name]
        elif name in columns:
            ids[name] = _quoted(name)
        elif "." in name and side in config.sides:
            ids[name] = name
        elif not if_there:
            raise UserError(
                Option.IDS,
                f'got "{name}"',
                "it is a column of the raw logs, or one that prep.toml names: group, a feature, a carried column",
                column_fix(name, columns, [*known]),
            )
    if if_there:
        available = {*map(word_of, columns), *TIME_WORDS, *config.derived}
        ids = {name: text for name, text in ids.items() if _words(config, [text]) <= available}
    return ids


def log_column(config: PrepConfig, text: str, log: RawTable) -> str | None:
    """Return the column of the log that an expression names and nothing more; None for any other expression."""
    expression = parse(text, "inputs", tables_of(config))
    if not expression.is_column:
        return None
    table, column = owner_of("inputs", expression.columns[0], config)
    return column if table == "log" and column in log.schema.names else None


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def plain_config(schema: DatasetSchema) -> PrepConfig:
    """Return the configuration for a dataset without `prep.toml`: each feature is the column of its name."""
    return PrepConfig.model_construct(
        name=schema.name,
        log=LogConfig(files=("log",)),
        sparse=tuple(
            SparseSpec(name=feature.name, table=feature.table, bag=feature.bag, weights=feature.weights)
            for feature in schema.sparse
        ),
        dense=tuple(DenseSpec(name=number.name) for number in schema.dense),
        tasks=(),
        split=_NO_SPLIT,
    )
