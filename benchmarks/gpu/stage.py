"""Stages of `make gpu-smoke`: their names, their shares of the ten minutes, and what each of them gets."""

from __future__ import annotations

import importlib
import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

# Lines of the page, one at a time, so that they are not lost if the stage fails later; at the end, a summary of a line.
StageLines = Generator[str, None, str]


@dataclass(frozen=True)
class StageSettings:
    """Settings that all stages share.

    Args:
        device: Kind of the device; a CPU shows that the stages run.
        data: Dataset directory that fits the recipes `tencent-ple` and `bench-feed`.
        out: Directory of the page, of traces and of runs.
        batch_size: Samples of a step, where a stage does not vary them.
        steps: Steps of the longest training; others make a share of them.
    """

    device: Literal["cuda", "cpu"]
    data: Path
    out: Path
    batch_size: int
    steps: int


class Deadline:
    """Time at which a stage is ended.

    Args:
        seconds: Number of seconds from now to the end.
    """

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    def seconds_left(self) -> float:
        """Return the number of seconds until the end."""
        return self._end - time.monotonic()


@dataclass(frozen=True)
class Stage:
    """Stage of the ten minutes.

    Args:
        name: Title of the stage on the page.
        seconds: Share of the 600 seconds. A stage may also use the time that the stages before it have left.
        function: Generator function `module:name` of this package, which is imported where the stage runs.
    """

    name: str
    seconds: float
    function: str

    def run(self, settings: StageSettings, deadline: Deadline) -> StageLines:
        """Import the function of the stage and call it."""
        module, _, name = self.function.partition(":")
        lines: StageLines = getattr(importlib.import_module(f"benchmarks.gpu.{module}"), name)(settings, deadline)
        return lines


# The first stage refuses a machine without a GPU, and needs no dataset.
STAGES = (
    Stage("import", 30, "start:import_libraries"),
    Stage("table kernels against the CPU", 30, "kernels:compare_optimizers"),
    Stage("waits of the host", 60, "waits:record_waits"),
    Stage("launches and gaps", 90, "trace:trace_steps"),
    Stage("rates by batch size", 120, "rates:measure_rates"),
    Stage("calibration of the plan", 90, "calibration:calibrate"),
    Stage("tests for GPUs", 90, "device_tests:run_tests"),
    Stage("asynchronous save, load, evaluation", 40, "runs:save_and_load"),
    Stage("fp16 tables", 20, "runs:train_fp16_tables"),
    Stage("tables in the host's memory (UVM)", 30, "runs:train_uvm_tables"),
)
TOTAL_SECONDS = sum(stage.seconds for stage in STAGES)
