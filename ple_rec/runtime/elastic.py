"""Torchrun's elastic agent, changed so that a rank's exit code decides whether the ranks are started again.

An agent is the process on each host that starts its ranks and watches them; the rendezvous is the store by which the
agents of a job find each other. A rank that ends with code 2, 3 or 4 has printed the reason, and would fail again; one
that ends with 75 has received a stop signal. Both end the job. Ranks that crash or lose a peer are started again, up to
`--max-restarts` times. Torchrun itself handles a host that vanishes: its rendezvous expects a heartbeat of each host,
and the watchdog of the ranks (`ple_rec/distributed/watchdog.py`) ends ranks that wait for that host.
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
from ple_rec.runtime.exits import AGENT_FOLDER, FINAL_CODES, PREEMPTED, RESTARTS, STALLED, print_killed_ranks, reap

# This file in the agent's folder means that the ranks of this host have been started.
STARTED = "started"
# Torchrun uses this port if the address of the rendezvous has none.
_DEFAULT_PORT = 29400
# Seconds between two attempts to connect to the rendezvous, and seconds that an attempt may take.
_POLL_SECONDS = 2.0
_CONNECT_SECONDS = 5.0
# Seconds since the last connection after which the rendezvous counts as lost.
_STORE_LOST_SECONDS = 12.0
# The rendezvous may show a change of another host up to 1 s late; this is a little longer.
_CACHE_SECONDS = 1.5
_STOP_SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


def may_restart(args: Namespace) -> bool:
    """Return True if the agent may start its ranks more than once."""
    low, high = parse_min_max_nnodes(args.nnodes)
    return bool(low < high or args.max_restarts > 0)


def set_rendezvous_defaults(args: Namespace) -> None:
    """Set options that torchrun needs for several hosts or for restarts, unless the user has set them."""
    has_several_hosts = args.rdzv_backend == "c10d" and parse_min_max_nnodes(args.nnodes)[1] > 1
    if has_several_hosts or may_restart(args):
        # If ranks shared the store of the agents, restarted ranks would find in it the addresses of the previous ranks,
        # which refuse connections, and a host that comes back would wait for a rank 0 that has ended.
        os.environ.setdefault("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")
    if has_several_hosts and may_restart(args) and "last_call_timeout" not in args.rdzv_conf:
        # Seconds that the remaining hosts wait for further hosts. Torch's default, 30 s, would pass at every restart.
        args.rdzv_conf = ",".join(filter(None, (args.rdzv_conf, "last_call_timeout=3")))


class Agent(LocalElasticAgent):
    """Agent that restarts ranks only if their exit codes allow it, and prints a line when it does.

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
        # The previous ranks may have left marker files.
        for file in folder.iterdir():
            file.unlink()
        (folder / STARTED).touch()
        return dict(super()._start_workers(worker_group))

    def _restart_workers(self, worker_group: WorkerGroup) -> None:
        if worker_group.state == WorkerState.HEALTHY:
            # The ranks learn from this file that the agent stops them only to start them again.
            (Path(os.environ[AGENT_FOLDER]) / RESTARTS).touch()
            reason = "hosts have joined"
        else:
            done = worker_group.spec.max_restarts - self._remaining_restarts
            reason = f"restart {done} of {worker_group.spec.max_restarts}"
        _say(f"starts the ranks of this host anew ({reason})")
        super()._restart_workers(worker_group)

    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
        result: RunResult = super()._monitor_workers(worker_group)
        if result.state != WorkerState.FAILED:
            return result
        codes = {rank: failure.exitcode for rank, failure in result.failures.items()}
        if PREEMPTED in codes.values() and self._has_waiting_hosts(worker_group):
            # The agent of another host has stopped all ranks so that a waiting host can join.
            return RunResult(state=WorkerState.HEALTHY)
        if not FINAL_CODES.isdisjoint(codes.values()):
            self._remaining_restarts = 0
        elif self._remaining_restarts > 0 and not (Path(os.environ[AGENT_FOLDER]) / STALLED).exists():
            print_killed_ranks({rank: code for rank, code in codes.items() if code != -signal.SIGTERM})
        return result

    def _has_waiting_hosts(self, worker_group: WorkerGroup) -> bool:
        """Return True if the job may have more hosts and one waits to join, which may show up to 1.5 s late."""
        end = time.monotonic() + _CACHE_SECONDS
        while (worker_group.group_world_size or 0) < self._most_hosts and time.monotonic() < end:
            if worker_group.spec.rdzv_handler.num_nodes_waiting() > 0:
                return True
            time.sleep(0.1)
        return False

    def _shutdown(self, death_sig: signal.Signals = signal.SIGTERM, timeout: int = 30) -> None:
        # A scheduler may send the same signal to each process of a job, so an agent that is already stopping ignores
        # it.
        before = {number: signal.signal(number, signal.SIG_IGN) for number in _STOP_SIGNALS}
        try:
            super()._shutdown(death_sig, timeout)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler if handler is not None else signal.SIG_DFL)


def store_lost_error(endpoint: str) -> PleRecError:
    """Return the error of a job that has lost its rendezvous at `endpoint`."""
    return PleRecError(
        f"rendezvous at {endpoint}",
        "lost: its host has ended, or cannot be reached",
        "the hosts of a job find each other by the rendezvous, so the job ends without it",
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
        """Try to connect every 2 s until `stop`.

        If the last success is more than 12 s ago, the agent and its ranks end. Before the first success, they do not.
        """
        last_success: float | None = None
        while not self._stopped.wait(_POLL_SECONDS):
            start = time.monotonic()
            if self._can_connect():
                last_success = time.monotonic()
            elif last_success is not None and start - last_success > _STORE_LOST_SECONDS:
                break
        if not self._stopped.is_set():
            _say(str(store_lost_error(self._endpoint)))
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
def use_agent(args: Namespace) -> Iterator[None]:
    """Make torchrun use `Agent` in the block, and watch the store of the rendezvous if it has an address."""
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
