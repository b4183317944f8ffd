"""TorchX components: `torchx run -s SCHEDULER launch/components.py:{prep,plan,train,evaluate,compare,predict} --help`.

Each is a function from its arguments to a job description, once the input is checked; its docstring is its help.
Defaults per scheduler go into `.torchxconfig`. TorchX executes this file among its own names: few are added here.
"""

from typing import Dict, List, Optional

import torchx.specs as specs

import launch.jobs


def train(
    config: str,
    *overrides: str,
    host: str = "",
    nproc: int = 0,
    nnodes: int = 1,
    min_nnodes: int = 0,
    run_dir: str = "",
    resume: bool = False,
    auto_resume: bool = False,
    overwrite: bool = False,
    init_from: str = "",
    plan: str = "",
    profile: bool = False,
    threads: int = 0,
    cpu: int = 0,
    gpu: int = 0,
    memMB: int = 0,
    image: str = "",
    mounts: Optional[List[str]] = None,
    python: str = "",
    port: int = 29400,
    interface: str = "",
    max_retries: int = 0,
    max_restarts: int = 0,
    check: bool = True,
    env: Optional[Dict[str, str]] = None,
) -> specs.AppDef:
    """Train a model on one or several hosts.

    Args:
        config: a TOML file, or the name of a recipe such as census-ple
        overrides: configuration overrides, e.g. train.epochs=2 (after --)
        host: kind of the hosts: a100-40, a100-80, h100, h200, b200 or l40s (8 GPUs each), or p4d.24xlarge,
            p4de.24xlarge, p5.48xlarge, p5en.48xlarge, p6-b200.48xlarge, g6e.48xlarge, which hold the job to that
            instance type of AWS; stands for nproc, gpu, cpu and memMB
        nproc: ranks per host: one per GPU, or processes on CPU (default: the host's GPUs, else 1)
        nnodes: hosts
        min_nnodes: hosts that are enough to start and to go on with where others are lost (default: all)
        run_dir: run directory on storage that every host sees, or s3://... (default runs/<name>)
        resume: True to go on from the latest checkpoint of the run directory
        auto_resume: True to go on where the run directory holds this run, and to start it where it holds none; so it is
            anyway with max_retries, max_restarts or min_nnodes
        overwrite: True to replace the run that is there
        init_from: RUN or RUN:CHECKPOINT, a run to start from, on this dataset or on one that it descends from
        plan: plan.json that the tables are sharded by (default: as planned when the job starts)
        profile: True to time and trace some of the first steps, into profile/ of the run directory
        threads: CPU threads per rank (default: cpu / nproc)
        cpu: cores per host, at least one per rank (default: the host's but for one per GPU, else 2)
        gpu: GPUs per host (default: the host's, else 0)
        memMB: memory per host in MB (default: nine tenths of the host's, else 8192)
        image: container image, or folder on the hosts (default: this folder)
        mounts: of the containers, e.g. type=bind,src=/shared,dst=/shared or type=volume,src=NAME,dst=/shared
        python: the Python that has ple-rec (default: this one; in an image, python)
        port: port of the rendezvous on the first host
        interface: network interface between the hosts, e.g. eth0 (default: the first that is up)
        max_retries: how often the scheduler restarts a failed job
        max_restarts: how often the ranks are restarted within the job, without the scheduler (default: 0, and 3 with
            min_nnodes)
        check: False to submit unchecked: from a machine that does not see the job's files, or has no ple-rec to look
            at them; with an image nothing is checked
        env: further environment of every rank, e.g. NCCL_IB_HCA=mlx5_0,mlx5_1
    """
    verb = ["train", "--config", config]
    verb += ["--run-dir", run_dir] if run_dir else []
    again = {"--max_retries": max_retries, "--max_restarts": max_restarts, "--min_nnodes": min_nnodes}
    verb += launch.jobs.run_directory_flag(resume, auto_resume, overwrite, again)
    verb += ["--init-from", init_from] if init_from else []
    verb += ["--plan", plan] if plan else []
    verb += ["--profile"] if profile else []
    for override in overrides:
        verb += ["--set", override]
    return launch.jobs.ranks_job(
        "train",
        verb,
        host=host,
        nproc=nproc,
        nnodes=nnodes,
        min_nnodes=min_nnodes,
        threads=threads,
        cpu=cpu,
        gpu=gpu,
        memory=memMB,
        image=image,
        mounts=mounts,
        python=python,
        port=port,
        interface=interface,
        max_retries=max_retries,
        max_restarts=max_restarts,
        check=check,
        env=env,
    )


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
    mounts: Optional[List[str]] = None,
    python: str = "",
    check: bool = True,
    env: Optional[Dict[str, str]] = None,
) -> specs.AppDef:
    """Decide where every table goes on a cluster, and what a step costs there; needs neither.

    Args:
        config: a TOML file, or the name of a recipe such as tencent-ple
        overrides: configuration overrides, e.g. embeddings.dim=64 (after --)
        hosts: hosts of the cluster
        gpus_per_host: ranks of each host, one per GPU, or processes on CPU (default: 8, and 1 on CPU)
        device: a100-40, a100-80, h100, h200, h20, l40s, b200 or cpu (default: that of [topology] of the configuration)
        out: plan.json to write, or s3://...; its page goes beside it
        find: True to look for the fewest hosts
        samples_per_second: rate that they are to reach
        cpu: cores of the job itself
        memMB: memory of the job itself in MB
        image: container image, or folder on the host (default: this folder)
        mounts: of the container, e.g. type=bind,src=/shared,dst=/shared or type=volume,src=NAME,dst=/shared
        python: the Python that has ple-rec (default: this one; in an image, python)
        check: False to submit unchecked, from a machine that does not see the job's files; with an image nothing is
            checked
        env: further environment
    """
    verb = ["plan", "--config", config]
    verb += ["--gpus-per-host", str(gpus_per_host)] if gpus_per_host else []
    verb += ["--device", device] if device else []
    verb += ["--find"] if find else ["--hosts", str(hosts)]
    verb += ["--samples-per-second", str(samples_per_second)] if samples_per_second else []
    verb += ["--out", out] if out else []
    for override in overrides:
        verb += ["--set", override]
    return launch.jobs.process_job(
        "plan", verb, cpu=cpu, memory=memMB, image=image, mounts=mounts, python=python, check=check, env=env
    )


