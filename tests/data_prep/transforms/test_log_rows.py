"""A preparation and a prediction read one source of rows: equal columns of equal rows, on both engines."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.engines.base import Engine
from data_prep.engines.duck import DuckEngine
from data_prep.engines.spark import SparkEngine
from data_prep.first_day import find_day_1
from data_prep.inputs.columns import inputs_config
from data_prep.inputs.read import InputOptions, open_inputs
from data_prep.progress import Progress
from data_prep.run import find_configured_tables
from data_prep.sources.files import POSITION
from data_prep.transforms.columns import REASON
from data_prep.transforms.resolve import Resolved, resolve
from data_prep.transforms.rows import LogRows, derive
from ple_rec.config.load import load_config
from ple_rec.config.prep import PrepConfig
from tests.data_prep.engines.test_engines import RICH, write_videos
from tests.data_prep.feed_logs import write_logs, write_toml

ROWS = 4 * 300
TAGS = '[[sparse]]\nname = "tags"\nvalue = "users.tags"\nbag = true\nmax_length = 2\nweights = "users.shares"\n\n'


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Logs with a side table of users, who have a bag, and a dated one of videos."""
    root = tmp_path_factory.mktemp("rows")
    write_logs(root / "raw")
    write_videos(root / "raw")
    users = pq.read_table(root / "raw" / "users.parquet")
    tags = [[f"t{j}" for j in range(i % 4)] or None for i in range(len(users))]
    shares = [[0.5 + j for j in range(i % 4)] or None for i in range(len(users))]
    pq.write_table(users.append_column("tags", [tags]).append_column("shares", [shares]), root / "raw/users.parquet")
    where = ('files = ["log"]', 'files = ["log"]\nwhere = "duration_ms > 500"')
    write_toml(root / "feed.toml", *RICH, where, ("[[dense]]", f"{TAGS}[[dense]]"))
    return root


@pytest.fixture(params=["duckdb", pytest.param("spark", marks=[pytest.mark.spark, pytest.mark.slow])])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    made = SparkEngine(tmp_path, threads=2) if request.param == "spark" else DuckEngine(tmp_path, threads=2)
    yield made
    made.close()


def features_of(config: PrepConfig) -> list[str]:
    """The columns that a model's inputs come from."""
    found = [f"raw__{feature.name}" for feature in config.sparse]
    found += [f"weights__{feature.name}" for feature in config.sparse if feature.weights is not None]
    return [POSITION, *found, *(number.name for number in config.dense)]


def with_files(resolved: Resolved, folder: Path) -> Resolved:
    raw = find_configured_tables(resolved, str(folder / "raw"), folder / "staging", Progress())
    return replace(resolved, tables=raw.by_name)


def test_prep_and_predict_yield_equal_columns(
    folder: Path, engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_config(PrepConfig, folder / "feed.toml")
    columns = features_of(config)

    resolved = with_files(resolve(config, "feed.toml"), folder)
    log = LogRows(engine, resolved).with_sides().materialize_links()
    derived = derive(log.joined(), resolved, find_day_1(engine, log.joined(), resolved))
    prepared = engine.fetch(derived.table.filter(derived.table[REASON] == 0).select(columns).order_by(POSITION))
    assert len(columns) == 14
    assert ROWS // 2 < len(prepared) < ROWS
    assert all(prepared[name].null_count < len(prepared) for name in columns)
    assert max(map(len, filter(None, prepared["weights__tags"].to_pylist()))) == 2

    names = [*(feature.name for feature in config.sparse), *(number.name for number in config.dense)]
    alone = with_files(resolve(inputs_config(config, names, {}), "feed.toml"), folder)
    log = LogRows(engine, alone).with_sides(materialize=True)
    units = [derive(log.joined(first, first + 170), alone, split=False).table for first in range(0, ROWS, 170)]
    predicted = pa.concat_tables(engine.fetch(unit.select(columns).order_by(POSITION)) for unit in units)
    assert predicted.equals(prepared)

    monkeypatch.setattr("data_prep.inputs.read.MAX_BATCH_ROWS", 170)
    asked = InputOptions(str(folder / "raw" / "log"), str(folder / "raw"), tuple(names), (), threads=1)
    with open_inputs(config, "feed.toml", asked, tmp_path / "work", Progress()) as found:
        assert pa.concat_tables(found.batches()).select(columns).equals(prepared)
