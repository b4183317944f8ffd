"""Make the TorchX job descriptions (`AppDef`) of `launch.components`.

`ranks_job` is for subcommands of `ple-rec` that run on ranks, which torchrun's elastic agent starts on every host.
`process_job` is for subcommands that are one process per host. In this folder a subcommand with its flags is called a
verb, as in `train --config census-ple`.
"""

import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import torchx.specs as specs

from launch.hosts import host_resource
from launch.submission import check_verb, refusal_error

# Slurm's --export takes NAME=VALUE,NAME=VALUE, so it splits values at commas; it also interprets quotes.
_SPLIT_BY_SLURM = (",", "'", '"', "\n")


def gpu_environment(gpu: int, env: Mapping[str, str] | None) -> dict[str, str]:
    """Return the environment variables of a process that uses GPUs; none if it uses no GPU.

    Args:
        gpu: Number of GPUs of a host.
        env: Variables of the user. PYTORCH_CUDA_ALLOC_CONF is the older name of PYTORCH_ALLOC_CONF.
    """
    if not gpu:
        return {}
    # NCCL gives the reason of a failure in a warning, and warnings are off by default.
    variables = {"NCCL_DEBUG": "WARN"}
    if "PYTORCH_CUDA_ALLOC_CONF" not in (env or {}):
        # By default, torch cannot merge blocks of different segments of GPU memory. A run may then find no block for
        # a large tensor, though enough memory is free in all.
        variables["PYTORCH_ALLOC_CONF"] = "expandable_segments:True"
    return variables


def rank_environment(*, threads: int, gpu: int, interface: str, env: Mapping[str, str] | None) -> dict[str, str]:
    """Return the environment variables of every rank.

    Args:
        threads: Number of CPU threads of a rank.
        gpu: Number of GPUs of a host.
        interface: Network interface between the hosts, or "" for the one that NCCL and gloo choose.
        env: Variables of the user, which override the others.
    """
    # Without OMP_NUM_THREADS, OpenMP starts a thread per core in each rank, and the threads of several ranks slow each
    # other down.
    variables = {"OMP_NUM_THREADS": str(threads)} | gpu_environment(gpu, env)
    if gpu:
        # Otherwise, each rank compiles its step (`train.compile`) in up to 32 processes.
        variables["TORCHINDUCTOR_COMPILE_THREADS"] = str(threads)
    if interface:
        # On some hosts, NCCL and gloo choose an interface that reaches no other host (docker0), or a slow one.
        variables["NCCL_SOCKET_IFNAME"] = variables["GLOO_SOCKET_IFNAME"] = interface
    return variables | dict(env or {})


