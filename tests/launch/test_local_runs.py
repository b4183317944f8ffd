"""Real runs by `torchx run -s local_cwd`."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from ple_rec.config.load import load_schema
from tests.data_prep.feed_logs import write_logs, write_toml
from tests.tiny import environment, processes_in, wait_until, write_tiny

TORCHX = [sys.executable, "-c", "from torchx.cli.main import main; main()", "run", "-s", "local_cwd", "--workspace="]


def run(repository: Path, here: Path, *argv: str, component: str = "train") -> subprocess.CompletedProcess[str]:
    command = [*TORCHX, f"{repository / 'launch' / 'components.py'}:{component}", *argv]
    return subprocess.run(
        command, cwd=here, env=environment(repository), capture_output=True, text=True, check=False, timeout=100
    )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_torchx_ends_with_1_whatever_the_job_says(repository: Path, tmp_path: Path) -> None:
    """TorchX 0.7 knows SUCCEEDED (0) and FAILED (1) only; the job's own code, here 2, is lost, its message is not."""
    done = run(repository, tmp_path, "--config", "nix.toml", "--device", "cpu", "--check", "False", component="plan")
    assert done.returncode == 1
    assert "Job finished: FAILED" in done.stderr
    told = [line for line in done.stderr.splitlines() if "ple-rec:" in line]
    assert len(told) == 1
    assert f"ple-rec: nix.toml: no such file in {tmp_path}; recipes: " in told[0]
    assert told[0].endswith(". Fix: give the path of a TOML file or the name of a recipe")
    assert "Traceback" not in done.stderr


def test_prep_by_torchx(repository: Path, tmp_path: Path) -> None:
    write_logs(tmp_path / "raw")
    write_toml(tmp_path / "feed.toml")
    files = ["--name", "feed.toml", "--source", "raw", "--out", "data/feed", "--memMB", "1024", "--check", "False"]
    done = run(repository, tmp_path, *files, "--", "name=other", "tables.video.capacity=90", component="prep")
    assert done.returncode == 0, done.stderr
    schema = load_schema(tmp_path / "data" / "feed")
    assert (schema.name, schema.splits["train"].rows, schema.table_rows()["video"]) == ("other", 600, 90)


@pytest.mark.slow
def test_two_hosts_train_one_model(repository: Path, tmp_path: Path) -> None:
    write_tiny(tmp_path)
    two = ["--nnodes", "2", "--port", str(free_port()), "--check", "False"]  # both are this host, and so is /tmp
    done = run(repository, tmp_path, "--config", "tiny.toml", *two)
    assert done.returncode == 0, done.stderr
    metrics = json.loads((tmp_path / "runs" / "tiny" / "metrics.json").read_text())
    assert metrics["world_size"] == 2
    assert {task: values["samples"] for task, values in metrics["test"]["tasks"].items()} == {"click": 64, "like": 64}
    assert not processes_in(tmp_path)


# A rank that SIGTERM does not end, with a child in a session of its own that it does not end either.
STUBBORN = """
import os, signal, subprocess
if os.environ.get("RANK") == "0" and "PLE_REC_CHILD" not in os.environ:
    set_handler = signal.signal
    def keep(number, handler):
        return signal.SIG_IGN if number == signal.SIGTERM else set_handler(number, handler)
    set_handler(signal.SIGTERM, signal.SIG_IGN)
    signal.signal = keep
    subprocess.Popen(["sleep", "1000"], start_new_session=True, env=os.environ | {"PLE_REC_CHILD": "1"})
"""


@pytest.mark.slow
@pytest.mark.parametrize("stubborn", [False, True])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_of_a_run_that_is_stopped(
    repository: Path, tmp_path: Path, stubborn: bool, number: signal.Signals
) -> None:
    write_tiny(tmp_path)
    argv = ["--config", "tiny.toml", "--nproc", "2", "train.epochs=1000000"]
    command = [*TORCHX, f"{repository / 'launch' / 'components.py'}:train", *argv]
    own = environment(repository)
    if stubborn:
        (tmp_path / "path").mkdir()
        (tmp_path / "path" / "sitecustomize.py").write_text(STUBBORN)
        own["PYTHONPATH"] += f":{tmp_path / 'path'}"
    with (tmp_path / "said").open("w") as said:
        process = subprocess.Popen(command, cwd=tmp_path, env=own, stdout=said, stderr=said, start_new_session=True)
    try:
        log = tmp_path / "runs" / "tiny" / "train.jsonl"
        assert wait_until(lambda: log.exists() or process.poll() is not None, 60), (tmp_path / "said").read_text()
        assert len(processes_in(tmp_path)) == 4 + stubborn  # torchx, agent, two ranks, and the child
        process.send_signal(number)
        process.wait(30)
        # TorchX kills the agent after 10 s. One that was not there to ask it: the agent asks the ranks, for 30 s.
        assert wait_until(lambda: not processes_in(tmp_path), 40 if number == signal.SIGKILL else 5), (
            tmp_path / "said"
        ).read_text()
    finally:
        for left in processes_in(tmp_path):
            os.kill(left, signal.SIGKILL)
        process.wait()
