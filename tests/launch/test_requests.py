"""What every scheduler is asked for: commands, hosts, GPUs, memory, variables, mounts, image and retries.

Every expectation follows from the arguments and from docs/cluster.md. Commands are run, as a host's shell would run
them, with a stand-in for Python that prints its arguments.
"""

from __future__ import annotations

import os
import re
import subprocess
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from torchx.runner import get_runner

from ple_rec.cli.app import parse

IMAGE = "registry/ple-rec:1"
ON_GPUS = ["--host", "p5.48xlarge", "--nnodes", "2", "--interface", "eth0", "--env", "NCCL_IB_HCA=mlx5_0,mlx5_1"]
TRAIN = ["--config", "tencent-ple", "--run_dir", "/shared/runs/a", *ON_GPUS, "--min_nnodes", "1", "--max_retries", "3"]
TRAIN += ["--max_restarts", "2", "--plan", "/shared/plan.json", "--", "data.path=/shared/feed", 'name="a b"']
# 192 cores less one for each GPU, divided by eight ranks; nine tenths of 2 TiB in MiB.
CORES, THREADS, MEMORY = 184, "23", 1_887_436
VARIABLES = {
    "OMP_NUM_THREADS": THREADS,
    "TORCHINDUCTOR_COMPILE_THREADS": THREADS,
    "NCCL_DEBUG": "WARN",
    "PYTORCH_ALLOC_CONF": "expandable_segments:True",
    "NCCL_SOCKET_IFNAME": "eth0",
    "GLOO_SOCKET_IFNAME": "eth0",
}


class Host(NamedTuple):
    """What a scheduler is asked for one host of a job; None where it has no such thing."""

    command: list[str]
    variables: Mapping[str, str]
    gpus: int | None = None
    cores: float | None = None
    memory: int | None = None  # MB, as --memMB
    image: str | None = None
    mounts: tuple[tuple[str, str], ...] = ()
    instance: str | None = None
    retries: int | None = None


def of_local_cwd(request: Any) -> list[Host]:
    (replicas,) = request.role_params.values()
    return [Host(replica.args, replica.env) for replica in replicas]


def of_local_docker(request: Any) -> list[Host]:
    def host(container: Any) -> Host:
        asked = container.kwargs
        return Host(
            container.command,
            asked["environment"],
            sum(each["Count"] for each in asked.get("device_requests", [])),
            asked["nano_cpus"] / 1e9,
            int(asked["mem_limit"].removesuffix("m")),
            container.image,
            tuple((mount["Source"], mount["Target"]) for mount in asked["mounts"]),
            retries=asked["restart_policy"]["MaximumRetryCount"] if "restart_policy" in asked else 0,
        )

    return [host(container) for container in request.containers]


def of_slurm(request: Any) -> list[Host]:
    script = request.materialize()
    (retries,) = re.findall(r"^export TORCHX_MAX_RETRIES=(\d+)$", script, re.MULTILINE)
    groups = re.findall(r"^#SBATCH --job-name=.*$", script, re.MULTILINE)
    steps = re.findall(r"--export=ALL,(\S+) (.*?)(?: :\\)?$", script, re.MULTILINE)

    def host(group: str, exported: str, command: str) -> Host:
        assert {"--requeue", "--partition=gpu", "--time=24:00:00", "--ntasks-per-node=1"} <= set(group.split())
        asked = dict(re.findall(r"--([a-z-]+)=(\d+)\b", group))
        variables = dict(pair.split("=") for pair in exported.split(",") if "SLURM" not in pair)
        sizes = int(asked.get("gpus-per-task", 0)), int(asked["cpus-per-task"]), int(asked["mem"])
        return Host(["bash", "-c", command], variables, *sizes, retries=int(retries))

    return [host(group, *step) for group, step in zip(groups, steps, strict=True)]


def of_kubernetes(request: Any) -> list[Host]:
    spec = request.resource["spec"]
    assert spec["queue"] == "training"

    def host(task: Any) -> Host:
        pod = task["template"].spec
        (container,) = pod.containers
        limits = container.resources.limits
        places = {each.name: each.mount_path for each in container.volume_mounts}
        return Host(
            container.command,
            {each.name: each.value for each in container.env},
            int(limits.get("nvidia.com/gpu", 0)),
            int(limits["cpu"].removesuffix("m")) / 1000,
            int(limits["memory"].removesuffix("M")),
            container.image,
            tuple(
                (volume.persistent_volume_claim.claim_name, places[volume.name])
                for volume in pod.volumes
                if volume.persistent_volume_claim
            ),
            (pod.node_selector or {}).get("node.kubernetes.io/instance-type"),
            task.get("maxRetry", 0),
        )

    return [host(task) for task in spec["tasks"]]