def split_environment_for_slurm(env: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """Return the variables that every scheduler can pass on, and the beginning of a command that sets the others.

    Slurm cannot pass on values with commas, such as NCCL_IB_HCA=mlx5_0,mlx5_1. A component does not know its scheduler,
    so the job itself sets such variables, by the command `env`.

    Args:
        env: Environment variables of the job.

    Returns:
        Variables for the job description, and the words `env NAME=VALUE ...`; no words if the description holds all.
    """
    by_command = {name: value for name, value in env.items() if any(char in value for char in _SPLIT_BY_SLURM)}
    words = ["env", *(f"{name}={value}" for name, value in by_command.items())] if by_command else []
    return {name: value for name, value in env.items() if name not in by_command}, words


_THREADS_KEY = "runtime.threads"
# Default of `--max_restarts` for a job with `--min_nnodes`, since its ranks are restarted after each loss of a host.
_ELASTIC_RESTARTS = 3


def ranks_job(
    name: str,
    verb: Sequence[str],
    *,
    host: str,
    nproc: int,
    nnodes: int,
    min_nnodes: int = 0,
    threads: int,
    cpu: int,
    gpu: int,
    memory: int,
    image: str,
    mounts: Sequence[str] | None,
    python: str,
    port: int,
    interface: str,
    max_retries: int = 0,
    max_restarts: int = 0,
    check: bool,
    env: Mapping[str, str] | None,
) -> specs.AppDef:
    """Return the job of a verb that runs on ranks.

    Arguments after `verb` are those of the components in `launch.components`; `memory` is their `memMB`. `host` names a
    kind of host in `launch.hosts`. For `nproc`, `threads`, `cpu`, `gpu`, `memory` and `max_restarts`, 0 is the default.
    With `check`, `ple-rec` checks the verb's input in this folder now.

    Raises:
        ComponentValidationException: The job could not run.
    """
    resource = host_resource(host, cpu=cpu, gpu=gpu, memory=memory)
    nproc = nproc or (resource.gpu if host else 1)
    _check_sizes(nproc, nnodes, min_nnodes, resource.gpu)
    for flag, value in {"--max_retries": max_retries, "--max_restarts": max_restarts, "--threads": threads}.items():
        if value < 0:
            raise refusal_error(f"{flag} {value}", "it cannot be negative", "leave it out for the default")
    # Each rank gets a CPU at least, even if `cpu` is less.
    resource.cpu = max(resource.cpu, nproc)
    threads_per_rank = threads or max(1, int(resource.cpu) // nproc)
    nodes = f"{min_nnodes}:{nnodes}" if min_nnodes else str(nnodes)
    torchrun_options = ["--nproc-per-node", str(nproc), "--nnodes", nodes]
    override = next((word for word in verb if word.startswith(f"{_THREADS_KEY}=")), None)
    if override is not None and threads:
        raise refusal_error(
            f"--threads {threads} -- {override}", "both set the number of threads of a rank", "give one of them"
        )
    verb = [*verb, "--set", f"{_THREADS_KEY}={threads_per_rank}"] if override is None else verb
    verb = _require_gpu(verb, resource.gpu)
    variables = rank_environment(threads=threads_per_rank, gpu=int(resource.gpu), interface=interface, env=env)
    role = _make_role(name, image, python, [], resource, mounts)
    # An image has files and a Python of its own, with which the verb cannot be checked here.
    if check and not image:
        check_verb(role.entrypoint, torchrun_options, verb, env or {})
    max_restarts = max_restarts or (_ELASTIC_RESTARTS if min_nnodes else 0)
    torchrun_options += ["--max-restarts", str(max_restarts)] if max_restarts else []
    role.env, env_command = split_environment_for_slurm(variables)
    agent = [*env_command, role.entrypoint, "-m", "ple_rec.agent", *torchrun_options]
    if nnodes == 1:
        role.entrypoint, role.args = agent[0], [*agent[1:], "--standalone", "--", *verb]
    else:
        rendezvous = ["--rdzv-backend", "c10d", "--rdzv-id", specs.macros.app_id]
        # Schedulers put the name of the first host into a variable, which only a shell on each host can expand. Some of
        # them leave it empty on the first host itself. TorchX turns `$$` into `$`.
        endpoint = f"--rdzv-endpoint $${{{specs.macros.rank0_env}:=localhost}}:{port}"
        command = f"exec {shlex.join([*agent, *rendezvous])} {endpoint} {shlex.join(['--', *verb])}"
        role.entrypoint, role.args = "bash", ["-c", command]
        role.num_replicas = nnodes
        role.min_replicas = min_nnodes or None
        role.port_map = {"c10d": port}
    role.max_retries = max_retries
    role.retry_policy = specs.RetryPolicy.APPLICATION  # A retry starts all hosts again.
    return specs.AppDef(name=f"ple-rec-{name}", roles=[role])


def process_job(
    name: str,
    verb: Sequence[str],
    *,
    cpu: int,
    gpu: int = 0,
    memory: int,
    image: str,
    mounts: Sequence[str] | None,
    python: str,
    check: bool,
    env: Mapping[str, str] | None,
    shares: int = 1,
    max_retries: int = 0,
) -> specs.AppDef:
    """Return the job of a verb that is one process, or one process on each of `shares` hosts.

    With several hosts, each runs the verb with `--share I/N`, its part of the work. All other arguments are those of
    the components in `launch.components`; `memory` is their `memMB`.

    Raises:
        ComponentValidationException: The job could not run.
    """
    if shares < 1:
        raise refusal_error(f"--nnodes {shares}", "it is at least 1", "give 1 or more")
    resource = specs.Resource(cpu=cpu, gpu=gpu, memMB=memory)
    verb = _require_gpu(verb, gpu)
    role = _make_role(name, image, python, ["-m", "ple_rec", *verb], resource, mounts)
    role.num_replicas, role.max_retries = shares, max_retries
    # An image has files and a Python of its own, with which the verb cannot be checked here.
    if check and not image:
        check_verb(role.entrypoint, [], verb, env or {})
    role.env, env_command = split_environment_for_slurm(gpu_environment(gpu, env) | dict(env or {}))
    if env_command:
        role.entrypoint, role.args = env_command[0], [*env_command[1:], role.entrypoint, *role.args]
    if shares > 1:
        # On AWS Batch the index of a host is a variable, which only a shell on that host can expand.
        command = f"exec {shlex.join([role.entrypoint, *role.args])} --share {specs.macros.replica_id}/{shares}"
        role.entrypoint, role.args = "bash", ["-c", command]
    return specs.AppDef(name=f"ple-rec-{name}", roles=[role])


def _require_gpu(verb: Sequence[str], gpu: float) -> list[str]:
    """Return a verb that refuses to run on CPUs if its job has GPUs, unless its overrides choose the device.

    With `runtime.device = auto`, a host with FBGEMM's CPU wheel would compute on its CPU, beside idle GPUs.
    """
    # The last override of a key counts, so those of the user come after this one.
    return [verb[0], "--set", "runtime.device=cuda", *verb[1:]] if gpu else list(verb)


def _check_sizes(nproc: int, nnodes: int, min_nnodes: int, gpu: float) -> None:
    if nproc < 1 or nnodes < 1:
        raise refusal_error(f"--nproc {nproc} --nnodes {nnodes}", "both are at least 1", "give 1 or more of each")
    if gpu and nproc > gpu:
        rule = "each rank needs a GPU of its own"
        raise refusal_error(f"--nproc {nproc} --gpu {gpu}", rule, f"give --nproc {gpu}, or more GPUs")
    if min_nnodes and not 1 <= min_nnodes < nnodes:
        value = f"--min_nnodes {min_nnodes} --nnodes {nnodes}"
        raise refusal_error(value, "--min_nnodes is at least 1 and less than --nnodes", "give a number in between")


def _make_role(
    name: str, image: str, python: str, args: list[str], resource: specs.Resource, mounts: Sequence[str] | None
) -> specs.Role:
    if python and not image and shutil.which(python) is None:
        raise refusal_error(
            f"--python {python}", "no such command on PATH", "activate its environment, or give its path"
        )
    return specs.Role(
        name=name,
        image=image or str(Path.cwd()),
        entrypoint=python or ("python" if image else sys.executable),
        args=args,
        resource=resource,
        mounts=_parse_mounts(mounts),
        port_map={},
    )


def _parse_mounts(words: Sequence[str] | None) -> list[specs.BindMount | specs.VolumeMount | specs.DeviceMount]:
    try:
        return list(specs.parse_mounts(list(words or [])))
    except (KeyError, ValueError) as error:
        rule = f"TorchX does not read it ({error.args[0]})"
        fix = "write type=bind,src=/host/folder,dst=/folder[,readonly], or type=volume,src=NAME,dst=/folder"
        raise refusal_error(f"--mounts {','.join(words or [])}", rule, fix) from error


def run_directory_flag(resume: bool, auto_resume: bool, overwrite: bool, restarts: Mapping[str, int]) -> list[str]:
    """Return the flag of `ple-rec train` for a run that is already in the run directory, as a list of at most one word.

    Args:
        resume: True to resume the run in the run directory.
        auto_resume: True to resume the run if the run directory holds one.
        overwrite: True to remove the run in the run directory.
        restarts: Values of the flags that restart ranks, by flag, such as `--max_retries`.

    Raises:
        ComponentValidationException: The flags exclude each other.
    """
    choices = {"--resume": resume, "--auto_resume": auto_resume, "--overwrite": overwrite}
    given_flags = [f"{flag} True" for flag, value in choices.items() if value]
    if len(given_flags) > 1:
        rule = "--resume goes on with a run, --auto_resume does if there is one, --overwrite removes it"
        raise refusal_error(" ".join(given_flags), rule, "choose one")
    restart_flags = [f"{flag} {value}" for flag, value in restarts.items() if value > 0]
    if overwrite and restart_flags:
        rule = "ranks that are restarted would remove their own checkpoints"
        fix = "give a new --run_dir without --overwrite, or remove the old run by hand"
        raise refusal_error(f"--overwrite True {restart_flags[0]}", rule, fix)
    if resume and restart_flags:
        rule = "such a job resumes an existing run by itself (--auto-resume)"
        raise refusal_error(f"--resume True {restart_flags[0]}", rule, "leave out --resume")
    if resume or overwrite:
        return ["--resume"] if resume else ["--overwrite"]
    return ["--auto-resume"] if auto_resume or restart_flags else []
