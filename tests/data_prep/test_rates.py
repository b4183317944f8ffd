"""Rates over earlier days: a reference, the rule of days, rows that count, both engines, files of the dataset."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_prep.engines.base import Engine
from data_prep.engines.duck import DuckEngine
from data_prep.engines.spark import SparkEngine
from data_prep.first_day import find_day_1
from data_prep.progress import Progress
from data_prep.run import find_configured_tables
from data_prep.sources.files import POSITION
from data_prep.transforms.rates import count_rates, with_rates
from data_prep.transforms.resolve import resolve
from data_prep.transforms.rows import LogRows, derive
from ple_rec.config.base import SPLITS
from ple_rec.config.load import load_config
from ple_rec.config.prep import PREP_FILE, PrepConfig
from tests.data_prep.feed_logs import digests, read
from tests.data_prep.plain_logs import TOML, Logs, day_of, with_column
from tests.data_prep.rate_logs import DAY_1, LIKE_RATE, prepared, random_log, reference, write


def rows_of(folder: Path, *splits: str) -> pd.DataFrame:
    """Return the rows of some splits, by default of all, in the order of the log."""
    table = pa.concat_tables(read(folder, split) for split in splits or SPLITS)
    return table.to_pandas().sort_values("row", ignore_index=True)


@pytest.mark.parametrize("seed", range(2))
def test_rates_are_those_of_a_reference(tmp_path: Path, seed: int) -> None:
    log = random_log(seed)
    rows = rows_of(prepared(tmp_path, log))
    expected = reference(log).set_index("row").loc[rows["row"]]
    assert len(rows) > 60
    for name in expected.columns:
        want = expected[name].to_numpy(np.float64, na_value=np.nan).astype(np.float32)
        np.testing.assert_array_equal(rows[name].to_numpy(np.float32, na_value=np.nan), want, err_msg=name)
        assert not np.isnan(want).all(), name
    twice = expected["video_shown_count"].to_numpy(np.float64, na_value=np.nan) * 2
    np.testing.assert_array_equal(rows["video_shown_twice"].to_numpy(np.float64, na_value=np.nan), twice)


@pytest.fixture(scope="module", params=["duckdb", pytest.param("spark", marks=[pytest.mark.spark, pytest.mark.slow])])
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    folder = tmp_path_factory.mktemp("engine")
    engine = DuckEngine(folder, threads=1) if request.param == "duckdb" else SparkEngine(folder, threads=1)
    yield engine
    engine.close()


def features(engine: Engine, root: Path, log: pd.DataFrame) -> pa.Table:
    """Return the features of all rates for every row of a log, also of rows in no split, in the order of the log."""
    write(root, log, files=1)
    config = load_config(PrepConfig, root / "rates.toml")
    resolved = resolve(config, "rates.toml")
    raw = find_configured_tables(resolved, str(root / "raw"), root / "staging", Progress())
    rows = LogRows(engine, replace(resolved, tables=raw.by_name)).with_sides().materialize_links()
    day_1 = find_day_1(engine, rows.joined(), rows.resolved)
    rows = with_rates(rows, count_rates(rows, day_1))
    names = [name for rate in config.rates for name in rate.columns]
    return engine.fetch(derive(rows.joined(), rows.resolved, day_1).table.order_by(POSITION).select(names))


@given(st.data())
@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
def test_labels_from_a_day_on_change_no_feature_until_this_day(
    engine: Engine, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    root = tmp_path_factory.mktemp("labels")
    log = random_log(data.draw(st.integers(0, 2**16)), rows=6)
    days = log["time_s"] // 86_400 - DAY_1
    day = data.draw(st.integers(0, 9))
    later = np.flatnonzero(days >= day)
    changed = data.draw(st.lists(st.sampled_from(later.tolist()), min_size=1, unique=True))
    is_changed = log["row"].isin(changed)
    other = log.assign(
        is_like=log["is_like"].mask(is_changed, data.draw(st.sampled_from([7, pd.NA]))),
        play_ms=log["play_ms"].mask(is_changed, -3),
        price=log["price"].mask(is_changed, data.draw(st.sampled_from([1e6, np.nan]))),
    )
    # DuckDB keeps parts of files in memory, and a file that is replaced within a moment may look unchanged to it.
    was, now = features(engine, root / "was", log), features(engine, root / "now", other)
    until = np.flatnonzero(days <= day)
    assert was.take(until).equals(now.take(until))


def test_labels_change_features_of_the_next_day(engine: Engine, tmp_path: Path) -> None:
    log = random_log(0)
    other = log.assign(is_like=1 - log["is_like"])
    days = (log["time_s"] // 86_400 - DAY_1).to_numpy()
    was = features(engine, tmp_path / "was", log).to_pandas()
    now = features(engine, tmp_path / "now", other).to_pandas()
    differs = (was["video_like"] != now["video_like"]) & was["video_like"].notna()
    assert sorted(set(days[differs])) == list(range(1, 9))  # The split ends on day 9, so rows of day 10 have no rates.


def test_threads_and_the_order_of_files_change_no_feature(tmp_path: Path) -> None:
    log = random_log(1)
    one, three = prepared(tmp_path / "one", log), prepared(tmp_path / "three", log, threads=3)
    assert digests(one) == digests(three)
    shuffled = prepared(tmp_path / "shuffled", log.sample(frac=1, random_state=3), files=5)
    names = list(reference(log))
    pd.testing.assert_frame_equal(rows_of(one)[names], rows_of(shuffled)[names])
    for file in (one / "rates").iterdir():
        assert pq.read_table(file).equals(pq.read_table(shuffled / "rates" / file.name))


def test_the_files_of_counts(tmp_path: Path) -> None:
    log = random_log(2)
    folder = prepared(tmp_path, log)
    assert sorted(file.name for file in (folder / "rates").iterdir()) == [
        "by_city_tab___0.parquet",
        "by_user_id_time_hour.parquet",
        "by_video_id.parquet",
    ]
    table = pq.read_table(folder / "rates" / "by_video_id.parquet")
    assert table.schema.remove_metadata() == pa.schema(
        {
            "video_id": pa.string(),
            "day": pa.int32(),
            "video_like_count": pa.int64(),
            "video_like_sum": pa.int64(),
            "all_video_like_count": pa.int64(),
            "all_video_like_sum": pa.int64(),
            "video_shown_count": pa.int64(),
        }
    )
    log = log.assign(day=log["time_s"] // 86_400)
    counting = log[(log["day"] < DAY_1 + 9) & log["video_id"].notna()]
    expected = counting.groupby(["video_id", "day"]).agg(
        video_like_count=("is_like", "count"), video_like_sum=("is_like", "sum"), video_shown_count=("row", "count")
    )
    stored = table.to_pandas()[["video_id", "day", *expected.columns]]
    pd.testing.assert_frame_equal(stored, expected.reset_index(), check_dtype=False)
    names = pq.read_schema(folder / "rates" / "by_city_tab___0.parquet").names
    assert names == ["city", "key2", "day", "city_price_count", "city_price_sum"]
    found = load_config(PrepConfig, folder / PREP_FILE).found
    assert (found.rates_first_day, found.rates_last_day) == ("2022-01-08", "2022-01-16")


def like_rates(logs: Logs, *overrides: str) -> list[float | None]:
    """Return the like rate of the video `v0` on the day before, in each row of valid and test that shows it."""
    logs.prepare(*overrides, 'carry={v="video_id", row="time_ms"}')
    table = pa.concat_tables(read(logs.out, split) for split in ("valid", "test")).to_pandas()
    return table[table["v"] == "v0"].sort_values("row")["video_like"].tolist()


def test_rows_of_every_fate_count(tmp_path: Path) -> None:
    """Held out rows, rows that sampling leaves out, and rows of no split count; `log.where` leaves rows out."""
    like_rate = day_of(3).to_pandas().query("video_id == 'v0'")["is_like"].mean()
    train_rate = day_of(2).to_pandas().query("video_id == 'v0'")["is_like"].mean()
    assert like_rate != train_rate
    expected = {train_rate, like_rate}
    sampled = 'sampling={keep="user_id = 1", rate=0.001, hash=["user_id", "time_ms"]}'
    no_split = 'split={by="day", train=[1, 1], valid=[3, 3], test=[4, 4]}'
    for name, override in {"plain": "name=plain", "sampled": sampled, "no split": no_split}.items():
        rates = like_rates(Logs(tmp_path / name, TOML + LIKE_RATE), override)
        assert set(rates) == set(map(np.float32, expected)), name
    where = like_rates(Logs(tmp_path / "where", TOML + LIKE_RATE), "log.where=is_like = 1 or user_id > 3")
    assert set(where).isdisjoint(set(map(np.float32, expected)))


def test_dropped_rows_do_not_count(tmp_path: Path) -> None:
    """A row that a check, or the label of a task with a threshold drops counts in no rate."""
    threshold = TOML.replace(
        'label = "is_like"', 'label = "price > threshold"\nthreshold = {value = "duration_ms", quantile = 0.5}'
    )
    logs = Logs(tmp_path, threshold + LIKE_RATE)
    logs.write(2, with_column(with_column(day_of(2), "duration_ms", {1: -1}), "price", {6: None}))
    first = day_of(2).to_pandas()
    shown = first["video_id"] == "v0"
    assert shown[[1, 6]].all()
    rates = like_rates(logs, 'on_bad_row="drop"', "max_bad_fraction=0.5")
    assert rates[0] == np.float32(first["is_like"][shown].drop([1, 6]).mean())
    assert rates[0] != np.float32(first["is_like"][shown].mean())


def test_rows_that_are_stored_have_the_same_rates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many columns, rows with all computed columns are stored before the parts are written."""
    log = random_log(4, rows=8)
    narrow = prepared(tmp_path / "narrow", log)
    monkeypatch.setattr("data_prep.pipeline.WIDE_COLUMNS", 1)
    assert digests(prepared(tmp_path / "wide", log)) == digests(narrow)


