from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from data_prep.engines.base import Engine
from data_prep.engines.duck import DuckEngine
from data_prep.stats import compute
from ple_rec.config.base import SPLITS
from tests.data_prep.stats.feed import Feed, write_feed

DROPPED = [{"split": "train", "rows": 12, "reason": "checks.duration: play_ms <= 2 * duration_ms does not hold"}]
SOURCE = [{"table": "log", "file": f"log/day={day}/part-0.parquet", "rows": 1000, "bytes": 33_000} for day in range(3)]


def described(engine: Engine, feed: Feed, **more: Any) -> dict[str, Any]:
    """`stats.json` of a feed."""
    files = {split: feed.files(split) for split in SPLITS}
    more = {"vocabularies": feed.vocabularies, "dropped": DROPPED, "source": SOURCE} | more
    return compute(engine, files, feed.schema, **more)


@pytest.fixture(scope="session")
def feed(tmp_path_factory: pytest.TempPathFactory) -> Feed:
    return write_feed(tmp_path_factory.mktemp("feed") / "d")


@pytest.fixture(scope="session")
def duck(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DuckEngine]:
    engine = DuckEngine(tmp_path_factory.mktemp("duck"), memory=1 << 30, threads=2)
    yield engine
    engine.close()


@pytest.fixture(scope="session")
def stats(duck: DuckEngine, feed: Feed) -> dict[str, Any]:
    return described(duck, feed)
