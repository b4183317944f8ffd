"""Stages in their order, with the clock of the ten minutes, and the page that is written as results come."""

from __future__ import annotations

import sys
import time

from benchmarks.gpu.page import StageResult, write_page
from benchmarks.gpu.stage import TOTAL_SECONDS, SmokeStage, StageSettings
from benchmarks.gpu.worker import StageFailedError, StageWorker


class SmokeClock:
    """Clock of the stages, which stands still between them.

    Args:
        seconds: Seconds for all stages together.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._spent = self._scheduled = 0.0

    def limit(self, stage: SmokeStage) -> float:
        """Return the seconds that the next stage may take: its share and what the stages before it have left.

        The result is 0 if no time is left of the whole.
        """
        share = stage.seconds * self.seconds / TOTAL_SECONDS
        self._scheduled += share
        return 0.0 if self._spent >= self.seconds else max(share, self._scheduled - self._spent)

    def spend(self, seconds: float) -> None:
        """Count the seconds that a stage took."""
        self._spent += seconds


class SmokeRun:
    """Stages that ran so far, and the time that they took.

    Args:
        settings: Settings of the stages.
        seconds: Seconds for all stages together.
    """

    def __init__(self, settings: StageSettings, seconds: float) -> None:
        self._settings, self._clock = settings, SmokeClock(seconds)
        self._worker = StageWorker(settings.out / "log.txt")
        self.results: list[StageResult] = []

    def run(self, stage: SmokeStage) -> StageResult:
        """Run a stage if there is time left, and write the page."""
        result = StageResult(stage)
        self.results.append(result)
        seconds = self._clock.limit(stage)
        if not seconds:
            result.outcome, result.summary = "left out", f"no time left of {self._clock.seconds:.0f} s"
            self._write()
            return result
        started = time.monotonic()
        sys.stderr.write(f"{stage.name} ...\n")
        try:
            for message in self._worker.run(stage, self._settings, seconds):
                if message.kind == "end":
                    result.outcome, result.summary = "ok", message.text
                else:
                    result.lines.append(message.text)
                result.seconds = time.monotonic() - started
                self._write()
        except StageFailedError as error:
            result.outcome, result.summary, result.log_lines = "FAILED", str(error), error.log_lines
            result.is_refusal = error.is_refusal
        result.seconds = time.monotonic() - started
        self._clock.spend(result.seconds)
        self._write()
        sys.stderr.write(f"{stage.name}: {result.outcome} {result.seconds:.0f} s {result.summary}\n")
        return result

    def close(self) -> None:
        """End the process of the stages."""
        self._worker.close()

    def _write(self) -> None:
        device = "one GPU" if self._settings.device == "cuda" else "a rehearsal on a CPU"
        write_page(self._settings.out / "page.md", f"Ten minutes of {device}", self.results)
