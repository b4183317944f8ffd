"""Environment of the ranks: every variable with its reason; what the user gives wins."""

from collections.abc import Mapping

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
