"""Ranks that are threads of one process, and a recorder that compares their collectives.

Torch's own process group of threads exchanges the data, so every rank gets what the others have sent. A real group
would hang if its ranks called different collectives. Here all ranks raise a `MismatchError` if the n-th collectives of
a group differ in name, type or size between its ranks, or if a rank waits for a rank that has ended.
"""

from __future__ import annotations

import os
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar
from unittest.mock import patch

import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import _set_thread_isolation_mode  # type: ignore[attr-defined]  # torch's stub lacks it
from torch.testing._internal.distributed import multi_threaded_pg as threaded
from torch.testing._internal.distributed.multi_threaded_pg import ProcessLocalGroup, ThreadLocalWorld, ret_work
from torch.utils import _pytree as pytree
from torchrec.distributed import comm
from torchrec.distributed.sharding import twrw_sharding

from ple_rec.distributed.process_group import silence_libraries

T = TypeVar("T")

# Only an error of this module can make a rank wait longer. If another rank ends or calls another collective, the rank
# stops waiting at once.
_MOST_SECONDS = 300.0
_BACKEND = "recorded"


class MismatchError(AssertionError):
    """Error that the collectives of a group's ranks differ, or that a rank waits for a rank that has ended."""


class Collective(NamedTuple):
    """Call of a collective on one rank.

    Args:
        name: Name of torch's class of the operation, for example `AllReduce`, with its reduction.
        group: Name of the process group; "0" is the default group.
        dtype: Type of the first tensor of `_common_tensors`; empty without tensors.
        bytes: Bytes of the tensors that must have the same size on all ranks (`_common_tensors`); 0 for `AllToAllBase`,
            in which each rank may send a different number of bytes.
        sent: Bytes that this rank sends to each rank; None for operations other than `AllToAllBase`.
        phase: Name of the `Recorder.phase` block in which the rank made the call.
        thread: Name of the calling thread.
    """

    name: str
    group: str
    dtype: str
    bytes: int
    sent: tuple[int, ...] | None
    phase: str
    thread: str

    @property
    def signature(self) -> tuple[str, str, str, int]:
        """Properties that must be equal on all ranks of the group."""
        return self.name, self.group, self.dtype, self.bytes


@dataclass
class _Meeting:
    """One collective of one group, which the ranks of the group join one after the other.

    Args:
        data: Tensors of each rank that has joined, by its number in the group.
        calls: Call of each rank that has joined, by its global number.
        is_done: True after the data have been exchanged.
    """

    data: dict[int, Any] = field(default_factory=dict)
    calls: dict[int, Collective] = field(default_factory=dict)
    is_done: bool = False


