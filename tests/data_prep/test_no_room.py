"""A disk that is full, or a file that may not grow: told with the file, and no half of one is left."""

from __future__ import annotations

import re
import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from ple_rec.cli import main
from ple_rec.errors import UserError
from tests.data_prep.plain_logs import DAY_1, DAY_MS, Logs, day_of

ROOM = (
    "the parts and what the engine spills need room beside the dataset directory. Fix: free some space or name another"
)


def many_values(logs: Logs, rows: int = 40_000) -> None:
    rng = np.random.default_rng(0)
    for day in range(1, 5):
        users, videos = rng.integers(0, 2**60, rows), [f"v{i}" for i in rng.integers(0, 2**40, rows)]
        times = DAY_1 + (day - 1) * DAY_MS + np.arange(rows)
        numbers = np.arange(rows)
        columns = [users, videos, times, numbers, numbers / 3, numbers % 2]
        logs.write(day, pa.table(columns, day_of(1).column_names), row_group_size=20_000)


@contextmanager
def longest_file(size: int) -> Iterator[None]:
    """Let the system refuse to this process to write a file beyond a size."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize(
    ("rows", "limit", "memory", "file"),
    [
        (10, 100, 1 << 30, r"work/engine\.duckdb"),
        pytest.param(150_000, 50_000, 32 << 20, r"work/spill/\w+", marks=pytest.mark.slow),
        (5_000, 50_000, 1 << 30, r"vocab/video_id\.\w+\.unfinished"),
    ],
    ids=["its database", "what it spills", "a part"],
)
def test_a_file_for_which_there_is_no_room(rows: int, limit: int, memory: int, file: str, tmp_path: Path) -> None:
    logs = Logs(tmp_path)
    many_values(logs, rows)
    with longest_file(limit), pytest.raises(UserError) as caught:
        logs.prepare(memory=memory)
    assert re.search(rf"^prep --out: no space left \((?=.*File too large).*{file}.*\); {ROOM}", str(caught.value))
    assert not logs.out.exists()
    assert list(tmp_path.rglob("*.unfinished")) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(place)], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip("this user may mount nothing")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk(small_disk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logs = Logs(tmp_path)
    many_values(logs)
    verb = ["prep", str(logs.toml), "--from", str(logs.raw), "--out", str(small_disk / "out"), "--threads", "1"]
    assert main(verb) == 2
    said = capsys.readouterr().err
    assert re.search(rf"prep --out: no space left \(.*No space left on device.*\); {ROOM}", said), said
    assert not (small_disk / "out").exists()
