"""Computation of a model's features from the raw columns of a request, by DuckDB in this process.

The SQL comes from the exported version (`ple_rec.config.raw_form`), never from a request. The database has no tables,
reads no files, and its configuration is locked.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence

import duckdb
import numpy as np
import pyarrow as pa

from ple_rec.config.raw_form import POSITION, REASON, ROWS, RawQuery, RawSide

_MEMORY = "512MB"  # The rows of one request take far less.


class QueryError(Exception):
    """Error of a row whose features cannot be computed.

    Args:
        row: Index of the row.
        rule: Rule that the row breaks.
        columns: Names of the raw columns that the rule reads; empty if `feature` names the failed value.
        feature: Feature that cannot be computed; None if it is unknown.
    """

    def __init__(self, row: int, rule: str, columns: Sequence[str] = (), feature: str | None = None) -> None:
        super().__init__(f"row {row}: {rule}")
        self.row, self.rule, self.columns, self.feature = row, rule, tuple(columns), feature


class _CurrentTable:
    """Table that DuckDB reads under the name `rows`; another one takes its place in each request.

    DuckDB keeps this object as long as the connection in which it is registered. It must not refer to that connection:
    Python cannot see the reference from DuckDB, so neither of the two would ever be freed.

    Args:
        table: First table.
    """

    def __init__(self, table: pa.Table) -> None:
        self.table = table

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """Return the rows of the table; DuckDB calls this whenever the query runs (Arrow's C interface)."""
        return self.table.__arrow_c_stream__(requested_schema)


class _Statement:
    """Prepared query, so that DuckDB parses and plans it once and not in every request.

    Args:
        connection: Connection of this statement alone, in which `rows` is a name.
        sql: SELECT statement over the table `rows`.
        table: First table that it is run over; the columns of later ones have the same types.
    """

    def __init__(self, connection: duckdb.DuckDBPyConnection, sql: str, table: pa.Table) -> None:
        self._connection, self._schema, self._current = connection, table.schema, _CurrentTable(table)
        connection.register(ROWS, self._current)
        connection.execute(f"PREPARE query AS {sql}")

    def run(self, table: pa.Table) -> pa.Table:
        """Return the result of the query over a table."""
        self._current.table = table.cast(self._schema)
        try:
            return self._connection.execute("EXECUTE query").to_arrow_table().combine_chunks()
        finally:
            self._current.table = self._schema.empty_table()


class QueryEngine:
    """Engine that runs the queries of a version. Threads may share it; their queries run one after the other."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        settings: dict[str, str | bool | int | float | list[str]] = {
            "threads": 1,
            "memory_limit": _MEMORY,
            "temp_directory": "",
        }
        self._duck = duckdb.connect(":memory:", config=settings)
        self._duck.execute(
            "SET GLOBAL TimeZone = 'UTC'; SET autoload_known_extensions = false; "
            "SET autoinstall_known_extensions = false; SET enable_external_access = false; "
            "SET lock_configuration = true"
        )
        self._statements: dict[str, _Statement] = {}

    def select(self, sql: str, columns: Mapping[str, pa.Array], rows: int) -> pa.Table:
        """Return the result of a query over the rows of a request, in their order.

        Args:
            sql: SELECT statement over the table `rows`, which stays prepared.
            columns: Columns of that table, without `POSITION`, of the same types in all calls.
            rows: Number of rows.

        Raises:
            duckdb.Error: A value cannot be computed, such as an integer beyond int64.
        """
        table = pa.table({POSITION: pa.array(np.arange(rows)), **columns})
        with self._lock:
            if sql not in self._statements:
                self._statements[sql] = _Statement(self._duck.cursor(), sql, table)
            return self._statements[sql].run(table)

    def features(self, query: RawQuery, columns: Mapping[str, pa.Array], rows: int) -> pa.Table:
        """Return the feature columns of a query, after a check of its rules.

        Args:
            query: Query of the features of one owner.
            columns: Raw columns that the query reads.
            rows: Number of rows.

        Raises:
            QueryError: A row breaks a rule, or its features cannot be computed.
        """
        read = {name: columns[name] for name in query.columns}
        try:
            result = self.select(query.sql, read, rows)
        except duckdb.Error as error:
            raise self._find_cause(error, query.sql, read, rows) from error
        reason_N = result[REASON].to_numpy()
        if reason_N.any():
            row = int(np.flatnonzero(reason_N)[0])
            rule = query.rules[int(reason_N[row]) - 1]
            raise QueryError(row, rule.text, rule.columns)
        return result.drop_columns(REASON)

    def keys(self, side: RawSide, columns: Mapping[str, pa.Array], rows: int) -> list[pa.Array]:
        """Return the values of the keys of a side table, as an array for each key column; integers become int64.

        Args:
            side: Side table.
            columns: Raw columns that the keys read.
            rows: Number of rows.

        Raises:
            QueryError: A key cannot be computed.
        """
        try:
            result = self.select(side.keys, columns, rows)
        except duckdb.Error as error:
            cause = self._find_cause(error, side.keys, columns, rows)
            rule = f"it must be possible to compute the key of the table {side.name}"
            raise QueryError(cause.row, rule, side.reads) from error
        arrays = [result[f"key{i}"].combine_chunks() for i in range(len(side.key_columns))]
        return [array.cast(pa.int64()) if pa.types.is_integer(array.type) else array for array in arrays]

    def _find_cause(self, error: duckdb.Error, sql: str, columns: Mapping[str, pa.Array], rows: int) -> QueryError:
        """Return the error that names the first row that fails by itself, and the feature that fails in it.

        Row and feature are searched by bisection. The statements for some of the features stay prepared, so a second
        request with the same fault costs little.
        """
        row = bisect_first(
            rows, lambda first, stop: self._fails(sql, {name: each[first:stop] for name, each in columns.items()})
        )
        values = {name: each[row : row + 1] for name, each in columns.items()}
        names = self.select(sql, {name: each[:0] for name, each in columns.items()}, 0).column_names
        results = [name for name in names if name != REASON]

        def some_fail(first: int, stop: int) -> bool:
            # DuckDB computes only the columns that are selected from a query.
            selected = ", ".join(f'"{name}"' for name in results[first:stop])
            return self._fails(f"SELECT {selected} FROM ({sql})", values)

        result = bisect_first(len(results), some_fail)
        feature = None
        if some_fail(result, result + 1):  # Otherwise only a rule cannot be computed.
            feature = results[result].removeprefix("raw__").removeprefix("weights__")
        cause = (
            "an integer exceeds 64 bits" if isinstance(error, duckdb.OutOfRangeException) else f"{error}".split("\n")[0]
        )
        return QueryError(row, f"it must be possible to compute the features; {cause}", feature=feature)

    def _fails(self, sql: str, columns: Mapping[str, pa.Array]) -> bool:
        try:
            self.select(sql, columns, len(next(iter(columns.values()), [0])))
        except duckdb.Error:
            return True
        return False


def bisect_first(count: int, fails: Callable[[int, int], bool]) -> int:
    """Return the index of the first of some things that fails.

    Args:
        count: Number of things, of which at least one fails.
        fails: Function that returns True if one of the things from a first index up to a last one, which is left out,
            fails.
    """
    first, stop = 0, count
    while stop - first > 1:
        middle = (first + stop) // 2
        first, stop = (first, middle) if fails(first, middle) else (middle, stop)
    return first
