"""What a run of the pipeline says while it works: phase, share done, rows/s, memory, time left."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

_INTERVAL = 0.5  # seconds between redraws of a terminal's line
_LINE_INTERVAL = 10.0  # between lines where no terminal is
_WIDTH = 24


def memory() -> int:
    """Resident bytes of this process."""
    return int(_STATM.read_text(encoding="ascii").split()[1]) * _PAGE


_STATM = Path("/proc/self/statm")
_PAGE = os.sysconf("SC_PAGE_SIZE")


class Progress:
    """A line that is redrawn on a terminal, and a line every ten seconds elsewhere.

    Args:
        name: Name of the dataset; `prepare` and `dry_run` replace it by that of the configuration.
        stream: Stream that is written to; None: nothing is written.
        notes: False to leave out what `say` is called with.
    """

    def __init__(self, name: str = "", stream: TextIO | None = None, *, notes: bool = True) -> None:
        self.name, self.stream, self._notes = name, stream, notes
        self.terminal = stream is not None and stream.isatty()
        self.peak = 0
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
            shares: About how long each phase takes, by name.
            rows: Of the log.
        """
        self._shares, self._rows = shares, rows
        self._thread = threading.Thread(target=self._show, name="progress", daemon=True)
        self._thread.start()
        try:
            yield
        finally:
            self._stop.set()
            self._thread.join()
            if self.terminal and self.stream is not None:
                self.stream.write("\r\x1b[K")
                self.stream.flush()

    def say(self, text: str) -> None:
        """Show a line of text, which a terminal replaces by the next."""
        if self.stream is None or not self._notes:
            return
        self.stream.write(f"\r\x1b[K{self.name}: {text}" if self.terminal else f"{self.name}: {text}\n")
        self.stream.flush()

    def reach(self, done: int, total: int) -> None:
        """So many rows of so many are done."""
        with self._lock:
            self._done, self._rows = done, total

    def phase(self, name: str) -> None:
        """A phase begins, and the one before it is done."""
        with self._lock:
            self._finished += self._shares.get(self._phase, 0.0)
            self._phase, self._phase_began, self._done = name, time.monotonic(), 0

    def advance(self, rows: int) -> None:
        """So many rows more are done in this phase."""
        with self._lock:
            self._done += rows

    def _show(self) -> None:
        interval = _INTERVAL if self.terminal else _LINE_INTERVAL
        sampled = time.monotonic()
        while not self._stop.wait(0.1):
            self.peak = max(self.peak, memory())
            now = time.monotonic()
            if self.stream is None or now - sampled < interval:
                continue
            sampled = now
            text = self.line(now)
            self.stream.write(f"\r\x1b[K{text}" if self.terminal else f"{text}\n")
            self.stream.flush()

    def line(self, now: float) -> str:
        """The state in one line."""
        with self._lock:
            whole = sum(self._shares.values()) or 1.0
            within = min(self._done / self._rows, 1.0) if self._rows else 0.0
            share = (self._finished + within * self._shares.get(self._phase, 0.0)) / whole
            elapsed = now - self._began
            left = f"{_clock(elapsed / share - elapsed)} left" if share > 0.02 else ""
            rate = self._done / max(now - self._phase_began, 1e-9)
            rows = (
                f"{self._done:,} of {self._rows:,} rows  {rate:,.0f} rows/s" if self._done else f"{self._rows:,} rows"
            )
        filled = round(share * _WIDTH)
        bar = f"[{'#' * filled}{'.' * (_WIDTH - filled)}] {share:4.0%}  " if self.terminal else f"{share:4.0%}  "
        cells = (self._phase, rows, f"{memory() / 2**30:.1f} GiB", left)
        return f"{self.name}: {bar}{'  '.join(filter(None, cells))}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def standard(name: str = "", *, notes: bool = True) -> Progress:
    """Progress on standard error."""
    return Progress(name, sys.stderr, notes=notes)
