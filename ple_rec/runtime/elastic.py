"""Torchrun's elastic agent, changed so that a rank's exit code decides whether the ranks are started again.

A rank that ends with code 2, 3, 4 or 75 has printed why, and would end so again, so its job ends. Ranks that crash or
lose a peer are started again. Torchrun itself handles a host that vanishes: its rendezvous expects a sign of life from
each host, and the watchdog of the ranks (`ple_rec/distributed/watchdog.py`) ends those that wait for it.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sys
import threading
import time
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from torch.distributed.elastic.agent.server.api import RunResult, WorkerGroup, WorkerState
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.rendezvous.utils import parse_rendezvous_endpoint
from torch.distributed.launcher import api as launcher
from torch.distributed.run import parse_min_max_nnodes

from ple_rec.errors import Option, PleRecError
from ple_rec.runtime.exits import AGENT_FOLDER, FINAL_CODES, PREEMPTED, RESTARTS, STALLED, reap, say_killed

# This file in the agent's folder means that the ranks of this host have been started.
STARTED = "started"
# Torchrun uses this port if the address of the rendezvous has none.
_DEFAULT_PORT = 29400
_POLL_SECONDS = 2.0
_CONNECT_SECONDS = 5.0
_STORE_LOST_SECONDS = 12.0
# The rendezvous shows a change of another host up to 1 s late.
_CACHE_SECONDS = 1.5
_STOP_SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


def may_restart(args: Namespace) -> bool:
    """Return True if the agent may start its ranks more than once."""
    low, high = parse_min_max_nnodes(args.nnodes)
    return bool(low < high or args.max_restarts > 0)


def prepare(args: Namespace) -> None:
    """Set options that torchrun needs for several hosts or for restarts, unless the user has set them."""
    several = args.rdzv_backend == "c10d" and parse_min_max_nnodes(args.nnodes)[1] > 1
    if several or may_restart(args):
        # If the agents share their store, restarted ranks find the addresses of the ranks before them, which refuse the
        # connection, and a host that comes back waits for a rank 0 that is gone.
        os.environ.setdefault("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")
    if several and may_restart(args) and "last_call_timeout" not in args.rdzv_conf:
        # The remaining hosts wait this long for further ones. Torch's own 30 s would pass at every restart.
        args.rdzv_conf = ",".join(filter(None, (args.rdzv_conf, "last_call_timeout=3")))


class Agent(LocalElasticAgent):
    """Agent that restarts ranks only if their exit codes allow it, and prints that it does.

    Args:
        args: Positional arguments of torchrun's agent.
        most_hosts: Largest number of hosts of the job.
        kwargs: Named arguments of torchrun's agent.
    """

    def __init__(self, *args: Any, most_hosts: int, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._most_hosts = most_hosts

    def _start_workers(self, worker_group: WorkerGroup) -> dict[int, Any]:
        folder = Path(os.environ[AGENT_FOLDER])
        # The previous ranks may have left marks.
        for file in folder.iterdir():
            file.unlink()
        (folder / STARTED).touch()
        return dict(super()._start_workers(worker_group))

    def _restart_workers(self, worker_group: WorkerGroup) -> None:
        if worker_group.state == WorkerState.HEALTHY:
            # The ranks learn from this file that the agent stops them only to start them again.
            (Path(os.environ[AGENT_FOLDER]) / RESTARTS).touch()
            why = "hosts have come"
        else:
            done = worker_group.spec.max_restarts - self._remaining_restarts
            why = f"restart {done} of {worker_group.spec.max_restarts}"
        _say(f"starts the ranks of this host anew ({why})")
        super()._restart_workers(worker_group)

    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
        result: RunResult = super()._monitor_workers(worker_group)
        if result.state != WorkerState.FAILED:
            return result
        codes = {rank: failure.exitcode for rank, failure in result.failures.items()}
        if PREEMPTED in codes.values() and self._hosts_wait(worker_group):
            # The agent of another host has stopped all ranks so that the waiting hosts can join.
            return RunResult(state=WorkerState.HEALTHY)
        if not FINAL_CODES.isdisjoint(codes.values()):
            self._remaining_restarts = 0
        elif self._remaining_restarts > 0 and not (Path(os.environ[AGENT_FOLDER]) / STALLED).exists():
            say_killed({rank: code for rank, code in codes.items() if code != -signal.SIGTERM})
        return result

    def _hosts_wait(self, worker_group: WorkerGroup) -> bool:
        """Return True if a host waits to join."""
        end = time.monotonic() + _CACHE_SECONDS
        while (worker_group.group_world_size or 0) < self._most_hosts and time.monotonic() < end:
            if worker_group.spec.rdzv_handler.num_nodes_waiting() > 0:
                return True
            time.sleep(0.1)
        return False

    def _shutdown(self, death_sig: signal.Signals = signal.SIGTERM, timeout: int = 30) -> None:
        # A scheduler may send the same signal to each process of a job, so an agent that stops already ignores it.
        before = {number: signal.signal(number, signal.SIG_IGN) for number in _STOP_SIGNALS}
        try:
            super()._shutdown(death_sig, timeout)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler if handler is not None else signal.SIG_DFL)


def store_lost(endpoint: str) -> PleRecError:
    """Return the error of a job that has lost its rendezvous at `endpoint`."""
    return PleRecError(
        f"rendezvous at {endpoint}",
        "lost: its host has ended, or cannot be reached",
        "the hosts of a job find each other by it, so the job ends without it",
        f"look at the output of that host, then run the same command again; {Option.AUTO_RESUME} goes on",
    )


class StoreWatch(threading.Thread):
    """Thread that ends this agent and its ranks once the host of the rendezvous is out of reach.

    If that host vanishes without closing its connections, the agent itself may wait for minutes in a call to the store.

    Args:
        endpoint: Address of the rendezvous, `HOST` or `HOST:PORT`.
    """

    def __init__(self, endpoint: str) -> None:
        super().__init__(name="store-watch", daemon=True)
        self._endpoint, self._agent_folder = endpoint, os.environ[AGENT_FOLDER]
        self._address = parse_rendezvous_endpoint(endpoint, _DEFAULT_PORT)
        self._stopped = threading.Event()

    def run(self) -> None:
        """Try to connect every 2 s until `stop`."""
        reached: float | None = None
        while not self._stopped.wait(_POLL_SECONDS):
            start = time.monotonic()
            if self._can_connect():
                reached = time.monotonic()
            elif reached is not None and start - reached > _STORE_LOST_SECONDS:
                break
        if not self._stopped.is_set():
            _say(str(store_lost(self._endpoint)))
            reap(self._agent_folder)
            shutil.rmtree(self._agent_folder, ignore_errors=True)
            os._exit(1)

    def stop(self) -> None:
        """Let the thread end without ending the agent."""
        self._stopped.set()

    def _can_connect(self) -> bool:
        with suppress(OSError), socket.create_connection(self._address, timeout=_CONNECT_SECONDS):
            return True
        return False


@contextmanager
def agent_of_this_job(args: Namespace) -> Iterator[None]:
    """Let torchrun use `Agent` in the block, and watch the store of the rendezvous if that has an address."""
    watch = StoreWatch(args.rdzv_endpoint) if args.rdzv_backend == "c10d" and args.rdzv_endpoint else None
    if watch is not None:
        watch.start()
    # Torchrun looks its agent up among these names.
    names = vars(launcher)
    most_hosts = parse_min_max_nnodes(args.nnodes)[1]
    before, names["LocalElasticAgent"] = names["LocalElasticAgent"], partial(Agent, most_hosts=most_hosts)
    try:
        yield
    finally:
        names["LocalElasticAgent"] = before
        if watch is not None:
            watch.stop()


def _say(message: str) -> None:
    sys.stderr.write(f"ple-rec: {message}\n")
    sys.stderr.flush()