def evaluate(
    run_dir: str,
    *overrides: str,
    split: str = "test",
    checkpoint: str = "best",
    host: str = "",
    nproc: int = 0,
    nnodes: int = 1,
    threads: int = 0,
    cpu: int = 0,
    gpu: int = 0,
    memMB: int = 0,
    image: str = "",
    mounts: Optional[List[str]] = None,
    python: str = "",
    port: int = 29400,
    interface: str = "",
    check: bool = True,
    env: Optional[Dict[str, str]] = None,
) -> specs.AppDef:
    """Evaluate a checkpoint of a run.

    Args:
        run_dir: directory of the run on storage that every host sees, or s3://...
        overrides: configuration overrides, e.g. data.path=data/other (after --)
        split: train, valid or test
        checkpoint: best, latest or step-<n>
        host: kind of the hosts: a100-40, a100-80, h100, h200, b200 or l40s (8 GPUs each), or p4d.24xlarge,
            p4de.24xlarge, p5.48xlarge, p5en.48xlarge, p6-b200.48xlarge, g6e.48xlarge, which hold the job to that
            instance type of AWS; stands for nproc, gpu, cpu and memMB
        nproc: ranks per host: one per GPU, or processes on CPU (default: the host's GPUs, else 1)
        nnodes: hosts
        threads: CPU threads per rank (default: cpu / nproc)
        cpu: cores per host, at least one per rank (default: the host's but for one per GPU, else 2)
        gpu: GPUs per host (default: the host's, else 0)
        memMB: memory per host in MB (default: nine tenths of the host's, else 8192)
        image: container image, or folder on the hosts (default: this folder)
        mounts: of the containers, e.g. type=bind,src=/shared,dst=/shared or type=volume,src=NAME,dst=/shared
        python: the Python that has ple-rec (default: this one; in an image, python)
        port: port of the rendezvous on the first host
        interface: network interface between the hosts, e.g. eth0 (default: the first that is up)
        check: False to submit unchecked: from a machine that does not see the job's files, or has no ple-rec to look
            at them; with an image nothing is checked
        env: further environment of every rank
    """
    verb = ["evaluate", run_dir, "--split", split, "--checkpoint", checkpoint]
    for override in overrides:
        verb += ["--set", override]
    return launch.jobs.ranks_job(
        "evaluate",
        verb,
        host=host,
        nproc=nproc,
        nnodes=nnodes,
        threads=threads,
        cpu=cpu,
        gpu=gpu,
        memory=memMB,
        image=image,
        mounts=mounts,
        python=python,
        port=port,
        interface=interface,
        check=check,
        env=env,
    )


