"""Job descriptions: ranks that torchrun's elastic agent starts on every host, or one process, and their environment."""

import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import torchx.specs as specs

from launch.hosts import resource_of
from launch.submission import check_verb, refused

# Slurm's --export takes NAME=VALUE,NAME=VALUE, so it splits values at commas; it also interprets quotes.
_SPLIT_BY_SLURM = (",", "'", '"', "\n")


def environment(*, threads: int, gpu: int, interface: str, env: Mapping[str, str] | None) -> dict[str, str]:
    """Return the environment variables of every rank.

    Args:
        threads: Number of CPU threads of a rank.
        gpu: Number of GPUs of a host.
        interface: Network interface between the hosts, or "" for the one that NCCL and gloo choose.
        env: Variables of the user, which override the others.
    """
    # Without a number, OpenMP starts a thread per core in each rank, and the threads of several ranks slow each other
    # down.
    variables = {"OMP_NUM_THREADS": str(threads)}
    if gpu:
        # NCCL says why it fails in warnings, which are off by default; without a fault they are one line.
        variables["NCCL_DEBUG"] = "WARN"
    if interface:
        # On some hosts, NCCL and gloo choose an interface that reaches no other host (docker0), or a slow one.
        variables["NCCL_SOCKET_IFNAME"] = variables["GLOO_SOCKET_IFNAME"] = interface
    return variables | dict(env or {})


