"""Stage: launches a step, busy share of the device and gaps, from a trace of ten steps; time of the host by region."""

from __future__ import annotations

import gzip
import json
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu.loop import (
    DEFAULT_MODE,
    MODES,
    open_training,
    planned_text,
    run_overrides,
    step_mode,
    synchronize,
    train,
)
from benchmarks.gpu.page import row_line, table_lines
from benchmarks.gpu.stage import Deadline, PartFailures, StageLines, StageSettings
from benchmarks.harness import scratch_folder
from benchmarks.operators import count_steps
from ple_rec.training.profiler.regions import REGIONS

_TRACED_STEPS = 10
# Categories of the trace's events: work of the device, and calls of the driver by the host. A rehearsal on a CPU takes
# operators for both. The profiler records an operator and all operators that it calls, and those that only make a view;
# so their number is several times that of `benchmarks.step`.
_WORK = {"cuda": ("kernel", "gpu_memcpy", "gpu_memset"), "cpu": ("cpu_op",)}
_CALLS = {"cuda": ("cuda_runtime", "cuda_driver"), "cpu": ("cpu_op",)}
_LAUNCH = {"cuda": "launch", "cpu": ""}
_COUNTED = {"cuda": "launches", "cpu": "operators of the profiler, nested ones and views too"}
# Shorter gaps are the device's own time between two kernels.
_MIN_GAP_US = 10.0
_LISTED = 15


@dataclass(frozen=True)
class TraceSummary:
    """Work of the device and calls of the host over some steps; all times are microseconds.

    Args:
        launches: Number of calls that give the device work.
        work: Number of kernels, copies and fills of the device.
        waits: Time and number of the calls by which the host waits, by name.
        window: Time from the first work of the device to the end of the last.
        busy: Time in which the device has work.
        gaps: Length and following kernel of each gap in the work of the device.
        kernels: Time and number of calls of each kernel.
    """

    launches: int
    work: int
    waits: Mapping[str, tuple[float, int]]
    window: float
    busy: float
    gaps: Sequence[tuple[float, str]]
    kernels: Mapping[str, tuple[float, int]]


class StepTiming(NamedTuple):
    """Time of a step without the profiler.

    Args:
        mode: Mode of the steps, as `step_mode` returns it.
        step_ms: Milliseconds of a step.
        planned: Milliseconds of a step by the plan, as text.
        eager_reason: Reason why the dense layers are not compiled; None if they are.
    """

    mode: str
    step_ms: float
    planned: str
    eager_reason: str | None


def summarize_trace(events: Sequence[Mapping[str, Any]], device: str) -> TraceSummary:
    """Return the summary of a trace in Chrome's format.

    Args:
        events: Events of the trace, `traceEvents` of the file.
        device: "cuda", or "cpu" for a rehearsal.

    Raises:
        ValueError: The trace has no work of the device.
    """
    timed = [event for event in events if event.get("ph") == "X" and "dur" in event]
    work = sorted((e for e in timed if e.get("cat") in _WORK[device]), key=lambda event: float(event["ts"]))
    if not work:
        raise ValueError("the trace has no work of the device; the profiler may lack permission to read its counters")
    kernels: dict[str, tuple[float, int]] = defaultdict(lambda: (0.0, 0))
    gaps = list[tuple[float, str]]()
    busy = 0.0
    begin = end = float(work[0]["ts"])
    for event in work:
        start, duration = float(event["ts"]), float(event["dur"])
        if start - end >= _MIN_GAP_US:
            gaps.append((start - end, event["name"]))
        busy += max(0.0, start + duration - max(start, end))
        end = max(end, start + duration)
        total, count = kernels[event["name"]]
        kernels[event["name"]] = total + duration, count + 1
    waits: dict[str, tuple[float, int]] = defaultdict(lambda: (0.0, 0))
    launches = 0
    for event in timed:
        if event.get("cat") in _CALLS[device]:
            launches += _LAUNCH[device] in event["name"].lower()
            if "Synchronize" in event["name"] or "Memcpy" in event["name"]:
                total, count = waits[event["name"]]
                waits[event["name"]] = total + float(event["dur"]), count + 1
    return TraceSummary(launches, len(work), dict(waits), end - begin, busy, gaps, dict(kernels))


