"""Raw form of a model: the queries that compute its features from the raw columns of a request.

The expressions and rules of the preparation are compiled to DuckDB's SQL, as they are when `predict` reads a log. The
log is not joined with side tables: a column of a side table is a column of the request, such as `video.plays`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Literal

import ibis
import ibis.expr.datatypes as dt
import ibis.expr.types as ir

from data_prep.expressions import column_to_word
from data_prep.expressions.times import PER_SECOND
from data_prep.inputs.columns import counted_tables_read, inputs_config, reads_time, words_read
from data_prep.sources.files import POSITION
from data_prep.transforms.arithmetic import units_of_seconds
from data_prep.transforms.columns import REASON
from data_prep.transforms.expression_scope import ColumnBuilder, Rule, local_time, readable_columns
from data_prep.transforms.rate_values import build_key, build_keys
from data_prep.transforms.resolve import Resolved, resolve
from data_prep.transforms.rows import derive
from ple_rec.config.load import load_config
from ple_rec.config.prep import PREP_FILE, HistorySpec, PrepConfig, SideConfig
from ple_rec.config.raw_form import (
    EVENT_KEY,
    EVENT_TIME,
    ROWS,
    RawColumn,
    RawForm,
    RawHistory,
    RawQuery,
    RawRule,
    RawSide,
)

_TYPES: Mapping[str, dt.DataType] = {
    "int64": dt.int64,
    "float": dt.float32,
    "double": dt.float64,
    "string": dt.string,
    "bool": dt.boolean,
    "date": dt.date,
    "timestamp": dt.Timestamp(scale=6),
    "timestamptz": dt.Timestamp(timezone="UTC", scale=6),
}


def build_raw_form(folder: Path, features: Collection[str], user_features: Collection[str]) -> RawForm | None:
    """Return the queries of a model's features, and the raw columns that they read.

    Args:
        folder: Folder with the `prep.toml` of the dataset that the model was trained on.
        features: Names of the model's features.
        user_features: Names of the features that belong to the user.

    Returns:
        The queries; None if the dataset does not record the types of raw columns. It was then prepared by an earlier
        version of this package, or not from logs.
    """
    file = folder / PREP_FILE
    if not file.is_file():
        return None
    config, place = load_config(PrepConfig, file), str(file)
    if not config.found.columns:
        return None
    histories = _histories(config, place, features, user_features)
    # Items of histories have the values of features, so only keys and times of histories are computed besides them.
    computed = [name for name in features if name not in {history.name for _, history in histories}]
    whole = _FeatureSet(config, place, computed)
    user = _FeatureSet(config, place, [name for name in computed if name in user_features])
    item = _FeatureSet(config, place, [name for name in computed if name not in user_features])
    counted = (*_counted_sides(config, place, whole.types), *(side for side, _ in histories))
    # Columns of side tables that keys of rates and of histories read, such as the author of a video.
    words_of_histories = dict.fromkeys(name for _, history in histories for name in history.query.columns)
    words = dict.fromkeys([*whole.types, *(name for side in counted for name in side.reads), *words_of_histories])
    sides = (*counted, *_joined_sides(config, place, words))
    # A column that only keys of side tables read belongs to the user if the columns of one of these tables do. Keys of
    # rates may read columns of side tables, whose own keys come later.
    of_user = set(user.types)
    for _, history in histories:
        if history.of == "user":
            of_user.update(history.query.columns)
    for side in sides:
        if any(f"{side.name}.{column}" in of_user for column in side.columns):
            of_user.update(name for name in side.reads if name not in whole.types)
    all_keys = dict.fromkeys([*words_of_histories, *(name for side in sides for name in side.reads)])
    key_columns = [name for name in all_keys if name not in whole.types]
    types = known_types(config)
    return RawForm(
        columns=tuple(
            RawColumn(
                name=name,
                type=types[name],
                of="user" if name in of_user else "item",
                features=(*whole.readers(name), *(each.name for _, each in histories if name in each.query.columns)),
                required=name in whole.time_columns(),
            )
            for name in (*whole.types, *key_columns)
        ),
        user=user.query(),
        item=item.query(),
        sides=sides,
        histories=tuple(history for _, history in histories),
    )


class _FeatureSet:
    """Some features of a model, with their expressions over raw columns.

    Args:
        config: Configuration of the preparation.
        place: Name of the configuration in messages.
        features: Names of the features.

    Attributes:
        types: Types of the raw columns that the features read, by name.
    """

    def __init__(self, config: PrepConfig, place: str, features: Collection[str]) -> None:
        all_rows = config.model_copy(update={"log": config.log.model_copy(update={"where": None})})
        reduced = _with_rates_as_sides(inputs_config(all_rows, features, {}), features)
        self._words = {name: words_read(reduced, texts, joins=False) for name, texts in _texts(reduced).items()}
        words = {word for words in self._words.values() for word in words}
        # `inputs_config` keeps the time for dated side tables, but here they are not joined.
        if not reads_time(config, words):
            reduced = reduced.model_copy(update={"time": None})
        self._resolved = _resolve(reduced, place, config)
        self.types = {name: kind for name, kind in known_types(config).items() if name in words}
        self._rows = raw_rows(self.types)

    def readers(self, column: str) -> list[str]:
        """Return the features that read a raw column."""
        return [name for name, words in self._words.items() if column in words]

    def time_columns(self) -> set[str]:
        """Return the raw columns that the time of a row reads; a row without a time breaks a rule."""
        return set() if self._resolved.config.time is None else self._columns_of("time.value")

    def query(self) -> RawQuery | None:
        """Return the query of the features; None if there are none."""
        if not self._words:
            return None
        derived = derive(self._rows, self._resolved, split=False)
        results = [
            name for name in derived.table.columns if name in self._words or name.startswith(("raw__", "weights__"))
        ]
        return RawQuery(
            sql=ibis.to_sql(derived.table.select(*results, REASON), dialect="duckdb"),
            columns=tuple(self.types),
            rules=tuple(RawRule(text=rule.rule, columns=self._columns_of_rule(rule)) for rule in derived.rules),
        )

    def _columns_of(self, key: str) -> set[str]:
        """Return the raw columns that the expression at a key of the configuration reads."""
        text = self._resolved.parsed[key].text
        return words_read(self._resolved.config, [text], joins=False) & self.types.keys()

    def _columns_of_rule(self, rule: Rule) -> tuple[str, ...]:
        if rule.key in self._resolved.parsed:
            read = self._columns_of(rule.key)
            return tuple(name for name in self.types if name in read)
        return tuple(name for name in self.types if rule.key == f"column {name!r}")


def _with_rates_as_sides(config: PrepConfig, features: Collection[str]) -> PrepConfig:
    """Return a configuration of inputs whose counted tables are side tables, and whose rates are dense features.

    The queries of features read columns of both alike. The keys are not computed by this configuration.

    Args:
        config: Configuration of the inputs.
        features: Names of the features, which need not be all columns of a counted table.
    """
    tables = {
        name: SideConfig(files=(name,), on=dict.fromkeys(table.key_columns, "0"))
        for name, table in config.counted_tables.items()
    }
    dense = tuple(feature for feature in config.dense_features if feature.name in features)
    return config.model_copy(update={"sides": config.sides | tables, "dense": dense, "rates": ()})


def _counted_sides(config: PrepConfig, place: str, words: Collection[str]) -> Iterator[RawSide]:
    """Yield the counted tables of rates that words of expressions name, each with the query of its keys."""
    for name, table in counted_tables_read(config, words).items():
        read = words_read(config, table.key, joins=False)
        reduced = inputs_config(config, table.columns, {})
        if not reads_time(config, read):
            reduced = reduced.model_copy(update={"time": None})
        types = {word: kind for word, kind in known_types(config).items() if word in read}
        builder = ColumnBuilder(raw_rows(types), _resolve(reduced, place, config), None)
        (counted,) = reduced.counted_tables.values()
        yield RawSide(
            name=name,
            keys=_keys_query(builder.rows, build_keys(builder, counted).values()),
            key_columns=table.key_columns,
            reads=tuple(types),
            columns=_columns_read(name, words),
            rates=tuple(table.rates.values()),
        )


def _histories(
    config: PrepConfig, place: str, features: Collection[str], user_features: Collection[str]
) -> list[tuple[RawSide, RawHistory]]:
    """Return the histories of a model, each with the side table of its events and the query of its keys and times."""
    return [
        _history(config, place, history, "user" if history.name in user_features else "item")
        for history in config.histories
        if history.name in features
    ]


def _history(
    config: PrepConfig, place: str, history: HistorySpec, owner: Literal["user", "item"]
) -> tuple[RawSide, RawHistory]:
    assert config.time is not None  # Histories need `[time]`.
    reduced = inputs_config(config, (), {history.name: history.key})
    update = {"time": config.time, "histories": (history.model_copy(update={"where": None}),), "carry": {}}
    reduced = reduced.model_copy(update=update)
    read = words_read(config, [history.key, config.time.value], joins=False)
    types = {word: kind for word, kind in known_types(config).items() if word in read}
    builder = ColumnBuilder(raw_rows(types), _resolve(reduced, place, config), None)
    local = local_time(builder.values, builder.resolved)
    columns = {EVENT_KEY: build_key(builder, "histories[0].key"), EVENT_TIME: local.count}
    rows = builder.rows.select(**columns, **{REASON: ibis.ifelse(local.in_range, 0, 1)})
    unit, time_words = config.time.unit, words_read(config, [config.time.value], joins=False)
    rule = (
        f"as {unit} the time must lie between {config.time.earliest} and {config.time.latest}, since the events of "
        f"{history.name} before it are looked up; send it, or send {history.name}"
    )
    side = RawSide(
        name=history.name,
        keys=_keys_query(builder.rows, [columns[EVENT_KEY]]),
        key_columns=(EVENT_KEY,),
        reads=tuple(name for name in types if name in words_read(config, [history.key], joins=False)),
        columns=(),
        history=history,
    )
    return side, RawHistory(
        name=history.name,
        of=owner,
        query=RawQuery(
            sql=ibis.to_sql(rows, dialect="duckdb"),
            columns=tuple(types),
            rules=(RawRule(text=rule, columns=tuple(name for name in types if name in time_words)),),
        ),
        delay=units_of_seconds(history.delay_seconds, unit),
        units_per_second=PER_SECOND.get(unit, 1),
        seconds_per_unit=86_400 if unit == "date" else 1,
    )


def _joined_sides(config: PrepConfig, place: str, words: Collection[str]) -> Iterator[RawSide]:
    """Yield the side tables that words of expressions name, each with the query of its keys."""
    resolved = _resolve(config, place, config)
    for name, side in config.sides.items():
        if not (columns := _columns_read(name, words)):
            continue
        read = words_read(config, side.on.values(), joins=False)
        types = {word: kind for word, kind in known_types(config).items() if word in read}
        rows = raw_rows(types)
        keys = [resolved.build(f"sides.{name}.on.{key}", readable_columns(rows)) for key in side.on]
        yield RawSide(
            name=name,
            keys=_keys_query(rows, keys),
            key_columns=tuple(side.on),
            reads=tuple(types),
            columns=columns,
        )


def _columns_read(table: str, words: Iterable[str]) -> tuple[str, ...]:
    """Return the columns of a side table that words of expressions name."""
    return tuple(word.removeprefix(f"{table}.") for word in words if word.startswith(f"{table}."))


def _keys_query(rows: ir.Table, keys: Iterable[ir.Value]) -> str:
    """Return the SQL of the keys of a side table, `key0`, `key1` and so on."""
    named = {f"key{i}": key for i, key in enumerate(keys)}
    return str(ibis.to_sql(rows.select(**named), dialect="duckdb"))


def _resolve(reduced: PrepConfig, place: str, config: PrepConfig) -> Resolved:
    """Return a reduced configuration with its expressions parsed, whose times are local as in the whole one."""
    return resolve(reduced, place, is_from_dataset=True, offset_seconds=config.offset_seconds, freeze_vectors=False)


def _texts(config: PrepConfig) -> dict[str, list[str]]:
    """Return the expressions of each feature, by its name."""
    texts = {each.name: [each.source, *([each.weights] if each.weights else [])] for each in config.sparse}
    return texts | {number.name: [number.source] for number in (*config.dense, *config.vectors)}


def known_types(config: PrepConfig) -> dict[str, str]:
    """Return the types of the columns that expressions of the preparation read, by their words in expressions."""
    types = {column_to_word(name): kind for name, kind in config.found.columns.get("log", {}).items()}
    for side in config.sides:
        types |= {f"{side}.{name}": kind for name, kind in config.found.columns.get(side, {}).items()}
    for table in config.counted_tables.values():
        for rate in table.rates.values():
            kinds = {name: "int64" if name == rate.count_column else "double" for name in rate.columns}
            types |= {f"{table.name}.{name}": kind for name, kind in kinds.items()}
    return types


def raw_rows(types: Mapping[str, str]) -> ir.Table:
    """Return the Ibis table that a query reads: raw columns, and `POSITION`."""
    schema = {POSITION: dt.DataType.from_string("int64")}
    return ibis.table(schema | {name: _data_type(kind) for name, kind in types.items()}, name=ROWS)


def _data_type(kind: str) -> dt.DataType:
    """Return the Ibis type for the name of a type (`ple_rec.config.raw_form`)."""
    if kind.startswith("list<"):
        return dt.Array(_data_type(kind[5:-1]))
    return _TYPES.get(kind) or dt.dtype(kind)
