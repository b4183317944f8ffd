"""Search for uses of memory on CUDA streams whose order depends on the speed of the streams.

`find_races` reads the events of a trace and computes by vector clocks which operators have a fixed order. It returns
a line for each pair that has none:

    an operator uses memory that another stream writes, or writes memory that another stream uses
    memory is freed while a stream other than the one that allocated it may still use it: the allocator may give it away
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple


class CallSite(NamedTuple):
    """Line of the project that calls `wait_stream` or `record_stream`.

    Args:
        call: "wait_stream", or "record_stream" with the tensor, such as "record_stream sparse.values": the tensor is a
            field of the field `sparse` of the object whose `record_stream` the project calls.
        function: File and function of the line, such as "batch_feeder, PipelinedFeeder.next".
        line: Number of the line.
    """

    call: str
    function: str
    line: int


class StreamEvent(NamedTuple):
    """Action of the host that gives work to a stream, orders two streams, or concerns the life of memory.

    Memory is named by numbers, one for each allocation. There are four kinds of events:

        launch          `stream` gets an operator or a collective, which reads `reads` and writes `writes`
        wait            `stream` waits for all work that `other` has so far, or only for the collective `collective`
        record_stream   the allocator learns that `stream` uses `memory`, too
        free            `memory`, which was allocated on `stream`, goes back to the allocator

    Args:
        kind: Kind of the event.
        stream: Stream that the table above names `stream`.
        other: Stream that `stream` waits for; empty for other kinds.
        reads: Memory that the operator reads.
        writes: Memory that the operator writes.
        memory: One number for "record_stream" and "free"; none for other kinds.
        name: Name of the operator or the collective.
        site: Line of the project that calls `wait_stream` or `record_stream`; None if a library calls it by itself.
        step: Name of the test's step in which the event happens.
        collective: Number of the collective that is launched, or that is waited for alone; 0 for any other event.
    """

    kind: Literal["launch", "wait", "record_stream", "free"]
    stream: str
    other: str = ""
    reads: tuple[int, ...] = ()
    writes: tuple[int, ...] = ()
    memory: tuple[int, ...] = ()
    name: str = ""
    site: CallSite | None = None
    step: str = ""
    collective: int = 0


@dataclass
class _Uses:
    """Last uses of one allocation by each stream.

    Args:
        last_write: Time of the last write by the stream that wrote last, on that stream's clock.
        last_use: Time of the last read or write by each stream, on that stream's clock.
        names: Operator of the last use by each stream.
    """

    last_write: dict[str, int] = field(default_factory=dict)
    last_use: dict[str, int] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)


def find_races(events: Sequence[StreamEvent], without: CallSite | None = None) -> list[str]:
    """Return a line for each pair of uses of memory that nothing orders.

    Args:
        events: Events of a finished trace.
        without: Call to ignore, as if the project did not make it; None to ignore none.
    """
    # The clock of a stream says how many launches of each stream certainly end before its own next launch begins.
    clocks: dict[str, dict[str, int]] = defaultdict(dict)
    # Clock of NCCL's stream at the end of each collective, by the collective's number.
    ends: dict[int, dict[str, int]] = {}
    uses: dict[int, _Uses] = defaultdict(_Uses)
    recorded_streams: dict[int, set[str]] = defaultdict(set)
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
        elif event.kind == "record_stream":
            recorded_streams[event.memory[0]].add(event.stream)
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
            number = event.memory[0]
            # The allocator waits for the streams of each `record_stream`, and so for the work that they wait for.
            ended = dict(clock)
            for stream in recorded_streams[number]:
                merge(ended, clocks[stream])
            use = uses[number]
            races += [
                f"{event.step}: memory of {event.stream} is freed while {use.names[stream]} on {stream} may use it"
                for stream, time in use.last_use.items()
                if ended.get(stream, 0) < time
            ]
    return races
