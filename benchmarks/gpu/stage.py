"""Stages of `make gpu-smoke`: their names, their shares of the ten minutes, and what each of them gets."""

from __future__ import annotations

import importlib
import time
import traceback
from collections.abc import Generator, Iterator
from contextlib import contextmanager
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
        steps: Number of steps of the longest training. The other trainings make a fixed share of this number.
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
class SmokeStage:
    """Stage of the ten minutes.

    Args:
        name: Title of the stage on the page.
        seconds: Share of the 600 seconds.
        function: Generator function `module:name`, which is imported where the stage runs.
    """

    name: str
    seconds: float
    function: str

    def run(self, settings: StageSettings, deadline: Deadline) -> StageLines:
        """Import the function of the stage and call it."""
        module, _, name = self.function.partition(":")
        lines: StageLines = getattr(importlib.import_module(module), name)(settings, deadline)
        return lines


class PartFailures:
    """Errors of the parts of a stage: the stage goes on with the next part, and fails at its end."""

    def __init__(self) -> None:
        self._texts: list[str] = []

    @contextmanager
    def collect(self, part: str) -> Iterator[None]:
        """Keep an error of the block, whatever library raised it, and end the block without it."""
        try:
            yield
        except Exception as error:
            traceback.print_exc()
            self._texts.append(f"{part}: {type(error).__name__}: {error}".splitlines()[0])

    def raise_if_any(self) -> None:
        """Raise an error if a part has failed.

        Raises:
            RuntimeError: A part has failed.
        """
        if self._texts:
            raise RuntimeError("; ".join(self._texts))


# The first stage refuses a machine without a GPU, and needs no dataset.
STAGES = (
    SmokeStage("import", 30, "benchmarks.gpu.start:import_libraries"),
    SmokeStage("table kernels against the CPU", 30, "benchmarks.gpu.kernels:compare_optimizers"),
    SmokeStage("waits of the host", 60, "benchmarks.gpu.waits:record_waits"),
    SmokeStage("launches and gaps", 90, "benchmarks.gpu.trace:trace_steps"),
    SmokeStage("rates by batch size", 120, "benchmarks.gpu.rates:measure_rates"),
    SmokeStage("calibration of the plan", 90, "benchmarks.gpu.calibration:calibrate"),
    SmokeStage("tests for GPUs", 90, "benchmarks.gpu.device_tests:run_tests"),
    SmokeStage("asynchronous save, load, evaluation", 40, "benchmarks.gpu.runs:save_and_load"),
    SmokeStage("fp16 tables", 20, "benchmarks.gpu.runs:train_fp16_tables"),
    SmokeStage("tables in the host's memory (UVM)", 30, "benchmarks.gpu.runs:train_uvm_tables"),
)
TOTAL_SECONDS = sum(stage.seconds for stage in STAGES)
