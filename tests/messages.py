"""What the packages log while a test calls them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class _Kept(logging.Handler):
    def __init__(self, keep: Callable[[str], object]) -> None:
        super().__init__()
        self._keep = keep

    def emit(self, record: logging.LogRecord) -> None:
        self._keep(record.getMessage())


@contextmanager
def logged(keep: Callable[[str], object]) -> Iterator[None]:
    """Hand every message of `ple_rec` inside the block to `keep`, whatever the thread that logs it."""
    logger, handler = logging.getLogger("ple_rec"), _Kept(keep)
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
