"""Rates of raw logs are those of the days before each row, counted by the dataset, as in the dataset itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.inputs import rates, read
from data_prep.transforms import rates as transforms
from tests.inference.feed import LABELS, day_of, predict, raw, same
from tests.inference.rates_feed import COUNT_FEATURES, LAST_DAY, RATE_FEATURES, read_features

FEATURES = (*RATE_FEATURES, *COUNT_FEATURES, "minutes")


def write_days(folder: Path, days: range, **columns: Any) -> Path:
    """Write the logs of days without labels, or with other ones."""
    folder.mkdir()
    for day in days:
        table = day_of(day).drop_columns([*LABELS])
        for name, value in columns.items():
            table = table.append_column(name, pa.array([value] * len(table)))
        pq.write_table(table, folder / f"day {day}.parquet")
    return folder


def test_the_training_log_is_predicted_as_in_the_dataset(rates_feed: Path, tmp_path: Path) -> None:
    expected = predict(rates_feed, tmp_path / "train", "--split", "train")
    log = write_days(tmp_path / "log", range(2, 4))
    assert same(raw(rates_feed, tmp_path / "out", log), expected)
    # Labels of a predicted log count in no rate.
    liked = write_days(tmp_path / "liked", range(2, 4), is_like=1, is_click=1, watched=9.0)
    assert same(raw(rates_feed, tmp_path / "again", liked), expected)


def test_features_have_the_bits_of_the_parts(rates_feed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    computed = list[str]()
    values_as_of = transforms.values_as_of

    def count_calls(engine: Any, table: Any, *more: Any) -> Any:
        computed.append(table.name)
        return values_as_of(engine, table, *more)

    monkeypatch.setattr(rates, "values_as_of", count_calls)
    monkeypatch.setattr(read, "MAX_BATCH_ROWS", 50)
    log = write_days(tmp_path / "log", range(2, 4))
    rows = read_features(rates_feed, rates_feed / "data", log, FEATURES, tmp_path / "work")
    parts = pq.read_table(rates_feed / "data/train")
    assert len(rows) == len(parts) > 100
    for name in FEATURES:
        assert rows[name].null_count < len(rows)
        assert rows[name].combine_chunks().equals(parts[name].combine_chunks()), name
    # Windows are computed once for a log, not for each of its batches.
    assert sorted(computed) == ["by_user_id", "by_user_id_time_hour___2", "by_users_city", "by_video_id"]


def test_rates_of_a_row_can_be_copied_to_the_output(rates_feed: Path, tmp_path: Path) -> None:
    log = write_days(tmp_path / "log", range(3, 4))
    names = ["video_like", "user_shows_count"]
    copied = raw(rates_feed, tmp_path / "out", log, "--ids", *names)
    rows = read_features(rates_feed, rates_feed / "data", log, names, tmp_path / "work")
    assert copied["user_shows_count"].to_pylist() == rows["user_shows_count"].to_pylist()
    assert [None if x is None else pa.scalar(x, pa.float32()).as_py() for x in copied["video_like"].to_pylist()] == (
        rows["video_like"].to_pylist()
    )


def test_days_that_a_dataset_cannot_answer_for(
    rates_feed: Path, rates_child: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    last = LAST_DAY + 1
    log = write_days(tmp_path / "log", range(LAST_DAY, last + 1))
    newer = ["--set", f"data.path={rates_child}"]
    raw(rates_feed, tmp_path / "out", log, *newer, code=3)
    message = capsys.readouterr().err
    assert "log/day 5.parquet, row group 0, row " in message
    assert f"is of 2022-04-19; rates of a row need the counts of the days before it, and {rates_child}, " in message
    assert "from 2022-04-20 on. Fix: predict earlier rows with the parent dataset: --set data.path=PARENT" in message
    (log / "day 5.parquet").unlink()
    of_parent = raw(rates_feed, tmp_path / "parent", log)
    assert same(raw(rates_feed, tmp_path / "child_out", log, *newer), of_parent)
    # The parent does not know day 6, which rows of day 7 see.
    later = write_days(tmp_path / "later", range(last + 1, last + 2))
    assert "counts the rows until" not in capsys.readouterr().err
    of_parent = raw(rates_feed, tmp_path / "later_parent", later)
    assert f"2022-04-21: {rates_feed / 'data'} counts the rows until 2022-04-19, so" in capsys.readouterr().err
    assert not same(raw(rates_feed, tmp_path / "later_child", later, *newer), of_parent)
