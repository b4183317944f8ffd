"""Trace of the work that a rank gives to CUDA streams, on a machine without a GPU.

Stand-ins for streams take the place of torch's, and the operators run on the CPU. In the order of the host, a
`StreamTrace` holds each operator with its stream and the memory that it reads and writes, each wait between streams,
each call of `record_stream`, and each moment when memory is freed. `stream_races.find_races` searches it for work whose
order depends on the speed of the streams.

Collectives run on a stream of their own, which waits for the stream of the caller, as NCCL's do. In a training, the
host also waits for streams, for example to read numbers of ids. Such waits order work, too, but a trace leaves them
out, since a later version of TorchRec may do without them.
"""

from __future__ import annotations

import sys
import threading
import weakref
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from types import FrameType
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from tests.gpu_proofs.stream_races import CallSite, StreamEvent
from tests.gpu_proofs.thread_ranks import Recorder

DEFAULT = "default"
_NCCL = "nccl"
CUDA = torch.device("cuda", 0)


class FakeStream:
    """Stand-in for `torch.cuda.Stream`."""

    def __init__(self, device: object = None, priority: int = 0, name: str = "") -> None:
        self.device = CUDA
        self.name = name or _trace().next_stream()

    def wait_stream(self, other: FakeStream) -> None:
        """Let the later work of this stream wait for the work that another stream has so far."""
        _trace().add(StreamEvent("wait", self.name, other.name, site=_call_site()))


