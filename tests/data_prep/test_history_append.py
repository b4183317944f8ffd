"""Histories of appended days: those of one preparation of all days, kept events, rows that are told, refusals."""

from __future__ import annotations

import io
import logging
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from data_prep.progress import Progress
from data_prep.run import EngineName, Options, prepare
from ple_rec.config.load import load_config
from ple_rec.config.prep import PrepConfig
from ple_rec.errors import DataError, PleRecError, UserError
from tests.data_prep.feed_logs import digests
from tests.data_prep.oracle_logs import (
    DAY_1,
    OFFSET_MS,
    Event,
    Row,
    day_of,
    encode,
    oracle,
    random_rows,
    stored,
    toml,
    write,
)

FIRST = range(1, 5)
# The first dataset has events until day 4, and trains on day 2.
ROWS = random_rows(7, range(1, 13), rows=30)
HELD_OUT = 'group = "row"\nappend = {valid = 0.3, test = 0.3}\n'
Histories = dict[str, dict[int, list[Event]]]


def rows_of(rows: Iterable[Row], days: Iterable[int]) -> list[Row]:
    """Return the rows of some days."""
    days = list(days)
    return [row for row in rows if day_of(row) in days]


def prepared(
    root: Path,
    rows: list[Row],
    *overrides: str,
    unit: str = "ms",
    engine: EngineName = "duckdb",
    text_users: bool = False,
    **append: Any,
) -> tuple[Path, str]:
    """Prepare a log, as an appended day if `parent` and `append` are given; return the dataset and what is said."""
    write(root, rows, unit, text=HELD_OUT + toml(unit), text_users=text_users)
    lines = io.StringIO()
    options = Options(str(root / "raw"), threads=1, engine=engine, overrides=overrides, **append)
    prepare(str(root / "histories.toml"), root / "out", options, progress=Progress(stream=lines))
    return root / "out", lines.getvalue()


def chain(root: Path, rows: list[Row], folder: Path, days: Iterable[int], **settings: Any) -> dict[int, Path]:
    """Append each of some days to the dataset before it, the first day to that in `folder`; return them by day."""
    datasets = {}
    for day in days:
        # The log of a day whose events the parent has is the whole log; the others have the rows of the day alone.
        log = rows if day in FIRST else rows_of(rows, [day])
        folder, _ = prepared(root / str(day), log, append=f"day={day}", parent=folder, **settings)
        datasets[day] = folder
    return datasets


