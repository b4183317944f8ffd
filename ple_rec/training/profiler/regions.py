"""Regions of a step, and the hooks that mark regions inside the sharded tables.

A region that opens inside another one stops the clock of the outer one until it closes. Each moment therefore belongs
to exactly one region, and the times add up to the whole. A region may open any number of times in a step.

The tables have three regions in the forward pass: input distribution, lookup, and output distribution, which ends when
its result has arrived. They have two in the backward pass. Gradient exchange covers the gradients of pooled rows and
DDP's wait for dense gradients; table update is FBGEMM's backward pass with the optimizer of the tables.
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

_EMPTY_CONTEXT: AbstractContextManager[None] = nullcontext()


class Regions:
    """Marks without clocks: each costs a function call and never touches the device."""

    def __call__(self, region: Region) -> AbstractContextManager[None]:
        """Return a context whose content belongs to a region of the step."""
        return _EMPTY_CONTEXT

    def paused(self) -> AbstractContextManager[None]:
        """Return a context whose content, for example an evaluation, belongs to no step."""
        return _EMPTY_CONTEXT

    def move(self, region: Region, other: Region, seconds: float) -> None:
        """Count seconds for another region, whose work alternates with that of the first inside one context."""


OFF = Regions()


class RegionClocks(Regions):
    """Marks that are timed by clocks or named in a trace.

    The breakdown uses clocks rather than the trace, since a trace cannot show a region that one thread opens and
    another closes, and the profiler slows small operators most.

    Args:
        device: Device whose work is timed. Each mark waits for a GPU while the clocks run.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._mode: Literal["off", "timed", "traced"] = "off"
        self._open: list[tuple[Region, Any]] = []
        self.paused_seconds = 0.0
        self.begin(None)

    def begin(self, mode: Literal["timed", "traced"] | None) -> None:
        """Set the clocks to 0, and start a mode.

        Args:
            mode: "timed" to time the regions, "traced" to name them in the profiler's trace, None for neither.
        """
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
        return _EMPTY_CONTEXT if self._mode == "off" else self._within(region)

    def move(self, region: Region, other: Region, seconds: float) -> None:
        """Count seconds for another region, whose work alternates with that of the first inside one context."""
        if self._mode == "timed":
            self.seconds[region] -= seconds
            self.seconds[other] += seconds

    def push(self, region: Region) -> None:
        """Open a region from a hook, which cannot keep a context open."""
        if self._mode == "off":
            return
        self._account()
        record = None
        if self._mode == "traced":
            record = torch.profiler.record_function(region)
            record.__enter__()
        self._open.append((region, record))

    def push_untraced(self, region: Region) -> None:
        """Open a region that another thread may close, for the clocks alone, since a trace cannot show it."""
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
            # Hooks may have opened more regions inside this one.
            self._close_to(depth)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Return a context whose content, for example an evaluation, belongs to no step."""
        self._account()
        mode, self._mode = self._mode, "off"
        started = time.perf_counter()
        try:
            yield
        finally:
            self._mode, self._since = mode, self.now()
            self.paused_seconds += self._since - started

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
    """Hooks on the sharded tables of a model that open and close regions.

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
        def after_arrival(pooled: Any) -> Any:
            self._clocks.pop("output distribution")
            values = pooled.values()
            if values.requires_grad:
                # After these gradients, the backward pass exchanges them, updates the tables and waits for DDP.
                values.register_hook(lambda _: self._clocks.push_untraced("gradient exchange"))
            return pooled

        if isinstance(output, LazyAwaitable):
            output.callbacks.append(after_arrival)
        else:
            after_arrival(output)


def _lookup_nodes(node: Any) -> Iterator[Any]:
    """Yield FBGEMM's nodes in the autograd graph of an output, which may concatenate the outputs of several nodes."""
    if node is None:
        return
    if "Lookup" in node.name():
        yield node
        return
    for following, _ in node.next_functions:
        yield from _lookup_nodes(following)
