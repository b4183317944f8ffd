"""Which part of a preparation a model's inputs need: expressions, derived columns, side tables, time."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from data_prep.expressions import parse
from data_prep.resolve import TIME_WORDS
from data_prep.sources.columns import meant
from data_prep.sources.table import RawTable
from ple_rec.config.prep import DaySplit, LogConfig, PrepConfig
from ple_rec.config.prep_columns import DenseSpec, SparseSpec
from ple_rec.config.schema import DatasetSchema
from ple_rec.errors import UserError

CARRIED = "id__"  # before the name of a column that is carried along; no feature's name has two underscores
GROUP = "group"
_NO_SPLIT = DaySplit(by="day", train=(1, 1), valid=(2, 2), test=(3, 3))  # none is made; this one reads no column


def inputs_config(config: PrepConfig, features: Collection[str], ids: Mapping[str, str]) -> PrepConfig:
    """A preparation of some features alone, with columns that are carried along.

    What is left out is not checked and not read. Such a configuration makes no dataset directory.

    Args:
        config: Of the preparation.
        features: By name.
        ids: Expressions by name.
    """
    sparse = tuple(feature for feature in config.sparse if feature.name in features)
    dense = tuple(number for number in config.dense if number.name in features)
    texts = [config.log.where, *(f.source for f in sparse), *(f.weights for f in sparse), *(d.source for d in dense)]
    words = _words(config, [text for text in (*texts, *ids.values()) if text is not None])
    used = {name: side for name, side in config.sides.items() if any(w.startswith(f"{name}.") for w in words)}
    timed = words & set(TIME_WORDS) or any(side.day is not None for side in used.values())
    nothing: dict[str, Any] = {
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
            "time": config.time if timed else None,
            "derived": {name: text for name, text in config.derived.items() if name in words},
            "split": _NO_SPLIT,
            "carry": {f"{CARRIED}{name}": text for name, text in ids.items()},
            **nothing,
        }
    )


def _words(config: PrepConfig, texts: Iterable[str]) -> set[str]:
    """Every word that expressions read, those behind derived columns too."""
    found: set[str] = set()
    todo = list(texts)
    while todo:
        for word in parse(todo.pop(), "inputs").columns:
            if word not in found and word in config.derived:
                todo.append(config.derived[word])
            found.add(word)
    return found


def carried(config: PrepConfig, names: Sequence[str], log: RawTable, *, if_there: bool) -> dict[str, str]:
    """Expressions of the columns that are carried along, by name.

    Args:
        config: Of the preparation.
        names: Columns of the log, `side.column` ones, `group`, features, carried columns of the preparation.
        log: Its files.
        if_there: Leave out those whose columns the log does not have.

    Raises:
        UserError: a name that is none of these.
    """
    known = dict(config.carry) | {f.name: f.source for f in config.sparse} | {d.name: d.source for d in config.dense}
    if config.group is not None:
        known[GROUP] = config.group
    columns, found = list(log.schema.names), {}
    for name in names:
        side = name.partition(".")[0]
        if name in known:
            found[name] = known[name]
        elif name in columns:
            found[name] = '"' + name.replace('"', '""') + '"'
        elif "." in name and side in config.sides:
            found[name] = name
        elif not if_there:
            raise UserError(
                "--ids",
                f'got "{name}"',
                "it is a column of the raw logs, or one that prep.toml names: group, a feature, a carried column",
                meant(name, columns, [*known]),
            )
    if if_there:
        there = {*columns, *TIME_WORDS, *config.derived}
        found = {name: text for name, text in found.items() if _words(config, [text]) <= there}
    return found


def plain_config(schema: DatasetSchema) -> PrepConfig:
    """Of a dataset that no raw logs are described for: every feature's column has the feature's name."""
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
