"""Recorder of work on CUDA streams where there is no GPU, and a search for work that is not ordered.

Stand-ins for streams take the place of torch's, and the operators run on the CPU. A `StreamTrace` records in
the order of the host: each operator with its stream and the memory that it reads and writes, each wait between streams,
each `record_stream`, and the moment when memory is freed. `find_races` computes which operators are ordered whatever
the speed of the streams is (vector clocks), and returns those that are not:

    an operator uses memory that another stream writes, or writes memory that another stream uses
    memory is freed while a stream other than the one that allocated it may still use it: the allocator may give it away

Collectives run on a stream of their own, which waits for the stream of the caller, as NCCL's do. In a training, the
host also waits for streams, for example to read numbers of ids. That orders work too, but it is not counted here, since
TorchRec may get rid of such waits.
"""

from __future__ import annotations

import sys
import threading
import weakref
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from tests.gpu_proofs.thread_ranks import Recorder

DEFAULT = "default"
_NCCL = "nccl"
CUDA = torch.device("cuda", 0)


class Site(NamedTuple):
    """Wait or `record_stream` of the project.

    Args:
        kind: "wait", or "record" with the name of the tensor.
        caller: File and function of the call.
        line: Line of the call.
    """

    kind: str
    caller: str
    line: int


class Event(NamedTuple):
    """Something that the host does, in its order.

    Args:
        kind: "launch", "wait", "record" or "free".
        stream: Stream of the work, or the stream that waits.
        other: Stream that is waited for.
        reads: Memory that an operator reads, by number.
        writes: Memory that an operator writes; of "record" and "free", the memory that they are about.
        name: Name of the operator.
        site: Call in the project, of its waits and records.
        step: What the test was doing.
        collective: Number of a collective: of its launch, and of a wait for it alone; 0 for others.
    """

    kind: str
    stream: str
    other: str = ""
    reads: tuple[int, ...] = ()
    writes: tuple[int, ...] = ()
    name: str = ""
    site: Site | None = None
    step: str = ""
    collective: int = 0


class FakeStream:
    """Stand-in for `torch.cuda.Stream`."""

    def __init__(self, device: object = None, priority: int = 0, name: str = "") -> None:
        self.device = CUDA
        self.name = name or _trace().next_stream()

    def wait_stream(self, other: FakeStream) -> None:
        """Let later work of this stream wait for the work of another one so far."""
        _trace().add(Event("wait", self.name, other.name, site=_site()))


