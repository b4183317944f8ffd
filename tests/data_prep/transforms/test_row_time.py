"""The word `time`, dates of side tables and decimals in a whole preparation and in a prediction."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from data_prep.inputs.read import InputOptions, open_inputs
from data_prep.progress import Progress
from ple_rec.config.load import load_config
from ple_rec.config.prep import PrepConfig
from ple_rec.errors import DataError
from tests.data_prep.plain_logs import DAY_1, SIDE, TOML, Logs, day_of, with_column

AGE = '\n[[dense]]\nname = "age_days"\nvalue = "days(time, users.since)"\n'
HOUR = '\n[[dense]]\nname = "hour_since"\nvalue = "hour(users.at)"\n'
OFFSET = ('unit = "ms"', 'unit = "ms"\nutc_offset = "+08:00"')
SINCE = [date(2022, 4, 10), date(2024, 2, 29), date(1999, 12, 31), None]


def side_rows() -> list[dict[str, Any]]:
    start = datetime(2022, 4, 14, 20, tzinfo=UTC)
    return [{"user_id": i, "age": "a", "since": SINCE[i % 4], "at": start + timedelta(hours=5 * i)} for i in range(7)]


def age_of(row: dict[str, Any]) -> float | None:
    """Days from the local midnight of the user's date to the row, where the zone is 8 hours ahead of UTC."""
    since = SINCE[row["user_id"] % 4]
    if since is None:
        return None
    midnight = datetime(since.year, since.month, since.day, tzinfo=UTC) - timedelta(hours=8)
    return (row["time_ms"] / 1000 - midnight.timestamp()) / 86_400


def test_an_age_is_the_time_of_the_row_less_a_date(tmp_path: Path) -> None:
    logs = Logs(tmp_path, TOML.replace(*OFFSET) + SIDE + AGE + '\n[carry]\nrow = "time_ms"\nuser = "user_id"\n')
    for day in range(1, 5):  # in local time, from its midnight on
        logs.write(day, with_column(day_of(day), "time_ms", pc.subtract(day_of(day)["time_ms"], 8 * 3_600_000)))
    logs.users(side_rows())
    logs.prepare()
    rows = pq.read_table(next((logs.out / "train").glob("*.parquet"))).to_pylist()
    assert len(rows) == 48
    for row in rows:
        expected = age_of({"user_id": row["user"], "time_ms": row["row"]})
        assert row["age_days"] == (None if expected is None else pytest.approx(expected, rel=1e-6))
    assert any(row["age_days"] is None for row in rows)
    assert any(row["age_days"] is not None and row["age_days"] < 0 for row in rows)


