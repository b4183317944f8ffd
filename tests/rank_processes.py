"""Run a function on several real gloo ranks, each a process of its own, and hand back what every rank returned."""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import pickle
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import ExitStack, chdir
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from ple_rec.text.messages import print_messages

T = TypeVar("T")

GRACE_SECONDS = 1.0  # for the other ranks to tell their side once one has failed
LOG_TAIL = 4000  # characters of a rank's output that a failure shows


class RankError(AssertionError):
    """A rank raised, died or did not finish; the message holds every rank's traceback or last output."""


@dataclass
class _Rank:
    """One rank as its parent sees it; `told` is its pickled (ok, payload) once it has sent one."""

    index: int
    process: BaseProcess
    pipe: Connection
    log: Path
    told: tuple[bool, Any] | None = None

    @property
    def failed(self) -> bool:
        return self.told is not None and not self.told[0]

    def listen(self) -> None:
        """Read the rank's answer; a rank that ended without one has failed by its exit code."""
        try:
            self.told = pickle.loads(self.pipe.recv_bytes())
        except (EOFError, ConnectionError):
            self.process.join(GRACE_SECONDS)
            self.told = (False, f"ended without an answer, exit code {self.process.exitcode}")

    def describe(self) -> str:
        what = "did not finish" if self.told is None else "finished" if self.told[0] else str(self.told[1]).rstrip()
        output = self.log.read_text(errors="replace")[-LOG_TAIL:].rstrip() if self.log.exists() else ""
        return f"--- rank {self.index}: {what}" + (f"\n--- rank {self.index} wrote:\n{output}" if output else "")


def run_ranks(fn: Callable[..., T], world_size: int, *args: object, timeout: float = 60, init: bool = True) -> list[T]:
    """Call `fn(rank, world_size, *args)` in `world_size` processes that form a gloo group on 127.0.0.1.

    Each process has one thread and the environment that torchrun would give it (RANK, WORLD_SIZE, MASTER_PORT ...).
    A rank that fails ends the others at once, so that nobody waits in a collective for it.

    Args:
        fn: A function at the top level of an importable module; it and `args` are pickled.
        world_size: The number of ranks.
        args: Passed on to every rank; tensors travel by value.
        timeout: Seconds for the whole call; after it every rank's stack is shown.
        init: Whether the default process group exists when `fn` is called; False leaves that to `fn`.

    Returns:
        What each rank returned (pickled, so by value), in the order of ranks.

    Raises:
        RankError: if a rank raises, dies or does not finish; the rank that failed first stands first.
    """
    job = pickle.dumps((fn, args))  # plain pickle: multiprocessing's own would pass tensors in shared memory
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ranks-")))
        # The parent holds the store, as torchrun's agent does: no free port is guessed, none can be lost in a race.
        store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        ranks: list[_Rank] = []
        stack.callback(_end, ranks)
        for index in range(world_size):
            ranks.append(_start(index, world_size, store.port, folder, job, timeout, init))
        failed = _listen(ranks, time.monotonic() + timeout)
        if failed is not None or any(rank.told is None for rank in ranks):
            head = f"{fn.__qualname__} on {world_size} ranks: " + (
                f"rank {failed.index} failed" if failed else f"not done after {timeout:g} s"
            )
            order = sorted(ranks, key=lambda rank: (rank is not failed, rank.index))
            raise RankError("\n".join([head, *(rank.describe() for rank in order)]))
        return [rank.told[1] for rank in ranks if rank.told is not None]


def fork_server() -> multiprocessing.context.ForkServerContext:
    """A fork server that has imported torch, and what trains or serves where tests do: a rank starts in milliseconds.

    The server itself runs no tensor operation and starts no thread, so that forking it is safe.
    """
    context = multiprocessing.get_context("forkserver")
    large = {"torchrec", "fbgemm_gpu", "pandas", "tests.training.small", "tests.serving.http.running"}
    context.set_forkserver_preload(["torch.distributed", *(large & set(sys.modules))])
    with chdir(Path(__file__).parent.parent):  # from where it finds them, whichever folder a test is in
        forkserver.ensure_running()
    return context


def _start(index: int, world_size: int, port: int, folder: Path, job: bytes, timeout: float, init: bool) -> _Rank:
    # The server's environment is as old as the server: hand today's over.
    environment = dict(os.environ) | {
        "RANK": str(index),
        "LOCAL_RANK": str(index),
        "WORLD_SIZE": str(world_size),
        "LOCAL_WORLD_SIZE": str(world_size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "OMP_NUM_THREADS": "1",
    }
    if sys.platform == "linux":
        environment["GLOO_SOCKET_IFNAME"] = "lo"
    context = fork_server()
    parent_end, child_end = context.Pipe(duplex=False)
    log = folder / f"rank-{index}.log"
    process = context.Process(target=_serve, args=(child_end, str(log), environment, sys.path, job, timeout, init))
    process.start()
    child_end.close()
    return _Rank(index, process, parent_end, log)


def _listen(ranks: list[_Rank], deadline: float) -> _Rank | None:
    """Wait until all have answered, one has failed (and the grace is over), or the deadline; the first that failed."""
    failed: _Rank | None = None
    deadline += GRACE_SECONDS  # a rank writes its stack at the deadline itself
    while waiting := {rank.pipe: rank for rank in ranks if rank.told is None}:
        ready = wait(list(waiting), timeout=max(0.0, deadline - time.monotonic()))
        if not ready:
            break
        for pipe in ready:
            assert isinstance(pipe, Connection)
            rank = waiting[pipe]
            rank.listen()
            if failed is None and rank.failed:
                failed, deadline = rank, min(deadline, time.monotonic() + GRACE_SECONDS)
    return failed


def _end(ranks: list[_Rank]) -> None:
    for rank in ranks:
        if rank.told is not None:
            rank.process.join(GRACE_SECONDS)
        if rank.process.is_alive():
            rank.process.kill()
        rank.process.join()
        rank.process.close()
        rank.pipe.close()


def _serve(
    pipe: Connection, log: str, environment: dict[str, str], path: list[str], job: bytes, timeout: float, init: bool
) -> None:
    """The life of one rank: output to a file, group up, call, answer, group down."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
    faulthandler.enable(sys.stderr)
    faulthandler.dump_traceback_later(timeout, file=sys.stderr)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[:] = path
    torch.set_num_threads(1)
    torch.set_num_interop_threads(1)
    try:
        if init:
            dist.init_process_group("gloo", timeout=timedelta(seconds=timeout))
            dist.barrier()  # a function that ends at once would be gone while other ranks still connect to it
        fn, args = pickle.loads(job)
        with print_messages():  # as the command line does
            answer = pickle.dumps((True, fn(int(environment["RANK"]), int(environment["WORLD_SIZE"]), *args)))
    except BaseException:  # SystemExit and KeyboardInterrupt too: the parent must hear of every end
        answer = pickle.dumps((False, traceback.format_exc()))
    pipe.send_bytes(answer)
    faulthandler.cancel_dump_traceback_later()
    if pickle.loads(answer)[0] and dist.is_initialized():
        dist.destroy_process_group()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # no interpreter shutdown: threads of a broken group could keep it waiting
