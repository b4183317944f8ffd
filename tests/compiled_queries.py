"""SQL of Ibis expressions, compiled once in a process of tests: many preparations of tests have queries in common.

To compile is most of what the preparation of a tiny log takes. The SQL follows from the expression alone, whose parts
are compared one by one, so a test of changed code still compiles what the code has become. Preparations of users
compile each query.
"""

from __future__ import annotations

import functools
from typing import Any

_QUERIES = 1_000  # Queries that are remembered; an expression of many columns takes some 100 KiB.


def remember_compiled_queries() -> None:
    """Make `ibis.to_sql` remember the SQL of the latest expressions."""
    import ibis

    to_sql = ibis.to_sql

    @functools.lru_cache(maxsize=_QUERIES)
    def compiled(operation: Any, dialect: str | None, pretty: bool, fuse_selects: bool) -> Any:
        return to_sql(operation.to_expr(), dialect=dialect, pretty=pretty)

    @functools.wraps(to_sql)
    def remembered(expression: Any, dialect: str | None = None, pretty: bool = True) -> Any:
        return compiled(expression.op(), dialect, pretty, ibis.options.sql.fuse_selects)

    ibis.to_sql = remembered
