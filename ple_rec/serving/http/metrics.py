"""Metrics of the server for Prometheus, and its log on standard error."""

from __future__ import annotations

import json
import logging
import sys
import time
import traceback
from collections.abc import Callable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

_LOGGER = logging.getLogger("ple_rec.serving.http")
# Characters of values that the log writes without quotes.
_UNQUOTED = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./:+%")


class OneLineFormatter(logging.Formatter):
    """Formatter that writes a record as one line of fields; the traceback of an exception is the last field."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        fields: dict[str, object] = getattr(record, "fields", {"text": record.getMessage().strip()})
        event = record.msg if hasattr(record, "fields") else record.name
        all_fields = {
            "time": f"{stamp}.{record.msecs:03.0f}Z",
            "level": record.levelname.lower(),
            "event": event,
        } | fields
        if record.exc_info:
            all_fields["trace"] = "".join(traceback.format_exception(*record.exc_info))
        return " ".join(f"{name}={_field_text(value)}" for name, value in all_fields.items())


def configure_log() -> None:
    """Write the events of this server and the errors of uvicorn to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(OneLineFormatter())
    for name, level in {"ple_rec.serving.http": logging.INFO, "uvicorn.error": logging.ERROR}.items():
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(level)


def log_info(event: str, **fields: object) -> None:
    """Log a normal event."""
    _LOGGER.info(event, extra={"fields": fields})


def log_warning(event: str, **fields: object) -> None:
    """Log an event that a person should look at."""
    _LOGGER.warning(event, extra={"fields": fields})


def log_error(event: str, error: BaseException, **fields: object) -> None:
    """Log a bug with its traceback."""
    _LOGGER.error(event, extra={"fields": fields}, exc_info=error)


def _field_text(value: object) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text if text and set(text) <= _UNQUOTED else json.dumps(text)


# Upper bounds of the buckets of the histograms below.
_SECONDS = (0.002, 0.005, 0.01, 0.015, 0.025, 0.04, 0.06, 0.1, 0.15, 0.25, 0.5, 1, 2, 5)
_ROWS = (1, 10, 50, 100, 250, 500, 1000, 2000, 4000)
_REQUESTS = (1, 2, 4, 8, 16, 32, 64)


class ServerMetrics:
    """Metrics of a server."""

    def __init__(self) -> None:
        # Otherwise prometheus_client adds a series with the time of creation for each counter.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.requests = Counter(
            "ple_rec_requests", "Requests answered, by path and status", ["path", "status"], registry=registry
        )
        self.seconds = Histogram(
            "ple_rec_request_seconds",
            "Seconds from a request's head to its answer, for answers with status 200",
            ["path"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.refused = Counter(
            "ple_rec_refused",
            "Requests refused, by reason",
            ["reason"],
            registry=registry,
        )
        self.disconnected = Counter(
            "ple_rec_clients_gone", "Requests whose client disconnected before the answer", registry=registry
        )
        self.admitted = Gauge(
            "ple_rec_taken_requests", "Requests that are being read, wait or are being scored", registry=registry
        )
        self.batch_rows = Histogram(
            "ple_rec_batch_rows", "Rows of a call of the model", buckets=_ROWS, registry=registry
        )
        self.batch_requests = Histogram(
            "ple_rec_batch_requests", "Requests of a call of the model", buckets=_REQUESTS, registry=registry
        )
        self.batch_seconds = Histogram(
            "ple_rec_batch_seconds",
            "Seconds of a call of the model, with writing JSON",
            buckets=_SECONDS,
            registry=registry,
        )
        self.rows = Counter("ple_rec_rows", "Rows scored", registry=registry)
        self.model = Gauge(
            "ple_rec_model_info", "Version that answers requests", ["name", "version"], registry=registry
        )
        self.overlay_bytes = Gauge(
            "ple_rec_overlay_bytes",
            "Bytes of the rows and values that deltas have changed since the whole version in memory",
            registry=registry,
        )
        self.reloads = Counter(
            "ple_rec_reloads", "New versions, by outcome: loaded or refused", ["outcome"], registry=registry
        )
        self.table_reloads = Counter(
            "ple_rec_table_reloads",
            "New versions of side tables, by outcome: loaded or refused",
            ["outcome"],
            registry=registry,
        )
        self.rates_age = Gauge(
            "ple_rec_rates_age_days",
            "Days since the day for whose rows the rates of a side table hold",
            ["table"],
            registry=registry,
        )
        self.ready = Gauge("ple_rec_ready", "1 while the server admits requests", registry=registry)
        for outcome in ("loaded", "refused"):
            self.reloads.labels(outcome)
            self.table_reloads.labels(outcome)
        for reason in ("queue", "stopping", "time", "size", "token", "host"):
            self.refused.labels(reason)

    def set_sources(self, admitted: Callable[[], float], ready: Callable[[], float]) -> None:
        """Set the functions that give the values of two gauges.

        Args:
            admitted: Function that returns the number of requests without an answer.
            ready: Function that returns 1 while requests are admitted, else 0.
        """
        self.admitted.set_function(admitted)
        self.ready.set_function(ready)

    def set_version(self, name: str, version: str, overlay_bytes: int) -> None:
        """Set the version that answers from now on, and the bytes that it has besides those of a whole version."""
        self.model.clear()
        self.model.labels(name, version).set(1)
        self.overlay_bytes.set(overlay_bytes)

    def text(self) -> bytes:
        """Return all metrics in the text format 0.0.4 of Prometheus."""
        return generate_latest(self.registry)