def split_environment(env: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """Return the variables that every scheduler can pass on, and the beginning of a command that sets the others.

    A component does not know its scheduler, and lists are common (NCCL_IB_HCA=mlx5_0,mlx5_1), so they cannot be
    refused. The command `env` sets them under every scheduler.

    Args:
        env: Environment variables of the job.

    Returns:
        Variables for the job description, and the words `env NAME=VALUE ...`; no words if all variables can be passed
        on.
    """
    by_command = {name: value for name, value in env.items() if any(char in value for char in _SPLIT_BY_SLURM)}
    words = ["env", *(f"{name}={value}" for name, value in by_command.items())] if by_command else []
    return {name: value for name, value in env.items() if name not in by_command}, words


_THREADS = "runtime.threads"
_ELASTIC_RESTARTS = 3  # After the loss of a host, a job goes on by a restart of its ranks.


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
    """Return the job of a verb that runs on ranks. The arguments are those of the components.

    Raises:
        ComponentValidationException: The job could not run.
    """
    resource = resource_of(host, cpu=cpu, gpu=gpu, memory=memory)
    nproc = nproc or (resource.gpu if host else 1)
    _check_sizes(nproc, nnodes, min_nnodes, resource.gpu)
    for flag, value in {"--max_retries": max_retries, "--max_restarts": max_restarts, "--threads": threads}.items():
        if value < 0:
            raise refused(f"{flag} {value}", "it cannot be negative", "leave it out for the default")
    resource.cpu = max(resource.cpu, nproc)
    threads_per_rank = threads or max(1, int(resource.cpu) // nproc)
    nodes = f"{min_nnodes}:{nnodes}" if min_nnodes else str(nnodes)
    torchrun_options = ["--nproc-per-node", str(nproc), "--nnodes", nodes]
    override = next((word for word in verb if word.startswith(f"{_THREADS}=")), None)
    if override is not None and threads:
        raise refused(f"--threads {threads} -- {override}", "both say how many threads a rank has", "give one of them")
    verb = [*verb, "--set", f"{_THREADS}={threads_per_rank}"] if override is None else verb
    variables = environment(threads=threads_per_rank, gpu=int(resource.gpu), interface=interface, env=env)
    role = _role(name, image, python, [], resource, mounts)
    if check and not image:
        check_verb(role.entrypoint, torchrun_options, verb, env or {})
    max_restarts = max_restarts or (_ELASTIC_RESTARTS if min_nnodes else 0)
    torchrun_options += ["--max-restarts", str(max_restarts)] if max_restarts else []
    role.env, env_command = split_environment(variables)
    agent = [*env_command, role.entrypoint, "-m", "ple_rec.agent", *torchrun_options]
    if nnodes == 1:
        role.entrypoint, role.args = agent[0], [*agent[1:], "--standalone", "--", *verb]
    else:
        rendezvous = ["--rdzv-backend", "c10d", "--rdzv-id", specs.macros.app_id]
        # Schedulers give the first host in a variable, which only a shell on each host can expand. Under some of them
        # the variable is empty on the first host.
        endpoint = f"--rdzv-endpoint $${{{specs.macros.rank0_env}:=localhost}}:{port}"
        command = f"exec {shlex.join([*agent, *rendezvous])} {endpoint} {shlex.join(['--', *verb])}"
        role.entrypoint, role.args = "bash", ["-c", command]
        role.num_replicas = nnodes
        role.min_replicas = min_nnodes or None
        role.port_map = {"c10d": port}
    role.max_retries = max_retries
    role.retry_policy = specs.RetryPolicy.APPLICATION
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

    The other arguments are those of the components.

    Raises:
        ComponentValidationException: The job could not run.
    """
    if shares < 1:
        raise refused(f"--nnodes {shares}", "it is at least 1", "give 1 or more")
    resource = specs.Resource(cpu=cpu, gpu=gpu, memMB=memory)
    role = _role(name, image, python, ["-m", "ple_rec", *verb], resource, mounts)
    role.num_replicas, role.max_retries = shares, max_retries
    if check and not image:
        check_verb(role.entrypoint, [], verb, env or {})
    role.env, env_command = split_environment(env or {})
    if env_command:
        role.entrypoint, role.args = env_command[0], [*env_command[1:], role.entrypoint, *role.args]
    if shares > 1:
        # On AWS Batch the index of a host is a variable, which only a shell on that host can expand.
        command = f"exec {shlex.join([role.entrypoint, *role.args])} --share {specs.macros.replica_id}/{shares}"
        role.entrypoint, role.args = "bash", ["-c", command]
    return specs.AppDef(name=f"ple-rec-{name}", roles=[role])


def _check_sizes(nproc: int, nnodes: int, min_nnodes: int, gpu: float) -> None:
    if nproc < 1 or nnodes < 1:
        raise refused(f"--nproc {nproc} --nnodes {nnodes}", "both are at least 1", "give 1 or more of each")
    if gpu and nproc > gpu:
        rule = "each rank needs a GPU of its own"
        raise refused(f"--nproc {nproc} --gpu {gpu}", rule, f"give --nproc {gpu}, or more GPUs")
    if min_nnodes and not 1 <= min_nnodes < nnodes:
        value = f"--min_nnodes {min_nnodes} --nnodes {nnodes}"
        raise refused(value, "a job goes on with fewer hosts than it has", "give 1 or more, and below --nnodes")


def _role(
    name: str, image: str, python: str, args: list[str], resource: specs.Resource, mounts: Sequence[str] | None
) -> specs.Role:
    if python and not image and shutil.which(python) is None:
        raise refused(f"--python {python}", "no such command on PATH", "activate its environment, or give its path")
    return specs.Role(
        name=name,
        image=image or str(Path.cwd()),
        entrypoint=python or ("python" if image else sys.executable),
        args=args,
        resource=resource,
        mounts=_mounts(mounts),
        port_map={},
    )


def _mounts(words: Sequence[str] | None) -> list[specs.BindMount | specs.VolumeMount | specs.DeviceMount]:
    try:
        return list(specs.parse_mounts(list(words or [])))
    except (KeyError, ValueError) as error:
        rule = f"TorchX does not read it ({error.args[0]})"
        fix = "write type=bind,src=/host/folder,dst=/folder[,readonly], or type=volume,src=NAME,dst=/folder"
        raise refused(f"--mounts {','.join(words or [])}", rule, fix) from error


def run_directory_flag(resume: bool, auto_resume: bool, overwrite: bool, restarts: Mapping[str, int]) -> list[str]:
    """Return the flag of `train` for an existing run in the run directory; none if there is no such flag.

    Args:
        resume: True to resume the run in the run directory.
        auto_resume: True to resume the run if the run directory holds one.
        overwrite: True to remove the run in the run directory.
        restarts: Values of the flags that start ranks again, by flag, such as `--max_retries`.

    Raises:
        ComponentValidationException: The flags exclude each other.
    """
    choices = {"--resume": resume, "--auto_resume": auto_resume, "--overwrite": overwrite}
    named = [f"{flag} True" for flag, value in choices.items() if value]
    if len(named) > 1:
        rule = "--resume goes on with a run, --auto_resume does if there is one, --overwrite removes it"
        raise refused(" ".join(named), rule, "choose one")
    restart_flags = [f"{flag} {value}" for flag, value in restarts.items() if value > 0]
    if overwrite and restart_flags:
        rule = "ranks that are started again would remove their own checkpoints"
        fix = "give a new --run_dir without --overwrite, or remove the old run by hand"
        raise refused(f"--overwrite True {restart_flags[0]}", rule, fix)
    if resume and restart_flags:
        rule = "such a job resumes an existing run by itself (--auto-resume)"
        raise refused(f"--resume True {restart_flags[0]}", rule, "leave out --resume")
    if resume or overwrite:
        return ["--resume"] if resume else ["--overwrite"]
    return ["--auto-resume"] if auto_resume or restart_flags else []