class Recorder:
    """Recorder of the collectives of all ranks, which also carries them out.

    Args:
        world_size: Number of ranks.

    Attributes:
        calls: Collectives of each rank, in the order of its calls.
        error: Error if the ranks did not call the same collectives; else None.
    """

    def __init__(self, world_size: int) -> None:
        self.world_size = world_size
        self.calls: list[list[Collective]] = [[] for _ in range(world_size)]
        self._phases = [""] * world_size
        self._lock = threading.Condition()
        self._meetings: dict[tuple[str, int], _Meeting] = {}
        self._counts: dict[tuple[str, int], int] = {}
        self._ended: set[int] = set()
        self.error: MismatchError | None = None

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Set the phase of the calling rank in the block."""
        rank = dist.get_rank()
        before, self._phases[rank] = self._phases[rank], name
        try:
            yield
        finally:
            self._phases[rank] = before

    def current_phase(self) -> str:
        """Return the phase of the calling rank."""
        return self._phases[dist.get_rank()]

    def calls_by_group(self, rank: int) -> dict[str, list[tuple[str, str, str, int]]]:
        """Return the signatures of a rank's collectives by group; threads of a rank use different groups."""
        calls: dict[str, list[tuple[str, str, str, int]]] = {}
        for call in self.calls[rank]:
            calls.setdefault(call.group, []).append(call.signature)
        return calls

    def end(self, rank: int) -> None:
        """Record that a rank will call no further collective."""
        with self._lock:
            self._ended.add(rank)
            self._lock.notify_all()

    def meet(self, operation: Any, group: ProcessLocalGroup, data: Any) -> Any:
        """Record and join a collective, wait until all ranks of the group have joined, and return its finished handle.

        Raises:
            MismatchError: The ranks of the group differ, or a rank has ended that this one waits for.
        """
        rank, name, size = dist.get_rank(), group.pg_name, group.size()
        if isinstance(operation, threaded.AllToAllBase) and not data[1].numel():
            # A rank without unpooled tables sends an empty matrix of rows. Real backends accept it; torch's group of
            # threads needs an input with as many dimensions as the output.
            data = (data[0], data[1].flatten(), *data[2:])
        members = tuple(sorted(dist.distributed_c10d._world.pg_group_ranks[group]))
        with self._lock:
            call = self._record(operation, name, data, rank)
            number = self._counts[name, rank] = self._counts.get((name, rank), -1) + 1
            meeting = self._meetings.setdefault((name, number), _Meeting())
            self._compare(meeting, call, rank)
            meeting.data[members.index(rank)], meeting.calls[rank] = data, call
            if len(meeting.data) == size:
                operation.work([meeting.data[i] for i in range(size)])
                meeting.is_done = True
                del self._meetings[name, number]
                self._lock.notify_all()
            while not meeting.is_done:
                absent = [r for r in members if r in self._ended and r not in meeting.calls]
                if absent and self.error is None:
                    self.error = MismatchError(
                        f"rank {rank} waits in {_describe(call)} for rank {absent[0]}, which has ended"
                    )
                    self._lock.notify_all()
                if self.error is not None:
                    raise self.error
                if not self._lock.wait(_MOST_SECONDS):
                    raise TimeoutError(f"rank {rank} waits in {_describe(call)}")
        return ret_work(data)

    def _record(self, operation: Any, group: str, data: Any, rank: int) -> Collective:
        """Add a call to the calls of a rank, and return it."""
        tensors, sent = _common_tensors(operation, data), None
        if isinstance(operation, threaded.AllToAllBase):
            _, tensor, _, splits = data
            rows = splits or [len(tensor) // self.world_size] * self.world_size
            sent = tuple(n * _bytes([tensor]) // max(1, len(tensor)) for n in rows)
        call = Collective(
            _name(operation),
            group,
            str(tensors[0].dtype).removeprefix("torch.") if tensors else "",
            0 if sent is not None else _bytes(tensors),
            sent,
            self._phases[rank],
            threading.current_thread().name,
        )
        self.calls[rank].append(call)
        return call

    def _compare(self, meeting: _Meeting, call: Collective, rank: int) -> None:
        """Raise a MismatchError, here and on all ranks that wait, if another rank has joined with another call."""
        for other, theirs in meeting.calls.items():
            if theirs.signature != call.signature and self.error is None:
                self.error = MismatchError(
                    f"rank {rank} calls {_describe(call)} where rank {other} calls {_describe(theirs)}"
                )
                self._lock.notify_all()
        if self.error is not None:
            raise self.error


def _describe(call: Collective) -> str:
    size = "" if call.sent is not None else f" of {call.bytes} bytes"
    return f"{call.name}{size} ({call.dtype}, group {call.group}, {call.phase})"


def _bytes(tensors: list[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _name(operation: Any) -> str:
    reduction = getattr(operation, "op", None)
    # Torch passes a `ReduceOp`, whose text does not name the reduction, or its field `op`, whose text does.
    kind = getattr(reduction, "op", reduction)
    return type(operation).__name__ + ("" if kind is None else f" {kind}".replace("RedOpType.", ""))


def _common_tensors(operation: Any, data: Any) -> list[Tensor]:
    """Return the tensors of a collective that must have the same sizes on all ranks.

    For an all-gather these are the outputs, and for a reduce-scatter the inputs: one tensor for each rank. In a gather
    and in a scatter, only one rank has tensors for all ranks, so each rank compares the single tensor that it sends or
    receives.
    """
    outputs, inputs = 0, 1
    places = {
        threaded.AllToAllBase: inputs,
        threaded.ReduceScatter: inputs,
        threaded.Gather: inputs,
        threaded.Scatter: outputs,
        threaded.AllGather: outputs,
    }
    # The data of these operations begin with the outputs and the inputs. In other operations all tensors are compared.
    return pytree.tree_leaves(data[places[type(operation)]] if type(operation) in places else data)


class _Joined:
    """Stand-in for torch's object of an unfinished collective; torch's process group of threads calls its `join`."""

    def __init__(self, recorder: Recorder, operation: Any, group: ProcessLocalGroup) -> None:
        self._recorder, self._operation, self._group = recorder, operation, group

    def join(self, _: int, data: Any) -> Any:
        """Join the collective."""
        return self._recorder.meet(self._operation, self._group, data)


class _RankThread(threading.Thread):
    """Thread that uses the process groups of the rank that starts it, for example the thread that saves."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._groups = ThreadLocalWorld()._get_world()

    def run(self) -> None:
        """Run the target of the thread."""
        ThreadLocalWorld._world.world = self._groups
        super().run()


def _create_group(store: Any, rank: int, world_size: int, timeout: Any) -> ProcessLocalGroup:
    return ProcessLocalGroup(rank, world_size)


dist.Backend.register_backend(_BACKEND, _create_group, devices=["cpu"])


@contextmanager
def _groups_of_threads(recorder: Recorder, local_world_size: int) -> Iterator[None]:
    """Give each thread process groups of its own, whose collectives `recorder` carries out."""
    new_group, host_groups = dist.new_group, threading.local()

    def groups_of_host(*_: Any, **__: Any) -> Any:
        # TorchRec stores these groups in variables of a module, which all ranks of this process would share.
        if not hasattr(host_groups, "pair"):
            with patch.multiple(comm, _INTRA_PG=None, _CROSS_PG=None):
                host_groups.pair = _host_groups(local_world_size)
        return host_groups.pair

    with ExitStack() as stack:
        for target, name, value in (
            (ProcessLocalGroup, "_start_coll", lambda operation, group: _Joined(recorder, operation, group)),
            (ProcessLocalGroup, "_end_coll", lambda *_: None),
            (dist, "new_group", lambda *args, backend=None, **kwargs: new_group(*args, **kwargs)),
            # If a rank has no shard of a table, torch derives the device of the other ranks' shards from this name.
            (ProcessLocalGroup, "_get_backend_name", lambda group: "gloo"),
            (twrw_sharding, "intra_and_cross_node_pg", groups_of_host),
            (threading, "Thread", _RankThread),
            # Each rank replaces the hook by its own, so the hook of the process is restored after the block.
            (sys, "excepthook", sys.excepthook),
        ):
            stack.enter_context(patch.object(target, name, value))
        stack.enter_context(patch.dict(os.environ, LOCAL_WORLD_SIZE=str(local_world_size)))
        stack.enter_context(warnings.catch_warnings())
        silence_libraries()
        threaded._install_threaded_pg()
        stack.callback(threaded._uninstall_threaded_pg)
        # Without this mode, torch would refuse a second group of the same name in this process.
        _set_thread_isolation_mode(True)
        stack.callback(_set_thread_isolation_mode, False)
        yield


def _host_groups(local_world_size: int) -> tuple[Any, Any]:
    """Return the group of the ranks of this host, and the group of the ranks with the same number on all hosts."""
    rank, world_size = dist.get_rank(), dist.get_world_size()
    hosts = [list(range(first, first + local_world_size)) for first in range(0, world_size, local_world_size)]
    groups: list[Any] = []
    for sets in (hosts, [list(ranks) for ranks in zip(*hosts, strict=True)]):
        groups += [group for ranks in sets if (group := dist.new_group(ranks)) and rank in ranks]
    return groups[0], groups[1]


def run_thread_ranks(
    fn: Callable[[int], T], recorder: Recorder, *, local_world_size: int = 8
) -> list[T | BaseException]:
    """Call `fn(rank)` on ranks that are threads, and return what each rank returned or raised.

    Args:
        fn: Function of a rank.
        recorder: New recorder, which has no calls yet.
        local_world_size: Number of ranks on each host.

    Raises:
        MismatchError: The ranks did not call the same collectives.
    """
    world_size = recorder.world_size
    results: list[Any] = [None] * world_size
    store = dist.HashStore()

    def serve(rank: int) -> None:
        try:
            dist.init_process_group(_BACKEND, rank=rank, world_size=world_size, store=store)
            results[rank] = fn(rank)
        except BaseException as error:  # The caller gets the errors of all ranks as results.
            results[rank] = error
        finally:
            recorder.end(rank)

    thread_class = threading.Thread
    with _groups_of_threads(recorder, min(local_world_size, world_size)):
        threads = [thread_class(target=serve, args=(rank,), name=f"rank {rank}") for rank in range(world_size)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    if recorder.error is not None:
        raise recorder.error
    return results
