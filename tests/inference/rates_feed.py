"""The example `feed` with rates: of a video, of a user, of a user and the parity of the hour, of a user's city.

Day 1 warms up, days 2 and 3 are trained, 4 is valid and 5 test; the log of day 6 does not exist before it is appended.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.inputs.read import InputOptions, open_inputs
from data_prep.progress import Progress
from data_prep.run import Options, prepare
from ple_rec.api.predictions import load_preparation
from tests.inference.feed import TOML, day_of, log_of, train_feed, write_logs

LAST_DAY = 5
SPLIT = """
train = [1, 2]
valid = [3, 3]
test = [4, 4]
"""
LATER_SPLIT = """
train = [2, 3]
valid = [4, 4]
test = [5, 5]
"""
RATES = """
[[sparse]]
name = "like_bin"
value = "by_video_id.video_like"
quantiles = 3

[[rates]]
name = "video_like"
key = ["video_id"]
of = "is_like"
window = "2d"
prior = 3

[[rates]]
name = "video_late"
key = ["video_id"]
of = "is_like"
window = "all"
delay = "1d"
prior = 0.5

[[rates]]
name = "user_shows"
key = ["user_id"]
window = "all"

[[rates]]
name = "user_watch"
key = ["user_id", "time.hour % 2"]
of = "watched"
unit = 0.001
window = "3d"
prior = 0

[[rates]]
name = "city_click"
key = ["users.city"]
of = "is_click"
window = "1d"
"""
RATE_FEATURES = ("video_like", "video_late", "user_watch", "city_click")
COUNT_FEATURES = ("video_like_count", "video_late_count", "user_shows_count", "user_watch_count", "city_click_count")
TABLES = ("by_video_id", "by_user_id", "by_user_id_time_hour___2", "by_users_city")


def train_rates_feed(root: Path) -> Path:
    """Write the logs, prepare `data`, and train `run` below `root`."""
    write_logs(root)
    pq.write_table(day_of(LAST_DAY), log_of(root, LAST_DAY))
    assert SPLIT in TOML
    (root / "feed.toml").write_text(TOML.replace(SPLIT, LATER_SPLIT) + RATES)
    train_feed(root)
    return root


def append_day(root: Path, parent: Path, out: Path, day: int = LAST_DAY + 1) -> Path:
    """Append a day to a dataset; its log is written if it is missing."""
    if not log_of(root, day).exists():
        pq.write_table(day_of(day), log_of(root, day))
    shares = ("append.valid=0.3", "append.test=0.3")
    options = Options(source=str(root / "raw"), threads=1, append=f"day={day}", parent=parent, overrides=shares)
    prepare(str(root / "feed.toml"), out, options)
    return out


def read_features(root: Path, dataset: Path, data: Path, features: Sequence[str], work: Path) -> pa.Table:
    """Return features of raw logs as `predict` reads them, with the counts of a dataset."""
    config, place = load_preparation(dataset)
    options = InputOptions(str(data), str(root / "raw"), tuple(features), (), dataset=dataset, threads=1)
    with open_inputs(config, place, options, work, Progress()) as inputs:
        return pa.concat_tables(list(inputs.batches()))
