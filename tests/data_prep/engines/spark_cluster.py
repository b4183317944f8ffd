"""A standalone Spark cluster of real processes on this machine: a master and its workers."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.object_store import free_port
from tests.project_files import REPOSITORY

SECONDS = 120


@contextmanager
def spark_cluster(folder: Path, workers: int) -> Iterator[str]:
    """The address of a master, whose workers have one core and 1 GiB each.

    Args:
        folder: For logs and what workers write.
        workers: How many processes.
    """
    port, host = free_port(), "127.0.0.1"
    address = f"spark://{host}:{port}"
    with ExitStack() as stack:
        log = _start(stack, folder / "master", "master.Master", "--host", host, "--port", str(port))
        _wait(log, "I have been elected leader", 1)
        for number in range(workers):
            place = folder / f"worker-{number}"
            limits = ("--cores", "1", "--memory", "1g", "--work-dir", str(place / "work"))
            _start(stack, place, "worker.Worker", "--host", host, *limits, address)
        _wait(log, "Registering worker", workers)
        yield address


def _start(stack: ExitStack, folder: Path, name: str, *arguments: str) -> Path:
    """Start one of Spark's daemons, which ends with the stack; the file of what it says."""
    import pyspark

    folder.mkdir(parents=True)
    home = Path(pyspark.__file__).parent
    command = [str(home / "bin" / "spark-class"), f"org.apache.spark.deploy.{name}", "--webui-port", "0", *arguments]
    environment = os.environ | {
        "SPARK_HOME": str(home),
        "SPARK_LOCAL_IP": "127.0.0.1",
        "SPARK_LOCAL_DIRS": str(folder / "local"),
        "PYTHONPATH": str(REPOSITORY),  # which executors inherit
    }
    log = folder / "log"
    with log.open("w") as out:
        process = subprocess.Popen(command, env=environment, cwd=folder, stdout=out, stderr=out)
    stack.callback(process.wait, SECONDS)
    stack.callback(process.terminate)
    return log


def _wait(log: Path, what: str, times: int) -> None:
    end = time.monotonic() + SECONDS
    while log.read_text().count(what) < times:
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.1)
