"""A run over a prepared dataset that has everything, and its export, once for all tests; who changes them copies."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from ple_rec.inference.program import PROGRAM
from ple_rec.inference.ranker import Ranker, latest
from tests.inference.exported import export_run
from tests.inference.feed import train_feed, write_logs


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


@pytest.fixture
def same_program(feed_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exports of the run `feed` copy the dense program of `feed_model`; to trace it takes most of an export's time."""

    def copied(model: object, signature: object, folder: Path, *, onnx: bool) -> None:
        assert not onnx
        shutil.copyfile(latest(feed_model) / PROGRAM, folder / PROGRAM)

    monkeypatch.setattr("ple_rec.inference.export.write_program", copied)
