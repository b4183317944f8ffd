"""Spark as the caller has opened it: prep means the same on it, and leaves it as it was.

Slow, as all of Spark but `test_engines`, where a run on such a session stands too: a JVM takes seconds to start.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.data_prep.engines.callers_spark import assert_active, callers_session
from tests.data_prep.feed_logs import digests
from tests.data_prep.plain_logs import Logs, day_of, with_column

pytestmark = [pytest.mark.spark, pytest.mark.slow]
ODD = "day \u00a0\u3000\u2028 %41+#?;\u00e9e\u0301\U0001f600"


@pytest.fixture(scope="module")
def callers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with callers_session(tmp_path_factory.mktemp("warehouse")) as session:
        yield session


def test_a_session_of_the_caller_is_used_and_left_as_it_was(callers: Any, tmp_path: Path) -> None:
    """Its files may have names that Java writes otherwise than Python does."""
    logs = [Logs(tmp_path / name) for name in ("duckdb", "spark")]
    for each in logs:
        each.file(2).rename(each.file(2).with_name(f"{ODD}.parquet"))
    logs[0].prepare()
    logs[1].prepare(engine="spark")
    assert digests(logs[0].out) == digests(logs[1].out)
    assert callers.conf.get("spark.sql.ansi.enabled") == "false"
    assert callers.conf.get("spark.sql.session.timeZone") == "Asia/Tokyo"
    assert callers.catalog.listTables() == []
    assert callers.range(3).count() == 3
    assert_active(callers)


def test_integers_that_overflow_are_refused(callers: Any, tmp_path: Path) -> None:
    logs = Logs(tmp_path)
    logs.write(2, with_column(day_of(2), "duration_ms", {5: 2**62}))
    said = [logs.refusal("dense[0].value=duration_ms + duration_ms", engine=engine) for engine in ("duckdb", "spark")]
    assert "int64" in said[0]
    assert said[0] == said[1]


def test_damaged_pages_are_noticed(callers: Any, tmp_path: Path) -> None:
    logs = Logs(tmp_path)
    logs.write(2, day_of(2), compression="none", write_page_checksum=True, use_dictionary=False)
    data = bytearray(logs.file(2).read_bytes())
    data[data.index(b"v1")] ^= 1
    logs.file(2).write_bytes(data)
    assert "day 2.parquet" in logs.refusal(engine="spark")
