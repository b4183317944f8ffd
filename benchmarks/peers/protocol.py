"""Protocol of a contender: a process of its own that works when the driver tells it to.

The two exchange JSON lines over the standard input and output of the contender. A peer has an environment of its own,
so this file needs nothing else of this project. The contender writes `{"ready": ...}` once its model is built. It
answers each `{"mode", "again", "steps"}` by the work that it did, and ends when its input ends. It writes an error as
`{"error": ...}`.
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


# A turn takes the number of steps that it makes.
Turn = Callable[[int], TurnResult]


@dataclass(frozen=True)
class Ready:
    """Contender whose model is built.

    Args:
        turns: Turn of each mode, in the order in which they are measured.
        packages: Names of the packages whose versions are reported.
        peak_bytes: Function that returns the largest resident memory so far.
        close: Function that is called at the end, also after an error.
    """

    turns: Mapping[str, Turn]
    packages: Sequence[str]
    peak_bytes: Callable[[], int]
    close: Callable[[], None] = lambda: None


def timed(steps: int, batch_size: int, work: Callable[[int], None]) -> TurnResult:
    """Call `work(steps)` and time it."""
    begun = time.perf_counter()
    work(steps)
    return TurnResult(steps * batch_size, time.perf_counter() - begun)


def peak_bytes_of(process: int | str = "self") -> int:
    """Return the largest resident memory of a process so far, in bytes."""
    for line in Path(f"/proc/{process}/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/{process}/status has no VmHWM")


def serve(make: Callable[[], Ready]) -> int:
    """Run a contender until its input ends; return its exit code."""
    # Libraries print to standard output, which would mix with the messages; it goes to the log instead.
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as out:
        os.dup2(2, 1)
        try:
            ready = make()
            try:
                _answer(ready, out)
            finally:
                ready.close()
        except Exception as error:
            traceback.print_exc()
            _tell(out, {"error": f"{type(error).__name__}: {error}"})
            return 1
    return 0


def _answer(ready: Ready, out: TextIO) -> None:
    versions = {name: importlib.metadata.version(name) for name in ready.packages}
    _tell(out, {"ready": list(ready.turns), "versions": versions})
    for line in sys.stdin:
        order = json.loads(line)
        turn = ready.turns[order["mode"]]
        # The other contenders have thrown its data out of the caches.
        if order["again"]:
            turn(order["again"])
        done = turn(order["steps"])
        _tell(out, {"samples": done.samples, "seconds": done.seconds, "peak_bytes": ready.peak_bytes()})


def _tell(out: TextIO, message: Mapping[str, object]) -> None:
    out.write(json.dumps(message) + "\n")
    out.flush()
