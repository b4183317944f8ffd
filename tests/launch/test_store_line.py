"""The whole line on an object store alone: two hosts that share no disk, from raw logs to predictions.

    pytest -s -m slow tests/launch/test_store_line.py      as root

The hosts are network namespaces (tests/infra) with working folders, caches and temporary folders of their own; a server
that speaks S3 stands on the first one. docs/cluster.md shows the same commands.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.raw_logs import prep_toml, write_logs
from tests.launch.test_two_hosts import INFRA, A, B, Hosts
from tests.tiny import environment, wait_until

STORE = "http://10.77.0.1:5555"
ROWS, USERS, VIDEOS = 24_000, 3_000, 500
RUN = """\
name = "line"

[data]
path = "{data}"

[embeddings]
dim = 8

[model]
variant = "ple"

[[model.levels]]
expert_hidden = [16]

[train]
batch_size = 256
epochs = 6
evaluate_every = 60

[checkpoint]
every = 20

[runtime]
device = "cpu"
threads = 1
timeout_seconds = 20
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
    pytest.mark.skipif(shutil.which("ip") is None, reason="no `ip` (iproute2)"),
]


class Line:
    """Two hosts and a store on the first.

    Args:
        hosts: The hosts.
        here: Folder of the test.
    """

    def __init__(self, hosts: Hosts, here: Path) -> None:
        self.hosts, self.here = hosts, here
        for host in (A, B):
            (here / host / "tmp").mkdir(parents=True)

    def start(self, host: str, name: str, *command: str) -> subprocess.Popen[bytes]:
        """Start a command on a host, in a folder of its own."""
        log = (self.here / f"{name}.log").open("wb")
        self.hosts.logs.append(log)
        own = self.here / host
        more = {
            "AWS_ENDPOINT_URL": STORE,
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
            "PLE_REC_CACHE": str(own / "cache"),
            "TMPDIR": str(own / "tmp"),
        }
        process = subprocess.Popen(
            [str(INFRA / "on-host.sh"), host, *command],
            cwd=own,
            env=environment(self.hosts.repository, **more),
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        self.hosts.started.append(process)
        return process

    def verb(self, host: str, *words: str) -> str:
        """Run a verb on a host; return what it printed."""
        name = f"{host}-{words[0]}"
        assert self.start(host, name, sys.executable, "-m", "ple_rec", *words).wait(300) == 0, self.said(name)
        return self.said(name)

    def agent(self, host: str, name: str, *flags: str) -> subprocess.Popen[bytes]:
        """Start the agent of a host of the training job, with one rank."""
        options = ["--nnodes", "2", "--nproc-per-node", "1", "--max-restarts", "0", "--rdzv-backend", "c10d"]
        options += ["--rdzv-endpoint", f"{A}:29400", "--rdzv-id", name[1:] or "job"]
        return self.start(host, name, sys.executable, "-m", "ple_rec.agent", *options, "--", "train", *flags)

    def said(self, name: str) -> str:
        """Return what a command has printed."""
        return (self.here / f"{name}.log").read_text()

    def content(self, address: str) -> str:
        """Return the text of an object, as host A reads it; empty where it is not there."""
        code = f"from ple_rec.storage import location as l; print(l({address!r}).read_text())"
        return self.said("look") if self.start(A, "look", sys.executable, "-c", code).wait(60) == 0 else ""


@pytest.fixture
def line(tmp_path: Path, repository: Path) -> Iterator[Line]:
    """The hosts, and the store with an empty bucket."""
    up = subprocess.run([str(INFRA / "two-hosts-up.sh")], capture_output=True, text=True, check=False)
    if up.returncode:
        pytest.skip(f"no network namespaces here: {up.stderr.strip()}")
    hosts = Hosts(tmp_path, repository)
    line = Line(hosts, tmp_path)
    try:
        line.start(A, "store", sys.executable, "-m", "moto.server", "-H", "0.0.0.0", "-p", "5555")
        make = ["curl", "-sf", "-X", "PUT", f"{STORE}/bucket"]
        assert wait_until(lambda: line.start(A, "bucket", *make).wait(10) == 0, 60), line.said("store")
        yield line
    finally:
        subprocess.run([str(INFRA / "two-hosts-down.sh")], check=True)
        for process in hosts.started:
            process.wait()
        for log in hosts.logs:
            log.close()


def _on_a_disk(here: Path, repository: Path) -> dict[str, Any]:
    """Return the metrics of the same data, trained on two ranks of one machine with a disk."""
    disk = here / "disk"
    disk.mkdir()
    (disk / "line.toml").write_text(RUN.format(data="data"))
    for words in (
        ["prep", str(here / "feed.toml"), "--from", str(here / "logs"), "--out", "data"],
        ["train", "--config", "line.toml", "--ranks", "2"],
    ):
        command = [sys.executable, "-m", "ple_rec", *words]
        subprocess.run(command, cwd=disk, env=environment(repository), check=True, capture_output=True, timeout=300)
    metrics: dict[str, Any] = json.loads((disk / "runs" / "line" / "metrics.json").read_text())
    return metrics


def test_the_whole_line_on_a_store(line: Line, repository: Path) -> None:
    here = line.here
    write_logs(here / "logs", ROWS, USERS, VIDEOS)
    (here / "feed.toml").write_text(prep_toml())
    wanted = _on_a_disk(here, repository)

    for host in (A, B):
        (here / host / "line.toml").write_text(RUN.format(data="s3://bucket/data"))
    shutil.copy(here / "feed.toml", here / A)
    for file in sorted((here / "logs").iterdir()):
        put = ["curl", "-sf", "-T", str(file), f"{STORE}/bucket/logs/{file.name}"]
        assert line.start(A, "put", *put).wait(60) == 0
    line.verb(A, "prep", "feed.toml", "--from", "s3://bucket/logs", "--out", "s3://bucket/data")

    run = ["--config", "line.toml", "--run-dir", "s3://bucket/runs/line", "--auto-resume"]
    first = [line.agent(host, f"{host[-1]}1", *run) for host in (A, B)]
    assert wait_until(lambda: line.content("s3://bucket/runs/line/checkpoints/latest") != "", 120), line.said("a1")
    line.hosts.lose(B, cut=False)
    assert first[0].wait(120) != 0, "it had ended before a host was killed"
    again = [line.agent(host, f"{host[-1]}2", *run) for host in (A, B)]
    assert [agent.wait(240) for agent in again] == [0, 0], line.said("a2") + line.said("b2")
    assert "goes on from s3://bucket/runs/line/checkpoints/step-" in line.said("a2")

    found = json.loads(line.content("s3://bucket/runs/line/metrics.json"))
    assert found["test"]["tasks"] == wanted["test"]["tasks"]
    evaluated = json.loads(line.verb(B, "evaluate", "s3://bucket/runs/line", "--json"))
    for task, values in wanted["test"]["tasks"].items():
        assert evaluated["test"]["tasks"][task]["samples"] == values["samples"]
    line.verb(B, "export", "s3://bucket/runs/line", "--out", "s3://bucket/model", "--examples", "2")
    predict = ["predict", "s3://bucket/runs/line", "--out", "s3://bucket/predictions"]
    line.verb(B, *predict)
    assert line.content("s3://bucket/predictions/_SUCCESS")

    line.start(A, "serve", sys.executable, "-m", "ple_rec", "serve", "s3://bucket/model", "--port", "8000")
    health = ["curl", "-sf", "http://127.0.0.1:8000/v1/examples/0"]
    assert wait_until(lambda: line.start(A, "example", *health).wait(10) == 0, 90), line.said("serve")
    example = json.loads(line.said("example"))
    (here / A / "request.json").write_text(json.dumps(example.get("request", example)))
    ask = [
        "curl",
        "-sf",
        "http://127.0.0.1:8000/v1/rank",
        "-H",
        "Content-Type: application/json",
        "-d",
        "@request.json",
    ]
    assert line.start(A, "rank", *ask).wait(30) == 0, line.said("serve")
    assert json.loads(line.said("rank"))["items"]
    for host in (A, B):
        assert not (here / host / "runs").exists()
        assert not (here / host / "data").exists()