def of_aws_batch(request: Any) -> list[Host]:
    assert request.queue == "training"
    nodes = request.job_def["nodeProperties"]

    def hosts(group: Any) -> list[Host]:
        asked = group["container"]
        sizes = {each["type"]: int(each["value"]) for each in asked["resourceRequirements"]}
        systems = {each["name"]: each["efsVolumeConfiguration"]["fileSystemId"] for each in asked["volumes"]}
        first, last = map(int, group["targetNodes"].split(":"))
        host = Host(
            asked["command"],
            {each["name"]: each["value"] for each in asked["environment"]},
            sizes.get("GPU", 0),
            sizes["VCPU"],
            sizes["MEMORY"],
            asked["image"],
            tuple((systems[each["sourceVolume"]], each["containerPath"]) for each in asked["mountPoints"]),
            asked.get("instanceType"),
            request.job_def["retryStrategy"]["attempts"],
        )
        return [host] * (last + 1 - first)

    found = [host for group in nodes["nodeRangeProperties"] for host in hosts(group)]
    assert len(found) == nodes["numNodes"]
    return found


class Scheduler(NamedTuple):
    """How a scheduler is asked, how its request is read, and where a host learns which one is the first."""

    hosts: Callable[[Any], list[Host]]
    cfg: dict[str, str]
    first_host: str
    mount: tuple[str, str] | None = None  # source and type of what is mounted at /shared


SCHEDULERS = {
    "local_cwd": Scheduler(of_local_cwd, {}, "TORCHX_RANK0_HOST"),
    "local_docker": Scheduler(of_local_docker, {}, "TORCHX_RANK0_HOST", ("/mnt/shared", "bind")),
    "slurm": Scheduler(of_slurm, {"partition": "gpu", "time": "24:00:00"}, "SLURM_JOB_NODELIST_HET_GROUP_0"),
    "kubernetes": Scheduler(of_kubernetes, {"queue": "training"}, "VC_TRAIN_0_HOSTS", ("shared-claim", "volume")),
    "aws_batch": Scheduler(
        of_aws_batch,
        {"queue": "training"},
        "AWS_BATCH_JOB_MAIN_NODE_PRIVATE_IPV4_ADDRESS",
        ("fs-0123456789abcdef0", "volume"),
    ),
}
NEEDS = {"local_docker": "docker", "kubernetes": "kubernetes"}


@pytest.fixture(params=SCHEDULERS)
def name(request: pytest.FixtureRequest) -> str:
    if request.param in NEEDS:
        pytest.importorskip(NEEDS[request.param], reason=f"TorchX's {request.param} needs {NEEDS[request.param]}")
    return str(request.param)


@pytest.fixture
def python(tmp_path: Path) -> str:
    """A stand-in for Python: prints a variable and its arguments, one a line."""
    path = tmp_path / "python"
    path.write_text('#!/bin/sh\nprintf \'%s\\n\' "$NCCL_IB_HCA" "$@"\n')
    path.chmod(0o755)
    return str(path)


def asked(repository: Path, name: str, component: str, argv: list[str], python: str) -> list[Host]:
    """What the scheduler is asked for each host of the job."""
    scheduler = SCHEDULERS[name]
    beside = ["--check", "False", "--python", python]
    if scheduler.mount is not None:
        source, kind = scheduler.mount
        beside += ["--image", IMAGE, "--mounts", f"type={kind},src={source},dst=/shared"]
    file = f"{repository / 'launch' / 'components.py'}:{component}"
    with get_runner() as runner, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchX's own, of Volcano's retries and of instance types
        job = runner.dryrun_component(file, [*beside, *argv], name, cfg=dict(scheduler.cfg), workspace="")
    return scheduler.hosts(job.request)


