"""Reload of the model and of its side tables: a thread loads a new version while the old one answers requests."""

from __future__ import annotations

import threading
import time
from contextlib import suppress

from ple_rec.errors import PleRecError, UnavailableError
from ple_rec.inference.delta import MissingBaseError
from ple_rec.inference.load_version import VersionStamp, load_ranker
from ple_rec.inference.model_dir import read_latest
from ple_rec.inference.ranker import Ranker
from ple_rec.serving.http.batching import Batcher
from ple_rec.serving.http.metrics import ServerMetrics, log_error, log_info, log_warning
from ple_rec.serving.http.table_reload import TableLoader
from ple_rec.storage import Location

__all__ = ["VersionStamp", "VersionWatcher", "load"]


class VersionWatcher:
    """Thread that checks `MODEL_DIR/latest`, loads a new version and hands it to the batcher.

    It also loads new versions of the model's side tables, for which the model is not loaded again.

    The batcher changes the version between two calls, so every request is answered by the version that has read it. If
    a new version is refused (a wrong checksum, a missing file) or a store cannot be read, this is logged once, and the
    old version continues to answer.

    Args:
        model_dir: Folder with `latest`.
        version: Identity of the version in the batcher, read before that version was loaded.
        batcher: Batcher with the model.
        threads: Number of threads of the model.
        seconds: Seconds between two checks.
        metrics: Metrics that name the version and count reloads.
        tables: Loader of the side tables in the batcher's model.
    """

    def __init__(
        self,
        model_dir: Location,
        version: VersionStamp,
        batcher: Batcher,
        threads: int,
        seconds: float,
        metrics: ServerMetrics,
        tables: TableLoader,
    ) -> None:
        self._model_dir, self._batcher, self._threads, self._seconds = model_dir, batcher, threads, seconds
        self._metrics, self._tables = metrics, tables
        self._current = version
        # Last refusal, so that it is logged once: the version; without one, the kind of the refusal or its reason.
        self._refused: VersionStamp | str | None = None
        self._wake, self._stop = threading.Event(), False
        self._thread = threading.Thread(target=self._run, name="reload", daemon=True)
        metrics.set_version(batcher.ranker.name, batcher.ranker.version, batcher.ranker.arrays.overlay_bytes)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread without waiting for a version that is being loaded."""
        self._stop = True
        self._wake.set()

    def check_now(self) -> None:
        """Check at once, and retry a refused version (SIGHUP)."""
        self._refused = None
        self._tables.retry()
        self._wake.set()

    def _run(self) -> None:
        while not self._stop:
            self._wake.wait(self._seconds)
            self._wake.clear()
            if not self._stop:
                self._check()

    def _check(self) -> None:
        self._check_version()
        ranker = self._tables.attach(self._batcher.ranker)
        if ranker is not self._batcher.ranker:
            self._batcher.ranker = ranker

    def _check_version(self) -> None:
        version = None
        try:
            version = VersionStamp.of_latest(self._model_dir)
            if version == self._current:
                self._refused = None
            if version in (self._current, self._refused):
                return
            started = time.perf_counter()
            older = self._batcher.ranker
            ranker = self._tables.attach(load(version.path, self._threads, older))
        except UnavailableError as error:
            # The store does not answer; the version may be fine, so every check tries again.
            self._refuse(None, str(error), "unavailable")
        except MissingBaseError as error:
            # The base may be put back, so every check tries again.
            self._refuse(None, str(error), f"{version}: {error}")
        except PleRecError as error:
            self._refuse(version, str(error))
        except Exception as error:  # No content of that folder may end the thread.
            log_error("reload_failed", error, version=version and version.path)
            self._refuse(version, type(error).__name__)
        else:
            lost, new = _differences(older, ranker)
            self._batcher.ranker, self._current, self._refused = ranker, version, None
            self._metrics.set_version(ranker.name, ranker.version, ranker.arrays.overlay_bytes)
            self._metrics.reloads.labels("loaded").inc()
            seconds, overlay_bytes = time.perf_counter() - started, ranker.arrays.overlay_bytes
            log_info("reload", version=ranker.version, seconds=seconds, overlay_bytes=overlay_bytes)
            if lost or new:
                log_warning("signature_differs", version=ranker.version, lost=",".join(lost), new=",".join(new))

    def _refuse(self, version: VersionStamp | None, why: str, kind: str | None = None) -> None:
        """Log a refusal, unless it is the same as the last one.

        Args:
            version: Refused version; None if there is none.
            why: Reason of the refusal, for the log.
            kind: Name of the refusal: without a version, two refusals of one kind are the same. None to compare `why`.
        """
        refused = version or kind or why
        if refused == self._refused:
            return
        self._refused = refused
        self._metrics.reloads.labels("refused").inc()
        name = ""
        # If `latest` cannot be read, the log line has no name, and `why` has the reason.
        with suppress(PleRecError, OSError):
            name = version.path.name if version else read_latest(self._model_dir)
        log_warning("reload_refused", version=name, why=why, kept=self._batcher.ranker.version)


def load(version: Location, threads: int, older: Ranker | None = None) -> Ranker:
    """Load a version, and log its precision if the server chose it, or if bf16 is slow on this machine.

    Args:
        version: Folder of the version.
        threads: Number of threads of the model.
        older: Version in memory, whose arrays a delta shares; None to read all files.

    Raises:
        UserError: The fusion does not fit the model, or a configuration is wrong.
        DataError: A file is missing or has changed since the export, or the files do not fit each other.
        UnavailableError: The version is in a store that cannot be read.
    """
    ranker = load_ranker(version, threads, older=older)
    _log_precision(ranker)
    return ranker


def _log_precision(ranker: Ranker) -> None:
    """Log the precision that "auto" has chosen, or a warning if the export names bf16 but fp32 is faster here."""
    milliseconds = ranker.dense_milliseconds
    fields = {f"{name}_ms": value for name, value in milliseconds.items()}
    if ranker.exported_precision == "auto":
        log_info("dense", version=ranker.version, used=ranker.dense_precision, **fields)
    elif milliseconds and milliseconds["bf16"] > milliseconds["fp32"]:
        log_warning("bf16_is_slow", version=ranker.version, **fields)


def _differences(old: Ranker, new: Ranker) -> tuple[list[str], list[str]]:
    """Return the features and tasks that only the old version has, and those that only the new one has."""
    before, after = _names(old), _names(new)
    return [name for name in before if name not in after], [name for name in after if name not in before]


def _names(ranker: Ranker) -> list[str]:
    return [*(each.name for each in ranker.signature.inputs), *ranker.signature.kinds]
