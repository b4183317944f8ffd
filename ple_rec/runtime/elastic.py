"""Torchrun's elastic agent, for ranks whose exit codes say whether they may be tried again.

A rank that ends with code 2, 3, 4 or 75 has said why, and would end so again: its job ends. Ranks that crash, or lose a
peer, are started again. What torchrun does by itself stays its own: a host that vanishes is missed by the watchdog of
the ranks (`ple_rec/distributed/watchdog.py`), and by the rendezvous, which expects a sign of life from each host.
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
from ple_rec.runtime.exits import FINAL_CODES, PREEMPTED, RESTARTS, SAID, STALLED, reap, say_killed

STARTED = "started"  # a file of the folder of `SAID`: the ranks of this host have been started
_DEFAULT_PORT = 29400  # of a rendezvous that names none
_POLL_SECONDS = 2.0
_CONNECT_SECONDS = 5.0
_STORE_LOST_SECONDS = 12.0
_CACHE_SECONDS = 1.5  # the rendezvous shows a change of another host up to 1 s late
_STOP_SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


def may_restart(args: Namespace) -> bool:
    """Return whether the agent may start its ranks more than once."""
    low, high = parse_min_max_nnodes(args.nnodes)
    return bool(low < high or args.max_restarts > 0)


def prepare(args: Namespace) -> None:
    """Set what a job needs whose ranks may start again, or that has several hosts, unless the user has set it."""
    several = args.rdzv_backend == "c10d" and parse_min_max_nnodes(args.nnodes)[1] > 1
    if several or may_restart(args):
        # In a store of the agents ranks that start again find the addresses of the ranks before them, which refuse; and
        # a host that comes back is told the address of a rank 0 that is gone, and waits.
        os.environ.setdefault("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")
    if several and may_restart(args) and "last_call_timeout" not in args.rdzv_conf:
        # The hosts that are left wait so long for further ones; torch's own 30 s would pass at every restart.
        args.rdzv_conf = ",".join(filter(None, (args.rdzv_conf, "last_call_timeout=3")))


class Agent(LocalElasticAgent):
    """An agent that starts only those ranks again whose exit code allows it, and says so.

    Args:
        args: Arguments of torchrun's agent.
        most_hosts: Largest number of hosts of the job.
        kwargs: Arguments of torchrun's agent that have names.
    """

    def __init__(self, *args: Any, most_hosts: int, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._most_hosts = most_hosts

    def _start_workers(self, worker_group: WorkerGroup) -> dict[int, Any]:
        folder = Path(os.environ[SAID])
        for file in folder.iterdir():  # the marks of the ranks before
            file.unlink()
        (folder / STARTED).touch()
        return dict(super()._start_workers(worker_group))

    def _restart_workers(self, worker_group: WorkerGroup) -> None:
        if worker_group.state == WorkerState.HEALTHY:
            (Path(os.environ[SAID]) / RESTARTS).touch()  # the ranks stop, but the job does not
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
            return RunResult(state=WorkerState.HEALTHY)  # the agent of another host has stopped all ranks for them
        if not FINAL_CODES.isdisjoint(codes.values()):
            self._remaining_restarts = 0
        elif self._remaining_restarts > 0 and not (Path(os.environ[SAID]) / STALLED).exists():
            say_killed({rank: code for rank, code in codes.items() if code != -signal.SIGTERM})
        return result

    def _hosts_wait(self, worker_group: WorkerGroup) -> bool:
        """Return whether a host waits to join."""
        end = time.monotonic() + _CACHE_SECONDS
        while (worker_group.group_world_size or 0) < self._most_hosts and time.monotonic() < end:
            if worker_group.spec.rdzv_handler.num_nodes_waiting() > 0:
                return True
            time.sleep(0.1)
        return False

    def _shutdown(self, death_sig: signal.Signals = signal.SIGTERM, timeout: int = 30) -> None:
        # A scheduler may send the same signal to each process of a job: what stops already is not stopped again.
        before = {number: signal.signal(number, signal.SIG_IGN) for number in _STOP_SIGNALS}
        try:
            super()._shutdown(death_sig, timeout)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler if handler is not None else signal.SIG_DFL)


def store_lost(endpoint: str) -> PleRecError:
    """Return the error of a job whose rendezvous at `endpoint` was there and is gone."""
    return PleRecError(
        f"rendezvous at {endpoint}",
        "lost: its host has ended, or cannot be reached",
        "it keeps what the hosts of a job know of each other, so the job ends without it",
        f"look at what that host has said, then run the same command again; {Option.AUTO_RESUME} goes on",
    )


class StoreWatch(threading.Thread):
    """A thread that ends this agent and its ranks once the host of the rendezvous cannot be reached any more.

    The agent itself may wait for minutes in a call to a store whose host has vanished without closing its connections.

    Args:
        endpoint: Address of the rendezvous, `HOST` or `HOST:PORT`.
    """

    def __init__(self, endpoint: str) -> None:
        super().__init__(name="store-watch", daemon=True)
        self._endpoint, self._said = endpoint, os.environ[SAID]
        self._address = parse_rendezvous_endpoint(endpoint, _DEFAULT_PORT)
        self._stopped = threading.Event()

    def run(self) -> None:
        """Try to connect every 2 s until `stop`."""
        reached: float | None = None
        while not self._stopped.wait(_POLL_SECONDS):
            begun = time.monotonic()
            if self._reaches():
                reached = time.monotonic()
            elif reached is not None and begun - reached > _STORE_LOST_SECONDS:
                break
        if not self._stopped.is_set():
            _say(str(store_lost(self._endpoint)))
            reap(self._said)
            shutil.rmtree(self._said, ignore_errors=True)
            os._exit(1)

    def stop(self) -> None:
        """Let the thread end: the job is over."""
        self._stopped.set()

    def _reaches(self) -> bool:
        with suppress(OSError), socket.create_connection(self._address, timeout=_CONNECT_SECONDS):
            return True
        return False


@contextmanager
def agent_of_this_job(args: Namespace) -> Iterator[None]:
    """Let torchrun use `Agent`, and watch the store of a rendezvous that has an address."""
    watch = StoreWatch(args.rdzv_endpoint) if args.rdzv_backend == "c10d" and args.rdzv_endpoint else None
    if watch is not None:
        watch.start()
    names = vars(launcher)  # where torchrun looks its agent up
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
