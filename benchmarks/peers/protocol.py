"""Protocol between the driver of the race and a contender, which is a child process that trains the workload.

They exchange JSON lines over the standard input and output of the contender. It writes `{"ready": ...}` once its model
is built. For each command `{"mode", "again", "steps"}` it makes `again` steps to warm up and then `steps` measured
steps, and answers with the samples, the seconds and its peak memory. It reports a failure as `{"error": ...}`, and
ends when its input ends. The libraries have a virtual environment of their own, so this file imports nothing of this
project.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TextIO


class TurnResult(NamedTuple):
    """Work of a turn, and its duration."""

    samples: int
    seconds: float


# Function that makes a number of steps.
Turn = Callable[[int], TurnResult]


@dataclass(frozen=True)
class ReadyContender:
    """Contender whose model is built.

    Args:
        turns: Function that makes the steps of each mode, in the order in which the modes are measured.
        packages: Names of the packages whose versions are reported.
        peak_bytes: Function that returns the largest resident memory so far.
        close: Function that is called at the end, also after an error.
    """

    turns: Mapping[str, Turn]
    packages: Sequence[str]
    peak_bytes: Callable[[], int]
    close: Callable[[], None] = lambda: None


def time_steps(steps: int, batch_size: int, work: Callable[[int], None]) -> TurnResult:
    """Call `work(steps)` and time it."""
    begun = time.perf_counter()
    work(steps)
    return TurnResult(steps * batch_size, time.perf_counter() - begun)


def read_peak_bytes(process: int | str = "self") -> int:
    """Return the largest resident memory of a process so far, in bytes."""
    for line in Path(f"/proc/{process}/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/{process}/status has no VmHWM")


def serve(build: Callable[[], ReadyContender]) -> int:
    """Build a contender, answer commands until the input ends, and return the exit code of the process."""
    # Libraries print to standard output, which would mix with the messages; it goes to the log instead.
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as out:
        os.dup2(2, 1)
        try:
            contender = build()
            try:
                _answer_commands(contender, out)
            finally:
                contender.close()
        except Exception as error:  # The libraries of the peers raise errors of their own; the parent has to be told.
            traceback.print_exc()
            _send(out, {"error": f"{type(error).__name__}: {error}"})
            return 1
    return 0


def _answer_commands(contender: ReadyContender, out: TextIO) -> None:
    versions = {name: importlib.metadata.version(name) for name in contender.packages}
    _send(out, {"ready": list(contender.turns), "versions": versions})
    for line in sys.stdin:
        command = json.loads(line)
        turn = contender.turns[command["mode"]]
        # The turns of the other contenders have displaced its data from the caches.
        if command["again"]:
            turn(command["again"])
        done = turn(command["steps"])
        _send(out, {"samples": done.samples, "seconds": done.seconds, "peak_bytes": contender.peak_bytes()})


def _send(out: TextIO, message: Mapping[str, object]) -> None:
    out.write(json.dumps(message) + "\n")
    out.flush()
