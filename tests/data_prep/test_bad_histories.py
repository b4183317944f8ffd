"""Histories that cannot be made, or that warn: place, value, rule, fix."""

from __future__ import annotations

import logging
import tomllib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from data_prep.transforms.resolve import expression_problems
from ple_rec.config.load import load_config
from ple_rec.config.prep import PREP_FILE, PrepConfig
from ple_rec.config.problems import parse_document
from ple_rec.config.schema import LOG_TIME
from ple_rec.errors import PleRecError
from tests.data_prep.feed_logs import read
from tests.data_prep.plain_logs import DAY_1, DAY_MS, LIKED, TOML, Logs, day_of, with_column
from tests.data_prep.rate_logs import LIKE_RATE

BAG = '\n[[sparse]]\nname = "bag"\nvalue = "split(video_id, \',\')"\nbag = true\n'
WORDS = "".join(
    f'\n[[sparse]]\nname = "{name}"\ntable = "tab"\nvalue = "tab"\n' for name in ("key", "time", "age", "k_age")
)
HASH = 'by = "hash"\nvalue = "user_id"\nvalid = 0.1\ntest = 0.1'
DAYS = 'by = "day"\ntrain = [1, 2]\nvalid = [3, 3]\ntest = [4, 4]'


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (('"video_id"]', '"video"]'), "histories[0].items[0]: got 'video'; it names a sparse feature. Add the feature"),
        (('"video_id"]', '"price"]'), "histories[0].items[0]: got 'price'; it names a sparse feature. Add the feature"),
        (('"video_id"]', '"bag"]'), "histories[0].items[0]: got 'bag', a bag; an event has one value of each item."),
        (('"video_id"]', '"video_id", "video_id"]'), "items: 'video_id' is listed twice"),
        *(
            (('"video_id"]', f'"{name}"]'), f"histories[0].items[0]: got '{name}'; an event has the words key, time, ")
            for name in ("key", "time", "age")
        ),
        (('name = "liked"', 'name = "by_video_id"'), "histories[0].name: got 'by_video_id'; table 'by_video_id' has "),
        (('name = "liked"', 'name = "By_video_id"'), "histories[0].name: got 'By_video_id'; table 'by_video_id' has"),
        (('name = "liked"', 'name = "bag"'), "'bag' names two columns of the dataset"),
        (('name = "liked"', 'name = "k"'), "feature 'k_age': the column is the ages of 'k'; use another name"),
        (('["video_id"]', "[]"), "histories[0].items"),
        (("length = 3", "length = 0"), "histories[0].length: got 0"),
        (("length = 3", "length = 1001"), "histories[0].length: got 1001"),
        (("length = 3", 'length = 3\ndelay = "-1h"'), "histories[0].delay: got '-1h'; a history has no event at the "),
        (
            ("length = 3", 'length = 3\ndelay = "1w"'),
            "histories[0].delay: got '1w'; write a whole number of s, m, h or",
        ),
        (
            ("length = 3", 'length = 3\ndelay = "36501d"'),
            "histories[0].delay: got '36501d'; write at most '36500d'",
        ),
        (("length = 3", 'length = 3\nages = ["1h", "1m"]'), "histories[0].ages: got 1h, 1m; each age is longer than"),
        (("length = 3", "length = 3" + LIKED.replace('"user_id"', '"tab"')), "history 'liked' is listed twice"),
        (('name = "liked"', 'name = "video_id"'), "'video_id' names two columns of the dataset"),
        (
            ('"is_like = 1"', '"duration_ms > threshold"'),
            "histories[0].where: `duration_ms > threshold` reads threshold",
        ),
        (
            ('"user_id"', '"user_id + threshold"'),
            "histories[0].key: `user_id + threshold` reads threshold; a threshold ",
        ),
        (
            ('"is_like = 1"', '"by_video_id.likes > 1"'),
            "histories[0].where: `by_video_id.likes > 1` reads by_video_id.",
        ),
        (('"user_id"', '"by_video_id.video_like_count"'), "rates are counted after it is computed; only features, "),
        (('"is_like = 1"', '"is_like ="'), "histories[0].where: `is_like =` at `=` (character 9); the text "),
    ],
)
def test_histories_that_do_not_fit_the_configuration(change: tuple[str, str], problem: str) -> None:
    threshold = {"value": "duration_ms", "quantile": 0.5}
    task = {"name": "like", "kind": "binary", "label": "duration_ms > threshold", "threshold": threshold}
    history = LIKED.replace(*change)
    assert history != LIKED
    document = tomllib.loads(TOML + BAG + WORDS + LIKE_RATE + history) | {"tasks": [task]}
    config, problems = parse_document(PrepConfig, document)
    if config is not None:
        problems = problems or expression_problems(config)
    assert [each for each in problems if problem in each], problems


def test_histories_need_times() -> None:
    document = tomllib.loads((TOML + LIKED).replace(DAYS, HASH))
    del document["time"]
    assert any("histories need [time], by which events are in order; add it" in p for p in problems_of(document))


def problems_of(document: dict[str, object]) -> list[str]:
    """Return the problems of a configuration."""
    return parse_document(PrepConfig, document)[1]


@pytest.mark.parametrize("other", ['[[sparse]]\nname = "liked_age"\nvalue = "tab"\ntable = "tab"\n', LIKED])
def test_no_feature_has_the_name_of_the_ages_of_a_history(other: str) -> None:
    document = tomllib.loads(TOML + LIKED + other.replace('"liked"', '"liked_age"'))
    (problem,) = problems_of(document)
    assert problem.endswith("'liked_age': the column is the ages of 'liked'; use another name")


