"""Jobs on a real Slurm of two nodes, by `torchx run -s slurm`: training, to its end and preempted; a comparison.

pytest -m slow tests/launch/test_slurm.py      as root, on Debian, or: make test-slurm
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from tests.tiny import environment, wait_until, write_tiny

INFRA = Path(__file__).resolve().parent.parent / "infra"
TORCHX = [sys.executable, "-c", "from torchx.cli.main import main; main()", "run", "-s", "slurm", "--workspace="]
LENGTH = ["train.epochs=", "train.steps=1500", "train.evaluate_every=500", "checkpoint.every=500"]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="Slurm's daemons need root"),
    pytest.mark.skipif(
        shutil.which("slurmctld") is None and shutil.which("apt-get") is None,
        reason="no Slurm, and no apt-get to install it",
    ),
]


@pytest.fixture(scope="module")
def slurm() -> Iterator[dict[str, str]]:
    """A Slurm that is up; its clients' environment."""
    up = subprocess.run([str(INFRA / "slurm-up.sh")], capture_output=True, text=True, check=False, timeout=300)
    if up.returncode:
        subprocess.run([str(INFRA / "slurm-down.sh")], check=True)
        pytest.skip(f"Slurm does not come up: {(up.stderr.strip().splitlines() or ['?'])[-1]}")
    name, _, value = up.stdout.strip().removeprefix("export ").partition("=")
    try:
        yield {name: value}
    finally:
        subprocess.run(["scancel", "--user=root"], env=os.environ | {name: value}, check=False)
        subprocess.run([str(INFRA / "slurm-down.sh")], check=True)


class Job:
    """A job of two hosts in the folder `here`."""

    def __init__(
        self,
        repository: Path,
        here: Path,
        slurm: dict[str, str],
        *argv: str,
        component: str = "train",
        config: str = "tiny.toml",
    ) -> None:
        self.here, self.env = here, environment(repository, **slurm)
        argv = ("--config", config, "--nnodes", "2", "--cpu", "1", "--memMB", "2000", "--check", "False", *argv)
        submitted = self.call(*TORCHX, f"{repository / 'launch' / 'components.py'}:{component}", *argv)
        self.id = submitted.split("slurm://torchx/")[-1].split()[0]

    def call(self, *command: str) -> str:
        done = subprocess.run(command, cwd=self.here, env=self.env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def states(self) -> set[str]:
        """Of its two parts, as accounting tells."""
        return set(self.call("sacct", "-n", "-X", "-o", "State", "-j", self.id).split())

    def told(self) -> str:
        """All that the job has written."""
        return "\n".join(f"--- {file.name}\n{file.read_text()}" for file in sorted(self.here.glob("slurm-*")))

    def metrics(self, file: str = "runs/tiny/metrics.json") -> dict[str, Any]:
        """What the job leaves, once it has ended."""
        assert wait_until(lambda: self.states() == {"COMPLETED"}, 240), self.told()
        found: dict[str, Any] = json.loads((self.here / file).read_text())
        return found


def test_a_job_trains_to_its_end(repository: Path, tmp_path: Path, slurm: dict[str, str]) -> None:
    write_tiny(tmp_path)
    job = Job(repository, tmp_path, slurm, "--env", "LIST=a,b")
    metrics = job.metrics()
    assert (metrics["world_size"], metrics["steps"]) == (2, 16)
    assert re.search("^step +16/16 +loss", job.told(), re.MULTILINE)  # by rank 0, on either node


@pytest.mark.parametrize(
    "stop",
    [
        pytest.param(["scontrol", "requeue"], id="requeued"),  # as by Slurm's own preemption: SIGTERM to every process
        pytest.param(["scancel", "--signal=USR1"], id="USR1"),  # ahead of the end; TorchX's script requeues the job
    ],
)
def test_a_job_that_is_preempted_goes_on(
    repository: Path, tmp_path: Path, slurm: dict[str, str], stop: list[str]
) -> None:
    write_tiny(tmp_path)
    job = Job(repository, tmp_path, slurm, "--max_retries", "2", "--auto_resume", "True", "--", *LENGTH)
    run = tmp_path / "runs" / "tiny"
    assert wait_until(lambda: (run / "checkpoints" / "latest").exists(), 120), job.told()
    job.call(*stop, job.id)
    # One node says it at least: where the other is the first to end, Slurm kills the step there.
    assert wait_until(lambda: "is saved. Fix: run it again" in job.told(), 60), job.told()
    step = int((run / "checkpoints" / "latest").read_text().removeprefix("step-"))
    assert 500 <= step < 1500
    assert step % 500  # the step that was under way, beyond the last checkpoint that was due

    metrics = job.metrics()
    assert (metrics["world_size"], metrics["steps"]) == (2, 1500)
    assert f"goes on from runs/tiny/checkpoints/step-{step}" in job.told()
    overrides = [word for setting in LENGTH for word in ("--set", setting)]
    whole = [sys.executable, "-m", "ple_rec", "train", "--config", "tiny.toml", "--ranks", "2", "--run-dir", "whole"]
    job.call(*whole, *overrides, "--set", "runtime.threads=1")
    expected = json.loads((tmp_path / "whole" / "metrics.json").read_text())
    assert metrics["test"]["tasks"] == expected["test"]["tasks"]  # to the bit


def test_a_comparison_is_shared_by_two_hosts_that_end_together(
    repository: Path, tmp_path: Path, slurm: dict[str, str]
) -> None:
    write_tiny(tmp_path)
    mmoe = ["model.variant=mmoe", "model.experts=3", "model.expert_hidden=[4]"]
    variants = {"ple": {"base": "tiny.toml"}, "mmoe": {"base": "tiny.toml", "overrides": mmoe}}
    asked = {"name": "shared", "seeds": 2, "match": "none", "variants": variants}
    (tmp_path / "shared.toml").write_text(tomli_w.dumps(asked))
    job = Job(repository, tmp_path, slurm, component="compare", config="shared.toml")
    found = job.metrics("runs/compare/shared/compare.json")
    assert found["missing"] == 0
    finished = {name: variant["seeds"] for name, variant in found["variants"].items()}
    assert finished == {"single_task": [0, 1], "ple": [0, 1], "mmoe": [0, 1]}
    parts = [file.read_text() for file in sorted(tmp_path.glob("slurm-*.out"))]
    trained = [len(re.findall(r"^.*run \d of \d( \(about .* to go\))?: ", part, re.MULTILINE)) for part in parts]
    assert sorted(count for count in trained if count) == [3, 3], job.told()  # each host its own
    assert (tmp_path / "runs" / "compare" / "shared" / "compare.html").is_file()
