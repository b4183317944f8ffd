"""Exports that copy the dense program of the fixture `feed_model`."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from ple_rec.inference.program import PROGRAM
from ple_rec.inference.ranker import latest


@pytest.fixture
def same_program(feed_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exports of the run `feed` copy the dense program of `feed_model`; to trace it takes most of an export's time."""

    def copied(model: object, signature: object, folder: Path, *, onnx: bool) -> None:
        assert not onnx
        shutil.copyfile(latest(feed_model) / PROGRAM, folder / PROGRAM)

    monkeypatch.setattr("ple_rec.inference.export.write_program", copied)
