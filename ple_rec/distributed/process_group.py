"""The ranks of a run: start and end of the process group, device and threads of this rank."""

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
from ple_rec.runtime.host import default_threads, keep_pages
from ple_rec.runtime.versions import CUDA_WHEEL, installed_version, installed_versions, nearest_stack, reinstall_fbgemm

AFTER_WATCH_SECONDS = 60.0
_SIGNS_OF_LOSS = (
    "Connection closed by peer",
    "Connection reset by peer",
    "Broken pipe",
    "Connection refused",
    "Timed out waiting",
)


@dataclass(frozen=True)
class Ranks:
    """Where this process stands.

    Args:
        rank: Of this process, 0 to world_size - 1.
        world_size: W, number of ranks.
        local_world_size: Number of ranks on this host.
        device: Of this rank.
        threads: CPU threads of this rank.
        watch: Told what this rank is about to do.
    """

    rank: int
    world_size: int
    local_world_size: int
    device: torch.device
    threads: int
    watch: StallWatch = field(default_factory=StallWatch, compare=False)

    @property
    def is_main(self) -> bool:
        """Whether this rank prints and writes."""
        return self.rank == 0


def _device(kind: str, local_rank: int) -> torch.device:
    kernels = installed_version(CUDA_WHEEL) is not None
    if kind == "cpu" or (kind == "auto" and not (kernels and torch.cuda.is_available())):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UserError(
            "runtime.device",
            'got "cuda", but torch sees no GPU',
            "it needs a GPU, its driver and a CUDA build of torch",
            "run `ple-rec doctor`, or set runtime.device = cpu",
        )
    if not kernels:
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


def quiet() -> None:
    """Silence what torch and torchrec say about each other's internals; a user can do nothing about it."""
    for module in (r"torch\.distributed\..*", r"torchrec\..*", r"torch\.jit\..*"):
        warnings.filterwarnings("ignore", category=FutureWarning, module=module)
        warnings.filterwarnings("ignore", category=DeprecationWarning, module=module)
    warnings.filterwarnings("ignore", "Please use DTensor instead", FutureWarning)
    for name in ("torchrec", "torch.fx._symbolic_trace"):
        logging.getLogger(name).setLevel(logging.ERROR)


@contextmanager
def process_group(config: RuntimeConfig) -> Iterator[Ranks]:
    """Join the process group that the launcher's environment describes (or one of a single rank), leave it at the end.

    The group is left on every way out: a rank that ends without may abort in the destructor. Where a rank raises, gloo
    lets its peers' collectives fail at once. NCCL promises no such thing: the peers wait in theirs until the launcher,
    which sees this rank end, kills them, or until the collective's own time-out.

    Raises:
        UserError: the device asked for is not there, or the installed FBGEMM cannot use it.
    """
    quiet()
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    local_world_size = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    device = _device(config.device, local_rank)
    threads = config.threads or default_threads(local_world_size)
    torch.set_num_threads(threads)
    keep_pages()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = "nccl" if device.type == "cuda" else "gloo"
    if "WORLD_SIZE" in os.environ:
        # Longer than the watch, which says more; this ends what waits before the first step.
        dist.init_process_group(backend, timeout=timedelta(seconds=config.timeout_seconds + AFTER_WATCH_SECONDS))
    else:
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    watch = StallWatch(dist.get_rank(), dist.get_world_size(), config.timeout_seconds)
    try:
        _check_hosts(local_world_size)
        with closing(watch):
            watch.start()
            yield Ranks(dist.get_rank(), dist.get_world_size(), local_world_size, device, threads, watch)
    except BaseException:
        _leave_after_error(backend)
        raise
    dist.destroy_process_group()


def _check_hosts(local_world_size: int) -> None:
    """Refuse hosts with different numbers of ranks, on every rank (a collective)."""
    every: list[int] = [0] * dist.get_world_size()
    dist.all_gather_object(every, local_world_size)
    if len(set(every)) > 1:
        raise UserError(
            "ranks",
            f"{dist.get_world_size()} in all, on hosts with {' and '.join(map(str, sorted(set(every))))} of them",
            "every host has as many ranks as the others, since tables are placed by host",
            "start the same number of ranks on each host",
        )


def _leave_after_error(backend: str) -> None:
    """Leave the group without waiting for anyone."""
    if backend != "nccl":
        dist.destroy_process_group()
        return
    # Destroying waits for the collectives that this rank has begun, and its peers may never join them. Aborting does
    # not. A device in a bad state may refuse it; what is to be told then is the error that led here.
    with suppress(Exception):
        abort_process_group()


def is_lost_peer(error: BaseException) -> bool:
    """Whether a collective failed because another rank is gone."""
    if isinstance(error, dist.DistBackendError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SIGNS_OF_LOSS)
