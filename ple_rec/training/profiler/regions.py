"""Regions of a training step, and the hooks that open and close regions inside the sharded tables.

A region is a kind of work in a step, for example "data wait" or "lookup". A region that opens inside another one stops
the clock of the outer region until it closes. Each moment therefore belongs to exactly one region, and the times of the
regions add up to the time of the step. A region may open any number of times in a step.

The tables have three regions in the forward pass: input distribution, lookup, and output distribution, which ends when
its result has arrived. They have two in the backward pass. Gradient exchange covers the gradients of rows and
the all-reduce of dense gradients; table update is FBGEMM's backward pass with the optimizer of the tables.
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

from ple_rec.distributed.sparse_prefetch import lookup_modules, sharded_collections

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

_EMPTY_CONTEXT: AbstractContextManager[None] = nullcontext()


class Regions:
    """Regions of a run that is not profiled; also the interface of `RegionClocks`.

    Opening a region only costs a function call, and never waits for the device.
    """

    def __call__(self, region: Region) -> AbstractContextManager[None]:
        """Return a context whose content belongs to a region of the step."""
        return _EMPTY_CONTEXT

    def paused(self) -> AbstractContextManager[None]:
        """Return a context whose content, for example an evaluation, belongs to no step."""
        return _EMPTY_CONTEXT

    def move(self, region: Region, other: Region, seconds: float) -> None:
        """Move seconds from a region to another one, whose work ran inside the context of the first."""


NO_REGIONS = Regions()


class RegionClocks(Regions):
    """Regions that are timed by clocks or named in a trace.

    The breakdown of a step uses clocks rather than the trace, since a trace cannot show a region that one thread opens
    and another closes, and the profiler slows small operators most.

    Args:
        device: Device whose work is timed. While the clocks run, opening or closing a region waits for a GPU.

    Attributes:
        paused_seconds: Seconds spent in `paused` so far.
        seconds: Seconds of each region since `begin`.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._mode: Literal["off", "timed", "traced"] = "off"
        self._open: list[tuple[Region, Any]] = []
        self.paused_seconds = 0.0
        self.begin(None)

    @property
    def current(self) -> Region:
        """Innermost open region."""
        return self._open[-1][0] if self._open else "other"

    def begin(self, mode: Literal["timed", "traced"] | None) -> None:
        """Set the clocks to 0, close all regions, and start timing or tracing, or stop both.

        Args:
            mode: "timed" to time the regions, "traced" to name them in the profiler's trace, None for neither.
        """
        self.seconds: dict[Region, float] = dict.fromkeys(REGIONS, 0.0)
        self._close_to(0)
        self._mode = mode or "off"
        self._since = self.now() if self._mode == "timed" else 0.0

    def now(self) -> float:
        """Wait until the device has finished its queued work, and return the time."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()

    def end(self) -> dict[Region, float]:
        """Stop the clocks, and return the seconds of each region since `begin`."""
        self._add_elapsed()
        seconds = self.seconds
        self.begin(None)
        return seconds

    def __call__(self, region: Region) -> AbstractContextManager[None]:
        """Return a context whose content belongs to a region of the step."""
        return _EMPTY_CONTEXT if self._mode == "off" else self._within(region)

    def move(self, region: Region, other: Region, seconds: float) -> None:
        """Move seconds from a region to another one, whose work ran inside the context of the first."""
        if self._mode == "timed":
            self.seconds[region] -= seconds
            self.seconds[other] += seconds

    def push(self, region: Region) -> None:
        """Open a region without a context, from a hook."""
        if self._mode == "off":
            return
        self._add_elapsed()
        record = None
        if self._mode == "traced":
            record = torch.profiler.record_function(region)
            record.__enter__()
        self._open.append((region, record))

    def push_untraced(self, region: Region) -> None:
        """Open a region for the clocks only, since a trace cannot show a region that another thread may close."""
        if self._mode == "timed":
            self.push(region)

    def pop(self, region: Region) -> None:
        """Close the innermost region if it is `region`."""
        if self._open and self._open[-1][0] == region:
            self._close_to(len(self._open) - 1)

    @contextmanager
    def _within(self, region: Region) -> Iterator[None]:
        depth = len(self._open)
        self.push(region)
        try:
            yield
        finally:
            # Hooks may have opened more regions inside this one.
            self._close_to(depth)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Return a context whose content, for example an evaluation, belongs to no step; its time is counted apart."""
        self._add_elapsed()
        mode, self._mode = self._mode, "off"
        started = time.perf_counter()
        try:
            yield
        finally:
            self._mode, self._since = mode, self.now()
            self.paused_seconds += self._since - started

    def _close_to(self, depth: int) -> None:
        if len(self._open) > depth:
            self._add_elapsed()
        while len(self._open) > depth:
            _, record = self._open.pop()
            if record is not None:
                record.__exit__(None, None, None)

    def _add_elapsed(self) -> None:
        """Add the time since the last change of region to the innermost region."""
        if self._mode == "timed":
            now = self.now()
            self.seconds[self.current] += now - self._since
            self._since = now