def trace_steps(settings: StageSettings, deadline: Deadline) -> StageLines:
    """Train some steps, ten of them traced, in each mode; the first one is the default of a GPU.

    Raises:
        RuntimeError: A mode does not train, or its trace has no work of the device.
    """
    summaries, failures = list[str](), PartFailures()
    for mode, overrides in MODES.items():
        if summaries and deadline.seconds_left() < 30:
            yield f"\n{mode}: left out, no time left"
            continue
        file = settings.out / f"trace-{mode.replace(', ', '-')}.json.gz"
        with failures.collect(mode):
            timing = _trace(settings, overrides, file)
            trace = summarize_trace(json.loads(gzip.decompress(file.read_bytes()))["traceEvents"], settings.device)
            summary = (
                f"{timing.mode}: {timing.step_ms:.2f} ms a step, {trace.launches / _TRACED_STEPS:.0f} "
                f"{_COUNTED[settings.device]}, "
                f"device busy {trace.busy / trace.window:.0%}"
            )
            summaries.append(summary)
            reason = "" if timing.eager_reason is None else f" Not compiled, since {timing.eager_reason}."
            yield f"\n**{summary}**. The plan says {timing.planned} ms.{reason} Trace: `{file.name}`."
            yield from _trace_lines(trace)
    if deadline.seconds_left() > 20:
        with failures.collect("host time by region"):
            yield from _host_lines(settings)
    failures.raise_if_any()
    return "; ".join(summaries)


def _trace(settings: StageSettings, overrides: Sequence[str], file: Path) -> StepTiming:
    """Train, write a trace of the last steps, and return the time of the steps before it."""
    steps = max(settings.steps, 2 * _TRACED_STEPS)
    warm_up = (steps - _TRACED_STEPS) // 2
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if settings.device == "cuda" else [])]
    profiler = profile(activities=activities)
    times = {}

    def after_step(step: int) -> None:
        if step in (warm_up, steps - _TRACED_STEPS, steps):
            synchronize(settings)
            times[step] = time.perf_counter()
        if step == steps - _TRACED_STEPS:
            profiler.start()
        elif step == steps:
            profiler.stop()

    run = run_overrides(settings, settings.batch_size, *overrides)
    with open_training(settings, "tencent-ple", run) as context:
        train(context, settings, steps, after_step)
        mode, planned, eager_reason = step_mode(context), planned_text(context), context.eager_reason
    plain = file.with_suffix("")
    profiler.export_chrome_trace(str(plain))
    file.write_bytes(gzip.compress(plain.read_bytes(), compresslevel=6))
    plain.unlink()
    timed_steps = steps - _TRACED_STEPS - warm_up
    step_ms = 1e3 * (times[steps - _TRACED_STEPS] - times[warm_up]) / timed_steps
    return StepTiming(mode, step_ms, planned, eager_reason)


def _host_lines(settings: StageSettings) -> list[str]:
    """Return a table of the host's time in each region of a step, by clocks that do not wait for the device."""
    run = run_overrides(settings, settings.batch_size, *MODES[DEFAULT_MODE])
    with open_training(settings, "tencent-ple", run) as context, scratch_folder() as folder:
        counts = count_steps(context, Path(folder), counted=0, timed=max(4, settings.steps // 4))
    lines = ["", f"**{step_mode(context)}: time of the host**, median of {len(counts.seconds)} steps"]
    lines += table_lines("region", "host, ms")
    lines += [row_line(region, f"{1e3 * counts.median_seconds(region):.3f}") for region in REGIONS]
    seconds = counts.host_seconds()
    return [*lines, row_line("all but data wait", f"{1e3 * seconds[len(seconds) // 2]:.3f}")]


def _trace_lines(trace: TraceSummary) -> list[str]:
    """Return the lines of a trace: totals, waits, most expensive kernels, and the kernels that follow long gaps."""
    step_ms = 1e-3 / _TRACED_STEPS
    idle = sum(length for length, _ in trace.gaps)
    lines = [
        "",
        f"- {trace.work / _TRACED_STEPS:.0f} kernels, copies and fills a step, in {trace.window * step_ms:.2f} ms",
        f"- {len(trace.gaps) / _TRACED_STEPS:.0f} gaps of {_MIN_GAP_US:.0f} us or more a step, "
        f"{idle * step_ms:.2f} ms a step together, longest {max((gap for gap, _ in trace.gaps), default=0):.0f} us",
    ]
    for name, (total, count) in sorted(trace.waits.items()):
        lines.append(f"- {name}: {count / _TRACED_STEPS:.1f} a step, {total * step_ms:.3f} ms a step")
    lines += table_lines("kernel", "ms a step", "calls a step")
    for name, (total, count) in sorted(trace.kernels.items(), key=lambda item: -item[1][0])[:_LISTED]:
        lines.append(row_line(name[:100], f"{total * step_ms:.3f}", f"{count / _TRACED_STEPS:.1f}"))
    by_next: dict[str, float] = defaultdict(float)
    for length, name in trace.gaps:
        by_next[name] += length
    lines += table_lines("kernel after a gap", "ms of gaps a step")
    lines += [
        row_line(name[:100], f"{total * step_ms:.3f}")
        for name, total in sorted(by_next.items(), key=lambda item: -item[1])[:_LISTED]
    ]
    return lines
