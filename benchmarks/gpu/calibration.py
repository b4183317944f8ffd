"""Stage: the figures of this machine that `ple-rec plan --calibration` reads."""

from __future__ import annotations

from benchmarks.gpu.stage import Deadline, StageLines, StageSettings


def calibrate(settings: StageSettings, deadline: Deadline) -> StageLines:
    """Measure tables, matrix products, copies and the loader beside a training, and write the calibration file."""
    from benchmarks.calibrate import measure

    yield ""
    return str(measure)
