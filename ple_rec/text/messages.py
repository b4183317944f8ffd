"""What the packages log, printed as bare lines while a verb runs.

A module tells how its work goes by `logging.getLogger(__name__).info(...)`. Inside `messages()` such lines are printed.
Elsewhere, as in a program that uses the package as a library, Python's logging decides: it drops them and prints
warnings, unless it is configured otherwise.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from ple_rec.text.escapes import printable_lines
from ple_rec.text.progress import close_bars, print_line

_LOGGERS = ("ple_rec", "data_prep")
Stream = Literal["stdout", "stderr"]


class _Lines(logging.Handler):
    """A handler that prints bare messages, warnings always on standard error.

    Args:
        stream: Name of the stream for other messages.
        level: Least level of a message that is printed.
    """

    def __init__(self, stream: Stream, level: int) -> None:
        super().__init__(level)
        self._stream = stream

    def emit(self, record: logging.LogRecord) -> None:
        """Print a message; a stream that cannot be written raises here, as it does for `print`."""
        name = "stderr" if record.levelno >= logging.WARNING else self._stream
        print_line(printable_lines(record.getMessage()), getattr(sys, name))


@contextmanager
def messages(stream: Stream = "stdout") -> Iterator[None]:
    """Print what the packages log inside the block; ranks other than 0 print warnings alone.

    A block inside another one decides for what is logged in it.

    Args:
        stream: Stream for messages; warnings go to standard error.
    """
    level = logging.INFO if os.environ.get("RANK", "0") == "0" else logging.WARNING
    handler = _Lines(stream, level)
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    before = [(logger.handlers, logger.level, logger.propagate) for logger in loggers]
    for logger in loggers:
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        for logger, (handlers, kept, propagate) in zip(loggers, before, strict=True):
            logger.handlers, logger.propagate = handlers, propagate
            logger.setLevel(kept)
        close_bars()
