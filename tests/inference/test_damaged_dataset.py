"""A dataset that changed after a run was trained on it: nothing is exported from it, and nothing predicted.

Nor is an export let through that reads raw values in another way than the dataset does.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ple_rec.cli import main
from ple_rec.config.schema import SparseFeature
from ple_rec.data.encode import Encoder
from ple_rec.inference import version_files
from ple_rec.inference.model_dir import version_names
from tests.inference.exported import export_run
from tests.inference.feed import LAST, log_of

VOCABULARY = "data/vocab/user_id.parquet"


@pytest.fixture
def shuffled(feed: Path, tmp_path: Path) -> Path:
    """A copy of the feed in which the values of a vocabulary are at other rows."""
    copy = shutil.copytree(feed, tmp_path / "feed")
    config = copy / "run/config.toml"
    config.write_text(config.read_text().replace(str(feed / "data"), str(copy / "data")))
    mix_up(copy / VOCABULARY)
    return copy


def mix_up(vocabulary: Path) -> None:
    """Put every value at the row before its own."""
    table = pq.read_table(vocabulary)
    raw = table["raw"].take(pa.array(np.roll(np.arange(len(table)), -1)))
    pq.write_table(table.set_column(table.schema.names.index("raw"), "raw", raw), vocabulary)


def test_export_refuses(shuffled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    export_run(shuffled / "run", tmp_path / "model", code=3)
    assert f"{shuffled / VOCABULARY}: " in capsys.readouterr().err


def test_predict_refuses(shuffled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["--data", str(log_of(shuffled, LAST)), "--from", str(shuffled / "raw"), "--out", str(tmp_path / "out")]
    assert main(["predict", str(shuffled / "run"), *argv]) == 3
    assert f"{shuffled / VOCABULARY}: " in capsys.readouterr().err


def cut_elsewhere(prep: Path) -> None:
    """Move all edges of `price_bin`."""
    begin, edges, end = re.split(r"(?<=price_bin = \[)([^\]]+)", prep.read_text())
    moved = [str(float(edge) + 1) for edge in edges.split(",") if edge.strip()]
    prep.write_text(begin + ", ".join(moved) + end)


@pytest.mark.parametrize(
    ("file", "harm", "feature"),
    [
        ("vocab/user_id.parquet", mix_up, "user_id"),
        ("vocab/video_id.parquet", mix_up, "video_id"),
        ("vocab/city.parquet", mix_up, "city"),
        ("vocab/tags.parquet", mix_up, "tags"),
        ("prep.toml", cut_elsewhere, "price_bin"),
    ],
)
@pytest.mark.usefixtures("same_program")
def test_an_export_that_reads_raw_values_as_others_is_refused(
    feed: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    file: str,
    harm: Callable[[Path], None],
    feature: str,
) -> None:
    """Scores of table rows are those of the run, whatever the export's own vocabularies say."""

    def harmed(folder: Path, features: Sequence[SparseFeature]) -> Encoder:
        harm(folder / file)
        return Encoder(folder, features)

    monkeypatch.setattr(version_files, "Encoder", harmed)
    export_run(feed / "run", tmp_path / "model", "--tolerance", "1", "--auc-loss", "1", code=3)
    said = rf"feature {feature}: the raw value .* is read as row \d+ of its table; the dataset has it in row \d+"
    assert re.search(f"export, {said}", capsys.readouterr().err)
    assert not version_names(tmp_path / "model")
