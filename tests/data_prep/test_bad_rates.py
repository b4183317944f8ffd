"""Rates that cannot be counted, or that warn: place, value, rule, fix."""

from __future__ import annotations

import logging
import tomllib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.transforms.resolve import expression_problems, resolve
from ple_rec.config.load import load_config
from ple_rec.config.prep import PrepConfig
from ple_rec.config.problems import ConfigError, parse_document
from tests.data_prep.feed_logs import read
from tests.data_prep.plain_logs import TOML, Logs, day_of
from tests.data_prep.rate_logs import LIKE_RATE


def messages(caplog: pytest.LogCaptureFixture, logs: Logs, *overrides: str) -> list[str]:
    """Return the warnings of a preparation."""
    with caplog.at_level(logging.WARNING):
        logs.prepare(*overrides)
    return [record.getMessage() for record in caplog.records if "rates" in record.getMessage()]


def test_warnings(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    logs = Logs(tmp_path / "quiet", TOML + LIKE_RATE.replace("1d", "3d"))
    assert messages(caplog, logs) == []
    logs = Logs(tmp_path / "window", TOML + LIKE_RATE.replace('"1d"', '"3d"\ndelay = "1d"'))
    assert messages(caplog, logs) == [
        'plain.toml: rates[0] (video_like): window = "3d" after delay = "1d" begins before the log, whose days are '
        '2022-04-15 to 2022-04-18, even for rows of the last one. Fix: a shorter window, window = "all", or a longer '
        "log"
    ]
    caplog.clear()
    logs = Logs(tmp_path / "hash", TOML + LIKE_RATE)
    split = 'split={by="hash", value="user_id", valid=0.3, test=0.3}'
    assert messages(caplog, logs, split) == [
        'plain.toml: split.by = "hash" with rates: rows of valid and test count in the rates of later training rows, '
        'so metrics may be too good. Fix: split.by = "day"'
    ]
    caplog.clear()
    logs = Logs(tmp_path / "null", TOML + LIKE_RATE)
    for day in range(1, 5):
        logs.spoil(day, "video_id", [None] * len(day_of(day)), pa.string())
    assert messages(caplog, logs) == [
        "plain.toml: rates by [video_id]: no row of the log has this key, so video_like, video_like_count are missing "
        "in all rows. Fix: correct the key, or remove the rates"
    ]
    assert read(logs.out, "test")["video_like_count"].null_count == len(day_of(4))
    assert pq.read_table(logs.out / "rates" / "by_video_id.parquet").num_rows == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            ('of = "is_like"', 'of = "price"'),
            "log/day 1.parquet, row group 0, column 'price': got 0.0, of type float64; sums are exact, so a number "
            "with fractions is counted in units (plain.toml: rates[0].of). Fix: set rates[0].unit, e.g. unit = 0.001",
        ),
        (
            ('of = "is_like"', 'of = "video_id"'),
            "a rate is of a boolean or a number (plain.toml: rates[0].of). Fix: write cast(video_id as bigint)",
        ),
        (('key = ["video_id"]', 'key = ["price"]'), "a key is an integer or text (plain.toml: rates[0].key[0]). Fix: "),
        (
            ('of = "is_like"', 'of = "user_id + 4611686018427387904"'),
            "plain.toml: rates: a value of video_like, or a sum of them, is beyond int64; values are added as "
            "integers, at most 2^63 - 1. Fix: choose a larger unit, or leave wrong values out by case when ... end",
        ),
        (
            ('of = "is_like"', 'of = "price"\nunit = 1e-30'),
            "plain.toml: rates: a value of video_like, or a sum of them, is beyond int64; ",
        ),
    ],
)
def test_values_that_cannot_be_counted(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    assert message in Logs(tmp_path, TOML + LIKE_RATE.replace(*change)).refusal()


def test_a_sum_of_all_keys_beyond_int64_is_refused(tmp_path: Path) -> None:
    """No key has such a sum in the window, but their mean needs it."""
    huge = LIKE_RATE.replace('of = "is_like"', 'of = "is_like * 2000000000000000000"')
    assert "is beyond int64" in Logs(tmp_path, TOML + huge.replace('["video_id"]', '["time_ms"]')).refusal()


def rate(**values: object) -> dict[str, object]:
    return {"name": "r", "key": ["video_id"], "of": "is_like", "window": "7d"} | values


@pytest.mark.parametrize(
    ("rates", "problem"),
    [
        ([rate(), rate()], "rate 'r' is listed twice"),
        ([rate(), rate(name="r_count")], "'r_count' names two columns of the dataset"),
        ([rate(name="video_id")], "'video_id' names two columns of the dataset"),
        ([rate(name="label_like")], "feature 'label_like': the column is the label of task 'like'; use another name"),
        ([rate(name="day")], "rate 'day': columns of counted tables have such names; use another name"),
        ([rate(name="Key1")], "rate 'Key1': columns of counted tables have such names; use another name"),
        ([rate(), rate(name="s", key=["Video_id"])], "the tables of rates by_video_id and by_Video_id differ only in"),
        ([rate(key=["user_id + " * 12 + "1"])], "the name of their table is 124 characters long, at most 100 are"),
        ([rate(prior=1e300)], "rates[0].prior: got 1e+300"),
        ([rate(window="7")], 'rates[0].window: got \'7\'; write a number of days from 1 as "7d", or "all"'),
        ([rate(window="0d")], "rates[0].window: got '0d'; write a number of days from 1 as "),
        ([rate(delay="-1d")], "rates[0].delay: got '-1d'; a row sees no row of its own day or a later one, so write"),
        ([rate(delay="all")], "rates[0].delay: got 'all'; write a number of days as "),
        ([rate(prior=-1)], "rates[0].prior: got -1"),
        ([rate(unit=0)], "rates[0].unit: got 0"),
        ([{"name": "r", "key": ["video_id"], "window": "7d", "unit": 0.5}], "unit belongs to `of`; drop it"),
        ([rate(key=[])], "rates[0].key"),
        ([rate(), rate(name="s", key=["video id"])], "rates by [video_id] and by [video id] would share the table"),
        ([rate(of="by_video_id.r")], "rates[0].of: `by_video_id.r` reads by_video_id.r; rates are counted after it is"),
        ([rate(of="duration_ms > threshold")], "`duration_ms > threshold` reads threshold; a threshold is a quantile"),
    ],
)
def test_bad_rates(rates: list[dict[str, object]], problem: str) -> None:
    threshold = {"value": "duration_ms", "quantile": 0.5}
    task = {"name": "like", "kind": "binary", "label": "duration_ms > threshold", "threshold": threshold}
    document = tomllib.loads(TOML) | {"rates": rates, "tasks": [task]}
    config, problems = parse_document(PrepConfig, document)
    if config is not None:
        problems = problems or expression_problems(config)
    assert [each for each in problems if problem in each], problems


@pytest.mark.parametrize(
    ("toml", "problem"),
    [
        (TOML.replace("[time]", "[side]"), "rates need [time], since they are counted by day; add it"),
        (
            TOML + '\n[sides.by_video_id]\nfiles = ["x"]\non = {id = "video_id"}\n',
            "sides.by_video_id: the table of the rates by video_id has this name; use another name for the side table",
        ),
        (
            TOML + '\n[derived]\nx = "by_video_id.video_like"\n',
            "derived.x: `by_video_id.video_like` reads by_video_id.video_like; rates are counted after it is computed; "
            "only features, [carry] and the conditions of histories may read them. Fix: leave it out",
        ),
        (
            TOML + '\n[carry]\nx = "by_video_id.video_likes"\n',
            "carry.x: `by_video_id.video_likes` reads by_video_id.video_likes; by_video_id has the columns video_like, "
            "video_like_count. Fix: did you mean 'video_like'?",
        ),
    ],
)
def test_rates_that_do_not_fit_the_configuration(tmp_path: Path, toml: str, problem: str) -> None:
    file = tmp_path / "x.toml"
    unit = toml.replace('[side]\nvalue = "time_ms"\nunit = "ms"\n', "").replace(
        'by = "day"\ntrain = [1, 2]\nvalid = [3, 3]\ntest = [4, 4]',
        'by = "hash"\nvalue = "user_id"\nvalid = 0.1\ntest = 0.1',
    )
    file.write_text(unit + LIKE_RATE)
    with pytest.raises(ConfigError) as caught:
        resolve(load_config(PrepConfig, file), "x.toml")
    assert problem in str(caught.value)
