"""Memory does not grow with the rows that are predicted."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.inference.feed import LAST, day_of
from tests.tiny import environment

ROWS = 600_000
CODE = """
import resource, sys
from ple_rec.cli import main
code = main(sys.argv[1:])
print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
raise SystemExit(code)
"""


def peak(feed: Path, out: Path, logs: Path, repository: Path) -> int:
    """MiB of a call."""
    argv = ["predict", str(feed / "run"), "--data", str(logs), "--from", str(feed / "raw"), "--out", str(out)]
    sizes = ["--batch-size", "8192", "--part-rows", "400000", "--memory", "512MiB"]
    command = [sys.executable, "-c", CODE, *argv, *sizes]
    done = subprocess.run(command, env=environment(repository), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "rows/s on cpu" in done.stdout
    return int(done.stdout.rpartition("peak ")[2]) >> 10


@pytest.mark.slow
def test_four_times_the_rows_take_no_more_memory(feed: Path, repository: Path, tmp_path: Path) -> None:
    day = pa.concat_tables([day_of(LAST)] * (ROWS // len(day_of(LAST)))).combine_chunks()
    for files in (1, 4):
        (tmp_path / f"logs-{files}").mkdir()
        for i in range(files):
            pq.write_table(day, tmp_path / f"logs-{files}" / f"{i}.parquet", row_group_size=65_536)
    one, four = (peak(feed, tmp_path / f"out-{n}", tmp_path / f"logs-{n}", repository) for n in (1, 4))
    assert four < 1.1 * one, (one, four)
    assert pq.read_table(tmp_path / "out-4", columns=["score"]).num_rows > 2.5 * ROWS
