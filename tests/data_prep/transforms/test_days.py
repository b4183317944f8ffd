"""Days and hours of rows, as Python counts them, on both engines."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import ibis
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.engines.base import Engine
from data_prep.engines.duck import DuckEngine
from data_prep.expressions.times import PER_SECOND, days_since_1970, quotient, weekday_of
from data_prep.transforms.arithmetic import LocalTime, date_to_day
from ple_rec.config.prep import TimeConfig
from ple_rec.errors import UserError

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
OFFSETS = ("+00:00", "+08:00", "-09:30")
INT_MIN, INT_MAX = -(2**63), 2**63 - 1
UNITS = {unit: PER_SECOND[unit] for unit in ("s", "ms", "us", "ns")}


@pytest.fixture(params=["duckdb", pytest.param("spark", marks=[pytest.mark.spark, pytest.mark.slow])])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    made: Engine
    if request.param == "spark":
        from data_prep.engines.spark import SparkEngine

        made = SparkEngine(tmp_path, threads=1)
    else:
        made = DuckEngine(tmp_path, threads=1)
    yield made
    made.close()


def moments(per_second: int, config: TimeConfig) -> list[int | None]:
    """The first and last moments of days and hours, of the range too, and numbers far beyond any time."""
    found = [0, -1, -86_400 * per_second, INT_MIN, INT_MIN + 1, INT_MAX, INT_MAX - 1]
    for text in ("2000-01-01", "2022-04-15", "2099-12-31", "2100-01-01", "2262-04-11", "2999-12-31"):
        start = (datetime.fromisoformat(text).replace(tzinfo=UTC) - EPOCH).days * 86_400
        local = (start + hour * 3_600 - config.offset_seconds for hour in (0, 1, 23, 24))
        found += [moment * per_second + step for moment in local for step in (-1, 0, 1)]
    return [None, *(value for value in found if INT_MIN <= value <= INT_MAX)]


def expected(value: int | None, per_second: int, config: TimeConfig) -> tuple[int, int, int] | tuple[None, None, None]:
    """Day, hour and weekday."""
    if value is None or value + config.offset_seconds * per_second > INT_MAX:
        return None, None, None
    hours = (value + config.offset_seconds * per_second) // (3_600 * per_second)
    try:
        at = EPOCH + timedelta(hours=hours)
    except OverflowError:
        return None, None, None
    if not config.earliest <= at.date().isoformat() <= config.latest:
        return None, None, None
    return (at - EPOCH).days, at.hour, at.weekday()


def test_moments_of_every_unit_at_every_edge(engine: Engine, tmp_path: Path) -> None:
    cases = [
        (unit, TimeConfig.model_validate({"value": "t", "unit": unit, "utc_offset": offset, "latest": latest}))
        for unit, offset, latest in (
            ("s", "+00:00", "2099-12-31"),
            ("ms", "-09:30", "2099-12-31"),
            ("us", "+08:00", "2999-12-31"),
            ("ns", "+08:00", "2999-12-31"),
        )
    ]
    columns: dict[str, list[Any]] = {}
    for i, (unit, config) in enumerate(cases):
        columns[f"t{i}"] = moments(UNITS[unit], config)
    rows = max(len(values) for values in columns.values())
    columns = {name: values + [None] * (rows - len(values)) for name, values in columns.items()}
    pq.write_table(pa.table({n: pa.array(v, pa.int64()) for n, v in columns.items()}), tmp_path / "times.parquet")
    table = engine.read([tmp_path / "times.parquet"])
    found: dict[str, Any] = {}
    for i, (_, config) in enumerate(cases):
        local = LocalTime(table[f"t{i}"], config, "here")
        assert local.hour is not None
        found |= {f"day{i}": local.day, f"hour{i}": local.hour, f"weekday{i}": weekday_of(local.day)}
    got = engine.fetch(table.select(**{name: table[name] for name in columns}, **found)).to_pydict()
    for i, (unit, config) in enumerate(cases):
        given = got[f"t{i}"]
        answers = zip(given, *(got[f"{word}{i}"] for word in ("day", "hour", "weekday")), strict=True)
        for value, *answer in answers:
            assert tuple(answer) == expected(value, UNITS[unit], config), (unit, config.utc_offset, value)
        assert any(day is not None for day in got[f"day{i}"])


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("offset", OFFSETS)
def test_a_day_from_a_count(unit: str, offset: str) -> None:
    config = TimeConfig.model_validate({"value": "t", "unit": unit, "utc_offset": offset})
    local = LocalTime(ibis.table({"t": "int64"}, "rows").t, config, "here")
    for value in moments(UNITS[unit], config):
        day, *_ = expected(value, UNITS[unit], config)
        if value is not None and day is not None:
            assert local.day_at(value) == day


def test_a_quotient_is_exact_wherever_it_is_used(tmp_path: Path) -> None:
    divisors = [1, 7, 1_000, 65_536, 86_400, 86_400_000, 3_600 * 10**6, 86_400 * 10**9, 4_194_303]
    near = [n * d + step for d in divisors for n in (1, 2, 12_345, 19_097) for step in (-1, 0, 1)]
    values = sorted({0, 1, 2**53 - 1, *(value for value in near if value < 2**53)})
    engine = DuckEngine(tmp_path, threads=1)
    pq.write_table(pa.table({"x": pa.array(values, pa.int64())}), tmp_path / "x.parquet")
    table = engine.read([tmp_path / "x.parquet"])
    got = engine.fetch(table.select("x", **{f"by{d}": quotient(table.x, d) for d in divisors})).to_pydict()
    engine.close()
    for divisor in divisors:
        assert got[f"by{divisor}"] == [value // divisor for value in got["x"]]


def test_dates_are_those_of_the_calendar(engine: Engine, tmp_path: Path) -> None:
    """Every three numbers that look like a date, as text and as YYYYMMDD."""
    texts = [f"{y}-{m:02}-{d:02}" for y in (1900, 2000, 2023, 2024, 2999) for m in range(14) for d in range(33)]
    columns = {"text": texts, "number": [int(text.replace("-", "")) for text in texts]}
    pq.write_table(pa.table(columns), tmp_path / "days.parquet")
    table = engine.read([tmp_path / "days.parquet"])
    found = {f"of_{name}": date_to_day(table[name], "here") for name in columns}
    got = engine.fetch(table.select("text", **found)).to_pydict()

    def number(text: str) -> int | None:
        try:
            return days_since_1970(text)
        except ValueError:
            return None

    expected = [number(text) for text in got["text"]]
    assert got["of_text"] == expected
    assert got["of_number"] == expected


def test_a_timestamp_with_a_zone_has_no_day_of_its_own(engine: Engine, tmp_path: Path) -> None:
    midnight = datetime(2024, 5, 1, 16, tzinfo=UTC)  # of 2 May in Shanghai
    times = {"zoned": pa.array([midnight], pa.timestamp("us", "Asia/Shanghai")), "local": [datetime(2024, 5, 2)]}
    pq.write_table(pa.table(times), tmp_path / "times.parquet")
    table = engine.read([tmp_path / "times.parquet"])
    assert engine.fetch(table.select(day=date_to_day(table["local"], "here")))["day"].to_pylist() == [
        days_since_1970("2024-05-02")
    ]
    with pytest.raises(UserError, match=r"here: a timestamp with a time zone; .* Fix: write the local date"):
        date_to_day(table["zoned"], "here")