class StreamTrace(TorchDispatchMode):
    """Events of one rank, to which the operators of the calling thread are added while it is an active mode.

    Args:
        names: Names of the streams in the order in which they are made.

    Attributes:
        events: Events in the order of the host.
        owners: Names of the streams that allocated memory, at the index of the memory's number; empty for host memory.
        step: Name of the test's current step, which the next events get.
        unfinished: Tensors of the collectives that nobody has waited for, by the collective's number. NCCL, too, keeps
            tensors until their collective has ended.
    """

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        self.events: list[StreamEvent] = []
        self.owners: list[str] = []
        self.step = ""
        self.unfinished: dict[int, Any] = {}
        self._names = iter(names)
        # Number of each allocation that is in use, by its address.
        self._numbers: dict[int, int] = {}
        self._stack = [FakeStream(name=DEFAULT)]

    def next_stream(self) -> str:
        """Return the name of a new stream."""
        return next(self._names)

    @property
    def current(self) -> FakeStream:
        """Stream that gets the work of the host now."""
        return self._stack[-1]

    @contextmanager
    def use(self, stream: FakeStream) -> Iterator[None]:
        """Give the work of the block to a stream."""
        self._stack.append(stream)
        try:
            yield
        finally:
            self._stack.pop()

    def add(self, event: StreamEvent) -> None:
        """Add an event to the current step."""
        self.events.append(event._replace(step=self.step))

    def number(self, tensor: Tensor, *, owner: str = "") -> int:
        """Return the number of a tensor's memory.

        Args:
            tensor: Tensor on the CPU.
            owner: Stream that has allocated the memory, if this is the first call for it; empty for host memory.
        """
        storage = tensor.untyped_storage()
        address = storage._cdata
        if address not in self._numbers:
            number = self._numbers[address] = len(self.owners)
            self.owners.append(owner)
            weakref.finalize(storage, self._free, address, number).atexit = False
        return self._numbers[address]

    def _free(self, address: int, number: int) -> None:
        """Add the event that memory is freed, unless it is host memory."""
        del self._numbers[address]
        if self.owners[number]:
            self.add(StreamEvent("free", self.owners[number], memory=(number,)))

    def launch(self, name: str, reads: Sequence[Tensor], writes: Sequence[Tensor]) -> None:
        """Add an operator on the current stream; one without values to read or write is left out."""
        numbers = [tuple(self.number(t) for t in tensors if t.numel()) for tensors in (reads, writes)]
        if any(numbers):
            self.add(StreamEvent("launch", self.current.name, reads=numbers[0], writes=numbers[1], name=name))

    def host_read(self, tensor: Tensor) -> None:
        """Add a copy of a tensor to the host, which the current stream carries out; host memory needs none."""
        if self.owners[self.number(tensor)]:
            self.launch("read by the host", [tensor], [])

    def add_record_stream(self, tensor: Tensor, stream: FakeStream) -> None:
        """Add a call of `tensor.record_stream(stream)`."""
        site = _call_site(tensor)
        self.add(StreamEvent("record_stream", stream.name, memory=(self.number(tensor),), site=site))

    def shared_events(self) -> list[StreamEvent]:
        """Return the events, reduced to the memory that several streams use, since no other memory can have a race.

        Operators that use no such memory are left out.
        """
        streams: dict[int, set[str]] = defaultdict(set)
        for event in self.events:
            for number in (*event.reads, *event.writes, *event.memory):
                streams[number] |= {event.stream, self.owners[number] or event.stream}
        shared = []
        for event in self.events:
            reads, writes, memory = (
                tuple(number for number in numbers if len(streams[number]) > 1)
                for numbers in (event.reads, event.writes, event.memory)
            )
            if event.kind == "wait" or event.collective or reads or writes or memory:
                shared.append(event._replace(reads=reads, writes=writes, memory=memory))
        return shared

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        inputs = [x for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        numbers = {self.number(x) for x in inputs}
        result = func(*args, **kwargs)
        outputs = [x for x in pytree.tree_leaves(result) if isinstance(x, Tensor)]
        written = [
            x
            for argument, value in zip(func._schema.arguments, args, strict=False)
            if argument.alias_info is not None and argument.alias_info.is_write
            for x in pytree.tree_leaves(value)
            if isinstance(x, Tensor)
        ]
        allocated = [x for x in outputs if self.number(x, owner=self.current.name) not in numbers]
        name = func._schema.name.split("::")[-1]
        if name in ("_local_scalar_dense", "nonzero"):
            self.host_read(inputs[0])
        # An operator that returns a view, or memory without values, gives no work to a stream.
        elif (allocated or written) and "empty" not in name:
            self.launch(name, inputs, allocated + written)
        return result


class _Work(dist._Work):
    """Handle of a collective, which torch returns to the caller."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self._number = number

    def wait(self, timeout: Any = None) -> bool:
        """Let the current stream wait for the collective, and release its tensors."""
        _trace().add(StreamEvent("wait", _trace().current.name, _NCCL, collective=self._number))
        _trace().unfinished.pop(self._number, None)
        return True

    def is_completed(self) -> bool:
        """Return True, since the ranks have already exchanged the data."""
        return True


class StreamRecorder(Recorder):
    """Recorder of collectives that also adds them to the traces, as work of a stream of NCCL's."""

    def meet(self, operation: Any, group: Any, data: Any) -> Any:
        """Join a collective, and return a handle; a wait for it makes the current stream wait for the collective."""
        with _disable_current_modes():
            work = super().meet(operation, group, data)
        trace = getattr(_traces, "trace", None)
        if trace is None:
            return work
        tensors = [x for x in pytree.tree_leaves(data) if isinstance(x, Tensor)]
        trace.add(StreamEvent("wait", _NCCL, trace.current.name))
        number = len(trace.events)
        trace.add(
            StreamEvent(
                "launch",
                _NCCL,
                writes=tuple(trace.number(tensor) for tensor in tensors),
                name=type(operation).__name__,
                collective=number,
            )
        )
        trace.unfinished[number] = data
        return _Work(number)


_traces = threading.local()


def _trace() -> StreamTrace:
    trace: StreamTrace = _traces.trace
    return trace


def _call_site(tensor: Tensor | None = None) -> CallSite | None:
    """Return the line of the project that has called `wait_stream` or `record_stream`; None if a library called it.

    `batch.record_stream(stream)` calls the method of each field, and so on down to the tensors. The call site is the
    line with the first of these calls.

    Args:
        tensor: Tensor whose `record_stream` is called; None for a wait.
    """
    owners: list[object] = []
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        file, function = frame.f_code.co_filename, frame.f_code.co_name
        if function == "record_stream":
            owners.append(frame.f_locals["self"])
        # `wait_for_stream` is the project's helper around `wait_stream`.
        elif file != __file__ and function != "wait_for_stream":
            break
        frame = frame.f_back
    assert frame is not None
    code = frame.f_code
    if "/ple_rec/" not in code.co_filename:
        return None
    call = "wait_stream" if tensor is None else f"record_stream {_field_path(tensor, owners)}"
    return CallSite(call, f"{Path(code.co_filename).stem}, {code.co_qualname}", frame.f_lineno)


def _field_path(tensor: Tensor, owners: Sequence[object]) -> str:
    """Return the name of a tensor as a field of the outermost object, such as "sparse.values".

    Args:
        tensor: Tensor, a field of the first owner.
        owners: Objects of which each is a field of the next one.
    """
    names: list[str] = []
    part: object = tensor
    for owner in owners:
        names += [name.strip("_") for name, value in vars(owner).items() if value is part]
        part = owner
    return ".".join(reversed(names))


@contextmanager
def tracing(names: Sequence[str], *, operators: bool = True) -> Iterator[StreamTrace]:
    """Return a context with a trace of the calling thread's work in the block.

    Args:
        names: Names of the streams in the order in which they are made.
        operators: False to leave out operators, on a rank whose trace nobody reads.
    """
    _traces.trace = trace = StreamTrace(names)
    try:
        with trace if operators else nullcontext():
            yield trace
    finally:
        del _traces.trace


@contextmanager
def fake_streams() -> Iterator[None]:
    """Return a context in which the whole process uses stand-ins for torch's streams.

    It also replaces `to`, `tolist` and `record_stream` of tensors, which do something else on a CPU than on a GPU.
    """
    to, tolist = Tensor.to, Tensor.tolist

    def to_device(tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if kwargs.get("device", args[0] if args else None) == CUDA:
            return tensor.clone()
        return to(tensor, *args, **kwargs)

    def read_list(tensor: Tensor) -> Any:
        if (trace := getattr(_traces, "trace", None)) is not None:
            trace.host_read(tensor)
        return tolist(tensor)

    with ExitStack() as stack:
        for target, name, value in (
            (torch.cuda, "Stream", FakeStream),
            (torch.cuda, "stream", lambda stream: _trace().use(stream)),
            (torch.cuda, "current_stream", lambda device=None: _trace().current),
            (torch.cuda, "default_stream", lambda device=None: FakeStream(name=DEFAULT)),
            (Tensor, "to", to_device),
            (Tensor, "tolist", read_list),
            (Tensor, "record_stream", lambda tensor, stream: _trace().add_record_stream(tensor, stream)),
        ):
            stack.enter_context(patch.object(target, name, value))
        yield