def compare(
    config: str,
    *overrides: str,
    nnodes: int = 1,
    seeds: int = 0,
    match: str = "",
    tune: int = 0,
    runs: str = "",
    jobs: int = 0,
    reuse: Optional[List[str]] = None,
    overwrite: bool = False,
    cpu: int = 2,
    gpu: int = 0,
    memMB: int = 8192,
    image: str = "",
    mounts: Optional[List[str]] = None,
    python: str = "",
    max_retries: int = 0,
    check: bool = True,
    env: Optional[Dict[str, str]] = None,
) -> specs.AppDef:
    """Train the variants of a comparison with several seeds each, the runs spread over hosts.

    Args:
        config: a TOML file, or the name of a recipe of a comparison such as census-compare
        overrides: overrides of every run, e.g. train.epochs=2 (after --)
        nnodes: hosts, each of which trains its share of the runs, or of the variants where these are tuned; the last to
            end writes the results of all
        seeds: seeds of each variant (default: of the comparison)
        match: flops, params or none: what is made equal (default: of the comparison)
        tune: trials of each variant on the validation split before its runs (default: of the comparison)
        runs: folder of the comparison, on storage that every host sees (default runs/compare)
        jobs: runs side by side on a host (default: one per GPU, or per core)
        reuse: directories of other comparisons, whose finished runs of the same settings are copied, e.g.
            /shared/compare/NAME
        overwrite: True to remove runs of other settings that lie there
        cpu: cores per host
        gpu: GPUs per host
        memMB: memory per host in MB
        image: container image, or folder on the hosts (default: this folder)
        mounts: of the containers, e.g. type=bind,src=/shared,dst=/shared or type=volume,src=NAME,dst=/shared
        python: the Python that has ple-rec (default: this one; in an image, python)
        max_retries: times that a host's share is started anew; finished runs stay
        check: False to submit unchecked, from a machine that does not see the job's files; with an image nothing is
            checked
        env: further environment
    """
    verb = ["compare", "--config", config]
    verb += ["--seeds", str(seeds)] if seeds else []
    verb += ["--match", match] if match else []
    verb += ["--tune", str(tune)] if tune else []
    verb += ["--runs", runs] if runs else []
    verb += ["--jobs", str(jobs)] if jobs else []
    verb += ["--reuse", *reuse] if reuse else []
    verb += ["--overwrite"] if overwrite else []
    for override in overrides:
        verb += ["--set", override]
    return launch.jobs.process_job(
        "compare",
        verb,
        cpu=cpu,
        gpu=gpu,
        memory=memMB,
        image=image,
        mounts=mounts,
        python=python,
        check=check,
        env=env,
        shares=nnodes,
        max_retries=max_retries,
    )


