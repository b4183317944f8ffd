"""Membership of this process in the torch process group of a run, with its device, CPU threads and stall watch.

A rank is one process of a run. `process_group` joins the group and yields a `Ranks`: the number of this rank, its
device and its threads. The stall watch (`watchdog.py`) ends a job that hangs. Before each operation that may block,
such as a collective, a rank makes a mark (`StallWatch.mark`): it records what it is about to do. If the ranks make no
progress for the time-out after a mark, the watch ends the job and names the rank that the others wait for.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import _abort_process_group as abort_process_group

from ple_rec.config.run import RuntimeConfig
from ple_rec.distributed.watchdog import StallWatch
from ple_rec.errors import UserError
from ple_rec.runtime.cuda import driver_cuda_version, find_missing_gpu
from ple_rec.runtime.host import default_threads, keep_pages
from ple_rec.runtime.versions import CUDA_WHEEL, installed_version, installed_versions, nearest_stack, reinstall_fbgemm

logger = logging.getLogger(__name__)

# The time-out of a collective exceeds the time-out of the stall watch by this, so that the watch acts first.
AFTER_WATCH_SECONDS = 60.0
# An error whose text contains one of these comes from a connection to a process that has ended.
_LOST_CONNECTION_TEXTS = (
    "Connection closed by peer",
    "Connection reset by peer",
    "Broken pipe",
    "Connection refused",
    "Timed out waiting",
)


@dataclass(frozen=True)
class Ranks:
    """This process among the ranks of a run: its number, its resources and the size of the run.

    Args:
        rank: Rank of this process, 0 to world_size - 1.
        world_size: Number of ranks of the run, W.
        local_world_size: Number of ranks on this host.
        device: Device of this rank.
        threads: Number of CPU threads that torch uses in this rank.
        watch: Stall watch of this rank. Call its `mark` before each operation that may block.
    """

    rank: int
    world_size: int
    local_world_size: int
    device: torch.device
    threads: int
    watch: StallWatch = field(default_factory=StallWatch, compare=False)

    @property
    def is_main(self) -> bool:
        """True on rank 0, which alone prints and writes files of the run, except that all ranks write checkpoints."""
        return self.rank == 0


def rank_device(kind: str, local_rank: int) -> torch.device:
    """Return the device of a rank.

    Args:
        kind: Value of runtime.device: "cpu", "cuda" or "auto". FBGEMM's wheel decides on "auto": its CUDA wheel, which
            nobody installs to train on CPUs, means "cuda", its CPU wheel "cpu".
        local_rank: Number of the rank among those of its host, which is also the number of its GPU.

    Raises:
        UserError: The device is a GPU, but torch or FBGEMM cannot use one, or the host has fewer GPUs than ranks.
    """
    # Only FBGEMM's CUDA wheel has the GPU kernels that look up rows of embedding tables.
    has_gpu_kernels = installed_version(CUDA_WHEEL) is not None
    if kind == "cpu" or (kind == "auto" and not has_gpu_kernels):
        return torch.device("cpu")
    if missing_gpu := find_missing_gpu():
        wheel = " beside FBGEMM's CUDA wheel" if kind == "auto" else ""
        raise UserError(
            "runtime.device",
            f'got "{kind}"{wheel}, but torch sees no GPU: {missing_gpu.cause}',
            missing_gpu.rule,
            f"{missing_gpu.fix}, or set runtime.device = cpu",
        )
    if not has_gpu_kernels:
        stack = nearest_stack(installed_versions(), cuda=True)
        raise UserError(
            "runtime.device",
            f'got "cuda", but FBGEMM\'s CUDA wheel {CUDA_WHEEL} is not installed',
            "the other wheel has no GPU kernels for the tables",
            f"run `{reinstall_fbgemm(True, stack)}`, or set runtime.device = cpu",
        )
    if local_rank >= torch.cuda.device_count():
        raise UserError(
            "runtime.device",
            f"local rank {local_rank} on a host with {torch.cuda.device_count()} GPU(s)",
            "each rank needs a GPU of its own",
            "start as many ranks per host as it has GPUs",
        )
    return torch.device("cuda", local_rank)


def silence_libraries() -> None:
    """Silence warnings of torch and torchrec about each other's internals, since a user cannot act on them."""
    for module in (r"torch\.distributed\..*", r"torchrec\..*", r"torch\.jit\..*"):
        warnings.filterwarnings("ignore", category=FutureWarning, module=module)
        warnings.filterwarnings("ignore", category=DeprecationWarning, module=module)
    warnings.filterwarnings("ignore", "Please use DTensor instead", FutureWarning)
    for name in ("torchrec", "torch.fx._symbolic_trace"):
        logging.getLogger(name).setLevel(logging.ERROR)


