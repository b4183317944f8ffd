"""Rates over earlier days: a reference, the rule of days, both engines, files of the dataset, warnings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from data_prep.run import EngineName, Options, prepare
from ple_rec.config.base import SPLITS
from tests.data_prep.feed_logs import digests, read
from tests.data_prep.rate_logs import random_log, reference, write


def prepared(root: Path, log: pd.DataFrame, *overrides: str, engine: EngineName = "duckdb", files: int = 3) -> Path:
    """Write a log and its configuration, prepare them, and return the dataset directory."""
    write(root, log, files)
    options = Options(source=str(root / "raw"), threads=1, engine=engine, overrides=overrides)
    prepare(str(root / "rates.toml"), root / "out", options)
    return root / "out"


def all_rows(folder: Path) -> pd.DataFrame:
    """Return the rows of all splits in the order of the log."""
    table = pa.concat_tables(read(folder, split) for split in SPLITS)
    return table.to_pandas().sort_values("row", ignore_index=True)


@pytest.mark.parametrize("seed", range(3))
def test_rates_are_those_of_a_reference(tmp_path: Path, seed: int) -> None:
    log = random_log(seed)
    rows = all_rows(prepared(tmp_path, log))
    expected = reference(log).set_index("row").loc[rows["row"]]
    assert len(rows) == 6 * 40
    for name in expected.columns:
        want = expected[name].to_numpy(np.float64, na_value=np.nan).astype(np.float32)
        np.testing.assert_array_equal(rows[name].to_numpy(np.float32, na_value=np.nan), want, err_msg=name)
        assert not np.isnan(want).all(), name


@pytest.mark.spark
def test_both_engines_write_the_same_bytes(tmp_path: Path) -> None:
    log = random_log(5, rows=12)
    engines: tuple[EngineName, ...] = ("duckdb", "spark")
    folders = [prepared(tmp_path / name, log, engine=name) for name in engines]
    assert digests(folders[0]) == digests(folders[1])
    assert {"rates/by_video_id.parquet", "rates/by_city_tab___0.parquet"} <= digests(folders[0]).keys()