def test_a_key_may_be_a_field_of_json(tmp_path: Path) -> None:
    keys = {"column": "video_id", "json": "json(context, '$.video')"}
    rates = []
    for name, key in keys.items():
        logs = Logs(tmp_path / name, TOML + LIKE_RATE.replace('"video_id"', f'"{key}"'))
        for day in range(1, 5):
            texts = [f'{{"video": "{video}"}}' for video in day_of(day)["video_id"].to_pylist()]
            logs.write(day, day_of(day).append_column("context", pa.array(texts)))
        rates.append(like_rates(logs))
    assert rates[0] == rates[1]
    assert len(set(rates[0])) > 1


def test_a_rate_may_be_named_like_a_key_and_a_key_like_the_column_of_another(tmp_path: Path) -> None:
    toml = TOML + '[derived]\nzz = "video_id"\nkey1 = "user_id"\n'
    keys = {"other": ["zz"], "zz": ["zz"], "two": ["user_id % 3", "user_id"], "derived": ["user_id % 3", "key1"]}
    rates = {}
    for name, key in keys.items():
        rate = LIKE_RATE.replace("video_like", name).replace('["video_id"]', str(key))
        logs = Logs(tmp_path / name, toml + rate)
        logs.prepare()
        rates[name] = read(logs.out, "train")[name].to_pylist()
    assert rates["zz"] == rates["other"] != rates["two"]
    assert rates["derived"] == rates["two"]
