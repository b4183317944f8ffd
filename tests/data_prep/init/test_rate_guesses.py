"""Rates that `ple-rec init` proposes: by which ids, of which labels, in which unit; prep takes them."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.init.rates import guess_rates
from data_prep.init.roles import guess_roles
from tests.data_prep.init.guess_logs import accepted, init, small

ROWS = 3_000


def log(days: int = 6) -> dict[str, Any]:
    """Return a log with labels of every kind, and ids of many and of few values."""
    draw = random.Random(5)
    watched = [draw.gauss(300, 200) for _ in range(ROWS)]
    return {
        "ts": [1_714_521_600 + 86_400 * days * i // ROWS for i in range(ROWS)],
        "User ID": [f"u{draw.randrange(100)}" for _ in range(ROWS)],
        "video_id": [draw.randrange(200) * 7 + 5_000 for _ in range(ROWS)],
        "author-id": [float("nan") if i % 9 == 0 else float(draw.randrange(90)) for i in range(ROWS)],
        "tab_id": [draw.randrange(5) for _ in range(ROWS)],
        "is_click": [draw.random() < 0.4 for _ in range(ROWS)],
        "is_like": [None if i % 4 == 0 else float(draw.random() < 0.1) for i in range(ROWS)],
        "is_share": [draw.randrange(2) for _ in range(ROWS)],
        "watch_time": [float("inf") if i == 7 else watched[i] for i in range(ROWS)],
    }


def proposed(columns: dict[str, Any], rows: int = ROWS) -> list[tuple[str, str, str, float | None]]:
    """Return name, key, value and unit of each proposed rate."""
    return [(rate.name, rate.key, rate.of, rate.unit) for rate in guess_rates(guess_roles(pa.table(columns)), rows)]


def test_labels_are_counted_by_the_user_and_by_ids_of_many_values() -> None:
    rates = proposed(log())
    assert [key for _, key, _, _ in rates[::4]] == ['"User ID"', "video_id", 'cast("author-id" as int)']
    assert [(name, of, unit) for name, key, of, unit in rates if key == "video_id"] == [
        ("video_id_is_click_rate", "is_click", None),
        ("video_id_is_like_rate", "cast(is_like as int)", None),
        ("video_id_is_share_rate", "is_share", None),
        ("video_id_watch_time_mean", "case when abs(watch_time) < 3e38 then watch_time end", 0.1),
    ]


def test_sums_near_the_end_of_int64_are_not_proposed() -> None:
    draw = random.Random(7)
    columns = log() | {"watch_time": [draw.randrange(2**40) for _ in range(ROWS)]}
    assert any("watch_time" in name for name, *_ in proposed(columns, rows=1_000))
    assert not any("watch_time" in name for name, *_ in proposed(columns, rows=10**9))


def test_at_most_four_ids_and_six_labels_are_counted() -> None:
    draw = random.Random(6)
    columns = log() | {f"c{i}_id": [draw.randrange(80) for _ in range(ROWS)] for i in range(4)}
    columns |= {f"click_{i}": [draw.randrange(2) for _ in range(ROWS)] for i in range(4)}
    rates = proposed(columns)
    assert len({key for _, key, _, _ in rates}) == 4
    assert len(rates) == 24


def test_ids_whose_tables_would_have_one_name_are_counted_by_the_first() -> None:
    columns = log()
    columns["Video_ID"] = columns["video_id"]
    assert [key for _, key, _, _ in proposed(columns)[::4]] == ['"User ID"', "video_id", 'cast("author-id" as int)']


@pytest.mark.usefixtures("here", "no_charts")
@pytest.mark.slow
def test_prep_takes_the_rates(capsys: pytest.CaptureFixture[str]) -> None:
    config = accepted(log(), capsys)
    assert len(config["rates"]) == 12
    assert {rate["window"] for rate in config["rates"]} == {"all"}
    assert 'set delay, e.g. to "1d"' in Path("log/prep.toml").read_text()


@pytest.mark.usefixtures("here", "no_charts")
def test_a_long_log_gets_a_window_and_a_short_one_no_rates(capsys: pytest.CaptureFixture[str]) -> None:
    windows = {}
    for days in (3, 4, 20):
        times = [1_714_521_600 + 86_400 * days * i // 600 for i in range(600)]
        pq.write_table(pa.table(small() | {"ts": times}), "log.parquet")
        config, _ = init(capsys, f"log{days}", "--from", "log.parquet")
        windows[days] = [rate["window"] for rate in config.get("rates", [])]
    assert windows == {3: [], 4: ["all"], 20: ["7d"]}
    assert "no [[rates]], since train has one day" in Path("log3/prep.toml").read_text()
