"""A chain of three days, made once, and copies of it to change."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.days.days import run, write_feed
from tests.worlds import shared_world


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with logs of 7 days, and a chain of day 3, the first one, and days 4 and 5; no test changes it."""

    def make(root: Path) -> None:
        write_feed(root, 7)
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(root)
            for _ in range(3):
                assert run().verdict == "published"

    return shared_world(tmp_path_factory, "days", make)


@pytest.fixture
def chain(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the chain, the working directory."""
    shutil.copytree(template, tmp_path / "feed")
    monkeypatch.chdir(tmp_path / "feed")
    return tmp_path / "feed"
