"""A log on standard error, one line an event: `time=... level=... event=... key=value`."""

from __future__ import annotations

import json
import logging
import sys
import time
import traceback

_LOGGER = logging.getLogger("ple_rec.serving.http")
_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./:+%")


class OneLine(logging.Formatter):
    """Formats a record as one line, whatever its text holds; an exception's traceback is its last field."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        fields: dict[str, object] = getattr(record, "fields", {"text": record.getMessage().strip()})
        event = record.msg if hasattr(record, "fields") else record.name
        whole = {"time": f"{stamp}.{record.msecs:03.0f}Z", "level": record.levelname.lower(), "event": event} | fields
        if record.exc_info:
            whole["trace"] = "".join(traceback.format_exception(*record.exc_info))
        return " ".join(f"{name}={_word(value)}" for name, value in whole.items())


def configure_log() -> None:
    """Let this server's events, and errors of uvicorn, go to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(OneLine())
    for name, level in {"ple_rec.serving.http": logging.INFO, "uvicorn.error": logging.ERROR}.items():
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(level)


def log_info(event: str, **fields: object) -> None:
    """Log an event that is as it should be."""
    _LOGGER.info(event, extra={"fields": fields})


def log_warning(event: str, **fields: object) -> None:
    """Log an event that a person should look at."""
    _LOGGER.warning(event, extra={"fields": fields})


def log_error(event: str, error: BaseException, **fields: object) -> None:
    """Log a bug with its traceback."""
    _LOGGER.error(event, extra={"fields": fields}, exc_info=error)


def _word(value: object) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text if text and set(text) <= _PLAIN else json.dumps(text)
