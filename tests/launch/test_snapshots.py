"""What `torchx run --dryrun` prints for every component on every scheduler, held against files.

The text of a dry run is what would be submitted: the job as TorchX sees it, then the scheduler's own request. It needs
neither Docker nor a cluster. What differs from run to run or from machine to machine (id, user, folder, Python) is made
the same beforehand, since lines are wrapped by their length.

After an intended change write the files anew, and read the difference before committing it:

    PLE_REC_RENEW_SNAPSHOTS=1 python -m pytest tests/launch/test_snapshots.py && git diff tests/launch/snapshots
"""

from __future__ import annotations

import os
import sys
import warnings
from dataclasses import asdict
from pathlib import Path
from pprint import pformat

import pytest
from torchx import __version__ as torchx_version
from torchx.runner import get_runner

SNAPSHOTS = Path(__file__).resolve().parent / "snapshots"
RENEW = "PLE_REC_RENEW_SNAPSHOTS"

# What a reader of docs/cluster.md would ask for: eight GPUs a host and all that keeps a job alive.
GPUS = ["--host", "p5.48xlarge", "--nnodes", "2", "--interface", "eth0", "--env", "NCCL_IB_HCA=mlx5_0,mlx5_1"]
COMPONENTS = {
    "prep": ["--name", "feed.toml", "--out", "/shared/feed", "--source", "s3://logs/feed", "--", "on_bad_row=drop"],
    "plan": ["--config", "tencent-ple", "--device", "h100", "--hosts", "8", "--out", "/shared/plan.json"],
    "train": [
        *["--config", "tencent-ple", "--run_dir", "/shared/runs/a", *GPUS, "--min_nnodes", "1", "--max_retries", "3"],
        *["--max_restarts", "2", "--plan", "/shared/plan.json", "--", "data.path=/shared/feed", 'name="a b"'],
    ],
    "evaluate": ["--run_dir", "/shared/runs/a", "--split", "valid", *GPUS],
    "compare": ["--config", "/shared/mine.toml", "--nnodes", "4", "--runs", "/shared/compare", "--", "train.epochs=2"],
}
IMAGE, PYTHON = ["--image", "registry/ple-rec:1"], ["--python", "python"]
SCHEDULERS: dict[str, tuple[dict[str, str], list[str]]] = {
    "local_cwd": ({"log_dir": "/logs"}, PYTHON),
    "local_docker": ({}, [*IMAGE, "--mounts", "type=bind,src=/mnt/shared,dst=/shared"]),
    "slurm": ({"partition": "gpu", "time": "24:00:00"}, PYTHON),
    "kubernetes": ({"queue": "training"}, [*IMAGE, "--mounts", "type=volume,src=shared-claim,dst=/shared"]),
    "aws_batch": ({"queue": "training"}, [*IMAGE, "--mounts", "type=volume,src=fs-0123456789abcdef0,dst=/shared"]),
}
NEEDS = {"local_docker": "docker", "kubernetes": "kubernetes"}


def printed(file: str, component: str, scheduler: str) -> str:
    """As `torchx run --dryrun` prints it, after TorchX's own warnings."""
    cfg, argv = SCHEDULERS[scheduler]
    with get_runner() as runner, warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        given = ["--check", "False", *argv, *COMPONENTS[component]]
        info = runner.dryrun_component(f"{file}:{component}", given, scheduler, cfg=cfg, workspace="")
        request = str(info)
    told = "".join(f"{' '.join(str(one.message).split())}\n" for one in said)
    warned = f"=== WARNINGS ===\n{told}\n" if told else ""
    return f"{warned}=== APPLICATION ===\n{pformat(asdict(info._app), indent=2, width=80)}\n\n" + (
        f"=== SCHEDULER REQUEST ===\n{request}\n"
    )


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("component", COMPONENTS)
def test_the_dry_run_is_that_of_the_file(
    repository: Path, monkeypatch: pytest.MonkeyPatch, component: str, scheduler: str
) -> None:
    if scheduler in NEEDS:
        pytest.importorskip(NEEDS[scheduler], reason=f"TorchX's {scheduler} needs the package {NEEDS[scheduler]}")
    monkeypatch.chdir("/")
    monkeypatch.setenv("LOGNAME", "somebody")
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    monkeypatch.setattr("torchx.schedulers.ids.random_id", lambda: "1d")
    text = printed(str(repository / "launch" / "components.py"), component, scheduler)
    text = text.replace(torchx_version, "<version>")
    file = SNAPSHOTS / f"{component}-{scheduler}.txt"
    if os.environ.get(RENEW):
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
    assert text == file.read_text(), f"read the difference; where it is intended, {RENEW}=1 writes the files anew"


def test_every_file_is_of_a_dry_run() -> None:
    wanted = {f"{component}-{scheduler}.txt" for component in COMPONENTS for scheduler in SCHEDULERS}
    assert {file.name for file in SNAPSHOTS.iterdir()} == wanted
