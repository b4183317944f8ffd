"""Stages for tests of `make gpu-smoke`: they end well, fail, hang, or end their process."""

from __future__ import annotations

import os
import subprocess
import sys
import time

from benchmarks.gpu.stage import Deadline, StageLines, StageSettings
from ple_rec.errors import UserError


def good(settings: StageSettings, deadline: Deadline) -> StageLines:
    yield f"- process {os.getpid()}"
    return "a | b"


def raising(settings: StageSettings, deadline: Deadline) -> StageLines:
    yield "- before the error"
    raise KeyError("no such kernel")


def refusing(settings: StageSettings, deadline: Deadline) -> StageLines:
    yield "- before the refusal"
    raise UserError("place", "value", "rule", "fix")


def hanging(settings: StageSettings, deadline: Deadline) -> StageLines:
    late = settings.out / "late"
    child = f"import time, pathlib; time.sleep(3); pathlib.Path({str(late)!r}).touch()"
    subprocess.Popen([sys.executable, "-c", child])
    yield f"- {deadline.seconds_left():.0f} s left"
    time.sleep(600)
    return "never"


def ending(settings: StageSettings, deadline: Deadline) -> StageLines:
    yield "- before the end"
    os._exit(3)
