"""Printing of the log messages of `ple_rec` and `data_prep` while a verb of the command line or a call of the API runs.

A module reports its progress by `logging.getLogger(__name__).info(...)`. Inside `print_messages()` the texts of
such messages are printed, without level and time. If the program has given the logger `ple_rec` or `data_prep` handlers
of its own, these receive the messages of that logger instead. Outside, Python's logging decides; by default it drops
them and prints warnings.
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
_streams: dict[object, Stream] = {}  # Stream of each open block of `print_messages`; the newest one counts.
# Level and propagation of each logger before `_attach_handler` changed them.
_saved_settings: dict[logging.Logger, tuple[int, bool]] = {}


class _LineHandler(logging.Handler):
    """Handler that prints the text of each message: warnings on standard error, others on the newest block's stream."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print a message. An error of the stream is raised, as by `print`, not swallowed."""
        stream_name = "stderr" if record.levelno >= logging.WARNING else next(reversed(_streams.values()))
        print_line(printable_lines(record.getMessage()), getattr(sys, stream_name))


_handler = _LineHandler()


@contextmanager
def print_messages(stream: Stream = "stdout") -> Iterator[None]:
    """Print the log messages of `ple_rec` and `data_prep` inside the block; ranks other than 0 print warnings alone.

    If several blocks are open, the one that began last chooses the stream for all threads. The end of a block removes
    all progress bars.

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
    _handler.setLevel(logging.INFO if os.environ.get("RANK", "0") == "0" else logging.WARNING)
    for logger in _LOGGERS:
        if not logger.handlers:
            _saved_settings[logger] = (logger.level, logger.propagate)
            logger.addHandler(_handler)
            logger.propagate = False  # torch gives the root logger a handler, which would print each message again.
            logger.setLevel(logging.INFO)


def _detach_handler() -> None:
    for logger, (level, propagate) in _saved_settings.items():
        logger.removeHandler(_handler)
        logger.propagate = propagate
        logger.setLevel(level)
    _saved_settings.clear()