class StreamTrace(TorchDispatchMode):
    """Record of the work of one rank.

    Args:
        names: Names of the streams in the order in which they are made.

    Attributes:
        events: What the host did, in its order.
        owners: Stream on which memory was allocated, by its number; empty for memory of the host.
        step: Text for the next events, which says what the test is doing.
        shelf: Tensors of collectives that nobody has waited for; NCCL keeps them until a collective has ended.
    """

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        self.events: list[Event] = []
        self.owners: list[str] = []
        self.step = ""
        self.shelf: dict[int, Any] = {}
        self._names = iter(names)
        # Numbers of the memory that is in use, by address.
        self._numbers: dict[int, int] = {}
        self._stack = [FakeStream(name=DEFAULT)]

    def next_stream(self) -> str:
        """Return the name of a new stream."""
        return next(self._names)

    @property
    def current(self) -> FakeStream:
        """Stream that work is given to now."""
        return self._stack[-1]

    @contextmanager
    def use(self, stream: FakeStream) -> Iterator[None]:
        """Give the work of the block to a stream."""
        self._stack.append(stream)
        try:
            yield
        finally:
            self._stack.pop()

    def add(self, event: Event) -> None:
        """Append an event."""
        self.events.append(event._replace(step=self.step))

    def number(self, tensor: Tensor, *, owner: str = "") -> int:
        """Return the number of the memory of a tensor; memory that is new belongs to no stream unless one is named."""
        storage = tensor.untyped_storage()
        address = storage._cdata
        if address not in self._numbers:
            number = self._numbers[address] = len(self.owners)
            self.owners.append(owner)
            weakref.finalize(storage, self._free, address, number).atexit = False
        return self._numbers[address]

    def _free(self, address: int, number: int) -> None:
        """Record that memory is freed, if a stream has allocated it."""
        del self._numbers[address]
        if self.owners[number]:
            self.add(Event("free", self.owners[number], writes=(number,)))

    def launch(self, name: str, reads: Sequence[Tensor], writes: Sequence[Tensor]) -> None:
        """Record an operator on the current stream."""
        numbers = [tuple(self.number(t) for t in tensors if t.numel()) for tensors in (reads, writes)]
        if any(numbers):
            self.add(Event("launch", self.current.name, reads=numbers[0], writes=numbers[1], name=name))

    def host_read(self, tensor: Tensor) -> None:
        """Record a copy to the host, which is read on the current stream."""
        if self.owners[self.number(tensor)]:
            self.launch("read by the host", [tensor], [])

    def record(self, tensor: Tensor, stream: FakeStream) -> None:
        """Record a call of `record_stream`."""
        self.add(Event("record", stream.name, writes=(self.number(tensor),), site=_site(tensor)))

    def shared_events(self) -> list[Event]:
        """Return the events without memory that a single stream uses, which cannot be part of a race."""
        streams: dict[int, set[str]] = defaultdict(set)
        for event in self.events:
            for number in (*event.reads, *event.writes):
                streams[number] |= {event.stream, self.owners[number] or event.stream}
        shared = []
        for event in self.events:
            reads, writes = (tuple(n for n in ns if len(streams[n]) > 1) for ns in (event.reads, event.writes))
            if event.kind == "wait" or event.collective or reads or writes:
                shared.append(event._replace(reads=reads, writes=writes))
        return shared

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        inputs = [x for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        before = {self.number(x) for x in inputs}
        result = func(*args, **kwargs)
        outputs = [x for x in pytree.tree_leaves(result) if isinstance(x, Tensor)]
        written = [
            x
            for argument, value in zip(func._schema.arguments, args, strict=False)
            if argument.alias_info is not None and argument.alias_info.is_write
            for x in pytree.tree_leaves(value)
            if isinstance(x, Tensor)
        ]
        new = [x for x in outputs if self.number(x, owner=self.current.name) not in before]
        name = func._schema.name.split("::")[-1]
        if name in ("_local_scalar_dense", "nonzero"):
            self.host_read(inputs[0])
        # Views, and memory without values, are no work of a stream.
        elif (new or written) and "empty" not in name:
            self.launch(name, inputs, new + written)
        return result


class _Work(dist._Work):
    """Work of a collective."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self._number = number

    def wait(self, timeout: Any = None) -> bool:
        """Let the current stream wait for the collective, and release its tensors."""
        _trace().add(Event("wait", _trace().current.name, _NCCL, collective=self._number))
        _trace().shelf.pop(self._number, None)
        return True

    def is_completed(self) -> bool:
        """Return True, since the data have been moved."""
        return True


class StreamRecorder(Recorder):
    """Recorder of collectives that also records them as work of a stream of NCCL."""

    def meet(self, operation: Any, group: Any, data: Any) -> Any:
        """Join a collective, and return work that orders streams when it is waited for."""
        with _disable_current_modes():
            work = super().meet(operation, group, data)
        trace = getattr(_traces, "trace", None)
        if trace is None:
            return work
        tensors = [x for x in pytree.tree_leaves(data) if isinstance(x, Tensor)]
        trace.add(Event("wait", _NCCL, trace.current.name))
        number = len(trace.events)
        trace.add(
            Event(
                "launch",
                _NCCL,
                writes=tuple(trace.number(tensor) for tensor in tensors),
                name=type(operation).__name__,
                collective=number,
            )
        )
        trace.shelf[number] = data
        return _Work(number)


_traces = threading.local()


def _trace() -> StreamTrace:
    trace: StreamTrace = _traces.trace
    return trace


def _site(tensor: Tensor | None = None) -> Site | None:
    """Return the call of the project that has come here; None for a call of a library of its own accord.

    Args:
        tensor: Tensor that is recorded; None for a wait. A site names it as a field of the object that the call passes.
    """
    frame: FrameType | None = sys._getframe(1)
    value: object = tensor
    names: list[str] = []
    while frame is not None:
        file, function = frame.f_code.co_filename, frame.f_code.co_name
        if function == "record_stream":
            value, inner = frame.f_locals["self"], value
            names += [name.strip("_") for name, field_value in vars(value).items() if field_value is inner]
        elif file != __file__ and function != "wait_for_stream":
            break
        frame = frame.f_back
    assert frame is not None
    code = frame.f_code
    if "/ple_rec/" not in code.co_filename:
        return None
    kind = "wait" if tensor is None else f"record {'.'.join(reversed(names))}"
    return Site(kind, f"{Path(code.co_filename).stem}, {code.co_qualname}", frame.f_lineno)


@contextmanager
def tracing(names: Sequence[str], *, operators: bool = True) -> Iterator[StreamTrace]:
    """Record the work of the calling thread in the block.

    Args:
        names: Names of the streams in the order in which they are made.
        operators: False to record waits and collectives alone, on a rank whose record nobody reads.
    """
    _traces.trace = trace = StreamTrace(names)
    try:
        with trace if operators else nullcontext():
            yield trace
    finally:
        del _traces.trace


@contextmanager
def fake_streams() -> Iterator[None]:
    """Replace torch's streams, and the methods of tensors that a GPU would treat otherwise, in the whole process."""
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
            (Tensor, "record_stream", lambda tensor, stream: _trace().record(tensor, stream)),
        ):
            stack.enter_context(patch.object(target, name, value))
        yield


