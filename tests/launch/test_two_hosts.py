"""A job on two hosts, which come, go and vanish: network namespaces with addresses of their own (tests/infra).

    pytest -s -m slow tests/launch/test_two_hosts.py      as root, or: make test-hosts

It shows the times that it measures. Their limits are for a machine that imports the program in 4 s; one that is slower,
or busy with other things, gets as much more.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import pytest

from tests.tiny import alive, environment, wait_until, write_tiny

INFRA = Path(__file__).resolve().parent.parent / "infra"
A, B = "ple-a", "ple-b"  # A keeps the rendezvous
LONG = ["--set", "train.epochs=1000000"]
WATCHED = ["--set", "runtime.timeout_seconds=8"]  # a host that vanishes closes no connection: the watchdog misses it
IMPORT_SECONDS = 4.0

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
    pytest.mark.skipif(shutil.which("ip") is None, reason="no `ip` (iproute2)"),
]


@dataclass
class Hosts:
    """Two hosts that share the folder `here`; what is started on them writes `<name>.log` there."""

    here: Path
    repository: Path
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)
    logs: list[IO[bytes]] = field(default_factory=list)

    def start(self, host: str, name: str, *command: str) -> subprocess.Popen[bytes]:
        self.logs.append((self.here / f"{name}.log").open("wb"))
        process = subprocess.Popen(
            [str(INFRA / "on-host.sh"), host, *command],
            cwd=self.here,
            env=environment(self.repository),
            stdout=self.logs[-1],
            stderr=subprocess.STDOUT,
        )
        self.started.append(process)
        return process

    def agent(self, host: str, name: str, options: str, *flags: str) -> subprocess.Popen[bytes]:
        """An agent of the job, with one rank."""
        place = ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"{A}:29400", "--rdzv-id", "job"]
        verb = ["train", "--config", "tiny.toml", *flags]
        options_of_torchrun = ["--nproc-per-node", "1", *options.split(), *place]
        return self.start(host, name, sys.executable, "-m", "ple_rec.agent", *options_of_torchrun, "--", *verb)

    def said(self, name: str) -> str:
        return (self.here / f"{name}.log").read_text()

    def everything(self) -> str:
        return "\n".join(f"--- {log.name}\n{log.read_text()}" for log in sorted(self.here.glob("*.log")))

    def own_words(self, name: str) -> list[str]:
        return [line for line in self.said(name).splitlines() if line.startswith("ple-rec: ")]

    def records(self) -> int:
        log = self.here / "runs" / "tiny" / "train.jsonl"
        return len(log.read_bytes().splitlines()) if log.exists() else 0

    def heads(self, ranks: int) -> int:
        """How often training with so many ranks has begun; rank 0, of host A, says so."""
        return sum(log.read_text().count(f"{ranks} rank(s) on cpu") for log in self.here.glob("a*.log"))

    def until_trained_by(self, ranks: int, before: int) -> float:
        """Seconds until training with so many ranks has begun anew and made a record."""
        begun = time.monotonic()
        assert wait_until(lambda: self.heads(ranks) > before, 120), self.everything()
        records = self.records()
        assert wait_until(lambda: self.records() > records, 60), self.everything()
        return time.monotonic() - begun

    def import_seconds(self) -> float:
        """How long this machine takes now to import the program."""
        begun = time.monotonic()
        env = environment(self.repository)
        subprocess.run([sys.executable, "-c", "import ple_rec.training.run"], env=env, check=True)
        return time.monotonic() - begun

    def check_limit(self, seconds: float, limit: float) -> None:
        """That it took no longer than `limit`, on a machine that is as fast, and as free, as it should be."""
        if seconds > limit:
            assert seconds < limit * max(1.0, self.import_seconds() / IMPORT_SECONDS), self.everything()

    def lose(self, host: str, *, cut: bool) -> None:
        """All its processes die at once; `cut`: unheard, since its link goes first."""
        if cut:
            self.link(up=False)
        pids = subprocess.run(["ip", "netns", "pids", host], capture_output=True, text=True, check=True).stdout
        for process in pids.split():
            os.kill(int(process), signal.SIGKILL)

    def link(self, *, up: bool) -> None:
        subprocess.run(["ip", "-n", B, "link", "set", "plb", "up" if up else "down"], check=True)


@pytest.fixture
def hosts(tmp_path: Path, repository: Path) -> Iterator[Hosts]:
    write_tiny(tmp_path)
    up = subprocess.run([str(INFRA / "two-hosts-up.sh")], capture_output=True, text=True, check=False)
    if up.returncode:
        pytest.skip(f"no network namespaces here: {up.stderr.strip()}")
    hosts = Hosts(tmp_path, repository)
    try:
        yield hosts
    finally:
        subprocess.run([str(INFRA / "two-hosts-down.sh")], check=True)
        for process in hosts.started:
            process.wait()
        for log in hosts.logs:
            log.close()


def test_both_train_one_model(hosts: Hosts) -> None:
    agents = [hosts.agent(host, host[-1], "--nnodes 2", "--auto-resume") for host in (A, B)]
    assert [agent.wait(120) for agent in agents] == [0, 0], hosts.said("a") + hosts.said("b")
    assert json.loads((hosts.here / "runs" / "tiny" / "metrics.json").read_text())["world_size"] == 2
    assert not (hosts.here / "runs" / "tiny" / ".shared").exists()


@pytest.mark.parametrize("cut", [False, True], ids=["killed", "cut off"])
def test_a_host_is_lost_and_comes_back_and_the_first_is_lost(hosts: Hosts, cut: bool) -> None:
    elastic, flags = "--nnodes 1:2 --max-restarts 3", ["--auto-resume", *LONG, *WATCHED]
    first = hosts.agent(A, "a", elastic, *flags)
    hosts.agent(B, "b", elastic, *flags)
    hosts.until_trained_by(2, 0)
    assert wait_until((hosts.here / "runs" / "tiny" / "checkpoints" / "latest").exists, 20)

    alone = hosts.heads(1)
    hosts.lose(B, cut=cut)
    seconds = {"continues": hosts.until_trained_by(1, alone)}
    hosts.check_limit(seconds["continues"], 90 if cut else 40)  # 8 s, 30 s for a rank that hears nothing, 15 s
    assert not cut or f"rank 1 on {B} does not respond" in hosts.said("a")
    assert "goes on from runs/tiny/checkpoints/step-" in hosts.said("a")

    hosts.link(up=True)
    together = hosts.heads(2)
    back = hosts.agent(B, "b2", elastic, *flags)
    seconds["rejoins"] = hosts.until_trained_by(2, together)
    hosts.check_limit(seconds["rejoins"], 20)
    assert hosts.own_words("a")[-1] == "ple-rec: starts the ranks of this host anew (hosts have joined)"
    assert first.poll() is None

    begun = time.monotonic()
    hosts.lose(A, cut=cut)
    assert back.wait(60) == 1
    seconds["store lost"] = time.monotonic() - begun
    assert hosts.own_words("b2")[-1] == (
        f"ple-rec: rendezvous at {A}:29400: lost: its host has ended, or cannot be reached; the hosts of a job find "
        "each other by the rendezvous, so the job ends without it. Fix: look at the output of that host, then run the "
        "same command again; --auto-resume goes on"
    )
    assert "Traceback" not in hosts.said("b2")
    assert "frame #" not in hosts.said("b2")
    assert not subprocess.run(["ip", "netns", "pids", B], capture_output=True, check=True).stdout

    hosts.link(up=True)
    hosts.agent(A, "a3", elastic, *flags)
    hosts.agent(B, "b3", elastic, *flags)
    hosts.until_trained_by(2, hosts.heads(2))
    assert "goes on from runs/tiny/checkpoints/step-" in hosts.said("a3")
    times = ", ".join(f"{what} {value:.1f} s" for what, value in seconds.items())
    how = "cut off" if cut else "killed"
    sys.stdout.write(f"\n{how}: {times}; the program is imported in {hosts.import_seconds():.1f} s\n")


def test_ranks_that_were_asked_to_stop_are_not_started_again(hosts: Hosts) -> None:
    options = "--nnodes 2 --max-restarts 3"
    agents = {host: hosts.agent(host, host[-1], options, "--auto-resume", *LONG) for host in (A, B)}
    hosts.until_trained_by(2, 0)
    (agent,) = (p for p in _children(agents[B].pid) if b"ple_rec.agent" in Path(f"/proc/{p}/cmdline").read_bytes())
    os.kill(agent, signal.SIGTERM)  # of one host
    assert [agents[host].wait(30) for host in (A, B)] == [75, 75]
    assert "anew" not in hosts.said("a") + hosts.said("b")
    assert "is saved. Fix: run it again" in hosts.own_words("a")[-1]


def test_a_second_run_in_the_directory_is_refused(hosts: Hosts) -> None:
    alone = ["--nproc-per-node", "1", "--standalone", "--", "train", "--config", "tiny.toml"]
    first = hosts.start(A, "a", sys.executable, "-m", "ple_rec.agent", *alone, *LONG)
    hosts.until_trained_by(1, 0)
    second = hosts.start(B, "b", sys.executable, "-m", "ple_rec", "train", "--config", "tiny.toml", "--resume", *LONG)
    assert second.wait(60) == 2
    (said,) = hosts.own_words("b")
    assert re.match(
        f"ple-rec: runs/tiny: in use by process [0-9]+ on {A}; one process at a time trains in a run ", said
    )
    assert first.poll() is None


def test_hosts_that_do_not_share_the_run_directory_are_named(hosts: Hosts) -> None:
    (hosts.here / "runs").mkdir()
    own = 'mount -t tmpfs none runs && exec "$@"'
    hide = [str(INFRA / "on-host.sh"), B, "unshare", "--mount", "sh", "-c", own, "sh"]
    first = hosts.agent(A, "a", "--nnodes 2", "--auto-resume")
    place = ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"{A}:29400", "--rdzv-id", "job", "--nproc-per-node", "1"]
    command = [sys.executable, "-m", "ple_rec.agent", "--nnodes", "2", *place, "--", "train", "--config", "tiny.toml"]
    second = hosts.start(B, "b", *hide[2:], *command, "--auto-resume")
    assert [first.wait(90), second.wait(30)] == [2, 2], hosts.said("a") + hosts.said("b")
    said = (
        f"runs/tiny: a file that rank 0 writes there on {A} is not seen on {B} after 10 s; all hosts of a job share "
        "its run directory and its checkpoints. Fix: give a --run-dir, and checkpoint.path, on storage that every host "
        "mounts"
    )
    assert hosts.own_words("a") == [f"ple-rec: {said}"]
    assert hosts.own_words("b") == [f"ple-rec: rank 1: {said}"]


def _children(parent: int) -> list[int]:
    """Processes below `parent`, itself included."""
    found, left = [], [parent]
    while left:
        process = left.pop()
        if alive(process):
            found.append(process)
            left += map(int, Path(f"/proc/{process}/task/{process}/children").read_text().split())
    return found
