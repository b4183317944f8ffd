"""Regions of a step, marked where they begin and end, and the marks within the sharded tables.

A region that opens inside another one stops the clock of the outer one until it closes, so that every moment belongs to
exactly one region and their times add up to the whole. A region may open any number of times in a step.

In the forward pass: input distribution, lookup, and output distribution until its result is waited for. In the
backward pass: gradient exchange, of the pooled rows and, at the end, DDP's wait for the dense gradients; and table
update, FBGEMM's backward, which holds the optimizer of the tables.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal

import torch
from torch import nn
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.types import LazyAwaitable

from ple_rec.distributed.sparse_prefetch import lookups_of, sharded_collection

Region = Literal[
    "data wait",
    "copy to device",
    "input distribution",
    "lookup",
    "output distribution",
    "dense forward",
    "dense backward",
    "gradient exchange",
    "table update",
    "optimizers",
    "metrics",
    "logging",
    "other",
]
REGIONS: tuple[Region, ...] = Region.__args__  # type: ignore[attr-defined]

_NOTHING: AbstractContextManager[None] = nullcontext()


class Regions:
    """Marks that do nothing: each costs a function call and never touches the device."""

    def __call__(self, region: Region) -> AbstractContextManager[None]:
        """Return a context whose content belongs to a region of the step."""
        return _NOTHING

    def paused(self) -> AbstractContextManager[None]:
        """Return a context whose content belongs to no step: an evaluation, a checkpoint."""
        return _NOTHING

    def move(self, region: Region, other: Region, seconds: float) -> None:
        """Give seconds of one region to another, where the two run by turns within the first."""


OFF = Regions()


class RegionClocks(Regions):
    """Marks that can be timed, or named in a trace.

    Clocks rather than ranges of a trace make the table: a tracer cannot show a region that one thread opens and another
    closes, a GPU that is waited for at every mark shows no overlap in it, and it slows small operators most.

    Args:
        device: Device whose work is timed. A GPU is waited for at every mark while the clocks run.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._mode: Literal["off", "timed", "traced"] = "off"
        self._open: list[tuple[Region, Any]] = []
        self.paused_seconds = 0.0
        self.begin(None)

    def begin(self, mode: Literal["timed", "traced"] | None) -> None:
        """Time the regions from now on, name them in the profiler's trace, or do neither; the clocks start at 0."""
        self.seconds: dict[Region, float] = dict.fromkeys(REGIONS, 0.0)
        self._close_to(0)
        self._mode = mode or "off"
        self._since = self.now() if self._mode == "timed" else 0.0

    def now(self) -> float:
        """Return the time once the device has done all the work in its queue."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()

    def end(self) -> dict[Region, float]:
        """Stop the clocks, and return the seconds of each region since `begin`."""
        self._account()
        seconds = self.seconds
        self.begin(None)
        return seconds

    def __call__(self, region: Region) -> AbstractContextManager[None]:
        """Return a context whose content belongs to a region of the step."""
        return _NOTHING if self._mode == "off" else self._within(region)

    def move(self, region: Region, other: Region, seconds: float) -> None:
        """Give seconds of one region to another, where the two run by turns within the first."""
        if self._mode == "timed":
            self.seconds[region] -= seconds
            self.seconds[other] += seconds

    def push(self, region: Region) -> None:
        """Open a region, from a hook, which cannot hold a context open."""
        if self._mode == "off":
            return
        self._account()
        record = None
        if self._mode == "traced":
            record = torch.profiler.record_function(region)
            record.__enter__()
        self._open.append((region, record))

    def push_untraced(self, region: Region) -> None:
        """Open a region that another thread may close, for the clocks alone: a trace cannot show such a one."""
        if self._mode == "timed":
            self.push(region)

    def pop(self, region: Region) -> None:
        """Close the innermost region, if it is this one."""
        if self._open and self._open[-1][0] == region:
            self._close_to(len(self._open) - 1)

    @contextmanager
    def _within(self, region: Region) -> Iterator[None]:
        depth = len(self._open)
        self.push(region)
        try:
            yield
        finally:
            self._close_to(depth)  # and what hooks have opened within

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Return a context whose content belongs to no step: an evaluation, a checkpoint."""
        self._account()
        mode, self._mode = self._mode, "off"
        begun = time.perf_counter()
        try:
            yield
        finally:
            self._mode, self._since = mode, self.now()
            self.paused_seconds += self._since - begun

    def _close_to(self, depth: int) -> None:
        if len(self._open) > depth:
            self._account()
        while len(self._open) > depth:
            _, record = self._open.pop()
            if record is not None:
                record.__exit__(None, None, None)

    def _account(self) -> None:
        """Give the time since the last mark to the innermost region."""
        if self._mode == "timed":
            now = self.now()
            self.seconds[self._open[-1][0] if self._open else "other"] += now - self._since
            self._since = now


class TableMarks:
    """Hooks on the sharded collection of a model, until `remove`.

    Args:
        model: Sharded model.
        clocks: Clocks whose regions the hooks open and close.
    """

    def __init__(self, model: DistributedModelParallel, clocks: RegionClocks) -> None:
        self._clocks = clocks
        self._handles: list[Any] = []
        collection = sharded_collection(model)
        if collection is None:
            return
        self._handles += [
            collection.register_forward_pre_hook(self._before_collection),
            collection.register_forward_hook(self._after_collection),
        ]
        for lookup in lookups_of(collection):
            self._handles.append(lookup.register_forward_pre_hook(self._before_lookup))
            self._handles.append(lookup.register_forward_hook(self._after_lookup))

    def remove(self) -> None:
        """Take every hook away."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _before_collection(self, *_: Any) -> None:
        self._clocks.push("input distribution")

    def _before_lookup(self, *_: Any) -> None:
        self._clocks.pop("input distribution")
        self._clocks.pop("output distribution")  # of the lookup before
        self._clocks.push("lookup")

    def _after_lookup(self, _module: nn.Module, _args: Any, output: Any) -> None:
        self._clocks.pop("lookup")
        self._clocks.push("output distribution")
        if isinstance(output, torch.Tensor):
            for node in _lookup_nodes(output.grad_fn):
                node.register_prehook(lambda *_: self._clocks.push("table update"))
                node.register_hook(lambda *_: self._clocks.pop("table update"))

    def _after_collection(self, _module: nn.Module, _args: Any, output: Any) -> None:
        def arrived(pooled: Any) -> Any:
            self._clocks.pop("output distribution")
            values = pooled.values()
            if values.requires_grad:
                # What is left of backward then: exchange of these gradients, tables, and the wait for all the others.
                values.register_hook(lambda _: self._clocks.push_untraced("gradient exchange"))
            return pooled

        if isinstance(output, LazyAwaitable):
            output.callbacks.append(arrived)
        else:
            arrived(output)


def _lookup_nodes(node: Any) -> Iterator[Any]:
    """Yield FBGEMM's nodes of the graph behind an output, which is one node's or a concatenation of several."""
    if node is None:
        return
    if "Lookup" in node.name():
        yield node
        return
    for following, _ in node.next_functions:
        yield from _lookup_nodes(following)
