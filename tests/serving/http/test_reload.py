"""What `latest` names is taken whenever it is another version on the disk, whatever its path and its past."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ple_rec.errors import DataError
from ple_rec.inference.ranker import Ranker
from ple_rec.serving.http import reload as reload_module
from ple_rec.serving.http.batching import Batcher
from ple_rec.serving.http.metrics import ServerMetrics
from ple_rec.serving.http.reload import VersionStamp, VersionWatcher, load
from ple_rec.serving.http.table_reload import TableLoader
from tests.inference.exported import set_latest

Look = Callable[[], None]


@pytest.fixture
def two(model_dir: Path, tmp_path: Path) -> Path:
    """A model of two versions, whose `latest` is the first."""
    model = tmp_path / "model"
    shutil.copytree(model_dir, model)
    shutil.copytree(model / "versions/v1", model / "versions/v2")
    return model


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Versions that a watcher has tried; "damaged" is in a folder that is refused."""
    tried: list[str] = []

    def fake(version: Path, threads: int, older: Ranker) -> Ranker:
        tried.append(version.name)
        if (version / "damaged").exists():
            raise DataError(str(version), "is damaged", "it is whole", "mend it")
        return load(version, threads, older)

    monkeypatch.setattr(reload_module, "load", fake)
    return tried


def watching(model: Path) -> Look:
    """Looks of a watcher that serves what `latest` names now."""
    metrics = ServerMetrics()
    version = VersionStamp.of_latest(model)
    batcher = Batcher(load(version.path, 1), 100, metrics)
    return VersionWatcher(model, version, batcher, 1, 60, metrics, TableLoader(model, metrics))._check


def test_a_refused_version_is_taken_once_it_is_mended(two: Path, loads: list[str]) -> None:
    (two / "versions/v2/damaged").touch()
    look = watching(two)
    set_latest(two, "v2")
    look()
    look()
    assert loads == ["v2"]  # refused once
    set_latest(two, "v1")
    look()
    (two / "versions/v2/damaged").unlink()
    set_latest(two, "v2")
    look()
    assert loads == ["v2", "v2"]
    look()
    assert len(loads) == 2  # it is served


def test_a_refused_version_that_is_copied_anew_is_taken(two: Path, loads: list[str]) -> None:
    (two / "versions/v2/damaged").touch()
    look = watching(two)
    set_latest(two, "v2")
    look()
    shutil.rmtree(two / "versions/v2")
    shutil.copytree(two / "versions/v1", two / "versions/v2")  # within a second, with the old times of its files
    look()
    look()
    assert loads == ["v2", "v2"]


def test_another_model_by_the_same_path_is_taken(two: Path, tmp_path: Path, loads: list[str]) -> None:
    shutil.copytree(two, tmp_path / "other")
    current = tmp_path / "current"
    current.symlink_to(two)
    look = watching(current)
    look()
    assert not loads
    current.unlink()
    current.symlink_to(tmp_path / "other")
    look()
    look()
    assert loads == ["v1"]


def test_each_way_in_which_latest_is_broken_is_told_once(two: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    named: list[str] = []

    def warn(event: str, **fields: str) -> None:
        told.append(fields["why"])
        named.append(fields["version"])

    monkeypatch.setattr(reload_module, "log_warning", warn)
    look = watching(two)
    for content in (b"v9\n", b"v9\n", b"\xff\xfe"):
        (two / "latest").write_bytes(content)
        look()
    (two / "latest").unlink()
    look()
    assert named == ["v9", "", ""]
    for why, part in zip(told, ("names 'v9'", "unreadable", "has no file latest"), strict=True):
        assert part in why