def predict(
    run: str,
    out: str,
    *overrides: str,
    data: str = "",
    split: Optional[List[str]] = None,
    source: str = "",
    checkpoint: str = "best",
    fusion: str = "",
    ids: Optional[List[str]] = None,
    overwrite: bool = False,
    cpu: int = 2,
    gpu: int = 0,
    memMB: int = 8192,
    image: str = "",
    mounts: Optional[List[str]] = None,
    python: str = "",
    max_retries: int = 0,
    check: bool = True,
    env: Optional[Dict[str, str]] = None,
) -> specs.AppDef:
    """Predict every row of a dataset directory or of raw logs, on one host.

    Args:
        run: the run's directory, or its name under runs/
        out: directory to write, or s3://...
        overrides: configuration overrides, e.g. runtime.device=cpu (after --)
        data: dataset directory or raw logs (default: the run's dataset)
        split: of a dataset, e.g. valid,test (default: test)
        source: of raw logs: where the files of side tables lie
        checkpoint: best, latest or step-<n>
        fusion: fusion.toml of the score (default: the run's own, else exponents 1)
        ids: columns to carry along, e.g. group,video_id
        overwrite: True to replace predictions of something else
        cpu: cores
        gpu: GPUs, 0 or 1
        memMB: memory in MB
        image: container image, or folder on the hosts (default: this folder)
        mounts: of the containers, e.g. type=bind,src=/shared,dst=/shared or type=volume,src=NAME,dst=/shared
        python: the Python that has ple-rec (default: this one; in an image, python)
        max_retries: times that a failed job is started again, behind its last part
        check: False to submit unchecked, from a machine that does not see the job's files; with an image nothing is
            checked
        env: further environment
    """
    verb = ["predict", run, "--out", out, "--checkpoint", checkpoint]
    given = {"--data": data, "--from": source, "--fusion": fusion}
    for flag, value in given.items():
        verb += [flag, value] if value else []
    verb += ["--split", *split] if split else []
    verb += ["--ids", *ids] if ids else []
    verb += ["--overwrite"] if overwrite else []
    for override in overrides:
        verb += ["--set", override]
    return launch.jobs.process_job(
        "predict",
        verb,
        cpu=cpu,
        gpu=gpu,
        memory=memMB,
        image=image,
        mounts=mounts,
        python=python,
        check=check,
        env=env,
        max_retries=max_retries,
    )


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
    mounts: Optional[List[str]] = None,
    python: str = "",
    check: bool = True,
    env: Optional[Dict[str, str]] = None,
) -> specs.AppDef:
    """Raw logs -> dataset directory, on one host, or on Spark's.

    Args:
        name: what to prepare: a data set by name, or a TOML file
        out: dataset directory to write, or s3://...
        overrides: overrides of the TOML file, e.g. on_bad_row=drop (after --)
        source: the raw files, a folder or s3://... (default: fetched where that can be)
        overwrite: True to replace the dataset that is there
        append: a day to add to the dataset parent, day=9 or day=2022-05-08
        parent: dataset directory, or s3://..., whose ids are kept
        engine: duckdb, in the job's process, or spark
        master: of Spark, e.g. spark://host:7077 (default: a local one)
        memory: what the engine may use, e.g. 6GiB (default: three quarters of memMB)
        rows: of a synthetic data set (default: the paper's)
        cpu: cores
        memMB: memory in MB
        image: container image, or folder on the host (default: this folder)
        mounts: of the container, e.g. type=bind,src=/shared,dst=/shared or type=volume,src=NAME,dst=/shared
        python: the Python that has ple-rec (default: this one; in an image, python)
        check: False to submit unchecked, from a machine that does not see the job's files; with an image nothing is
            checked
        env: further environment
    """
    verb = ["prep", name, "--out", out, "--threads", str(cpu)]
    flags = {"--from": source, "--append": append, "--parent": parent, "--master": master}
    for flag, value in flags.items():
        verb += [flag, value] if value else []
    verb += ["--overwrite"] if overwrite else []
    verb += ["--engine", engine] if engine != "duckdb" else []
    verb += ["--memory", memory or f"{memMB * 3 // 4}MiB"]
    verb += ["--rows", str(rows)] if rows else []
    for override in overrides:
        verb += ["--set", override]
    return launch.jobs.process_job(
        "prep", verb, cpu=cpu, memory=memMB, image=image, mounts=mounts, python=python, check=check, env=env
    )
