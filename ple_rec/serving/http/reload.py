"""A new version of the model, while the old one answers."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Self

from ple_rec.errors import PleRecError, UnavailableError
from ple_rec.inference.load_version import load_ranker
from ple_rec.inference.manifest import MANIFEST, readable
from ple_rec.inference.model_dir import latest, latest_name
from ple_rec.inference.ranker import Ranker
from ple_rec.serving.http.batching import Batcher
from ple_rec.serving.http.metrics import Metrics, log_error, log_info, log_warning
from ple_rec.storage import Location, stamp_of


@dataclass(frozen=True)
class VersionStamp:
    """A version as it is at its place: one that is copied there anew is another.

    Args:
        path: Folder of the version.
        written: Stamp of its manifest; None where there is no manifest.
    """

    path: Location
    written: str | None

    @classmethod
    def of_latest(cls, model_dir: Location) -> Self:
        """Return the version that `latest` names now.

        Raises:
            UserError: Nothing was exported there.
            DataError: It names no version, or this user may not read it.
            UnavailableError: It lies in a store that cannot be read.
        """
        path = latest(model_dir)
        with readable(path):
            try:
                return cls(path, stamp_of(path / MANIFEST))
            except FileNotFoundError:  # which loading it reports
                return cls(path, None)


class VersionWatcher:
    """A thread that looks at `MODEL_DIR/latest`, loads what it names and hands it to the batcher.

    The batcher takes it between two calls, so that every request is answered by the version that has read it. A version
    that is refused (a checksum, a missing file) is logged once, as is a store that cannot be read; the old one goes on.

    Args:
        model_dir: Folder with `latest`.
        version: Version of the model that the batcher has, as it was before it was loaded.
        batcher: Batcher that has the model.
        threads: Threads of the model.
        seconds: Seconds between two looks.
        metrics: Metrics that name the version and count reloads.
    """

    def __init__(
        self,
        model_dir: Location,
        version: VersionStamp,
        batcher: Batcher,
        threads: int,
        seconds: float,
        metrics: Metrics,
    ) -> None:
        self._model_dir, self._batcher, self._threads, self._seconds = model_dir, batcher, threads, seconds
        self._metrics = metrics
        self._current = version
        self._refused: VersionStamp | str | None = None  # a version, or why there is none to be loaded
        self._wake, self._stop = threading.Event(), False
        self._thread = threading.Thread(target=self._run, name="reload", daemon=True)
        metrics.set_version(batcher.ranker.name, batcher.ranker.version)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread; a version that is being loaded is left alone."""
        self._stop = True
        self._wake.set()

    def look_now(self) -> None:
        """Look at once, and again at a version that was refused (SIGHUP)."""
        self._refused = None
        self._wake.set()

    def _run(self) -> None:
        while not self._stop:
            self._wake.wait(self._seconds)
            self._wake.clear()
            if not self._stop:
                self._check()

    def _check(self) -> None:
        version = None
        try:
            version = VersionStamp.of_latest(self._model_dir)
            if version == self._current:
                self._refused = None
            if version in (self._current, self._refused):
                return
            begun = time.perf_counter()
            ranker = load(version.path, self._threads)
        except UnavailableError as error:  # which says nothing of the version: every look tries again
            self._refuse(None, str(error), "unavailable")
        except PleRecError as error:
            self._refuse(version, str(error))
        except Exception as error:  # whatever is in that folder, the old version goes on
            log_error("reload_failed", error, version=version and version.path)
            self._refuse(version, type(error).__name__)
        else:
            lost, new = _differences(self._batcher.ranker, ranker)
            self._batcher.ranker, self._current, self._refused = ranker, version, None
            self._metrics.set_version(ranker.name, ranker.version)
            self._metrics.reloads.labels("loaded").inc()
            log_info("reload", version=ranker.version, seconds=time.perf_counter() - begun)
            if lost or new:
                log_warning("signature_differs", version=ranker.version, lost=",".join(lost), new=",".join(new))

    def _refuse(self, version: VersionStamp | None, why: str, kind: str | None = None) -> None:
        """Log a refusal, unless it was the last one too.

        Args:
            version: Version that is refused; None where there is none.
            why: Reason.
            kind: Word that tells reasons without a version from others; None for the reason itself.
        """
        refused = version or kind or why
        if refused == self._refused:
            return
        self._refused = refused
        self._metrics.reloads.labels("refused").inc()
        name = ""
        with suppress(PleRecError, OSError):  # `latest` cannot be read: `why` says so
            name = version.path.name if version else latest_name(self._model_dir)
        log_warning("reload_refused", version=name, why=why, kept=self._batcher.ranker.version)


def load(version: Location, threads: int) -> Ranker:
    """Return a version as `load_ranker` does, and log which precision it chose.

    Raises:
        UserError: Its model cannot have its fusion, or a configuration is wrong.
        DataError: It is not as it was exported, or its files do not fit each other.
        UnavailableError: It lies in a store that cannot be read.
    """
    ranker = load_ranker(version, threads)
    _log_precision(ranker)
    return ranker


def _log_precision(ranker: Ranker) -> None:
    """Log what `auto` comes to on this machine, or that bf16, which was chosen to be faster, is slower on it."""
    took = ranker.dense_milliseconds
    fields = {f"{name}_ms": value for name, value in took.items()}
    if ranker.dense_asked == "auto":
        log_info("dense", version=ranker.version, used=ranker.dense, **fields)
    elif took and took["bf16"] > took["fp32"]:
        log_warning("bf16_is_slow", version=ranker.version, **fields)


def _differences(old: Ranker, new: Ranker) -> tuple[list[str], list[str]]:
    """Return the features and tasks that only the old version has, and those that only the new one has."""
    before, after = _names(old), _names(new)
    return [name for name in before if name not in after], [name for name in after if name not in before]


def _names(ranker: Ranker) -> list[str]:
    return [*(each.name for each in ranker.signature.inputs), *ranker.signature.kinds]
