"""Histories: a reference, the rule of times, rows that are events, both engines, files of the dataset."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest

from data_prep.run import EngineName, Options, prepare
from ple_rec.config.base import SPLITS
from ple_rec.config.schema import LOG_TIME
from tests.data_prep.feed_logs import read
from tests.data_prep.history_logs import HISTORIES, TOML, encoded, random_log, reference, stored, write


def prepared(
    root: Path,
    log: pd.DataFrame,
    *,
    engine: EngineName = "duckdb",
    threads: int = 1,
    files: int = 3,
    toml: str = TOML,
) -> Path:
    """Write a log and its configuration, prepare them, and return the dataset directory."""
    write(root, log, files, toml)
    options = Options(source=str(root / "raw"), threads=threads, engine=engine)
    prepare(str(root / "histories.toml"), root / "out", options)
    return root / "out"


def rows_of(folder: Path, *splits: str) -> pa.Table:
    """Return the rows of some splits, by default of all, in the order of the log."""
    return pa.concat_tables(read(folder, split) for split in splits or SPLITS).sort_by("row")


@pytest.mark.parametrize("seed", range(2))
def test_histories_are_those_of_a_reference(tmp_path: Path, seed: int) -> None:
    log = random_log(seed)
    folder = prepared(tmp_path, log)
    rows = rows_of(folder)
    assert rows.num_rows > 60
    times = log.set_index("row")["time_ms"] // 1000
    assert rows[LOG_TIME].to_pylist() == times.loc[rows["row"].to_pylist()].tolist()
    for name in HISTORIES:
        expected, actual = encoded(rows, reference(log, name), name), stored(folder, rows, name)
        assert {0, 1, 2, 3} <= {len(each) for each in actual.values()} or name != "liked"
        assert actual == {row: expected[row] for row in rows["row"].to_pylist()}
