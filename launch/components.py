"""TorchX components: `torchx run -s <scheduler> launch/components.py:{prep,plan,train,evaluate} --help`.

Each is a pure function from its arguments to a job description; its docstring is its help. Defaults per scheduler go
into `.torchxconfig`.
"""

import shlex
import shutil
import sys
from pathlib import Path
from typing import Dict, List, Optional

import torchx.specs as specs
from torchx.specs.finder import ComponentValidationException


def train(
    config: str,
    *overrides: str,
    nproc: int = 1,
    nnodes: int = 1,
    run_dir: str = "",
    resume: bool = False,
    overwrite: bool = False,
    init_from: str = "",
    plan: str = "",
    threads: int = 0,
    cpu: int = 2,
    gpu: int = 0,
    memMB: int = 8192,
    image: str = "",
    python: str = "",
    port: int = 29400,
    max_retries: int = 0,
    env: Optional[Dict[str, str]] = None,
) -> specs.AppDef:
    """Train a model on one or several hosts.

    Args:
        config: a TOML file, or the name of a recipe such as census-ple
        overrides: configuration overrides, e.g. train.epochs=2 (after --)
        nproc: ranks per host: one per GPU, or processes on CPU
        nnodes: hosts
        run_dir: run directory, on storage that every host sees (default runs/<name>)
        resume: True to go on from the latest checkpoint of the run directory
        overwrite: True to replace the run that is there
        init_from: RUN or RUN:CHECKPOINT, a run to start from, on this dataset or on one that it descends from
        plan: plan.json that the tables are sharded by (default: as planned when the job starts)
        threads: CPU threads per rank (default: cpu / nproc)
        cpu: cores per host, at least one per rank
        gpu: GPUs per host
        memMB: memory per host in MB
        image: container image, or folder on the hosts (default: this folder)
        python: the Python that has ple-rec (default: this one; in an image, python)
        port: port of the rendezvous on the first host
        max_retries: how often the scheduler restarts a failed job
        env: further environment of every rank, e.g. NCCL_DEBUG=INFO
    """
    verb = ["train", "--config", config]
    verb += ["--run-dir", run_dir] if run_dir else []
    verb += ["--resume"] if resume else []
    verb += ["--overwrite"] if overwrite else []
    verb += ["--init-from", init_from] if init_from else []
    verb += ["--plan", plan] if plan else []
    for override in overrides:
        verb += ["--set", override]
    resource = specs.Resource(cpu=max(cpu, nproc), gpu=gpu, memMB=memMB)
    return _distributed("train", verb, nproc, nnodes, threads, resource, image, python, port, max_retries, env or {})


def plan(
    config: str,
    *overrides: str,
    hosts: int = 1,
    gpus_per_host: int = 0,
    device: str = "",
    out: str = "",
    find: bool = False,
    samples_per_second: float = 0.0,
    cpu: int = 2,
    memMB: int = 8192,
    image: str = "",
    python: str = "",
    env: Optional[Dict[str, str]] = None,
) -> specs.AppDef:
    """Decide where every table goes on a cluster, and what a step costs there; needs neither.

    Args:
        config: a TOML file, or the name of a recipe such as tencent-ple
        overrides: configuration overrides, e.g. embeddings.dim=64 (after --)
        hosts: hosts of the cluster
        gpus_per_host: ranks of each host, one per GPU, or processes on CPU (default: 8, and 1 on CPU)
        device: a100, h100, h200 or cpu (default: that of [topology] of the configuration)
        out: plan.json to write; its page goes beside it
        find: True to look for the fewest hosts
        samples_per_second: rate that they are to reach
        cpu: cores of the job itself
        memMB: memory of the job itself in MB
        image: container image, or folder on the host (default: this folder)
        python: the Python that has ple-rec (default: this one; in an image, python)
        env: further environment
    """
    args = ["-m", "ple_rec", "plan", "--config", config]
    args += ["--gpus-per-host", str(gpus_per_host)] if gpus_per_host else []
    args += ["--device", device] if device else []
    args += ["--find"] if find else ["--hosts", str(hosts)]
    args += ["--samples-per-second", str(samples_per_second)] if samples_per_second else []
    args += ["--out", out] if out else []
    for override in overrides:
        args += ["--set", override]
    resource = specs.Resource(cpu=cpu, gpu=0, memMB=memMB)
    return specs.AppDef(name="ple-rec-plan", roles=[_role("plan", image, python, args, resource, dict(env or {}))])


def evaluate(
    run_dir: str,
    *overrides: str,
    split: str = "test",
    checkpoint: str = "best",
    nproc: int = 1,
    nnodes: int = 1,
    threads: int = 0,
    cpu: int = 2,
    gpu: int = 0,
    memMB: int = 8192,
    image: str = "",
    python: str = "",
    port: int = 29400,
    env: Optional[Dict[str, str]] = None,
) -> specs.AppDef:
    """Evaluate a checkpoint of a run.

    Args:
        run_dir: the run's directory, on storage that every host sees
        overrides: configuration overrides, e.g. data.path=data/other (after --)
        split: train, valid or test
        checkpoint: best, latest or step-<n>
        nproc: ranks per host: one per GPU, or processes on CPU
        nnodes: hosts
        threads: CPU threads per rank (default: cpu / nproc)
        cpu: cores per host, at least one per rank
        gpu: GPUs per host
        memMB: memory per host in MB
        image: container image, or folder on the hosts (default: this folder)
        python: the Python that has ple-rec (default: this one; in an image, python)
        port: port of the rendezvous on the first host
        env: further environment of every rank
    """
    verb = ["evaluate", run_dir, "--split", split, "--checkpoint", checkpoint]
    for override in overrides:
        verb += ["--set", override]
    resource = specs.Resource(cpu=max(cpu, nproc), gpu=gpu, memMB=memMB)
    return _distributed("evaluate", verb, nproc, nnodes, threads, resource, image, python, port, 0, env or {})