class TableRegionHooks:
    """Hooks on the sharded tables of a model that open and close regions.

    Args:
        model: Sharded model.
        clocks: Clocks whose regions the hooks open and close.
    """

    def __init__(self, model: DistributedModelParallel, clocks: RegionClocks) -> None:
        self._clocks = clocks
        self._handles: list[Any] = []
        for collection in sharded_collections(model):
            self._handles += [
                collection.register_forward_pre_hook(self._before_collection),
                collection.register_forward_hook(self._after_collection),
            ]
            for lookup in lookup_modules(collection):
                self._handles.append(lookup.register_forward_pre_hook(self._before_lookup))
                self._handles.append(lookup.register_forward_hook(self._after_lookup))

    def remove(self) -> None:
        """Remove all hooks."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _before_collection(self, *_: Any) -> None:
        self._clocks.push("input distribution")

    def _before_lookup(self, *_: Any) -> None:
        self._clocks.pop("input distribution")
        # The previous lookup may have opened this region.
        self._clocks.pop("output distribution")
        self._clocks.push("lookup")

    def _after_lookup(self, _module: nn.Module, _args: Any, output: Any) -> None:
        self._clocks.pop("lookup")
        self._clocks.push("output distribution")
        if isinstance(output, torch.Tensor):
            for node in _lookup_nodes(output.grad_fn):
                node.register_prehook(lambda *_: self._clocks.push("table update"))
                node.register_hook(lambda *_: self._clocks.pop("table update"))

    def _after_collection(self, _module: nn.Module, _args: Any, output: Any) -> None:
        def after_arrival(rows: Any) -> Any:
            self._clocks.pop("output distribution")
            # Once these gradients are computed, the backward pass exchanges them and updates the tables.
            if isinstance(rows, dict):
                # Unpooled rows are a dictionary of jagged tensors by column, whose values are parts of one tensor.
                for node in {column.values().grad_fn for column in rows.values()} - {None}:
                    node.register_prehook(lambda *_: self._clocks.push_untraced("gradient exchange"))
            elif rows.values().requires_grad:
                # This hook of the tensor runs before the hook of the node, which begins the update if it is the lookup.
                rows.values().register_hook(lambda _: self._clocks.push_untraced("gradient exchange"))
            return rows

        if isinstance(output, LazyAwaitable):
            output.callbacks.append(after_arrival)
        else:
            after_arrival(output)


def _lookup_nodes(node: Any) -> Iterator[Any]:
    """Yield FBGEMM's lookups in the autograd graph of an output, which may concatenate the results of several."""
    if node is None:
        return
    if "Lookup" in node.name():
        yield node
        return
    for following, _ in node.next_functions:
        yield from _lookup_nodes(following)
