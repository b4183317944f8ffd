"""Preparation of a log with a JSON column: its fields, and what is said of texts that are null or not JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from data_prep.dry_run import dry_run
from data_prep.run import Options
from tests.data_prep.plain_logs import DAY_ROWS, SIDE, TOML, Logs, day_of

WITH_FIELDS = TOML.replace(
    "[[dense]]",
    """[derived]
fixed = "replace(context, '#', '')"

[[sparse]]
name = "network"
value = "json(context, '$.net.type')"

[[sparse]]
name = "version"
value = "cast(json(fixed, '$.app[0]') as bigint)"

[[dense]]
name = "mbps"
value = "coalesce(cast(json(context, '$.net.mbps') as double), -1)"

[[dense]]""",
)


def context(row: int) -> str | None:
    """The JSON text of a row: every fifth is null, every seventh is cut off."""
    if row % 5 == 0:
        return None
    text = json.dumps({"net": {"mbps": row / 2, "type": "wifi" if row % 2 else "4g"}, "app": [row % 3]})
    return text[:-1] if row % 7 == 0 else text


def logs_with_json(root: Path) -> Logs:
    logs = Logs(root, WITH_FIELDS)
    for day in range(1, 5):
        first = (day - 1) * DAY_ROWS
        logs.write(day, day_of(day).append_column("context", [[context(first + i) for i in range(DAY_ROWS)]]))
    return logs


CONTEXTS = [context(row) for row in range(4 * DAY_ROWS)]
NULLS = sum(text is None for text in CONTEXTS)
BAD = sum(text is not None and not text.endswith("}}") and not text.endswith("]}") for text in CONTEXTS)


def test_fields_are_read_and_bad_texts_are_told_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    logs = logs_with_json(tmp_path)
    summary = logs.prepare()
    assert (NULLS, BAD) == (20, 11)
    warnings = [record.message for record in caplog.records]
    assert warnings[0] == (
        f"log, column 'context': {BAD} of {96 - NULLS} texts are not JSON, so their fields are missing; first in "
        f"log/day 1.parquet, row group 0, row 7: {CONTEXTS[7]!r}; {NULLS} rows have no text. Fix: correct these texts, "
        "if their fields matter"
    )
    assert [warning.split(":")[0] for warning in warnings] == ["log, column 'context'", "`fixed`"]
    counts = {"rows": 96, "nulls": NULLS, "not_json": BAD}
    assert summary.stats["json"] == [{"text": "context"} | counts, {"text": "fixed"} | counts]
    line = f"texts that are not JSON: context {BAD} of {96 - NULLS}, {NULLS} rows without; fixed {BAD}"
    assert line in str(summary)
    rows: list[dict[str, Any]] = []
    for part in sorted(logs.out.glob("train/*.parquet")):
        rows += pq.read_table(part, columns=["mbps", "price"]).to_pylist()
    expected = []
    for row in rows:
        number = round(row["price"] * 4)
        text = CONTEXTS[number]
        expected.append(number / 2 if text is not None and text.endswith("]}") else -1)
    assert len(rows) == 2 * DAY_ROWS
    assert [row["mbps"] for row in rows] == expected


def test_the_dry_run_warns_too(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    logs = logs_with_json(tmp_path)
    dry_run(str(logs.toml), logs.out, Options(source=str(logs.raw), threads=1))
    assert f"log, column 'context': {BAD} of {96 - NULLS} texts are not JSON" in caplog.text


def test_nothing_is_said_of_texts_that_are_all_json(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    logs = logs_with_json(tmp_path)
    summary = logs.prepare("log.where=cast(json(context, '$.net.mbps') as double) is not null")
    assert not caplog.records
    assert summary.stats["json"][0]["not_json"] == 0
    assert "not JSON" not in str(summary)


def test_a_log_without_json_has_no_such_counts(tmp_path: Path) -> None:
    assert "json" not in Logs(tmp_path).prepare().stats


def test_json_of_a_side_table_is_read_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fields = "cast(json(users.profile, '$.age') as int)"
    logs = Logs(tmp_path, TOML + SIDE.replace('"users.age"', f'"{fields}"'))
    logs.users([{"user_id": i, "profile": f'{{"age": {20 + i}}}' if i else "{"} for i in range(7)])
    summary = logs.prepare()
    rows = sum(i % 7 == 0 for i in range(4 * DAY_ROWS))
    assert summary.stats["json"] == [{"text": "users.profile", "rows": 96, "nulls": 0, "not_json": rows}]
    assert f"users, column 'profile': {rows} of 96 texts are not JSON" in caplog.text
    ages = pq.read_table(logs.out / "vocab" / "age.parquet")["raw"].to_pylist()
    assert sorted(age for age in ages if age is not None) == list(range(21, 27))


@pytest.mark.spark
@pytest.mark.slow
def test_spark_prepares_the_same_fields_and_counts(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    logs = [logs_with_json(tmp_path / name) for name in ("duckdb", "spark")]
    logs[0].prepare()
    logs[1].prepare(engine="spark")
    files = [sorted(path.relative_to(each.out) for path in each.out.rglob("*") if path.is_file()) for each in logs]
    assert files[0] == files[1]
    assert not [file for file in files[0] if (logs[0].out / file).read_bytes() != (logs[1].out / file).read_bytes()]
    warnings = [record.message for record in caplog.records if "not JSON" in record.message]
    assert warnings[:2] == warnings[2:]
