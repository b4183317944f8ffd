"""A run over a prepared dataset that has everything, and its export, once for all tests; who changes them copies."""

from __future__ import annotations

from pathlib import Path

import pytest

from ple_rec.serve.ranker import Ranker, latest
from tests.serve.exported import export_run
from tests.serve.feed import train_feed, write_logs


@pytest.fixture(scope="session")
def feed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`raw/`, `data/` and `run/` below one folder."""
    root = write_logs(tmp_path_factory.mktemp("feed"))
    train_feed(root)
    return root


@pytest.fixture(scope="session")
def feed_model(feed: Path) -> Path:
    """Version 1 of that run, in fp32."""
    export_run(feed / "run", feed / "model")
    return feed / "model"


@pytest.fixture(scope="session")
def ranker(feed_model: Path) -> Ranker:
    """That version in memory."""
    return Ranker(latest(feed_model), threads=1)
