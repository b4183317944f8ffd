"""The example `feed` with histories: the last liked videos of a user, and the last videos of a city until yesterday.

Days 1 to 3 warm up and are trained, 4 is valid and 5 test; the log of day 6 does not exist before it is appended.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from data_prep.run import Options, prepare
from ple_rec.training.run import train
from tests.inference.feed import TOML, day_of, log_of, write_logs
from tests.inference.rates_feed import LAST_DAY, LATER_SPLIT, SPLIT
from tests.reports.without_charts import without_charts
from tests.training.small import small_config

# Length and delay in milliseconds of each history.
SIZES = {"liked": (4, 0), "seen_in_city": (3, 86_400_000)}
HISTORIES = """
[[histories]]
name = "liked"
key = "user_id"
items = ["video_id", "price_bin", "hour"]
where = "is_like = 1"
length = 4
ages = ["1h", "6h", "1d", "2d"]

[[histories]]
name = "seen_in_city"
key = "users.city"
items = ["video_id"]
length = 3
delay = "1d"
"""


def prepare_history_feed(root: Path) -> Path:
    """Write the logs below a folder, prepare `data`, and return the folder."""
    write_logs(root)
    pq.write_table(day_of(LAST_DAY), log_of(root, LAST_DAY))
    assert SPLIT in TOML
    (root / "feed.toml").write_text(TOML.replace(SPLIT, LATER_SPLIT) + HISTORIES)
    prepare(str(root / "feed.toml"), root / "data", Options(source=str(root / "raw"), threads=1))
    return root


def train_on_histories(root: Path, history: str, **changes: Any) -> Path:
    """Train a run on the dataset below a folder.

    Args:
        root: Folder of `data`, and of the run, which has the name of the history's kind.
        history: Value of `model.history`.
        changes: Further sections of the configuration.
    """
    sections = {"train": {"steps": 6, "evaluate_every": 3}, "checkpoint": {"keep": 5}, "model": {"history": history}}
    with without_charts():
        train(small_config(root / "data", sections | changes), root / history)
    return root / history
