"""Log messages of the packages, printed as bare lines while a verb or a call of the API runs.

A module reports its progress by `logging.getLogger(__name__).info(...)`. Inside `messages()` such messages are printed,
unless the program has given the loggers `ple_rec` and `data_prep` handlers of its own, which then receive them.
Elsewhere Python's logging decides; by default it drops them and prints warnings.
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
_streams: dict[object, Stream] = {}  # Streams of the open blocks; the last one decides.
_before: dict[logging.Logger, tuple[int, bool]] = {}  # Level and propagation of each logger before we changed them.


class _Lines(logging.Handler):
    """Handler that prints bare messages, and warnings always on standard error."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print a message. An error of the stream is raised, as by `print`, not swallowed."""
        name = "stderr" if record.levelno >= logging.WARNING else next(reversed(_streams.values()))
        print_line(printable_lines(record.getMessage()), getattr(sys, name))


_lines = _Lines()


@contextmanager
def messages(stream: Stream = "stdout") -> Iterator[None]:
    """Print the log messages of the packages inside the block; ranks other than 0 print warnings alone.

    If several blocks are open, the one that began last chooses the stream for all threads.

    Args:
        stream: Name of the stream for messages; warnings go to standard error.
    """
    block = object()
    with _lock:
        _streams[block] = stream
        if len(_streams) == 1:
            _attach_handler()
    try:
        yield
    finally:
        with _lock:
            del _streams[block]
            if not _streams:
                _detach_handler()
        close_bars()


def _attach_handler() -> None:
    _lines.setLevel(logging.INFO if os.environ.get("RANK", "0") == "0" else logging.WARNING)
    for logger in _LOGGERS:
        if not logger.handlers:
            _before[logger] = (logger.level, logger.propagate)
            logger.addHandler(_lines)
            logger.propagate = False  # torch gives the root logger a handler, which would print it again.
            logger.setLevel(logging.INFO)


def _detach_handler() -> None:
    for logger, (level, propagate) in _before.items():
        logger.removeHandler(_lines)
        logger.propagate = propagate
        logger.setLevel(level)
    _before.clear()
