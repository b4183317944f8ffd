"""A finished run, made once for all tests of its checkpoint."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from ple_rec.cli import main
from tests.reports.without_charts import without_charts
from tests.tiny import write_tiny


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run."""
    folder = tmp_path_factory.mktemp("trained")
    write_tiny(folder)
    with pytest.MonkeyPatch.context() as patch, without_charts():
        patch.chdir(folder)
        assert main(["train", "--config", "tiny.toml"]) == 0
    return folder


@pytest.fixture
def here(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory: a copy of that folder for each test."""
    copy = shutil.copytree(trained, tmp_path / "here")
    monkeypatch.chdir(copy)
    return copy
