"""Progress of a run of the pipeline: phase, share that is done, rows/s, memory, time left."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from ple_rec.text.progress import LINE_SECONDS, Line
from ple_rec.text.units import clock, gib

_DRAW_SECONDS = 0.5  # The line of a terminal is drawn again after so many seconds.


def memory() -> int:
    """Return the resident bytes of this process."""
    return int(_STATM.read_text(encoding="ascii").split()[1]) * _PAGE


_STATM = Path("/proc/self/statm")
_PAGE = os.sysconf("SC_PAGE_SIZE")


class Progress:
    """Progress that is shown as a line redrawn on a terminal, and as a line every ten seconds elsewhere.

    Args:
        name: Name of the dataset; `prepare` and `dry_run` replace it by that of the configuration.
        stream: Stream of the lines; None to write nothing.
        notes: False to leave out the texts of `say`.
    """

    def __init__(self, name: str = "", stream: TextIO | None = None, *, notes: bool = True) -> None:
        self.name, self._notes = name, notes
        self.peak = 0
        self._line = None if stream is None else Line(stream)
        self._rows = self._done = 0
        self._phase = ""
        self._began = self._phase_began = time.monotonic()
        self._shares: dict[str, float] = {}
        self._finished = 0.0
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    @contextmanager
    def running(self, shares: dict[str, float], rows: int) -> Iterator[None]:
        """Show progress inside the block.

        Args:
            shares: Relative duration of each phase, by name.
            rows: Rows of the log.
        """
        self._shares, self._rows = shares, rows
        self._thread = threading.Thread(target=self._show, name="progress", daemon=True)
        self._thread.start()
        try:
            yield
        finally:
            self._stop.set()
            self._thread.join()
            if self._line is not None:
                self._line.clear()

    def say(self, text: str) -> None:
        """Show a line of text; on a terminal, the next line replaces it."""
        if self._line is not None and self._notes:
            self._line.show(f"{self.name}: {text}")

    def reach(self, done: int, total: int) -> None:
        """Set the number of rows that are done, and the total."""
        with self._lock:
            self._done, self._rows = done, total

    def phase(self, name: str) -> None:
        """Begin a phase, and end the one before it."""
        with self._lock:
            self._finished += self._shares.get(self._phase, 0.0)
            self._phase, self._phase_began, self._done = name, time.monotonic(), 0

    def advance(self, rows: int) -> None:
        """Add to the number of rows that are done in this phase."""
        with self._lock:
            self._done += rows

    def _show(self) -> None:
        interval = _DRAW_SECONDS if self._line is not None and self._line.terminal else LINE_SECONDS
        last_shown = time.monotonic()
        while not self._stop.wait(0.1):
            self.peak = max(self.peak, memory())
            now = time.monotonic()
            if self._line is not None and now - last_shown >= interval:
                last_shown = now
                share, text = self.state(now)
                self._line.show(f"{self.name}:", text, share)

    def state(self, now: float) -> tuple[float, str]:
        """Return the share of the work that is done, from 0 to 1, and the text of the line."""
        with self._lock:
            whole = sum(self._shares.values()) or 1.0
            within = min(self._done / self._rows, 1.0) if self._rows else 0.0
            share = (self._finished + within * self._shares.get(self._phase, 0.0)) / whole
            elapsed = now - self._began
            left = f"{clock(elapsed / share - elapsed)} left" if share > 0.02 else ""
            rate = self._done / max(now - self._phase_began, 1e-9)
            rows = (
                f"{self._done:,} of {self._rows:,} rows  {rate:,.0f} rows/s" if self._done else f"{self._rows:,} rows"
            )
        return share, "  ".join(filter(None, (self._phase, rows, gib(memory()), left)))


def standard(name: str = "", *, notes: bool = True) -> Progress:
    """Return a progress that is shown on standard error."""
    return Progress(name, sys.stderr, notes=notes)
