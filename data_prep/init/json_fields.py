"""Fields of JSON columns as columns of their own, in the sample of a log that `ple-rec init` reads.

A column `context` with texts such as `{"net": {"mbps": 3.5}}` gets a further column `context.net.mbps`, whose roles are
then guessed like those of any column. In prep.toml, its expression is `cast(json(context, '$.net.mbps') as double)`.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

import duckdb
import ibis
import pyarrow as pa

from data_prep.expressions import column_to_word, parse
from data_prep.expressions.json_text import plain_path, with_fields
from data_prep.expressions.syntax import quoted_name
from data_prep.sources.list_texts import structured_text

_MAX_TEXTS = 2_000  # Greatest number of texts of a column in which fields are searched.
_MAX_DEPTH = 4  # Greatest number of names in the path of a field.
_MAX_FIELDS = 40  # Greatest number of fields of a column; the most frequent ones are taken.
_MIN_SHARE = 0.1  # Smallest share of the texts in which a field has a value.
_TYPES = {int: "int", float: "double", bool: "boolean"}  # Types of `cast` by the Python type of a value.
# Keys of the metadata that a new column has in the schema of the sample.
_COLUMN, _EXPRESSION, _NAME = b"json_column", b"expression", b"name"


def with_json_fields(rows: pa.Table) -> pa.Table:
    """Return a sample with a further column for each field of its JSON columns that has numbers, texts or booleans.

    The schema of the result has, as metadata of each new column, its JSON column and the expression that reads it.

    Args:
        rows: Sample of a log.
    """
    for name in rows.column_names:
        texts = rows[name]
        if not pa.types.is_string(texts.type):
            continue
        structure = structured_text(texts.drop_null().combine_chunks())
        if structure is None or structure.kind != "JSON":
            continue
        fields = {f"{name}.{'.'.join(path)}": (path, kind) for path, kind in _find_fields(texts)}
        fields = {field: value for field, value in fields.items() if field not in rows.column_names}
        if not fields:
            continue
        expressions = {field: _expression(name, *value) for field, value in fields.items()}
        values = _compute(name, texts, expressions)
        for field, expression in expressions.items():
            metadata = {_COLUMN: name, _EXPRESSION: expression, _NAME: ".".join(fields[field][0])}
            rows = rows.append_column(pa.field(field, values[field].type, metadata=metadata), values[field])
    return rows


def json_column(field: pa.Field) -> str | None:
    """Return the JSON column that a column of `with_json_fields` is read from; None for a column of the log."""
    return _metadata(field, _COLUMN)


def source_expression(field: pa.Field) -> str:
    """Return the expression that reads a column of `with_json_fields`; for a column of the log it is the column."""
    return _metadata(field, _EXPRESSION) or quoted_name(field.name)


def own_name(field: pa.Field) -> str:
    """Return the name of a column without that of the JSON column: `net.mbps` for `context.net.mbps`."""
    return _metadata(field, _NAME) or str(field.name)


def _metadata(field: pa.Field, key: bytes) -> str | None:
    value = (field.metadata or {}).get(key)
    return None if value is None else value.decode()


def _find_fields(texts: pa.ChunkedArray) -> Iterator[tuple[tuple[str, ...], type]]:
    """Yield the paths of the fields that many texts have, with the type of most of their values.

    If a field has floats, its integers count as floats. Fields come in the order in which they first occur.
    """
    present = texts.drop_null().to_pylist()
    sample = present[:: -(-len(present) // _MAX_TEXTS) or 1]
    kinds: dict[tuple[str, ...], Counter[type]] = defaultdict(Counter)
    for text in sample:
        try:
            document = json.loads(text)
        except (ValueError, RecursionError):
            continue
        for path, value in _leaves(document, ()):
            kinds[path][type(value)] += 1
    least = _MIN_SHARE * len(sample)
    frequent = [path for path, counts in kinds.items() if counts.total() >= least and plain_path(path)]
    chosen = set(sorted(frequent, key=lambda path: -kinds[path].total())[:_MAX_FIELDS])
    for path in frequent:
        if path in chosen:
            counts = kinds[path]
            if counts[float]:
                counts[float] += counts.pop(int, 0)
            yield path, counts.most_common(1)[0][0]


def _leaves(value: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], int | float | bool | str]]:
    """Yield the numbers, texts and booleans in a value of JSON, outside of lists, with their paths."""
    if isinstance(value, dict) and len(path) < _MAX_DEPTH:
        for name, inner in value.items():
            yield from _leaves(inner, (*path, name))
    elif path and isinstance(value, int | float | bool | str):
        yield path, value


def _expression(column: str, path: tuple[str, ...], kind: type) -> str:
    """Return the expression that reads a field of a column as a value of a type."""
    literal = (plain_path(path) or "").replace("'", "''")
    call = f"json({quoted_name(column)}, '{literal}')"
    return f"cast({call} as {_TYPES[kind]})" if kind in _TYPES else call


def _compute(column: str, texts: pa.ChunkedArray, expressions: Mapping[str, str]) -> pa.Table:
    """Return the values of expressions over one column, in the order of its rows."""
    parsed = {name: parse(expression, name, ()) for name, expression in expressions.items()}
    paths = [path for expression in parsed.values() for _, path in expression.json_fields]
    with duckdb.connect() as duck:
        duck.register("texts", pa.table({"text": texts}))
        fields = with_fields(ibis.table({"text": "string"}, name="texts"), {"text": paths})
        duck.execute(f"CREATE VIEW fields AS {ibis.to_sql(fields, dialect='duckdb')}")
        table = ibis.table(fields.schema(), name="fields")
        values = {name: expression.build({column_to_word(column): table.text}) for name, expression in parsed.items()}
        return duck.execute(str(ibis.to_sql(table.select(**values), dialect="duckdb"))).to_arrow_table()
