"""Training steps of the stages: the training loop itself, which calls a function after each step."""

from __future__ import annotations

import gc
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

from benchmarks.gpu.stage import StageSettings
from ple_rec.config.load import load_config
from ple_rec.config.run import RunConfig
from ple_rec.data.batch import Batch
from ple_rec.distributed.process_group import process_group
from ple_rec.planning.plan_input import describe_dataset, plan_run
from ple_rec.runs.directory import RunDirectory
from ple_rec.runs.layout import LOG
from ple_rec.training.context import TrainContext, build_context
from ple_rec.training.loop import train_steps
from ple_rec.training.profiler.session import NoProfile

REPORT_EVERY = 10  # Steps of a report; the default of a run is 100.
_NEVER = 10**9  # A step that no training reaches.
# Overrides of each way to make a step: as it is by default on a GPU, without the overlap, and without the compiler too.
MODES = {
    "compiled, sparse_dist": (),
    "compiled": ("train.pipeline=none",),
    "eager": ("train.pipeline=none", "train.compile=off"),
}
DEFAULT_MODE = "compiled, sparse_dist"


def mode_title(settings: StageSettings, mode: str) -> str:
    """Return the name of a mode as the page shows it; a CPU neither compiles nor overlaps by default."""
    return mode if settings.device == "cuda" or mode == "eager" else f"{mode} (on a CPU: eager, no overlap)"


def run_overrides(settings: StageSettings, batch_size: int, *more: str) -> list[str]:
    """Return overrides of a recipe for a training on one rank that neither ends, evaluates nor saves checkpoints.

    Args:
        settings: Settings of the stages.
        batch_size: Samples of a step.
        *more: Further overrides `key=value`.
    """
    return [
        f"data.path={settings.data}",
        f"data.virtual_shards={min(128, batch_size)}",
        f"runtime.device={settings.device}",
        f"train.batch_size_per_rank={batch_size}",
        f"train.precision={'bf16' if settings.device == 'cuda' else 'fp32'}",
        "train.epochs=",
        f"train.steps={_NEVER}",
        f"train.evaluate_every={_NEVER}",
        f"train.report_every={REPORT_EVERY}",
        "checkpoint.every_minutes=1000000000",
        *more,
    ]


def free_memory(settings: StageSettings) -> None:
    """Free the memory of the runs before."""
    gc.collect()
    if settings.device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


@contextmanager
def open_training(settings: StageSettings, recipe: str, overrides: list[str]) -> Iterator[TrainContext]:
    """Build a run in this process, after `free_memory`."""
    free_memory(settings)
    config = load_config(RunConfig, recipe, overrides)
    with process_group(config.runtime) as ranks:
        yield build_context(config, ranks)


class _Enough(Exception):
    """End of a training that has made all its steps."""


class _AfterStep(NoProfile):
    """Profile that calls a function with the number of steps done, and ends the training after the last one."""

    def __init__(self, after_step: Callable[[int], None], steps: int) -> None:
        self._after_step, self._steps, self._done = after_step, steps, 0

    def step(self, batch: Batch) -> float:
        """Count a step, and call the function."""
        self._done += 1
        self._after_step(self._done)
        if self._done == self._steps:
            raise _Enough
        return 0.0


def train(
    context: TrainContext, settings: StageSettings, steps: int, after_step: Callable[[int], None] = lambda step: None
) -> Path:
    """Train some steps by the loop of `ple-rec train`, with its batch feeder, guard, window and reports.

    Returns:
        Log of the training, with a record of each report.

    Args:
        context: Context of the run.
        settings: Settings of the stages.
        steps: Number of steps.
        after_step: Function that is called after each step with the number of steps done.
    """
    folder = settings.out / "steps"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    with suppress(_Enough):
        train_steps(context, RunDirectory(folder, folder), resume=False, profile=_AfterStep(after_step, steps))
    return folder / LOG


def synchronize(settings: StageSettings) -> None:
    """Wait for the device."""
    if settings.device == "cuda":
        torch.cuda.synchronize()


def planned_text(context: TrainContext) -> str:
    """Return the milliseconds of a step by the plan for this machine, and the part that binds it."""
    plan = plan_run(context.config, describe_dataset(context.config), context.plan.cluster)
    assert plan.estimate is not None
    estimate = plan.estimate
    return f"{estimate.step_ms:.3g}, {estimate.fastest_ms:.3g} to {estimate.slowest_ms:.3g} ({estimate.bound})"
