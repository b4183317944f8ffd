"""Raw logs, a dataset of them and a run over it, once for all tests; those that change something copy it first."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.serve.predict.feed import train_feed, write_logs


@pytest.fixture(scope="session")
def feed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`raw/`, `data/` and `run/` below one folder."""
    root = write_logs(tmp_path_factory.mktemp("feed"))
    train_feed(root)
    return root
