"""Job descriptions: ranks by torchrun's elastic agent on every host, or one process, and their environment."""

import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import torchx.specs as specs

from launch.hosts import resource_of
from launch.submission import check_verb, refused

# Slurm's --export takes NAME=VALUE,NAME=VALUE: it cuts values at commas, and quotes are its own.
_CUT_BY_SLURM = (",", "'", '"', "\n")


def environment(*, threads: int, gpu: int, interface: str, env: Mapping[str, str] | None) -> dict[str, str]:
    """Variables of every rank.

    Args:
        threads: CPU threads of a rank.
        gpu: GPUs of a host.
        interface: Network interface between the hosts, or "" for the one that NCCL and gloo choose.
        env: The user's own.
    """
    # OpenMP's threads of several ranks collapse on shared cores unless their number is said.
    found = {"OMP_NUM_THREADS": str(threads)}
    if gpu:
        # Why NCCL fails stands in its own warnings, which it keeps to itself otherwise; one line where all is well.
        found["NCCL_DEBUG"] = "WARN"
    if interface:
        # Both choose by themselves, on some hosts one that leads to no other host (docker0), or a slow one.
        found["NCCL_SOCKET_IFNAME"] = found["GLOO_SOCKET_IFNAME"] = interface
    return found | dict(env or {})


def for_command(env: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """What a scheduler can hand over, and a command's beginning that sets the rest.

    A component does not know its scheduler, and lists are usual here (NCCL_IB_HCA=mlx5_0,mlx5_1), so that refusing them
    is no way out. `env` sets them in the same way everywhere.

    Args:
        env: All variables.

    Returns:
        Variables of the job description; `env NAME=VALUE ...`, or nothing.
    """
    hard = {name: value for name, value in env.items() if any(cut in value for cut in _CUT_BY_SLURM)}
    words = ["env", *(f"{name}={value}" for name, value in hard.items())] if hard else []
    return {name: value for name, value in env.items() if name not in hard}, words


_THREADS = "runtime.threads"
_ELASTIC_RESTARTS = 3  # what is left of a job goes on by a restart of its ranks


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
    """The job of a verb that runs on ranks; arguments as of the components.

    Raises:
        ComponentValidationException: a job that could not run.
    """
    resource = resource_of(host, cpu=cpu, gpu=gpu, memory=memory)
    nproc = nproc or (resource.gpu if host else 1)
    _check_sizes(nproc, nnodes, min_nnodes, resource.gpu)
    for flag, value in {"--max_retries": max_retries, "--max_restarts": max_restarts, "--threads": threads}.items():
        if value < 0:
            raise refused(f"{flag} {value}", "it cannot be negative", "leave it out for the default")
    resource.cpu = max(resource.cpu, nproc)
    per_rank = threads or max(1, int(resource.cpu) // nproc)
    size = ["--nproc-per-node", str(nproc), "--nnodes", f"{min_nnodes}:{nnodes}" if min_nnodes else str(nnodes)]
    own = next((word for word in verb if word.startswith(f"{_THREADS}=")), None)  # an override, which the user means
    if own is not None and threads:
        raise refused(f"--threads {threads} -- {own}", "both say how many threads a rank has", "give one of them")
    verb = [*verb, "--set", f"{_THREADS}={per_rank}"] if own is None else verb
    variables = environment(threads=per_rank, gpu=int(resource.gpu), interface=interface, env=env)
    role = _role(name, image, python, [], resource, mounts)
    if check and not image:
        check_verb(role.entrypoint, size, verb, env or {})
    max_restarts = max_restarts or (_ELASTIC_RESTARTS if min_nnodes else 0)
    size += ["--max-restarts", str(max_restarts)] if max_restarts else []
    role.env, setting = for_command(variables)
    agent = [*setting, role.entrypoint, "-m", "ple_rec.agent", *size]
    if nnodes == 1:
        role.entrypoint, role.args = agent[0], [*agent[1:], "--standalone", "--", *verb]
    else:
        meeting = ["--rdzv-backend", "c10d", "--rdzv-id", specs.macros.app_id]  # how patiently is the agent's to say
        # The scheduler names the variable that holds the first host, which only a shell on each host can expand. It is
        # empty on the first host of some.
        endpoint = f"--rdzv-endpoint $${{{specs.macros.rank0_env}:=localhost}}:{port}"
        command = f"exec {shlex.join([*agent, *meeting])} {endpoint} {shlex.join(['--', *verb])}"
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
    """The job of a verb that is one process, or one on each host that takes its share; arguments as of the components.

    Raises:
        ComponentValidationException: a job that could not run.
    """
    if shares < 1:
        raise refused(f"--nnodes {shares}", "it is at least 1", "give 1 or more")
    resource = specs.Resource(cpu=cpu, gpu=gpu, memMB=memory)
    role = _role(name, image, python, ["-m", "ple_rec", *verb], resource, mounts)
    role.num_replicas, role.max_retries = shares, max_retries
    if check and not image:
        check_verb(role.entrypoint, [], verb, env or {})
    role.env, setting = for_command(env or {})
    if setting:
        role.entrypoint, role.args = setting[0], [*setting[1:], role.entrypoint, *role.args]
    if shares > 1:
        # On AWS Batch a host's number is a variable, which only a shell on that host can expand.
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
        given = f"--min_nnodes {min_nnodes} --nnodes {nnodes}"
        raise refused(given, "a job goes on with fewer hosts than it has", "give 1 or more, and below --nnodes")


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


def run_directory_flag(resume: bool, auto_resume: bool, overwrite: bool, again: Mapping[str, int]) -> list[str]:
    """Return the flag of train that says what becomes of a run that the run directory holds.

    Args:
        resume: True to resume the run of the run directory.
        auto_resume: True to resume a run where the run directory holds one.
        overwrite: True to remove the run of the run directory.
        again: Number of times that ranks are started again, by the flag that says so.

    Raises:
        ComponentValidationException: flags that exclude each other.
    """
    wanted = {"--resume": resume, "--auto_resume": auto_resume, "--overwrite": overwrite}
    named = [f"{flag} True" for flag, value in wanted.items() if value]
    if len(named) > 1:
        rule = "--resume goes on with a run, --auto_resume does if there is one, --overwrite removes it"
        raise refused(" ".join(named), rule, "choose one")
    restarts = [f"{flag} {value}" for flag, value in again.items() if value > 0]
    if overwrite and restarts:
        rule = "the ranks that are started again would remove what they have saved"
        fix = "give a new --run_dir without --overwrite, or remove the old run by hand"
        raise refused(f"--overwrite True {restarts[0]}", rule, fix)
    if resume and restarts:
        rule = "such a job goes on by itself with the run that is there (--auto-resume)"
        raise refused(f"--resume True {restarts[0]}", rule, "leave out --resume")
    if resume or overwrite:
        return ["--resume"] if resume else ["--overwrite"]
    return ["--auto-resume"] if auto_resume or restarts else []
