"""A dataset that changed after a run was trained on it: nothing is exported from it, and nothing predicted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ple_rec.cli import main
from tests.serve.exported import export_run
from tests.serve.feed import LAST, log_of


@pytest.fixture
def shuffled(feed: Path) -> Iterator[Path]:
    """The vocabulary of a table, its values at other rows; afterwards as it was."""
    file = feed / "data/vocab/user_id.parquet"
    content = file.read_bytes()
    table = pq.read_table(file)
    raw = table["raw"].take(pa.array(np.roll(np.arange(len(table)), 1)))
    pq.write_table(table.set_column(table.schema.names.index("raw"), "raw", raw), file)
    yield file
    file.write_bytes(content)


def test_export_refuses(feed: Path, shuffled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    export_run(feed / "run", tmp_path / "model", code=3)
    assert f"{shuffled}: " in capsys.readouterr().err


def test_predict_refuses(feed: Path, shuffled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["--data", str(log_of(feed, LAST)), "--from", str(feed / "raw"), "--out", str(tmp_path / "out")]
    assert main(["predict", str(feed / "run"), *argv]) == 3
    assert f"{shuffled}: " in capsys.readouterr().err