def prep(
    name: str,
    out: str,
    *overrides: str,
    source: str = "",
    overwrite: bool = False,
    append: str = "",
    parent: str = "",
    engine: str = "duckdb",
    master: str = "",
    memory: str = "",
    rows: int = 0,
    cpu: int = 2,
    memMB: int = 8192,
    image: str = "",
    python: str = "",
    env: Optional[Dict[str, str]] = None,
) -> specs.AppDef:
    """Raw logs -> dataset directory, on one host, or on Spark's.

    Args:
        name: what to prepare: a data set by name, or a TOML file
        out: dataset directory to write
        overrides: overrides of the TOML file, e.g. on_bad_row=drop (after --)
        source: the raw files, a folder or s3://... (default: fetched where that can be)
        overwrite: True to replace the dataset that is there
        append: a day to add to the dataset parent, day=9 or day=2022-05-08
        parent: dataset directory whose ids are kept
        engine: duckdb, in the job's process, or spark
        master: of Spark, e.g. spark://host:7077 (default: a local one)
        memory: what the engine may use, e.g. 6GiB (default: three quarters of memMB)
        rows: of a synthetic data set (default: the paper's)
        cpu: cores
        memMB: memory in MB
        image: container image, or folder on the host (default: this folder)
        python: the Python that has ple-rec (default: this one; in an image, python)
        env: further environment
    """
    args = ["-m", "ple_rec", "prep", name, "--out", out, "--threads", str(cpu)]
    flags = {"--from": source, "--append": append, "--parent": parent, "--master": master}
    for flag, value in flags.items():
        args += [flag, value] if value else []
    args += ["--overwrite"] if overwrite else []
    args += ["--engine", engine] if engine != "duckdb" else []
    args += ["--memory", memory or f"{memMB * 3 // 4}MiB"]
    args += ["--rows", str(rows)] if rows else []
    for override in overrides:
        args += ["--set", override]
    resource = specs.Resource(cpu=cpu, gpu=0, memMB=memMB)
    return specs.AppDef(name="ple-rec-prep", roles=[_role("prep", image, python, args, resource, dict(env or {}))])


def _distributed(
    name: str,
    verb: List[str],
    nproc: int,
    nnodes: int,
    threads: int,
    resource: specs.Resource,
    image: str,
    python: str,
    port: int,
    max_retries: int,
    env: Dict[str, str],
) -> specs.AppDef:
    if nproc < 1 or nnodes < 1:
        raise _refused(f"--nproc {nproc} --nnodes {nnodes}", "both are at least 1", "give 1 or more of each")
    if resource.gpu and nproc > resource.gpu:
        rule = "each rank needs a GPU of its own"
        raise _refused(f"--nproc {nproc} --gpu {resource.gpu}", rule, f"give --nproc {resource.gpu}, or more GPUs")
    per_rank = threads or max(1, resource.cpu // nproc)
    # OpenMP's threads of several ranks collapse on shared cores unless their number is said.
    environment = {"OMP_NUM_THREADS": str(per_rank), **env}
    agent = ["-m", "ple_rec.agent", "--nproc-per-node", str(nproc), "--nnodes", str(nnodes)]
    verb = ["--", *verb, "--set", f"runtime.threads={per_rank}"]
    role = _role(name, image, python, [*agent, "--standalone", *verb], resource, environment)
    if nnodes > 1:
        before = [role.entrypoint, *agent, "--rdzv-backend", "c10d", "--rdzv-id", specs.macros.app_id]
        # The scheduler names the variable that holds the first host, which only a shell on each host can expand. It is
        # empty on the first host of some.
        endpoint = f"--rdzv-endpoint $${{{specs.macros.rank0_env}:=localhost}}:{port}"
        role.entrypoint, role.args = "bash", ["-c", f"exec {shlex.join(before)} {endpoint} {shlex.join(verb)}"]
        role.num_replicas = nnodes
        role.port_map = {"c10d": port}
    role.max_retries = max_retries
    role.retry_policy = specs.RetryPolicy.APPLICATION
    return specs.AppDef(name=f"ple-rec-{name}", roles=[role])


def _role(
    name: str, image: str, python: str, args: List[str], resource: specs.Resource, env: Dict[str, str]
) -> specs.Role:
    if python and not image and shutil.which(python) is None:
        raise _refused(f"--python {python}", "no such command on PATH", "activate its environment, or give its path")
    return specs.Role(
        name=name,
        image=image or str(Path.cwd()),
        entrypoint=python or ("python" if image else sys.executable),
        args=args,
        env=env,
        resource=resource,
        mounts=[],
        port_map={},
    )


def _refused(value: str, rule: str, fix: str) -> ComponentValidationException:
    """What TorchX shows without a traceback."""
    return ComponentValidationException(f"{value}; {rule}. Fix: {fix}")
