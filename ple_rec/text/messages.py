"""What the packages log, printed as bare lines while a verb or a call of the API runs.

A module tells how its work goes by `logging.getLogger(__name__).info(...)`. Inside `messages()` such lines are printed,
unless the loggers `ple_rec` and `data_prep` have handlers of the program's own, which then get them instead. Elsewhere
Python's logging decides: it drops them and prints warnings, unless it is configured otherwise.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from ple_rec.text.escapes import printable_lines
from ple_rec.text.progress import close_bars, print_line

_LOGGERS = tuple(map(logging.getLogger, ("ple_rec", "data_prep")))
Stream = Literal["stdout", "stderr"]

_lock = threading.Lock()
_streams: dict[object, Stream] = {}  # of the blocks that have begun, in order; the last one decides
_before: dict[logging.Logger, tuple[int, bool]] = {}  # level and propagation of loggers that print now


class _Lines(logging.Handler):
    """A handler that prints bare messages, warnings always on standard error."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print a message; a stream that cannot be written raises here, as it does for `print`."""
        name = "stderr" if record.levelno >= logging.WARNING else next(reversed(_streams.values()))
        print_line(printable_lines(record.getMessage()), getattr(sys, name))


_lines = _Lines()


@contextmanager
def messages(stream: Stream = "stdout") -> Iterator[None]:
    """Print what the packages log inside the block; ranks other than 0 print warnings alone.

    The block that has begun last decides, for all threads.

    Args:
        stream: Stream for messages; warnings go to standard error.
    """
    block = object()
    with _lock:
        _streams[block] = stream
        if len(_streams) == 1:
            _take_over()
    try:
        yield
    finally:
        with _lock:
            del _streams[block]
            if not _streams:
                _give_back()
        close_bars()


def _take_over() -> None:
    _lines.setLevel(logging.INFO if os.environ.get("RANK", "0") == "0" else logging.WARNING)
    for logger in _LOGGERS:
        if not logger.handlers:
            _before[logger] = (logger.level, logger.propagate)
            logger.addHandler(_lines)
            logger.propagate = False  # imports of torch give the root logger a handler, which would repeat each line
            logger.setLevel(logging.INFO)


def _give_back() -> None:
    for logger, (level, propagate) in _before.items():
        logger.removeHandler(_lines)
        logger.propagate = propagate
        logger.setLevel(level)
    _before.clear()
