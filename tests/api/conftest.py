"""The run `feed` and its model in the API, and the working directory of a notebook."""

from __future__ import annotations

from pathlib import Path

import pytest

import ple_rec
from tests.tiny import write_tiny


@pytest.fixture(scope="session")
def run(feed: Path) -> ple_rec.Run:
    """The run of `feed`."""
    return ple_rec.load_run(feed / "run")


@pytest.fixture(scope="session")
def model(run: ple_rec.Run, tmp_path_factory: pytest.TempPathFactory) -> ple_rec.Model:
    """A model of `run`."""
    return run.export(tmp_path_factory.mktemp("models") / "feed", examples=2)


@pytest.fixture
def here(tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with `data/` and `tiny.toml`; processes started from it find this clone."""
    write_tiny(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(repository))
    return tmp_path
