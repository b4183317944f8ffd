"""A Spark cluster of several processes writes the bytes that DuckDB does; a master that is not there is named."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from data_prep.engines.spark import check_master
from ple_rec.errors import UserError
from tests.data_prep.engines.spark_cluster import spark_cluster
from tests.data_prep.feed_logs import digests
from tests.data_prep.plain_logs import SIDE, TOML, Logs
from tests.object_store import free_port

SECONDS = 600


@pytest.mark.spark
@pytest.mark.slow
def test_two_workers_write_the_bytes_of_duckdb(tmp_path: Path, repository: Path) -> None:
    """By the command line, in a process that knows the cluster from its options and from `SPARK_CONF_DIR` alone."""
    logs = Logs(tmp_path, TOML.replace("[time]", f"[output]\npart_rows = 16\n{SIDE}\n[time]"))
    logs.users([{"user_id": i, "age": f"a{i % 3}"} for i in range(6)])
    logs.prepare()
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "spark-defaults.conf").write_text("spark.sql.shuffle.partitions 3\n")
    environment = os.environ | {
        "PYTHONPATH": str(repository),
        "PYSPARK_PYTHON": sys.executable,
        "SPARK_LOCAL_IP": "127.0.0.1",
        "SPARK_CONF_DIR": str(tmp_path / "conf"),
    }
    command = [sys.executable, "-m", "ple_rec", "prep", str(logs.toml), "--from", str(logs.raw), "--out", "spark"]
    with spark_cluster(tmp_path / "daemons", 2) as master:
        command += ["--engine", "spark", "--master", master]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False
        )
    assert done.returncode == 0, done.stderr
    assert digests(tmp_path / "spark") == digests(logs.out)
    assert len(list((tmp_path / "spark" / "train").glob("*.parquet"))) == 3
    for worker in (0, 1):  # each had an executor, whose process ran Python
        (said,) = tmp_path.glob(f"daemons/worker-{worker}/work/app-*/*/stderr")
        assert "Finished task" in said.read_text()


def test_a_master_that_does_not_listen_is_refused_before_spark_starts() -> None:
    first, second = free_port(), free_port()
    master = f"spark://127.0.0.1:{first},127.0.0.1:{second}"
    with pytest.raises(UserError, match=re.escape(f"prep --master {master}: no master answers (127.0.0.1:{first}: ")):
        check_master(master)
    with pytest.raises(UserError, match=r"prep --master spark://somewhere: no master answers \(somewhere: "):
        check_master("spark://somewhere")
    check_master("yarn")