def test_dates_need_a_delay_of_days() -> None:
    toml = (TOML + LIKED).replace('unit = "ms"', 'unit = "date"')
    assert problems_of(tomllib.loads(toml)) == []
    assert problems_of(tomllib.loads(toml + 'delay = "48h"\n')) == []
    (problem,) = problems_of(tomllib.loads(toml + 'delay = "36h"\n'))
    assert problem == (
        "histories[0].delay: got '36h'; with time.unit = \"date\" a history ends on a day before the row, so write a "
        'number of days, such as "1d", or drop it'
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            ('key = "user_id"', 'key = "price"'),
            "log/day 1.parquet, row group 0, column 'price': got 0.0, of type float64; a key is an integer or text "
            "(plain.toml: histories[0].key). Fix: ",
        ),
        (
            ('key = "user_id"', 'key = "user_id / 2"'),
            "plain.toml: histories[0].key: `user_id / 2` is of type float64; a key is an integer or text. Fix: ",
        ),
        (
            ('where = "is_like = 1"', 'where = "video_id"'),
            "log/day 1.parquet, row group 0, column 'video_id': got 'v0', of type string; a condition is true or false "
            "(plain.toml: histories[0].where). Fix: ",
        ),
    ],
)
def test_keys_and_conditions_of_a_wrong_type(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    logs = Logs(tmp_path, TOML + LIKED.replace(*change))
    with pytest.raises(PleRecError) as caught:
        logs.prepare()
    assert message in str(caught.value)


def test_a_history_has_no_name_of_a_column_that_is_read(tmp_path: Path) -> None:
    logs = Logs(tmp_path, TOML + LIKED.replace('name = "liked"', 'name = "is_like"'))
    with pytest.raises(PleRecError) as caught:
        logs.prepare()
    expected = "histories[0].name: log/day 1.parquet has a column 'is_like'; a request in the raw form has one "
    assert expected in str(caught.value)


def test_rows_without_a_key_have_no_history_and_are_no_events(tmp_path: Path) -> None:
    logs = Logs(tmp_path, TOML + LIKED)
    for day in range(1, 5):
        logs.spoil(day, "user_id", [None if i % 2 else 1 for i in range(len(day_of(day)))], pa.int64())
    logs.prepare()
    rows = read(logs.out, "test").to_pylist()
    assert len({(row["liked_begin"], row["liked_end"]) for row in rows if row["group"] is not None}) > 3
    assert {(row["liked_begin"], row["liked_end"]) for row in rows if row["group"] is None} == {(0, 0)}
    likes = [i for day in range(1, 5) for i, like in enumerate(day_of(day)["is_like"].to_pylist()) if like]
    times = np.load(logs.out / "histories" / "liked" / f"{LOG_TIME}.npy")
    assert len(times) == sum(i % 2 == 0 for i in likes)


def test_a_bad_row_of_a_wrong_year_does_not_end_the_days_of_events(tmp_path: Path) -> None:
    logs = Logs(tmp_path, TOML + LIKED)
    rows = day_of(4)
    rows = with_column(rows, "time_ms", {0: DAY_1 + 9_000 * DAY_MS})
    logs.write(4, with_column(rows, "duration_ms", {0: -1}))
    logs.prepare('split={by="hash", value="user_id", valid=0.3, test=0.3}', 'on_bad_row="drop"', "max_bad_fraction=0.1")
    assert load_config(PrepConfig, logs.out / PREP_FILE).found.histories_last_day == "2022-04-18"


def warnings_of(caplog: pytest.LogCaptureFixture, logs: Logs, *overrides: str) -> list[str]:
    """Return the warnings of a preparation about histories."""
    with caplog.at_level(logging.WARNING):
        logs.prepare(*overrides)
    return [record.getMessage() for record in caplog.records if "histories" in record.getMessage()]


def test_a_split_that_separates_events_from_rows_warns(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    logs = Logs(tmp_path / "by_user", TOML + LIKED)
    assert warnings_of(caplog, logs, 'split={by="hash", value="user_id", valid=0.3, test=0.3}') == []
    logs = Logs(tmp_path / "by_video", TOML + LIKED)
    assert warnings_of(caplog, logs, 'split={by="hash", value="video_id", valid=0.3, test=0.3}') == [
        'plain.toml: split.by = "hash" of video_id with a history by user_id (histories[0]): rows of valid and test '
        'are events of later training rows, so metrics may be too good. Fix: split.by = "day", or split by the key of '
        "the history"
    ]


def test_the_longest_delay_has_room_in_nanoseconds(tmp_path: Path) -> None:
    logs = Logs(tmp_path, (TOML + LIKED).replace('"ms"', '"ns"'))
    for day in range(1, 5):
        logs.spoil(day, "time_ms", [time * 1_000_000 for time in day_of(day)["time_ms"].to_pylist()])
    logs.prepare('histories=[{name="liked", key="user_id", items=["video_id"], length=3, delay="36500d"}]')
    rows = read(logs.out, "test")
    assert rows["liked_begin"].equals(rows["liked_end"])


def test_a_history_without_events_warns(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    logs = Logs(tmp_path, TOML + LIKED.replace("is_like = 1", "is_like > 1"))
    assert warnings_of(caplog, logs) == [
        "plain.toml: histories[0] (liked): no row of the log is an event, so the history is empty in all rows. Fix: "
        "correct where and key, or remove the history"
    ]
    assert len(np.load(logs.out / "histories" / "liked" / "video_id.npy", mmap_mode="r")) == 0
    assert set(read(logs.out, "train")["liked_end"].to_pylist()) == {0}
