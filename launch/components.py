"""TorchX components: `torchx run -s SCHEDULER launch/components.py:{prep,plan,train,evaluate,compare,predict} --help`.

A component checks its input and returns a job description; its docstring is its help. `.torchxconfig` holds defaults
for each scheduler. TorchX executes this file among its own globals, so the file adds few names. A verb is a subcommand
of `ple-rec` with its flags.
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
        config: TOML file, or name of a recipe such as census-ple
        overrides: configuration overrides, e.g. train.epochs=2 (after --)
        host: kind of the hosts: a100-40, a100-80, h100, h200, b200 or l40s (8 GPUs each), or p4d.24xlarge,
            p4de.24xlarge, p5.48xlarge, p5en.48xlarge, p6-b200.48xlarge, g6e.48xlarge, which restrict the job to
            that instance type of AWS; sets nproc, gpu, cpu and memMB
        nproc: ranks per host, one per GPU, or processes on CPU (default: the host's GPUs, else 1)
        nnodes: number of hosts
        min_nnodes: least number of hosts to start with, and to go on with if others are lost (default: all)
        run_dir: run directory on storage that every host sees, or s3://... (default runs/<name>)
        resume: True to resume from the latest checkpoint of the run directory
        auto_resume: True to resume the run if the run directory holds it, else to start it; always True with
            max_retries, max_restarts or min_nnodes
        overwrite: True to replace an existing run
        init_from: run whose weights this run starts from, RUN or RUN:CHECKPOINT; it was trained on this dataset, or on
            one to which this dataset was appended
        plan: plan.json for the sharding of tables (default: planned when the job starts)
        profile: True to time and trace some of the first steps, into profile/ of the run directory
        threads: CPU threads per rank (default: cpu / nproc)
        cpu: cores per host, at least one per rank (default: the host's cores minus one per GPU, else 2)
        gpu: GPUs per host (default: the host's, else 0)
        memMB: memory per host in MB (default: nine tenths of the host's, else 8192)
        image: container image, or folder on the hosts (default: this folder)
        mounts: mounts of the containers, e.g. type=bind,src=/shared,dst=/shared or type=volume,src=NAME,dst=/shared
        python: Python in which ple-rec is installed (default: this one; in an image, python)
        port: port of the rendezvous on the first host
        interface: network interface between the hosts, e.g. eth0 (default: the first that is up)
        max_retries: number of times that the scheduler restarts a failed job
        max_restarts: number of times that ranks are restarted within the job, without the scheduler (default: 0, and 3
            with min_nnodes)
        check: False to submit without a check, from a machine without the job's files or without ple-rec; with an image
            nothing is checked
        env: further environment variables of every rank, e.g. NCCL_IB_HCA=mlx5_0,mlx5_1
    """
    verb = ["train", "--config", config]
    verb += ["--run-dir", run_dir] if run_dir else []
    restarts = {"--max_retries": max_retries, "--max_restarts": max_restarts, "--min_nnodes": min_nnodes}
    verb += launch.jobs.run_directory_flag(resume, auto_resume, overwrite, restarts)
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
    calibration: str = "",
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
    """Plan the placement of every table on a cluster, and estimate the time of a step, without the cluster.

    Args:
        config: TOML file, or name of a recipe such as tencent-ple
        overrides: configuration overrides, e.g. embeddings.dim=64 (after --)
        hosts: number of hosts of the cluster; ignored if find is True
        gpus_per_host: ranks of each host, one per GPU, or processes on CPU (default: 8, and 1 on CPU)
        device: a100-40, a100-80, h100, h200, h20, l40s, b200 or cpu (default: device in [topology])
        calibration: measurements of such a host, by python -m benchmarks.calibrate (default: figures are assumed)
        out: plan.json to write, or s3://...; the same plan as a page, plan.html, is written beside it
        find: True to find the least number of hosts that suffices
        samples_per_second: rate that the hosts must reach if find is True
        cpu: cores of the job itself
        memMB: memory of the job itself in MB
        image: container image, or folder on the host (default: this folder)
        mounts: mounts of the container, e.g. type=bind,src=/shared,dst=/shared or type=volume,src=NAME,dst=/shared
        python: Python in which ple-rec is installed (default: this one; in an image, python)
        check: False to submit without a check, from a machine without the job's files; with an image nothing is checked
        env: further environment variables
    """
    verb = ["plan", "--config", config]
    verb += ["--gpus-per-host", str(gpus_per_host)] if gpus_per_host else []
    verb += ["--device", device] if device else []
    verb += ["--calibration", calibration] if calibration else []
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
            p4de.24xlarge, p5.48xlarge, p5en.48xlarge, p6-b200.48xlarge, g6e.48xlarge, which restrict the job to
            that instance type of AWS; sets nproc, gpu, cpu and memMB
        nproc: ranks per host, one per GPU, or processes on CPU (default: the host's GPUs, else 1)
        nnodes: number of hosts
        threads: CPU threads per rank (default: cpu / nproc)
        cpu: cores per host, at least one per rank (default: the host's cores minus one per GPU, else 2)
        gpu: GPUs per host (default: the host's, else 0)
        memMB: memory per host in MB (default: nine tenths of the host's, else 8192)
        image: container image, or folder on the hosts (default: this folder)
        mounts: mounts of the containers, e.g. type=bind,src=/shared,dst=/shared or type=volume,src=NAME,dst=/shared
        python: Python in which ple-rec is installed (default: this one; in an image, python)
        port: port of the rendezvous on the first host
        interface: network interface between the hosts, e.g. eth0 (default: the first that is up)
        check: False to submit without a check, from a machine without the job's files or without ple-rec; with an image
            nothing is checked
        env: further environment variables of every rank
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
        config: TOML file, or name of a recipe of a comparison such as census-compare
        overrides: overrides of every run, e.g. train.epochs=2 (after --)
        nnodes: number of hosts; each trains its share of the runs, or of the variants if these are tuned, and the last
            one to finish writes the results of all
        seeds: number of seeds of each variant (default: from the comparison)
        match: cost that is made equal: flops, params or none (default: from the comparison)
        tune: number of trials that tune each variant on the validation split before its runs (default: from the
            comparison)
        runs: folder of the comparison, on storage that every host sees (default runs/compare)
        jobs: number of concurrent runs on a host (default: one per GPU, or per core)
        reuse: directories of other comparisons whose finished runs with the same settings are copied, e.g.
            /shared/compare/NAME
        overwrite: True to replace existing runs with other settings
        cpu: cores per host
        gpu: GPUs per host
        memMB: memory per host in MB
        image: container image, or folder on the hosts (default: this folder)
        mounts: mounts of the containers, e.g. type=bind,src=/shared,dst=/shared or type=volume,src=NAME,dst=/shared
        python: Python in which ple-rec is installed (default: this one; in an image, python)
        max_retries: number of times that a host's share is started again; finished runs are kept
        check: False to submit without a check, from a machine without the job's files; with an image nothing is checked
        env: further environment variables
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
        run: directory of the run, or its name under runs/
        out: directory to write, or s3://...
        overrides: configuration overrides, e.g. runtime.device=cpu (after --)
        data: dataset directory or raw logs (default: the run's dataset)
        split: splits of a dataset, e.g. valid,test (default: test)
        source: folder of the files of side tables, for raw logs
        checkpoint: best, latest or step-<n>
        fusion: fusion.toml, the formula that makes one score of the predictions (default: fusion.toml of the run, else
            exponents 1)
        ids: columns of the input to copy, e.g. group,video_id
        overwrite: True to replace predictions of another input
        cpu: number of cores
        gpu: number of GPUs, 0 or 1
        memMB: memory in MB
        image: container image, or folder on the hosts (default: this folder)
        mounts: mounts of the containers, e.g. type=bind,src=/shared,dst=/shared or type=volume,src=NAME,dst=/shared
        python: Python in which ple-rec is installed (default: this one; in an image, python)
        max_retries: number of times that a failed job is started again; it goes on after the last output file that it
            has finished
        check: False to submit without a check, from a machine without the job's files; with an image nothing is checked
        env: further environment variables
    """
    verb = ["predict", run, "--out", out, "--checkpoint", checkpoint]
    flags = {"--data": data, "--from": source, "--fusion": fusion}
    for flag, value in flags.items():
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
    """Prepare a dataset directory from raw logs, on one host or on the hosts of Spark.

    Args:
        name: name of a data set, or a TOML file
        out: dataset directory to write, or s3://...
        overrides: overrides of the TOML file, e.g. on_bad_row=drop (after --)
        source: folder of the raw files, or s3://... (default: a download, for some data sets)
        overwrite: True to replace an existing dataset
        append: day to append to the dataset that parent names, day=9 or day=2022-05-08
        parent: dataset directory, or s3://..., to which the day is appended; the day keeps the ids of that dataset
        engine: duckdb, in the process of the job, or spark
        master: master of Spark, e.g. spark://host:7077 (default: a local Spark)
        memory: memory for the engine, e.g. 6GiB (default: three quarters of memMB)
        rows: rows of a synthetic data set (default: as many as in its paper)
        cpu: number of cores
        memMB: memory in MB
        image: container image, or folder on the host (default: this folder)
        mounts: mounts of the container, e.g. type=bind,src=/shared,dst=/shared or type=volume,src=NAME,dst=/shared
        python: Python in which ple-rec is installed (default: this one; in an image, python)
        check: False to submit without a check, from a machine without the job's files; with an image nothing is checked
        env: further environment variables
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
