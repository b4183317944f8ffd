"""Torchrun's elastic agent as a job of several hosts needs it.

What it does beyond torchrun's: a rank that has said why it ended (exit code 2, 3, 4 or 75) ends the job, only crashes
and lost hosts are restarted; a host that gives no sign of life is missed within seconds, even where no connection was
reset; the host that keeps the rendezvous is missed likewise. It changes torch 2.13's agent at four methods.
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
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from torch.distributed.elastic.agent.server.api import RunResult, WorkerGroup, WorkerState
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.rendezvous.api import RendezvousClosedError, RendezvousConnectionError
from torch.distributed.elastic.rendezvous.dynamic_rendezvous import DynamicRendezvousHandler
from torch.distributed.elastic.rendezvous.utils import _matches_machine_hostname, parse_rendezvous_endpoint
from torch.distributed.launcher import api as launcher
from torch.distributed.run import parse_min_max_nnodes

from ple_rec.errors import PleRecError
from ple_rec.exits import RESTARTS, say_killed
from ple_rec.reap import SAID, STALLED, reap

STOPPED = 75  # exit code of ranks that were asked to stop
SAID_BY_A_RANK = (2, 3, 4, STOPPED)

# Of a job that may go on with fewer hosts: one is missed after 4 s, and those that are left wait 3 s for each other.
# Torch's own are 5, 3 and 30: 15 s and 30 s. Signs of life are stamps of each host's clock: these agree within a
# second. After 3 s, hosts with five times more to do than cores have missed themselves.
_ELASTIC = {"keep_alive_interval": "1", "keep_alive_max_attempt": "4", "last_call_timeout": "3"}
_OWN_STORE = "TORCH_DISABLE_SHARE_RDZV_TCP_STORE"
_PORT = 29400  # of a rendezvous that names none
_WATCH_SECONDS = 2.0
_CONNECT_SECONDS = 5.0
_STORE_LOST_SECONDS = 12.0
_MISSED_SECONDS = 1.0  # a host that leaves to come again is in neither list for a moment
_KILL_SECONDS = 5
_LAST_WORDS_SECONDS = 3.0
_ONCE = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


def may_restart(args: Namespace) -> bool:
    """Whether the agent may start its ranks more than once."""
    low, high = parse_min_max_nnodes(args.nnodes)
    return bool(low < high or args.max_restarts > 0)


def prepare(args: Namespace) -> None:
    """Give a job that may start its ranks again, or has several hosts, what it needs, unless it is given."""
    several = args.rdzv_backend == "c10d" and parse_min_max_nnodes(args.nnodes)[1] > 1
    if several or may_restart(args):
        # In a store of the agents ranks that start again find the addresses of the ranks before them, which refuse; and
        # a host that comes back is told the address of a rank 0 that is gone, and waits.
        os.environ.setdefault(_OWN_STORE, "1")
    if several and may_restart(args):
        given = [pair for pair in args.rdzv_conf.split(",") if pair.strip()]
        keys = {pair.partition("=")[0].strip() for pair in given}
        args.rdzv_conf = ",".join([*given, *(f"{key}={value}" for key, value in _ELASTIC.items() if key not in keys)])


class Agent(LocalElasticAgent):
    """An agent whose ranks say how they end in the folder of `SAID`, and whose rendezvous is at `endpoint`."""

    def __init__(self, *args: Any, endpoint: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._endpoint = endpoint
        self._said = Path(os.environ[SAID])
        self._members: dict[Any, str] = {}  # hosts of this round, by the rendezvous' own description
        self._missed_at: float | None = None

    def _start_workers(self, worker_group: WorkerGroup) -> dict[int, Any]:
        for file in self._said.iterdir():  # what the ranks before have said is not of these
            file.unlink()
        self._members, self._missed_at = self._participants(), None
        return dict(super()._start_workers(worker_group))

    def _restart_workers(self, worker_group: WorkerGroup) -> None:
        if worker_group.state == WorkerState.HEALTHY:
            (self._said / RESTARTS).touch()  # its ranks stop, but the job does not
            why = "hosts have come"
        else:
            done = worker_group.spec.max_restarts - self._remaining_restarts
            why = f"restart {done} of {worker_group.spec.max_restarts}"
        _say(f"starts the ranks of this host anew ({why})")
        super()._restart_workers(worker_group)

    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
        stalled = (self._said / STALLED).exists()
        if stalled:
            self._kill_the_deaf()
        result: RunResult = super()._monitor_workers(worker_group)
        if result.state == WorkerState.FAILED:
            codes = _codes(result)
            if STOPPED in codes and self._hosts_wait(worker_group):
                return RunResult(state=WorkerState.HEALTHY)  # another agent was the first to see them
            if codes & set(SAID_BY_A_RANK):
                self._remaining_restarts = 0
            if self._remaining_restarts > 0 and not stalled:  # else `run_ranks`, or a rank, says it
                killed = {rank: failure.exitcode for rank, failure in result.failures.items()}
                say_killed({rank: code for rank, code in killed.items() if code != -signal.SIGTERM})
        elif result.state == WorkerState.HEALTHY and (lost := self._lost()):
            return self._without(lost, worker_group)
        return result

    def _kill_the_deaf(self) -> None:
        """End ranks that stand still, and do not end by themselves, without waiting whether they hear a signal."""
        time.sleep(_LAST_WORDS_SECONDS)
        assert self._pcontext is not None
        for process in self._pcontext.pids().values():  # those that have ended are still this process's children
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)

    def _without(self, lost: Sequence[str], worker_group: WorkerGroup) -> RunResult:
        """The ranks of this host wait for those of hosts that are lost: end them."""
        hosts = f"host {', '.join(lost)}" if len(lost) == 1 else f"hosts {', '.join(lost)}"
        if self._remaining_restarts == 0:
            self._shutdown(signal.SIGKILL, _KILL_SECONDS)
            raise PleRecError(
                hosts,
                "lost: no sign of life",
                "the job ends with it, since no restart is left",
                "look whether it is up, and its clock agrees with the others', then run the same command again; "
                "--auto-resume goes on",
            )
        _say(f"{hosts}: lost, no sign of life")
        self._shutdown(signal.SIGKILL, _KILL_SECONDS)
        return RunResult(state=WorkerState.UNHEALTHY)

    def _participants(self) -> dict[Any, str]:
        handler = self._rdzv_handler
        if not isinstance(handler, DynamicRendezvousHandler):
            return {}
        return {node: node.addr for node in handler._state_holder.state.participants}

    def _missing(self) -> list[str]:
        """Hosts of this round whose heartbeats the rendezvous misses."""
        handler = self._rdzv_handler
        if not isinstance(handler, DynamicRendezvousHandler):
            return []
        state = handler._state_holder.state
        gone = self._members.keys() - state.participants.keys() - state.wait_list
        return sorted(self._members[node] for node in gone)

    def _lost(self) -> list[str]:
        """Hosts that are missing for longer than one that leaves to come again."""
        missing, now = self._missing(), time.monotonic()
        self._missed_at = (self._missed_at or now) if missing else None
        return missing if self._missed_at is not None and now - self._missed_at > _MISSED_SECONDS else []

    def _hosts_wait(self, worker_group: WorkerGroup) -> bool:
        """Whether a host waits to join, which the rendezvous may tell a second late."""
        handler = self._rdzv_handler
        if not isinstance(handler, DynamicRendezvousHandler):
            return False
        end = time.monotonic() + _MISSED_SECONDS
        while handler.settings.max_nodes > (worker_group.group_world_size or 0) and time.monotonic() < end:
            if handler.num_nodes_waiting() > 0:
                return True
            time.sleep(0.1)
        return False

    def _stop_workers(self, worker_group: WorkerGroup) -> None:
        # Ranks that wait for a host that is gone do not hear a signal.
        self._shutdown(timeout=_KILL_SECONDS if self._missing() else self._shutdown_timeout)

    def _invoke_run(self, *args: Any, **kwargs: Any) -> RunResult:
        try:
            return super()._invoke_run(*args, **kwargs)
        except (RendezvousConnectionError, RendezvousClosedError) as error:
            if not self._members:  # it has never begun
                raise
            result = self._last_words()
            if _codes(result) & set(SAID_BY_A_RANK):
                return result  # this host has its part of what ended the other
            self._shutdown(signal.SIGKILL, _KILL_SECONDS)  # they wait for peers
            closed = isinstance(error, RendezvousClosedError)
            raise (_closed() if closed else _store_lost(self._endpoint)) from error

    def _last_words(self) -> RunResult:
        """How the ranks of this host end by themselves, if they do within a moment."""
        end = time.monotonic() + _LAST_WORDS_SECONDS
        while True:
            result: RunResult = super()._monitor_workers(self._worker_group)
            if result.state != WorkerState.HEALTHY or time.monotonic() > end:
                return result
            time.sleep(0.1)

    def _shutdown(self, death_sig: signal.Signals = signal.SIGTERM, timeout: int = 30) -> None:
        with _asked_once():
            super()._shutdown(death_sig, timeout)


def _codes(result: RunResult) -> set[int]:
    return {failure.exitcode for failure in result.failures.values()}


@contextmanager
def _asked_once() -> Iterator[None]:
    """While the ranks stop, the same wish again changes nothing: a scheduler may send it to every process of a job."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in _ONCE}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)


