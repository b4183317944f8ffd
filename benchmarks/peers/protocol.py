"""A contender's side: it sits in a process of its own, and works when it is told to.

JSON lines over its standard input and output, so that it needs nothing of this project: a peer has an environment of
its own. It says `{"ready": ...}` once its model stands; it answers each `{"mode", "again", "steps"}` by what it did,
and it ends when its input does. An error goes out as `{"error": ...}`.
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


class Done(NamedTuple):
    """What a turn did, and how long that took."""

    samples: int
    seconds: float


Turn = Callable[[int], Done]  # steps -> what they did


@dataclass(frozen=True)
class Ready:
    """A contender whose model stands.

    Args:
        turns: By mode, in the order in which they are measured.
        packages: Whose versions are told.
        peak_bytes: The most resident memory so far.
        close: Called at the end, however it comes.
    """

    turns: Mapping[str, Turn]
    packages: Sequence[str]
    peak_bytes: Callable[[], int]
    close: Callable[[], None] = lambda: None


def timed(steps: int, batch_size: int, work: Callable[[int], None]) -> Done:
    """`work(steps)` by the clock."""
    begun = time.perf_counter()
    work(steps)
    return Done(steps * batch_size, time.perf_counter() - begun)


def peak_bytes_of(process: int | str = "self") -> int:
    """The most resident memory of a process so far."""
    for line in Path(f"/proc/{process}/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/{process}/status has no VmHWM")


def serve(make: Callable[[], Ready]) -> int:
    """The whole life of a contender; its exit code."""
    # What libraries print goes to the log, not between the lines.
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
        if order["again"]:  # its data was thrown out of the caches while others worked
            turn(order["again"])
        done = turn(order["steps"])
        _tell(out, {"samples": done.samples, "seconds": done.seconds, "peak_bytes": ready.peak_bytes()})


def _tell(out: TextIO, message: Mapping[str, object]) -> None:
    out.write(json.dumps(message) + "\n")
    out.flush()
