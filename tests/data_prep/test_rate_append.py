"""Rates of appended days: those of one preparation of all days, counts that are kept, rows that are told, refusals."""

from __future__ import annotations

import io
import logging
import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.progress import Progress
from data_prep.run import EngineName, Options, prepare
from ple_rec.config.base import SPLITS
from ple_rec.config.load import load_config
from ple_rec.config.prep import PrepConfig
from ple_rec.errors import DataError, PleRecError, UserError
from tests.data_prep.feed_logs import digests, read
from tests.data_prep.rate_logs import DAY_1, random_log, reference, write

# Days of the parent; it counts days 1 to 5. The other settings give every appended day rows of all splits.
FIRST_DAYS = ("split.train=[1, 3]", "split.valid=[4, 4]", "split.test=[5, 5]")
OTHERS = ("split.day_1=2022-01-08", "group=row", "append.valid=0.3", "append.test=0.3")
ROWS_OF_DAY = 15
LOG = random_log(3, rows=ROWS_OF_DAY)
COLUMNS = [name for name in reference(random_log(0, rows=1)).columns if name != "row"]


def rows_of(log: pd.DataFrame, days: Iterable[int]) -> pd.DataFrame:
    """Return the rows of some days, where day 1 is the first."""
    return log[(log["time_s"] // 86_400 - DAY_1 + 1).isin(list(days))]


def prepared(
    root: Path,
    log: pd.DataFrame,
    parent: Path | None = None,
    day: int = 0,
    *overrides: str,
    engine: EngineName = "duckdb",
) -> tuple[Path, str]:
    """Prepare a log, as an appended day if a parent is given, and return the dataset and the lines of progress."""
    write(root, log)
    lines = io.StringIO()
    options = Options(
        str(root / "raw"),
        threads=1,
        engine=engine,
        append=None if parent is None else f"day={day}",
        parent=parent,
        overrides=(*OTHERS, *overrides),
    )
    prepare(str(root / "rates.toml"), root / "out", options, progress=Progress(stream=lines))
    return root / "out", lines.getvalue()


def rates_by_row(folder: Path) -> pd.DataFrame:
    """Return the columns of rates of the rows of all splits, by the row of the log."""
    table = pa.concat_tables(read(folder, split) for split in SPLITS)
    return table.to_pandas().set_index("row").sort_index()[COLUMNS]


def chain(
    root: Path, log: pd.DataFrame, folder: Path, days: Iterable[int], engine: EngineName = "duckdb"
) -> dict[int, Path]:
    """Append each of some days to the dataset before it, the first day to that in `folder`; return them by day."""
    datasets = {}
    for day in days:
        # The log of a day that the parent has counted is the whole log; the others have the rows of the day alone.
        rows = log if day < 6 else rows_of(log, [day])
        folder, _ = prepared(root / str(day), rows, folder, day, engine=engine)
        datasets[day] = folder
    return datasets


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Dataset of the first days."""
    return prepared(tmp_path_factory.mktemp("first"), rows_of(LOG, range(1, 6)), None, 0, *FIRST_DAYS)[0]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """Rates of one preparation of all days."""
    return rates_by_row(prepared(tmp_path_factory.mktemp("whole"), LOG)[0])


def test_appended_days_have_the_rates_of_one_preparation(tmp_path: Path, first: Path, whole: pd.DataFrame) -> None:
    datasets = chain(tmp_path, LOG, first, range(4, 10))
    for day, folder in datasets.items():
        rates = rates_by_row(folder)
        assert len(rates) == ROWS_OF_DAY, day
        pd.testing.assert_frame_equal(rates, whole.loc[rates.index], check_exact=True)
        assert rates.notna().any().all(), day


@pytest.mark.spark
@pytest.mark.slow
def test_appended_days_have_the_same_bytes_on_both_engines(tmp_path: Path) -> None:
    log = random_log(4, rows=12)
    first, _ = prepared(tmp_path / "first", rows_of(log, range(1, 6)), None, 0, *FIRST_DAYS)
    duck, spark = (chain(tmp_path / engine, log, first, (5, 6), engine) for engine in ("duckdb", "spark"))
    for day in duck:
        assert digests(duck[day]) == digests(spark[day])
    assert "rates/by_video_id.parquet" in digests(duck[6])


def test_an_appended_day_keeps_the_counts_that_it_needs(tmp_path: Path, first: Path) -> None:
    folder = chain(tmp_path, LOG, first, [6, 7])[7]
    found = load_config(PrepConfig, folder / "prep.toml").found
    assert (found.rates_first_day, found.rates_last_day) == ("2022-01-14", "2022-01-14")
    day = DAY_1 + 6
    videos = pq.read_table(folder / "rates" / "by_video_id.parquet").to_pandas()
    # The farthest days are those of 3 days before, and of a delay of 2 days; all days before are one row a video.
    assert sorted(set(videos["day"])) == [day - 4, day - 3, day - 2, day - 1, day]
    assert not videos.duplicated(["video_id", "day"]).any()
    counted = LOG[LOG["is_like"].notna() & LOG["video_id"].notna() & (LOG["time_s"] // 86_400 <= day)]
    assert videos["all_video_like_count"].sum() == len(counted)
    assert set(pq.read_table(folder / "rates" / "by_city_tab___0.parquet")["day"].to_pylist()) == {
        *range(day - 5, day + 1)
    }
    assert set(pq.read_table(folder / "rates" / "by_user_id_time_hour.parquet")["day"].to_pylist()) == {day - 1, day}


def test_rows_of_counted_days_are_told_and_count_once(tmp_path: Path, first: Path) -> None:
    alone, said = prepared(tmp_path / "alone", rows_of(LOG, [6]), first, 6)
    assert "do not count" not in said
    late = pd.concat([LOG, rows_of(LOG, [3]).assign(is_like=1)])
    again, said = prepared(tmp_path / "again", late, first, 6)
    assert (
        f"rates do not count {6 * ROWS_OF_DAY} rows (5 days, 2022-01-08 to 2022-01-12) again, since the parent has"
        in said
    )
    pd.testing.assert_frame_equal(rates_by_row(again), rates_by_row(alone), check_exact=True)
    for name in ("by_video_id", "by_city_tab___0", "by_user_id_time_hour"):
        alone_table, again_table = (pq.read_table(folder / "rates" / f"{name}.parquet") for folder in (alone, again))
        assert again_table.equals(alone_table)


def test_a_late_row_of_a_counted_day_has_rates(tmp_path: Path, first: Path) -> None:
    late = rows_of(LOG, [5]).assign(video_id="new")
    rates = rates_by_row(prepared(tmp_path / "late", late, first, 5)[0])
    assert (rates["video_like_count"] == 0).all()
    assert rates["video_like"].nunique() == 1
    assert rates["video_like"].notna().all()


def test_a_gap_is_told_and_its_days_have_no_rows(
    tmp_path: Path, first: Path, whole: pd.DataFrame, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "data_prep"):
        gap, _ = prepared(tmp_path / "gap", rows_of(LOG, [7]), first, 7)
    (message,) = [message for message in caplog.messages if "left out" in message]
    assert "2022-01-13 is left out" in message
    assert "their rows count in rates only if they are in this log" in message
    without = reference(LOG[LOG["time_s"] // 86_400 != DAY_1 + 5]).set_index("row")
    rates = rates_by_row(gap)
    expected = without.loc[rates.index].astype(np.float64).astype(np.float32)
    pd.testing.assert_frame_equal(rates.astype(np.float32), expected, check_exact=True)
    filled, _ = prepared(tmp_path / "filled", rows_of(LOG, [6, 7]), first, 7)
    pd.testing.assert_frame_equal(rates_by_row(filled), whole.loc[rates.index], check_exact=True)


@pytest.mark.parametrize(
    ("override", "difference"),
    [
        ('rates[0].window="3d"', 'rates[0].window = "2d", now "3d"'),
        ("rates[1].prior=1", "rates[1].prior = 0.5, now 1.0"),
        ('rates[2].name="shown"', "rates = ["),
    ],
)
def test_other_rates_are_refused(tmp_path: Path, first: Path, override: str, difference: str) -> None:
    with pytest.raises(UserError) as caught:
        prepared(tmp_path / "other", rows_of(LOG, [6]), first, 6, override)
    assert f"was prepared with {difference}" in str(caught.value)


def test_a_key_of_another_type_and_a_lost_table_are_refused(tmp_path: Path, first: Path) -> None:
    with pytest.raises(DataError) as caught:
        prepared(tmp_path / "other", rows_of(LOG, [6]).assign(video_id=7), first, 6)
    assert str(caught.value) == (
        "rates.toml: rates[0].key[0]: video_id now of type int64, but string in the parent; an appended day keeps "
        "every column's type. Fix: write the day's files with the types of the first days"
    )
    shutil.copytree(first, tmp_path / "without")
    (tmp_path / "without" / "rates" / "by_video_id.parquet").unlink()
    with pytest.raises(PleRecError, match=r"by_video_id\.parquet"):
        prepared(tmp_path / "lost", rows_of(LOG, [6]), tmp_path / "without", 6)