def _closed() -> PleRecError:
    return PleRecError(
        "the job",
        "was ended by another host",
        "what ends a rank with a message ends the job on all hosts",
        "look at what the other hosts have said",
    )


def _store_lost(endpoint: str) -> PleRecError:
    return PleRecError(
        f"rendezvous at {endpoint}",
        "lost: its host has ended, or cannot be reached",
        "it keeps what the hosts of a job know of each other, so the job ends without it",
        "look at what that host has said, then run the same command again; --auto-resume goes on",
    )


class StoreWatch(threading.Thread):
    """Ends this agent, and its ranks, once the host of the rendezvous cannot be reached any more.

    The agent itself may wait for minutes in a call to a store whose host has vanished without a reset.

    Args:
        endpoint: `HOST:PORT` of the rendezvous.
        said: Folder of the agent.
    """

    def __init__(self, endpoint: str, said: str) -> None:
        super().__init__(name="store-watch", daemon=True)
        self.endpoint, self.said = endpoint, said
        self._address = parse_rendezvous_endpoint(endpoint, _PORT)
        self._over = threading.Event()

    def run(self) -> None:
        """Until `stop`."""
        reached: float | None = None
        while not self._over.wait(_WATCH_SECONDS):
            now = time.monotonic()
            if self._reaches():
                reached = time.monotonic()
            elif reached is not None and now - reached > _STORE_LOST_SECONDS:  # it was there
                break
        if not self._over.is_set():
            self._end()

    def stop(self) -> None:
        """The job is over, or has found out by itself."""
        self._over.set()

    def _reaches(self) -> bool:
        with suppress(OSError), socket.create_connection(self._address, timeout=_CONNECT_SECONDS):
            return True
        return False

    def _end(self) -> None:
        _say(str(_store_lost(self.endpoint)))
        reap(self.said)
        shutil.rmtree(self.said, ignore_errors=True)
        os._exit(1)  # the main thread may wait in a call to the store


@contextmanager
def agent_of_this_job(args: Namespace, said: str) -> Iterator[None]:
    """Let torchrun use `Agent`; watch the store where another host keeps it."""
    watch: StoreWatch | None = None
    if args.rdzv_backend == "c10d" and not args.standalone and args.rdzv_endpoint:
        host, _ = parse_rendezvous_endpoint(args.rdzv_endpoint, _PORT)
        if not _matches_machine_hostname(host):
            watch = StoreWatch(args.rdzv_endpoint, said)
            watch.start()
    names = vars(launcher)  # where torchrun looks its agent up
    before, names["LocalElasticAgent"] = names["LocalElasticAgent"], partial(Agent, endpoint=args.rdzv_endpoint)
    try:
        yield
    finally:
        names["LocalElasticAgent"] = before
        if watch is not None:
            watch.stop()


def _say(message: str) -> None:
    sys.stderr.write(f"ple-rec: {message}\n")
    sys.stderr.flush()