def expected(actual: Histories, rows: list[Row], unit: str = "ms", last_day: int = 12) -> Histories:
    """Return the histories of the rows that a dataset has, by the oracle over all days."""
    of_all = oracle(rows, unit, last_day)
    return {name: {row: of_all[name][row] for row in each} for name, each in actual.items()}


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Dataset of the first days."""
    return prepared(tmp_path_factory.mktemp("first"), rows_of(ROWS, FIRST))[0]


@pytest.mark.parametrize("days", [range(3, 7), pytest.param(range(3, 13), marks=pytest.mark.slow)])
def test_appended_days_have_the_histories_of_one_preparation(tmp_path: Path, first: Path, days: range) -> None:
    whole, _ = prepared(tmp_path / "whole", ROWS, "split.train=[2, 10]", "split.valid=[11, 11]", "split.test=[12, 12]")
    of_whole = stored(whole)
    for day, folder in chain(tmp_path, ROWS, first, days).items():
        actual = stored(folder)
        assert actual == expected(actual, ROWS), day
        assert actual == {name: {row: of_whole[name][row] for row in each} for name, each in actual.items()}, day
        assert stored(folder, encoded=True) == encode(folder, actual), day
        assert max(len(each) for each in actual["liked"].values()) == 3, day
        assert len(actual["liked"]) == len(
            [row for row in rows_of(ROWS, [day]) if row["is_kept"] and not row["is_bad"]]
        )


@pytest.mark.parametrize("unit", ["timestamp", "date"])
def test_appended_days_in_other_units(tmp_path: Path, unit: str) -> None:
    rows = random_rows(8, range(1, 7), rows=30)
    first, _ = prepared(tmp_path / "first", rows_of(rows, FIRST), unit=unit)
    for day, folder in chain(tmp_path, rows, first, (5, 6), unit=unit).items():
        actual = stored(folder)
        assert actual == expected(actual, rows, unit), day


@pytest.mark.spark
@pytest.mark.slow
def test_appended_days_have_the_same_bytes_on_both_engines(tmp_path: Path, first: Path) -> None:
    duck, spark = (chain(tmp_path / name, ROWS, first, (5, 6), engine=name) for name in ("duckdb", "spark"))
    for day in duck:
        assert digests(duck[day]) == digests(spark[day])
    assert "histories/liked/video_id.npy" in digests(duck[6])


def test_an_appended_day_keeps_the_events_that_later_rows_can_see(tmp_path: Path, first: Path) -> None:
    folder = chain(tmp_path, ROWS, first, [5, 6])[6]
    assert load_config(PrepConfig, folder / "prep.toml").found.histories_last_day == "2022-01-13"
    begin = (DAY_1 + 5) * 86_400_000
    events = pq.read_table(folder / "histories" / "liked.parquet")
    times: dict[int, list[int]] = {}
    for key, time in zip(events["key"].to_pylist(), events["time"].to_pylist(), strict=True):
        times.setdefault(key, []).append(time + OFFSET_MS)
    usable = [row for row in rows_of(ROWS, range(1, 7)) if row["is_kept"] and not row["is_bad"] and row["is_like"]]
    for key, stored_times in times.items():
        all_times = sorted(row["ms"] for row in usable if row["user_id"] == key)
        early = [time for time in all_times if time < begin]
        # Events at the time of the third but last one are kept, too.
        assert stored_times == [time for time in all_times if time >= begin or time >= early[-3:][0]]
        assert len(stored_times) < len(all_times)
    assert set(times) == {row["user_id"] for row in usable} - {None}


def test_rows_of_earlier_days_are_told_and_are_no_events_again(tmp_path: Path, first: Path) -> None:
    alone, said = prepared(tmp_path / "alone", rows_of(ROWS, [5]), append="day=5", parent=first)
    assert "do not count" not in said
    late = [*rows_of(ROWS, [2, 5]), *(row | {"is_like": 1} for row in rows_of(ROWS, [4]))]
    again, said = prepared(tmp_path / "again", late, append="day=5", parent=first)
    told = sum(row["is_kept"] for row in rows_of(late, [2, 4]))
    assert f"histories do not count {told} rows (2 days, 2022-01-09 to 2022-01-11) again, since the parent has" in said
    assert stored(again) == stored(alone)
    for name in ("liked", "seen"):
        files = (pq.read_table(folder / "histories" / f"{name}.parquet") for folder in (alone, again))
        assert next(files).equals(next(files))


def test_a_gap_is_told_and_its_days_have_no_events(
    tmp_path: Path, first: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "data_prep"):
        gap, _ = prepared(tmp_path / "gap", rows_of(ROWS, [6]), append="day=6", parent=first)
    (message,) = [message for message in caplog.messages if "left out" in message]
    assert "2022-01-12 is left out" in message
    assert "their rows count in histories only if they are in this log" in message
    without = [row for row in ROWS if day_of(row) != 5]
    assert stored(gap) == expected(stored(gap), without)
    filled, _ = prepared(tmp_path / "filled", rows_of(ROWS, [5, 6]), append="day=6", parent=first)
    assert stored(filled) == expected(stored(filled), ROWS) != stored(gap)


def test_days_that_go_backwards_are_refused(tmp_path: Path, first: Path) -> None:
    later, _ = prepared(tmp_path / "later", rows_of(ROWS, [6]), append="day=6", parent=first)
    with pytest.raises(UserError) as caught:
        prepared(tmp_path / "back", rows_of(ROWS, [5]), append="day=5", parent=later)
    assert str(caught.value) == (
        f"--append day=5: in {later} 2022-01-12 is before 2022-01-13, the last day of train; days are trained once, "
        "and in order. Fix: name a day after 2022-01-13"
    )


@pytest.mark.parametrize(
    ("override", "difference"),
    [
        ("histories[0].length=4", "histories[0].length = 3, now 4"),
        ('histories[1].delay="2h"', 'histories[1].delay = "1h", now "2h"'),
        ('histories[0].where="is_like = 0"', 'histories[0].where = "is_like = 1", now "is_like = 0"'),
        ('histories[1].name="shown"', 'histories = ["liked", "seen"], now ["liked", "shown"]'),
    ],
)
def test_other_histories_are_refused(tmp_path: Path, first: Path, override: str, difference: str) -> None:
    with pytest.raises(UserError) as caught:
        prepared(tmp_path / "other", rows_of(ROWS, [5]), override, append="day=5", parent=first)
    assert f"was prepared with {difference}; an appended day keeps every column's meaning" in str(caught.value)


def test_a_key_of_another_type_and_lost_events_are_refused(tmp_path: Path, first: Path) -> None:
    rows = rows_of(ROWS, [5])
    with pytest.raises(DataError) as caught:
        prepared(tmp_path / "text", rows, text_users=True, append="day=5", parent=first)
    assert str(caught.value) == (
        "histories.toml: histories[0].key: user_id now of type string, but int64 in the events of history 'liked'; "
        "later events have the types of the earlier ones. Fix: write the files with the types of the first days"
    )
    shutil.copytree(first, tmp_path / "without")
    (tmp_path / "without" / "histories" / "liked.parquet").unlink()
    with pytest.raises(PleRecError, match=r"liked\.parquet"):
        prepared(tmp_path / "lost", rows, append="day=5", parent=tmp_path / "without")
