"""DuckDB's functions for JSON as functions of a Spark session, so that both engines read JSON by the same parser.

Spark's own `get_json_object` has other rules for duplicate keys, numbers and malformed texts. The functions get Arrow
arrays and pass them to a DuckDB database in the memory of the executor's Python process.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import duckdb
import pyarrow as pa


def register_functions(session: Any) -> None:
    """Register `json_valid`, `json_type` and `json_extract_string` in a Spark session, under DuckDB's names.

    Args:
        session: Spark session, whose queries can call the functions afterwards.
    """
    from pyspark.sql.functions import arrow_udf

    session.udf.register("json_valid", arrow_udf(_json_valid, "boolean"))
    session.udf.register("json_type", arrow_udf(_json_type, "array<string>"))
    session.udf.register("json_extract_string", arrow_udf(_json_extract_string, "array<string>"))


def _json_valid(texts: pa.Array) -> pa.Array:
    return _compute("json_valid(text)", pa.table({"text": texts}), pa.bool_())


def _json_type(texts: pa.Array, paths: pa.Array) -> pa.Array:
    return _at_paths("json_type", texts, paths)


def _json_extract_string(texts: pa.Array, paths: pa.Array) -> pa.Array:
    return _at_paths("json_extract_string", texts, paths)


def _at_paths(function: str, texts: pa.Array, paths: pa.Array) -> pa.Array:
    # The paths are constants of the query, so all lists in `paths` are equal.
    constants = paths[0].as_py() if len(paths) else ["$"]
    path_list = ", ".join("'" + path.replace("'", "''") + "'" for path in constants)
    return _compute(f"{function}(text, [{path_list}])", pa.table({"text": texts}), pa.list_(pa.string()))


def _compute(expression: str, rows: pa.Table, kind: pa.DataType) -> pa.Array:
    """Return the value of an SQL expression for each row, in order."""
    result = _database().from_arrow(rows).project(f"{expression} AS value").to_arrow_table()
    return result["value"].combine_chunks().cast(kind)


@cache
def _database() -> duckdb.DuckDBPyConnection:
    """Return the database of this process; Spark runs one task at a time in a Python process, so it has one thread."""
    return duckdb.connect(config={"threads": 1})
