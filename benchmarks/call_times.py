"""Times of short functions that issue work to a device: of the host, of the device, and of both."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

# Calls that are timed together.
_CALLS = 3
_WARM_UP_CALLS = 3


class Timing(NamedTuple):
    """Median milliseconds of a call, and of the time until the host had issued it."""

    ms: float
    host_ms: float


def time_by_turns(calls: Sequence[Callable[[], object]], device: torch.device, timings: int) -> list[Timing]:
    """Return the median times of several functions, which are timed by turns after a warm-up.

    Args:
        calls: Functions that issue work to the device.
        device: Device of the work; the clock stops when the device has done it.
        timings: Number of timings of which the median counts.
    """
    for call in calls:
        for _ in range(_WARM_UP_CALLS):
            call()
    all_ms: list[list[tuple[float, float]]] = [[] for _ in calls]
    for _ in range(timings):
        for call, ms in zip(calls, all_ms, strict=True):
            _synchronize(device)
            start = time.perf_counter()
            for _ in range(_CALLS):
                call()
            issued = time.perf_counter()
            _synchronize(device)
            ms.append((1e3 * (time.perf_counter() - start) / _CALLS, 1e3 * (issued - start) / _CALLS))
    return [Timing(*(statistics.median(values) for values in zip(*ms, strict=True))) for ms in all_ms]


def device_times(calls: Sequence[Callable[[], object]], device: torch.device, timings: int) -> list[float]:
    """Return the milliseconds that the device takes for each of several functions.

    On a GPU it is the time of the kernels alone, since a host that issues a few small ones takes longer than they do.
    """
    if device.type == "cpu":
        return [timing.ms for timing in time_by_turns(calls, device, timings)]
    for call in calls:
        for _ in range(_WARM_UP_CALLS):
            call()
    return [kernel_ms(call) for call in calls]


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def kernel_ms(call: Callable[[], object]) -> float:
    """Return the milliseconds of all kernels and copies that a function issues to a GPU."""
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        for _ in range(_CALLS):
            call()
        torch.cuda.synchronize()
    # Ranges that the host names appear among the events of the GPU, too; they take no time of their own.
    microseconds = sum(
        event.self_device_time_total
        for event in profile.events() or ()
        if event.device_type == torch.autograd.DeviceType.CUDA and not event.is_user_annotation
    )
    return float(microseconds) / 1e3 / _CALLS