def printed(host: Host, **variables: str) -> list[str]:
    """The lines of the stand-in for Python, started by the host's command with the host's variables."""
    environment = dict(host.variables) | {"PATH": os.environ["PATH"], "SLURM_JOB_ID": "815"} | variables
    done = subprocess.run(host.command, env=environment, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def test_training_on_two_hosts_of_eight_gpus(name: str, repository: Path, python: str) -> None:
    scheduler = SCHEDULERS[name]
    hosts = asked(repository, name, "train", TRAIN, python)
    assert len(hosts) == 2
    jobs = set()
    for place, host in enumerate(hosts):
        listed, *words = printed(host, **{scheduler.first_host: "node1"})
        assert listed == "mlx5_0,mlx5_1"  # a list, which Slurm would cut
        at = words.index("--")
        job = words[words.index("--rdzv-id") + 1]
        jobs.add(job)
        first = "localhost" if (name, place) == ("kubernetes", 0) else "node1"  # a pod does not know its own name
        head = ["-m", "ple_rec.agent", "--nproc-per-node", "8", "--nnodes", "1:2", "--max-restarts", "2"]
        assert words[:at] == [*head, "--rdzv-backend", "c10d", "--rdzv-id", job, "--rdzv-endpoint", f"{first}:29400"]
        verb = ["train", "--set", "runtime.device=cuda", "--config", "tencent-ple"]
        verb += ["--run-dir", "/shared/runs/a", "--auto-resume"]
        verb += ["--plan", "/shared/plan.json", "--set", "data.path=/shared/feed", "--set", 'name="a b"']
        assert words[at + 1 :] == [*verb, "--set", f"runtime.threads={THREADS}"]
        assert {key: host.variables[key] for key in VARIABLES} == VARIABLES
        if name != "local_cwd":  # which starts processes and hands out nothing
            assert (host.gpus, host.cores, host.memory, host.retries) == (8, CORES, MEMORY, 3)
        if scheduler.mount is not None:
            assert (host.image, host.mounts) == (IMAGE, ((scheduler.mount[0], "/shared"),))
        if name in ("kubernetes", "aws_batch"):
            assert host.instance == "p5.48xlarge"
    assert len(jobs) == 1
    assert "" not in jobs


@pytest.mark.parametrize(
    ("component", "argv", "verbs"),
    [
        (
            "prep",
            ["--name", "feed.toml", "--out", "/shared/feed", "--source", "s3://logs/feed", "--", "on_bad_row=drop"],
            # Three quarters of the 8 GiB that a job has which says nothing.
            [
                "prep feed.toml --out /shared/feed --threads 2 --from s3://logs/feed --memory 6144MiB "
                "--set on_bad_row=drop"
            ],
        ),
        (
            "plan",
            ["--config", "tencent-ple", "--device", "h100", "--hosts", "8", "--out", "/shared/plan.json"],
            ["plan --config tencent-ple --device h100 --hosts 8 --out /shared/plan.json"],
        ),
        (
            "compare",
            [
                *["--config", "/shared/mine.toml", "--nnodes", "4", "--runs", "/shared/compare"],
                *["--env", "NCCL_IB_HCA=mlx5_0,mlx5_1", "--", "train.epochs=2"],
            ],
            [
                f"compare --config /shared/mine.toml --runs /shared/compare --set train.epochs=2 --share {host}/4"
                for host in range(4)
            ],
        ),
        (
            "predict",
            ["--run", "/shared/runs/a", "--out", "/shared/scores"],
            ["predict /shared/runs/a --out /shared/scores --checkpoint best"],
        ),
    ],
)
def test_one_process_on_each_host(
    name: str, repository: Path, python: str, component: str, argv: list[str], verbs: list[str]
) -> None:
    hosts = asked(repository, name, component, argv, python)
    for place, (host, verb) in enumerate(zip(hosts, verbs, strict=True)):
        listed, *words = printed(host, AWS_BATCH_JOB_NODE_INDEX=str(place))
        assert listed == ("mlx5_0,mlx5_1" if "--env" in argv else "")
        assert words == ["-m", "ple_rec", *verb.split()]
        parse(words[2:])
        if name != "local_cwd":
            assert (host.gpus, host.cores, host.memory) == (0, 2, 8192)
        if mount := SCHEDULERS[name].mount:
            assert (host.image, host.mounts) == (IMAGE, ((mount[0], "/shared"),))


def test_evaluation_on_two_hosts(name: str, repository: Path, python: str) -> None:
    hosts = asked(repository, name, "evaluate", ["--run_dir", "/shared/runs/a", "--split", "valid", *ON_GPUS], python)
    assert len(hosts) == 2
    for host in hosts:
        listed, *words = printed(host)
        assert listed == "mlx5_0,mlx5_1"
        assert words[:6] == ["-m", "ple_rec.agent", "--nproc-per-node", "8", "--nnodes", "2"]
        verb = f"/shared/runs/a --split valid --checkpoint best --set runtime.threads={THREADS}"
        assert words[words.index("--") + 1 :] == ["evaluate", "--set", "runtime.device=cuda", *verb.split()]


def test_kubernetes_opens_the_port_of_the_rendezvous_and_a_pod_starts_with_one_host(
    repository: Path, python: str
) -> None:
    pytest.importorskip("kubernetes", reason="TorchX's kubernetes needs kubernetes")
    with get_runner() as runner, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        file = f"{repository / 'launch' / 'components.py'}:train"
        argv = ["--check", "False", "--image", IMAGE, "--port", "4711", *TRAIN]
        job = runner.dryrun_component(file, argv, "kubernetes", cfg={"queue": "training"}, workspace="")
    tasks = job.request.resource["spec"]["tasks"]
    for task in tasks:
        (container,) = task["template"].spec.containers
        assert [port.container_port for port in container.ports] == [4711]
        assert "/dev/shm" in [each.mount_path for each in container.volume_mounts]  # which NCCL needs
    assert [task["minAvailable"] for task in tasks] == [1, 0]
