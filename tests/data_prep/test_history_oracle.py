"""Histories of a first preparation against an oracle; nothing from a time on changes a history before it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.data_prep.feed_logs import digests
from tests.data_prep.oracle_logs import (
    AUTHORS,
    BY_RATES,
    HASHED,
    LAST_DAY,
    RATES,
    Row,
    day_of,
    delay_seconds,
    encode,
    histories_of_toml,
    oracle,
    prepared,
    random_logs,
    random_rows,
    rows_of,
    stored,
    time_of,
    usable_rows,
)

UNITS = ("s", "ms", "timestamp", "date")


def of_rows(expected: dict[str, dict[int, Any]], actual: dict[str, dict[int, Any]]) -> dict[str, dict[int, Any]]:
    """Return the histories of the rows that a dataset has."""
    return {name: {row: each[row] for row in actual[name]} for name, each in expected.items()}


@given(data=st.data())
@settings(max_examples=5, deadline=None, suppress_health_check=list(HealthCheck))
def test_histories_are_those_of_the_oracle(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    unit, rows = data.draw(st.sampled_from(UNITS)), data.draw(random_logs())
    folder = prepared(tmp_path_factory.mktemp("oracle"), rows, unit, files=data.draw(st.integers(1, 4)))
    actual = stored(folder)
    expected = of_rows(oracle(rows, unit), actual)
    assert len(expected["liked"]) > 6
    assert actual == expected
    assert stored(folder, encoded=True) == encode(folder, expected)


@pytest.mark.parametrize("unit", UNITS)
def test_the_logs_of_the_oracle_have_every_case(unit: str) -> None:
    """Full and empty histories, null keys and items, events at equal times, events that only the delay hides."""
    rows = random_rows(0)
    expected = oracle(rows, unit)
    by_row = {row["row"]: row for row in rows}
    for history in histories_of_toml(unit):
        lists = expected[history.name]
        assert {len(events) for events in lists.values()} >= {0, history.length}
        assert any(history.key(row) is None for row in rows)
        assert any(None in items for events in lists.values() for _, *items in events)
        times = [time for events in lists.values() for time, *_ in events]
        assert len(times) > len(set(times))
        same = [(time_of(row, unit), history.key(row)) for row in rows if history.key(row) is not None]
        assert len(same) > len(set(same))
    hidden, seen = 0, histories_of_toml(unit)[1]
    for number, events in expected["seen"].items():
        now = time_of(by_row[number], unit)
        hidden += sum(
            now - delay_seconds(unit) * 1000 <= time_of(row, unit) < now
            and seen.key(row) == seen.key(by_row[number]) is not None
            for row in rows
        )
        assert all(age > delay_seconds(unit) for age, *_ in events) or unit in ("ms", "date")
    assert hidden > 0


@given(data=st.data())
@settings(max_examples=3, deadline=None, suppress_health_check=list(HealthCheck))
def test_rows_from_a_time_on_change_no_history_until_it(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    root = tmp_path_factory.mktemp("later")
    unit, rows = data.draw(st.sampled_from(UNITS)), data.draw(random_logs())
    time = time_of(data.draw(st.sampled_from(rows)), unit)
    later = [row for row in rows if time_of(row, unit) >= time]
    # The rows that give every split its rows stay good.
    changes = st.fixed_dictionaries(
        {"user_id": st.sampled_from([None, 1, 2]), "video_id": st.sampled_from(["v1", "v2"]), "price": st.just(9.0)},
        optional={"is_kept": st.just(0), "is_bad": st.just(1), "is_like": st.sampled_from([None, 0, 1])},
    )
    changed = {row["row"]: data.draw(changes) for row in data.draw(st.lists(st.sampled_from(later), min_size=1))}
    fixed = ("is_kept", "is_bad", "is_like")
    other = [
        row | {k: v for k, v in changed.get(row["row"], {}).items() if row["row"] % 1000 > 1 or k not in fixed}
        for row in rows
    ]
    was, now = stored(prepared(root / "was", rows, unit)), stored(prepared(root / "now", other, unit))
    until = {row["row"] for row in rows if time_of(row, unit) <= time and row["row"] not in changed}
    for name in was:
        assert {row: each for row, each in was[name].items() if row in until} == {
            row: each for row, each in now[name].items() if row in until
        }


def test_an_event_changes_later_histories(tmp_path: Path) -> None:
    """The test above can fail: an event on day 2 is seen on days 3 and 4, by rows with its key alone."""
    rows = random_rows(1)
    event = next(row for row in rows if day_of(row) == 2 and row["user_id"] == 1 and row["is_like"] == 0)
    other = [row | {"is_like": 1} if row is event else row for row in rows]
    was, now = stored(prepared(tmp_path / "was", rows, "ms")), stored(prepared(tmp_path / "now", other, "ms"))
    users = {row["row"]: row["user_id"] for row in rows}
    differs = {row for row in was["liked"] if was["liked"][row] != now["liked"][row]}
    assert differs
    assert {users[row] for row in differs} == {1}
    assert was["seen"] == now["seen"]


def test_threads_and_the_order_of_files_change_no_history(tmp_path: Path) -> None:
    rows = random_rows(2, rows=40)
    one, three = prepared(tmp_path / "one", rows, "ms"), prepared(tmp_path / "three", rows, "ms", threads=3)
    assert digests(one) == digests(three)
    other = prepared(tmp_path / "other", rows[::-1], "ms", files=5)
    for file in sorted((one / "histories").rglob("*.npy")):
        assert file.read_bytes() == (other / file.relative_to(one)).read_bytes(), file
    assert stored(one) == stored(other)


def test_long_histories_and_conditions_on_rates(tmp_path: Path) -> None:
    rows = random_rows(5, rows=30)
    folder = prepared(tmp_path, rows, overrides=(RATES, BY_RATES, "histories[1].length=50"))
    usable = usable_rows(rows)

    def is_event(row: Row) -> bool:
        """Return whether the video of a row was shown more than three times on the day before."""
        return sum(each["video_id"] == row["video_id"] and day_of(each) == day_of(row) - 1 for each in usable) > 3

    liked, seen = histories_of_toml("ms")
    actual = stored(folder)
    settings = (replace(liked, is_event=is_event), replace(seen, length=50))
    assert actual == of_rows(oracle(rows, "ms", histories=settings), actual)
    assert max(map(len, actual["seen"].values())) > 20
    assert 0 < sum(map(is_event, usable)) < len(usable)


def test_events_have_the_hashed_ids_of_rows(tmp_path: Path) -> None:
    rows = random_rows(6, rows=30)
    folder = prepared(tmp_path, rows, overrides=(HASHED,))
    columns = rows_of(folder).select(["row", "video_id"]).to_pydict()
    videos = {row["row"]: row["video_id"] for row in rows}
    ids = {videos[row]: number for row, number in zip(columns["row"], columns["video_id"], strict=True)}
    raw = pq.read_table(folder / "histories" / "liked.parquet")["item_video_id"].to_pylist()
    assert np.load(folder / "histories" / "liked" / "video_id.npy").tolist() == [ids[value] for value in raw]
    vocabulary = pq.read_table(folder / "vocab" / "video_id.parquet")["row"].to_pylist()
    assert set(ids.values()) - {0, *vocabulary}


def test_rows_after_the_last_day_of_the_split_are_no_events(tmp_path: Path) -> None:
    rows = random_rows(4)
    folder = prepared(tmp_path, rows, "s")
    assert any(day_of(row) > LAST_DAY for row in rows)
    events = pq.read_table(folder / "histories" / "seen.parquet")
    assert len(events) == sum(row["video_id"] in AUTHORS for row in usable_rows(rows))
