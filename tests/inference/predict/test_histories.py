"""Histories of raw logs have the events of the dataset and of the log, as those of an appended day."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from ple_rec.cli import main
from ple_rec.config.base import SPLITS
from tests.inference.feed import TASKS, log_of
from tests.inference.rates_feed import LAST_DAY


def test_a_log_of_the_next_day_is_predicted_as_an_appended_day(
    history_feed: Path, history_child: Path, tmp_path: Path
) -> None:
    child, run = history_child / "data", str(history_feed / "mean")
    raw = ["--data", str(log_of(history_child, LAST_DAY + 1)), "--from", str(history_feed / "raw")]
    of_child = ["--set", f"data.path={child}"]
    calls = {"log": raw, "log and child": [*raw, *of_child], "child": ["--split", *SPLITS, *of_child]}
    scores = {}
    for name, arguments in calls.items():
        assert main(["predict", run, "--out", str(tmp_path / name), *arguments]) == 0
        rows = pq.read_table(tmp_path / name)
        # Rows of valid and test are in another order than in the log.
        scores[name] = np.array([np.sort(rows[task].to_numpy()) for task in TASKS])
    np.testing.assert_array_equal(scores["log"], scores["log and child"])
    np.testing.assert_allclose(scores["log"], scores["child"], rtol=1e-5)
