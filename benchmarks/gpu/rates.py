"""Stage: rate and memory of training over batch sizes, eager and with what makes a step faster, beside the plan."""

from __future__ import annotations

import time
from collections.abc import Iterator

from benchmarks.gpu.loop import (
    DEFAULT_MODE,
    MODES,
    mode_title,
    open_training,
    planned_text,
    run_overrides,
    synchronize,
    train,
)
from benchmarks.gpu.page import row_line, table_lines
from benchmarks.gpu.stage import Deadline, PartFailures, StageLines, StageSettings
from ple_rec.planning.plan_input import describe_dataset
from ple_rec.planning.roofline import roofline
from ple_rec.planning.workload import sample_work
from ple_rec.text.units import gib_text
from ple_rec.training.context import TrainContext
from ple_rec.training.progress import peak_bytes

_WARM_UP = 10


def measure_rates(settings: StageSettings, deadline: Deadline) -> StageLines:
    """Measure each combination of recipe, batch size and mode, those of most value first, as long as there is time.

    Raises:
        RuntimeError: A combination does not train.
    """
    summaries, failures, longest = list[str](), PartFailures(), 0.0
    yield from table_lines("recipe", "batch", "mode", "ms a step", "samples/s", "plan, ms", "of the roofline", "peak")
    for recipe, batch_size, mode in _combinations(settings):
        title = mode_title(settings, mode)
        if deadline.seconds_left() < 1.2 * longest:
            yield row_line(recipe, f"{batch_size:,}", title, "no time left", "", "", "", "")
            continue
        started = time.monotonic()
        with failures.collect(f"{recipe}, {batch_size:,} samples, {mode}"):
            cells = _measure(settings, recipe, batch_size, mode)
            yield row_line(recipe, f"{batch_size:,}", title, *cells)
            if batch_size == settings.batch_size and recipe == "tencent-ple":
                summaries.append(f"{title} {cells[1]} samples/s")
        longest = max(longest, time.monotonic() - started)
    failures.raise_if_any()
    return f"tencent-ple with {settings.batch_size:,} samples: {', '.join(summaries)}"


def _combinations(settings: StageSettings) -> Iterator[tuple[str, int, str]]:
    """Yield recipe, batch size and mode."""
    size = settings.batch_size
    for batch_size in (size, 16 * size):
        for mode in MODES:
            yield "tencent-ple", batch_size, mode
    yield "bench-feed", size, DEFAULT_MODE
    for batch_size in (4 * size, size // 4):
        for mode in MODES:
            yield "tencent-ple", batch_size, mode


def _measure(settings: StageSettings, recipe: str, batch_size: int, mode: str) -> tuple[str, ...]:
    """Return the cells of a combination: milliseconds, rate, plan, share of the roofline, peak memory."""
    with open_training(settings, recipe, run_overrides(settings, batch_size, *MODES[mode])) as context:
        step_ms = _step_ms(settings, context)
        rate = 1e3 * batch_size / step_ms
        peak = gib_text(peak_bytes(context.ranks.device), 2)
        return f"{step_ms:.2f}", f"{rate:,.0f}", planned_text(context), _roofline_text(context, rate), peak


def _step_ms(settings: StageSettings, context: TrainContext) -> float:
    """Return the milliseconds of a step, with the time of the reports in between."""
    steps = max(2, settings.steps // 4)
    times = []

    def after_step(step: int) -> None:
        if step in (_WARM_UP, _WARM_UP + steps):
            synchronize(settings)
            times.append(time.perf_counter())

    train(context, settings, _WARM_UP + steps, after_step)
    return 1e3 * (times[1] - times[0]) / steps


def _roofline_text(context: TrainContext, rate: float) -> str:
    """Return a rate as a share of the roofline, which is computed only for GPUs that hold all tables."""
    plan = context.plan
    if not plan.cluster.cuda or any(table.kernel != "fused" for table in plan.tables):
        return ""
    work = sample_work(context.config, describe_dataset(context.config), plan.cluster)
    return f"{rate / roofline(work, plan.cluster, plan.batch_size_per_rank).serial_rate():.1%}"
