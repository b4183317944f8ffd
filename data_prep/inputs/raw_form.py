"""Raw form of a model: the queries that compute its features from the raw columns of a request.

The expressions and rules of the preparation are compiled to DuckDB's SQL, as they are when `predict` reads a log. The
log is not joined with side tables: a column of a side table is a column of the request, such as `video.plays`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import ibis
import ibis.expr.datatypes as dt
import ibis.expr.types as ir

from data_prep.expressions import column_to_word
from data_prep.inputs.columns import inputs_config, reads_time, words_read
from data_prep.sources.files import POSITION
from data_prep.transforms.columns import REASON
from data_prep.transforms.expression_scope import Rule, readable_columns
from data_prep.transforms.resolve import resolve
from data_prep.transforms.rows import derive
from ple_rec.config.load import load_config
from ple_rec.config.prep import PREP_FILE, PrepConfig
from ple_rec.config.raw_form import ROWS, RawColumn, RawForm, RawQuery, RawRule, RawSide

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
    whole = _FeatureSet(config, place, features)
    user = _FeatureSet(config, place, [name for name in features if name in user_features])
    item = _FeatureSet(config, place, [name for name in features if name not in user_features])
    sides = tuple(whole.sides(config))
    # A column of the log that only a key of a side table reads belongs to the user if the side table's columns do.
    key_columns = {name: side for side in sides for name in side.reads if name not in whole.types}
    keys_of_user = (name for name, side in key_columns.items() if f"{side.name}.{side.columns[0]}" in user.types)
    of_user = {*user.types, *keys_of_user}
    types = known_types(config)
    return RawForm(
        columns=tuple(
            RawColumn(
                name=name,
                type=types[name],
                of="user" if name in of_user else "item",
                features=tuple(whole.readers(name)),
                required=name in whole.time_columns(),
            )
            for name in (*whole.types, *key_columns)
        ),
        user=user.query(),
        item=item.query(),
        sides=sides,
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
        reduced = inputs_config(all_rows, features, {})
        self._words = {name: words_read(reduced, texts, joins=False) for name, texts in _texts(reduced).items()}
        words = {word for words in self._words.values() for word in words}
        # `inputs_config` keeps the time for dated side tables, but here they are not joined.
        if not reads_time(config, words):
            reduced = reduced.model_copy(update={"time": None})
        self._resolved = resolve(
            reduced, place, is_from_dataset=True, offset_seconds=config.offset_seconds, freeze_vectors=False
        )
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

    def sides(self, config: PrepConfig) -> Iterator[RawSide]:
        """Yield the side tables whose columns the features read, each with the query of its keys.

        Args:
            config: Configuration of the preparation, with the types of all columns.
        """
        for name, side in self._resolved.config.sides.items():
            columns = [word.removeprefix(f"{name}.") for word in self.types if word.startswith(f"{name}.")]
            read = words_read(config, side.on.values(), joins=False)
            types = {word: kind for word, kind in known_types(config).items() if word in read}
            rows = raw_rows(types)
            keys = [self._resolved.build(f"sides.{name}.on.{key}", readable_columns(rows)) for key in side.on]
            named = {f"key{i}": key for i, key in enumerate(keys)}
            yield RawSide(
                name=name,
                keys=ibis.to_sql(rows.select(**named), dialect="duckdb"),
                key_columns=tuple(side.on),
                reads=tuple(types),
                columns=tuple(columns),
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


def _texts(config: PrepConfig) -> dict[str, list[str]]:
    """Return the expressions of each feature, by its name."""
    texts = {each.name: [each.source, *([each.weights] if each.weights else [])] for each in config.sparse}
    return texts | {number.name: [number.source] for number in (*config.dense, *config.vectors)}


def known_types(config: PrepConfig) -> dict[str, str]:
    """Return the types of the columns that expressions of the preparation read, by their words in expressions."""
    types = {column_to_word(name): kind for name, kind in config.found.columns.get("log", {}).items()}
    for side in config.sides:
        types |= {f"{side}.{name}": kind for name, kind in config.found.columns.get(side, {}).items()}
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