@pytest.mark.parametrize(
    ("unit", "column"),
    [
        ("s", lambda times: pc.divide(times, 1000)),
        ("us", lambda times: pc.multiply(times, 1000)),
        ("ns", lambda times: pc.multiply(times, 1_000_000)),
        ("timestamp", lambda times: times.cast(pa.timestamp("ms"))),
        ("timestamp", lambda times: times.cast(pa.timestamp("ms", "Asia/Shanghai"))),
        ("date", lambda times: times.cast(pa.timestamp("ms")).cast(pa.date32())),
        ("date", lambda times: times.cast(pa.timestamp("ms")).cast(pa.date32()).cast(pa.string())),
    ],
)
def test_the_time_of_the_row_is_one_of_any_unit(unit: str, column: Callable[[Any], Any], tmp_path: Path) -> None:
    text = TOML.replace('unit = "ms"', f'unit = "{unit}"') + "\n[carry]\nhours = \"hours(time, '2022-04-15')\"\n"
    logs = Logs(tmp_path, text)
    for day in range(1, 5):
        logs.write(day, with_column(day_of(day), "time_ms", column(day_of(day)["time_ms"]).combine_chunks()))
    logs.prepare()
    rows = [row for path in sorted((logs.out / "train").glob("*.parquet")) for row in pq.read_table(path).to_pylist()]
    times = [time - DAY_1 for day in (1, 2) for time in day_of(day)["time_ms"].to_pylist()]
    expected = [time // 86_400_000 * 24 if unit == "date" else time / 3_600_000 for time in times]
    assert sorted(row["hours"] for row in rows) == sorted(expected)


def test_a_column_named_time_is_the_column(tmp_path: Path) -> None:
    text = TOML + "\n[carry]\nhours = \"hours(time, '2022-04-15')\"\n"
    logs = Logs(tmp_path, text)
    for day in range(1, 5):
        logs.write(day, day_of(day).append_column("time", pa.array([DAY_1 + 3_600_000] * 24)))
    assert logs.refusal().endswith(
        "got 1649984400000, and `time` is an integer; `hours(time, '2022-04-15')` takes a date, time or string there "
        "(plain.toml: carry.hours). Fix: write timestamp(time, 'ms'), with the unit of the number: 's', 'ms', 'us' or "
        "'ns'"
    )
    logs.toml.write_text(text.replace("hours(time,", "hours(timestamp(time, 'ms'),"))
    logs.prepare()
    assert set(pq.read_table(logs.out / "train")["hours"].to_pylist()) == {1.0}


@pytest.mark.parametrize("key", ["log.where", "time.value"])
def test_what_is_computed_before_the_time_reads_only_a_column_of_this_name(key: str, tmp_path: Path) -> None:
    logs = Logs(tmp_path)
    said = logs.refusal(f"{key}=time")
    assert f"column 'time': there is no such column; plain.toml: {key} `time` needs it in every file" in said


def test_a_prediction_computes_ages_and_hours_as_the_preparation_did(tmp_path: Path) -> None:
    logs = Logs(tmp_path, TOML.replace(*OFFSET) + SIDE + AGE + HOUR)
    logs.users(side_rows())
    config = load_config(PrepConfig, logs.toml)

    def rows(*features: str) -> list[dict[str, Any]]:
        options = InputOptions(str(logs.raw / "log"), str(logs.raw), features, ("user_id",), threads=1)
        with open_inputs(config, "plain.toml", options, logs.root / "work", Progress()) as found:
            return pa.concat_tables(found.batches()).to_pylist()

    for day in range(1, 5):
        logs.write(day, day_of(day).select(["user_id"]))
    for row in rows("hour_since"):  # in local time, although the time of the row is not needed
        assert row["hour_since"] == (4 + 5 * row["id__user_id"]) % 24
    with pytest.raises(DataError, match=r"lacks column 'time_ms'.* for feature age_days"):
        rows("age_days")
    for day in range(1, 5):
        logs.write(day, day_of(day).select(["user_id", "time_ms"]))
    times = [time for day in range(1, 5) for time in day_of(day)["time_ms"].to_pylist()]
    for row, time in zip(rows("age_days"), times, strict=True):
        expected = age_of({"user_id": row["id__user_id"], "time_ms": time})
        assert row["age_days"] == (None if expected is None else pytest.approx(expected, rel=1e-6))


def test_a_decimal_becomes_an_id_by_its_units(tmp_path: Path) -> None:
    sparse = '\n[[sparse]]\nname = "level"\nvalue = "amount"\n'
    logs = Logs(tmp_path, TOML + sparse)
    amounts = [Decimal("1.50"), Decimal("-0.05"), None, Decimal("7.00")] * 6
    for day in range(1, 5):
        logs.write(day, day_of(day).append_column("amount", pa.array(amounts, pa.decimal128(10, 2))))
    said = logs.refusal()
    assert said.endswith("an id is an integer or text (plain.toml: sparse[1].value). Fix: write units(amount, '0.01')")
    logs.prepare("sparse[1].value=units(amount, '0.01')")
    assert sorted(pq.read_table(logs.out / "vocab/level.parquet")["raw"].to_pylist()) == [-5, 150, 700]
