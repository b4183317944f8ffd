"""Progress line of a preparation: phase, share that is done, rows, rows per second, memory, and time left."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from ple_rec.text.progress import LINE_SECONDS, StatusLine
from ple_rec.text.units import clock_text, gib_text

_DRAW_SECONDS = 0.5  # Interval at which the line is redrawn on a terminal.


def resident_bytes() -> int:
    """Return the resident bytes of this process."""
    return int(_STATM.read_text(encoding="ascii").split()[1]) * _PAGE


_STATM = Path("/proc/self/statm")
_PAGE = os.sysconf("SC_PAGE_SIZE")


class Progress:
    """Progress that is shown as a line redrawn on a terminal, and as a line every ten seconds elsewhere.

    Args:
        name: Name of the dataset at the beginning of a line; `prepare` and `dry_run` set it from the configuration.
        stream: Stream of the lines; None to write nothing.
        notes: False to show nothing in calls of `say`.

    Attributes:
        peak: Largest resident size of this process in bytes, measured every 0.1 seconds while `running`.
    """

    def __init__(self, name: str = "", stream: TextIO | None = None, *, notes: bool = True) -> None:
        self.name, self._notes = name, notes
        self.peak = 0
        self._line = None if stream is None else StatusLine(stream)
        self._rows = self._rows_done = 0
        self._phase = ""
        self._began = self._phase_began = time.monotonic()
        self._shares: dict[str, float] = {}
        self._finished_share = 0.0
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    @contextmanager
    def running(self, shares: dict[str, float], rows: int) -> Iterator[None]:
        """Show progress, and measure `peak`, inside the block.

        Args:
            shares: Relative duration of each phase, by name.
            rows: Number of rows of the log, by which the progress of each phase is measured.
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
        """Show a line of text, unless `stream` is None or `notes` False; on a terminal, the next line replaces it."""
        if self._line is not None and self._notes:
            self._line.show(f"{self.name}: {text}")

    def set_done(self, done: int, total: int) -> None:
        """Set the number of rows that are done in this phase, and the total, which replaces `rows` of `running`."""
        with self._lock:
            self._rows_done, self._rows = done, total

    def begin_phase(self, name: str) -> None:
        """Begin a phase, and end the one before it."""
        with self._lock:
            self._finished_share += self._shares.get(self._phase, 0.0)
            self._phase, self._phase_began, self._rows_done = name, time.monotonic(), 0

    def advance(self, rows: int) -> None:
        """Add to the number of rows that are done in this phase."""
        with self._lock:
            self._rows_done += rows

    def _show(self) -> None:
        interval = _DRAW_SECONDS if self._line is not None and self._line.is_terminal else LINE_SECONDS
        last_shown = time.monotonic()
        while not self._stop.wait(0.1):
            self.peak = max(self.peak, resident_bytes())
            now = time.monotonic()
            if self._line is not None and now - last_shown >= interval:
                last_shown = now
                share, text = self.state(now)
                self._line.show(f"{self.name}:", text, share)

    def state(self, now: float) -> tuple[float, str]:
        """Return the share of the work that is done, from 0 to 1, and the text of the line.

        Args:
            now: Time of `time.monotonic`.
        """
        with self._lock:
            total_share = sum(self._shares.values()) or 1.0
            phase_done = min(self._rows_done / self._rows, 1.0) if self._rows else 0.0
            share = (self._finished_share + phase_done * self._shares.get(self._phase, 0.0)) / total_share
            elapsed = now - self._began
            left = f"{clock_text(elapsed / share - elapsed)} left" if share > 0.02 else ""
            rate = self._rows_done / max(now - self._phase_began, 1e-9)
            rows = (
                f"{self._rows_done:,} of {self._rows:,} rows  {rate:,.0f} rows/s"
                if self._rows_done
                else f"{self._rows:,} rows"
            )
        return share, "  ".join(filter(None, (self._phase, rows, gib_text(resident_bytes()), left)))


def stderr_progress(name: str = "", *, notes: bool = True) -> Progress:
    """Return a progress that is shown on standard error."""
    return Progress(name, sys.stderr, notes=notes)
