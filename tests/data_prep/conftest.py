from __future__ import annotations

from pathlib import Path

import pytest

from data_prep import Summary
from tests.data_prep.datasets.census_slice import (
    TEST_ROWS,
    TRAIN_ROWS,
    Slice,
    make_rows,
    make_source,
    prepare_slice,
    write_raw,
)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def census(tmp_path: Path) -> Slice:
    train, test = make_rows(TRAIN_ROWS, 1), make_rows(TEST_ROWS, 2)
    return Slice(make_source(train, test), write_raw(tmp_path / "raw", train, test), train, test)


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Summary, Slice]:
    """A dataset directory by two threads, not to be changed, and the slice that it is made of."""
    folder = tmp_path_factory.mktemp("prepared")
    train, test = make_rows(TRAIN_ROWS, 1), make_rows(TEST_ROWS, 2)
    slice_ = Slice(make_source(train, test), write_raw(folder / "raw", train, test), train, test)
    return prepare_slice(slice_.source, folder / "d", slice_.raw, threads=2), slice_