@dataclass
class _Uses:
    """Last uses of memory by each stream, as times of the stream's clock."""

    last_write: dict[str, int] = field(default_factory=dict)
    last_use: dict[str, int] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)


def find_races(events: Sequence[Event], without: Site | None = None) -> list[str]:
    """Return a line for each pair of uses of memory that nothing orders.

    Args:
        events: Events of a finished record.
        without: Wait or record to leave out, as if the project did not call it; None for none.
    """
    clocks: dict[str, dict[str, int]] = defaultdict(dict)
    # Clock of NCCL's stream at the end of each collective, by its number.
    ends: dict[int, dict[str, int]] = {}
    uses: dict[int, _Uses] = defaultdict(_Uses)
    recorded: dict[int, set[str]] = defaultdict(set)
    races: list[str] = []

    def merge(target: dict[str, int], source: dict[str, int]) -> None:
        for stream, time in source.items():
            target[stream] = max(target.get(stream, 0), time)

    for event in events:
        if without is not None and event.site == without:
            continue
        clock = clocks[event.stream]
        if event.kind == "wait":
            merge(clock, ends[event.collective] if event.collective else clocks[event.other])
        elif event.kind == "record":
            recorded[event.writes[0]].add(event.stream)
        elif event.kind == "launch":
            clock[event.stream] = clock.get(event.stream, 0) + 1
            for number in dict.fromkeys((*event.reads, *event.writes)):
                use, is_write = uses[number], number in event.writes
                earlier = use.last_use if is_write else use.last_write
                races += [
                    f"{event.step}: {event.name} on {event.stream} is not ordered after {use.names[stream]} on {stream}"
                    for stream, time in earlier.items()
                    if clock.get(stream, 0) < time
                ]
                use.last_use[event.stream] = clock[event.stream]
                use.names[event.stream] = f"{event.name} ({event.step})"
                if is_write:
                    use.last_write = {event.stream: clock[event.stream]}
            if event.collective:
                ends[event.collective] = dict(clock)
        elif event.kind == "free":
            number = event.writes[0]
            # The allocator waits for the streams that are recorded, and for the work that they have waited for.
            done = dict(clock)
            for stream in recorded[number]:
                merge(done, clocks[stream])
            use = uses[number]
            races += [
                f"{event.step}: memory of {event.stream} is freed while {use.names[stream]} on {stream} may use it"
                for stream, time in use.last_use.items()
                if done.get(stream, 0) < time
            ]
    return races
