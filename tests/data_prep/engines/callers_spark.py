"""A session of Spark that the caller of prep has opened, of other settings than ours."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def callers_session(folder: Path) -> Iterator[Any]:
    """A session of one core.

    Args:
        folder: Its warehouse.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pyspark.sql import SparkSession

        builder = SparkSession.builder.master("local[1]").config("spark.sql.ansi.enabled", "false")
        builder = builder.config("spark.ui.enabled", "false").config("spark.log.level", "OFF")
        builder = builder.config("spark.sql.session.timeZone", "Asia/Tokyo").config("spark.sql.shuffle.partitions", "2")
        session = builder.config("spark.sql.warehouse.dir", str(folder)).getOrCreate()
    try:
        yield session
    finally:
        session.stop()


def assert_active(session: Any) -> None:
    """Assert that Python and Java take a session for the active one."""
    assert type(session).getActiveSession() is session
    java = type(session)._get_j_spark_session_class(session._jvm)
    assert java.getActiveSession().get().equals(session._jsparkSession)
    assert java.getDefaultSession().get().equals(session._jsparkSession)
    assert type(session).builder.getOrCreate() is session
