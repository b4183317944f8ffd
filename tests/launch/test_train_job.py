"""Arguments of train that say how a job ends, goes on, meets and is set up."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from torchx.specs import AppDef, BindMount, VolumeMount
from torchx.specs.finder import ComponentValidationException

import launch.components as components

CHOOSE = "--resume goes on with a run, --auto_resume does if there is one, --overwrite removes it. Fix: choose one"
BY_ITSELF = "such a job resumes an existing run by itself (--auto-resume). Fix: leave out --resume"
REMOVES = (
    "ranks that are restarted would remove their own checkpoints. "
    "Fix: give a new --run_dir without --overwrite, or remove the old run by hand"
)
FEWER = "--min_nnodes is at least 1 and less than --nnodes. Fix: give a number in between"
MOUNT = "Fix: write type=bind,src=/host/folder,dst=/folder[,readonly], or type=volume,src=NAME,dst=/folder"


def role(*, overrides: Sequence[str] = (), **arguments: Any) -> Any:
    app: AppDef = components.train("census-ple", *overrides, check=False, **arguments)
    return app.roles[0]


def words(asked: Any) -> list[str]:
    return " ".join([asked.entrypoint, *asked.args]).split()


@pytest.mark.parametrize(
    ("arguments", "flag"),
    [
        ({}, None),
        ({"resume": True}, "--resume"),
        ({"overwrite": True}, "--overwrite"),
        ({"auto_resume": True}, "--auto-resume"),
        ({"max_retries": 3}, "--auto-resume"),
        ({"max_restarts": 1}, "--auto-resume"),
        ({"nnodes": 2, "min_nnodes": 1}, "--auto-resume"),
    ],
)
def test_what_becomes_of_a_run_that_is_there(arguments: dict[str, Any], flag: str | None) -> None:
    given = [word for word in words(role(**arguments)) if word in ("--resume", "--auto-resume", "--overwrite")]
    assert given == ([flag] if flag else [])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"resume": True, "overwrite": True}, f"--resume True --overwrite True; {CHOOSE}"),
        ({"resume": True, "auto_resume": True}, f"--resume True --auto_resume True; {CHOOSE}"),
        ({"auto_resume": True, "overwrite": True}, f"--auto_resume True --overwrite True; {CHOOSE}"),
        ({"resume": True, "max_retries": 3}, f"--resume True --max_retries 3; {BY_ITSELF}"),
        ({"overwrite": True, "max_retries": 3}, f"--overwrite True --max_retries 3; {REMOVES}"),
        ({"overwrite": True, "max_restarts": 1}, f"--overwrite True --max_restarts 1; {REMOVES}"),
        ({"min_nnodes": 1}, f"--min_nnodes 1 --nnodes 1; {FEWER}"),
        ({"nnodes": 2, "min_nnodes": 2}, f"--min_nnodes 2 --nnodes 2; {FEWER}"),
        ({"nnodes": 2, "min_nnodes": -1}, f"--min_nnodes -1 --nnodes 2; {FEWER}"),
        (
            {"threads": 3, "overrides": ["runtime.threads=4"]},
            "--threads 3 -- runtime.threads=4; both set the number of threads of a rank. Fix: give one of them",
        ),
        ({"max_retries": -1}, "--max_retries -1; it cannot be negative. Fix: leave it out for the default"),
        (
            {"mounts": ["src=/a", "dst=/b"]},
            f"--mounts src=/a,dst=/b; TorchX does not read it (type must be specified first). {MOUNT}",
        ),
        (
            {"mounts": ["type=bind", "src=/a"]},
            f"--mounts type=bind,src=/a; TorchX does not read it (dst). {MOUNT}",
        ),
    ],
)
def test_arguments_that_do_not_go_together(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ComponentValidationException) as caught:
        role(**arguments)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({}, ["runtime.threads=2"]),
        ({"threads": 3}, ["runtime.threads=3"]),
        ({"overrides": ["runtime.threads=4", "seed=1"]}, ["runtime.threads=4"]),
    ],
)
def test_threads_are_said_once(arguments: dict[str, Any], said: list[str]) -> None:
    assert [word for word in words(role(**arguments)) if word.startswith("runtime.threads=")] == said


@pytest.mark.parametrize(
    ("job", "device"),
    [
        (components.train("c.toml", check=False), []),
        (components.train("c.toml", gpu=1, check=False), ["runtime.device=cuda"]),
        (components.train("c.toml", host="h100", nnodes=2, check=False), ["runtime.device=cuda"]),
        (
            components.train("c.toml", "runtime.device=cpu", gpu=1, check=False),
            ["runtime.device=cuda", "runtime.device=cpu"],
        ),
        (components.evaluate("runs/a", host="h100", check=False), ["runtime.device=cuda"]),
        (components.compare("c.toml", check=False), []),
        (components.compare("c.toml", gpu=8, check=False), ["runtime.device=cuda"]),
        (
            components.compare("c.toml", "runtime.device=auto", gpu=8, check=False),
            ["runtime.device=cuda", "runtime.device=auto"],
        ),
        (components.predict("runs/a", "scores", gpu=1, check=False), ["runtime.device=cuda"]),
    ],
)
def test_a_job_with_gpus_refuses_cpus_unless_the_user_says_otherwise(job: AppDef, device: list[str]) -> None:
    """The last override of a key counts."""
    words = shlex.split(" ".join(job.roles[0].args))
    assert [word for word in words if word.startswith("runtime.device=")] == device


def test_torch_reads_the_variable_of_its_allocator() -> None:
    code = "import torch; print(torch._C._accelerator_getAllocatorSettings())"
    run = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | role(gpu=1).env, capture_output=True, text=True, check=True
    )
    assert run.stdout == "expandable_segments:True\n"


def test_hosts_and_ranks_that_come_and_go() -> None:
    elastic = role(nnodes=4, min_nnodes=2, max_restarts=5)
    assert "--nproc-per-node 1 --nnodes 2:4 --max-restarts 5 --rdzv-backend c10d " in elastic.args[1]
    assert (elastic.num_replicas, elastic.min_replicas) == (4, 2)
    assert "--nnodes 2:4 --max-restarts 3 " in role(nnodes=4, min_nnodes=2).args[1]
    one = role(nproc=2, max_restarts=1)
    assert one.args[2:9] == ["--nproc-per-node", "2", "--nnodes", "1", "--max-restarts", "1", "--standalone"]
    assert role(nnodes=2).min_replicas is None


def test_variables_have_a_reason() -> None:
    assert role(nproc=2).env == {"OMP_NUM_THREADS": "1"}
    by_threads = {"OMP_NUM_THREADS": "2", "TORCHINDUCTOR_COMPILE_THREADS": "2"}
    on_gpus = {"NCCL_DEBUG": "WARN", "PYTORCH_ALLOC_CONF": "expandable_segments:True"}
    assert role(gpu=1).env == by_threads | on_gpus
    of_user = {"PYTORCH_ALLOC_CONF": "expandable_segments:False"}
    assert role(gpu=1, env=of_user).env == by_threads | on_gpus | of_user
    older_name = {"PYTORCH_CUDA_ALLOC_CONF": "backend:cudaMallocAsync"}
    assert role(gpu=1, env=older_name).env == by_threads | {"NCCL_DEBUG": "WARN"} | older_name
    assert components.compare("c.toml", gpu=1, check=False).roles[0].env == on_gpus
    assert components.predict("runs/a", "scores", gpu=1, check=False).roles[0].env == on_gpus
    assert role(nnodes=2, interface="eth1").env == {
        "OMP_NUM_THREADS": "2",
        "NCCL_SOCKET_IFNAME": "eth1",
        "GLOO_SOCKET_IFNAME": "eth1",
    }
    own = {"OMP_NUM_THREADS": "5", "NCCL_SOCKET_IFNAME": "ib0"}
    assert role(interface="eth1", env=own).env == {"GLOO_SOCKET_IFNAME": "eth1", **own}


@pytest.mark.parametrize("nnodes", [1, 2])
def test_variables_that_slurm_would_cut_travel_by_the_command(tmp_path: Path, nnodes: int) -> None:
    """`sbatch --export=A=1,B=x,y` ends B at the comma."""
    shown = tmp_path / "show variables"
    shown.write_text('#!/bin/sh\nprintf "%s\\n" "$NCCL_IB_HCA" "$QUOTED" "$1"\n')
    shown.chmod(0o755)
    hard = {"NCCL_IB_HCA": "mlx5_0,mlx5_1", "QUOTED": 'it\'s "so"'}
    asked = role(nnodes=nnodes, python=str(shown), env={"PLAIN": "1", **hard})
    assert asked.env["PLAIN"] == "1"
    assert not any("," in value or "'" in value for value in asked.env.values())
    command = [word.replace("$$", "$").replace("${rank0_env}", "FIRST") for word in [asked.entrypoint, *asked.args]]
    environment = {"PATH": os.environ["PATH"]}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [*hard.values(), "-m"]


def test_mounts() -> None:
    words = ["type=bind", "src=/shared", "dst=/data", "readonly", "type=volume", "src=claim", "dst=/runs"]
    mounts = [BindMount("/shared", "/data", read_only=True), VolumeMount("claim", "/runs")]
    assert role(mounts=words).mounts == mounts
    assert components.prep("census", "out", mounts=words, check=False).roles[0].mounts == mounts
    assert components.plan("tencent-ple", mounts=words, check=False).roles[0].mounts == mounts
    assert components.evaluate("runs/a", mounts=words, check=False).roles[0].mounts == mounts