@contextmanager
def process_group(config: RuntimeConfig) -> Iterator[Ranks]:
    """Join the process group, yield the `Ranks` of this process, and leave the group at the end of the block.

    The environment variables of a launcher such as torchrun describe the group. Without them, the group has this rank
    alone.

    This rank leaves the group even if the block raises, because the destructor of a group that is still joined may
    abort the process. With gloo, the collectives of the other ranks then fail at once. With NCCL they do not: the other
    ranks wait until the launcher sees that this rank has ended and kills them, or until their collective times out.

    Args:
        config: Device, threads and time-out of the run.

    Raises:
        UserError: The configured device is missing, the installed FBGEMM cannot use it, a host has fewer GPUs than
            ranks, or hosts have different numbers of ranks.
    """
    silence_libraries()
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    local_world_size = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    device = rank_device(config.device, local_rank)
    threads = config.threads or default_threads(local_world_size)
    torch.set_num_threads(threads)
    keep_pages()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = "nccl" if device.type == "cuda" else "gloo"
    if "WORLD_SIZE" in os.environ:
        # The stall watch has a shorter time-out and a better message, but it sees nothing before the first mark. This
        # time-out ends ranks that wait for another rank until then.
        dist.init_process_group(backend, timeout=timedelta(seconds=config.timeout_seconds + AFTER_WATCH_SECONDS))
    else:
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    if config.device == "auto" and device.type == "cpu" and (version := driver_cuda_version()):
        logger.info(
            f"runtime.device: auto is the CPU, since FBGEMM's CPU wheel is installed; a driver for CUDA {version} is "
            "here, too (to train on a GPU: the packages of the extra `cuda`; against this line: runtime.device = cpu)"
        )
    watch = StallWatch(dist.get_rank(), dist.get_world_size(), config.timeout_seconds)
    try:
        _check_ranks_per_host(local_world_size)
        with closing(watch):
            watch.start()
            yield Ranks(dist.get_rank(), dist.get_world_size(), local_world_size, device, threads, watch)
    except BaseException:
        _leave_after_error(backend)
        raise
    dist.destroy_process_group()


def _check_ranks_per_host(local_world_size: int) -> None:
    """Raise a UserError on all ranks if hosts have different numbers of ranks (a collective)."""
    counts: list[int] = [0] * dist.get_world_size()
    dist.all_gather_object(counts, local_world_size)
    if len(set(counts)) > 1:
        raise UserError(
            "ranks",
            f"{dist.get_world_size()} in total, on hosts with {' and '.join(map(str, sorted(set(counts))))} ranks",
            "every host must have the same number of ranks, since tables are placed by host",
            "start the same number of ranks on each host",
        )


def _leave_after_error(backend: str) -> None:
    """Leave the group without waiting for other ranks, which may never answer."""
    if backend != "nccl":
        dist.destroy_process_group()
        return
    # With NCCL, `destroy_process_group` waits for the collectives that this rank has begun, which the other ranks may
    # never join, so the group is aborted instead. The abort itself may fail on a device in a bad state. We ignore its
    # error, because the caller raises the error that came first and is the cause.
    with suppress(Exception):
        abort_process_group()


def is_lost_peer(error: BaseException) -> bool:
    """Return True if an error of a collective probably means that another rank has ended, by its type or its text."""
    if isinstance(error, dist.DistBackendError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _LOST_CONNECTION_TEXTS)
