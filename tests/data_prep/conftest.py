from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest

from data_prep.census import Census
from tests.data_prep.census_slice import TEST_ROWS, TRAIN_ROWS, Rows, make_rows, make_source, write_raw


class Slice(NamedTuple):
    source: Census
    raw: Path
    train: Rows
    test: Rows


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def census(tmp_path: Path) -> Slice:
    train, test = make_rows(TRAIN_ROWS, 1), make_rows(TEST_ROWS, 2)
    return Slice(make_source(train, test), write_raw(tmp_path / "raw", train, test), train, test)
