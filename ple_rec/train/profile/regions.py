"""The parts of a step, marked where they begin and end: nothing at all, unless they are timed or traced.

A region that opens inside another one stops the clock of the outer one until it closes, so that every moment belongs to
exactly one region and their times add up to the whole. A region may open any number of times in a step.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal

import torch

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
    """Marks that nobody listens to; calling one costs a function call and never touches the device."""

    def __call__(self, region: Region) -> AbstractContextManager[None]:
        """What is done within belongs to this region."""
        return _NOTHING

    def paused(self) -> AbstractContextManager[None]:
        """What is done within belongs to no step: an evaluation, a checkpoint."""
        return _NOTHING

    def move(self, region: Region, other: Region, seconds: float) -> None:
        """So many seconds that `region` has been timed with belong to the other one, which it ran by turns with."""


OFF = Regions()


class RegionClocks(Regions):
    """Marks that are timed, or named in a trace, while it is asked for.

    Args:
        device: Whose work is timed. One that works on its own is waited for at every mark while the clocks run.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._mode: Literal["off", "timed", "traced"] = "off"
        self._open: list[tuple[Region, Any]] = []
        self.begin(None)

    def begin(self, mode: Literal["timed", "traced"] | None) -> None:
        """From now on time the regions, name them in the trace of the profiler, or do neither; clocks start at 0."""
        self.seconds: dict[Region, float] = dict.fromkeys(REGIONS, 0.0)
        self.paused_seconds = 0.0
        self._close_to(0)
        self._mode = mode or "off"
        self._since = self.now() if self._mode == "timed" else 0.0

    def now(self) -> float:
        """The clock, once the device has done all that it was given."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()

    def end(self) -> dict[Region, float]:
        """Seconds in each region since `begin`; the clocks stop."""
        self._account()
        seconds = self.seconds
        self.begin(None)
        return seconds

    def __call__(self, region: Region) -> AbstractContextManager[None]:
        """As of `Regions`."""
        return _NOTHING if self._mode == "off" else self._within(region)

    def move(self, region: Region, other: Region, seconds: float) -> None:
        """As of `Regions`."""
        if self._mode == "timed":
            self.seconds[region] -= seconds
            self.seconds[other] += seconds

    def push(self, region: Region) -> None:
        """Open a region, for hooks, which cannot open one for a block."""
        if self._mode == "off":
            return
        self._account()
        record = None
        if self._mode == "traced":
            record = torch.profiler.record_function(region)
            record.__enter__()
        self._open.append((region, record))

    def push_untraced(self, region: Region) -> None:
        """Open a region that may be closed by another thread, which a trace cannot show."""
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
        """As of `Regions`."""
        self._account()
        mode, self._mode = self._mode, "off"
        begun = time.perf_counter()
        try:
            yield
        finally:
            self._mode = mode
            if mode != "off":
                now = self.now()
                self.paused_seconds += now - begun
                self._since = now

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
