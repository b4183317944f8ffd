"""A new version of the model, while the old one answers."""

from __future__ import annotations

import threading
import time
from pathlib import Path

from ple_rec.errors import PleRecError
from ple_rec.serve.http.batching import Worker
from ple_rec.serve.http.log import failed, say, warn
from ple_rec.serve.http.metrics import Metrics
from ple_rec.serve.ranker import Ranker, latest

_FIRST_ITEMS = 40  # of the request that a version answers before anybody asks


class Watcher:
    """A thread that looks at `MODEL_DIR/latest`, loads what it names and hands it to the worker.

    The worker takes it between two calls, so that every request is answered by the version that has read it. A version
    that is refused (a checksum, a file that lacks) is told of once; the old one goes on.

    Args:
        model_dir: With `latest`.
        version: Of the model that the worker has.
        worker: That has the model.
        threads: Of the model.
        seconds: Between two looks.
        metrics: Told of versions.
    """

    def __init__(
        self, model_dir: Path, version: Path, worker: Worker, threads: int, seconds: float, metrics: Metrics
    ) -> None:
        self._model_dir, self._worker, self._threads, self._seconds = model_dir, worker, threads, seconds
        self._metrics = metrics
        self._current = version
        self._refused: Path | None = self._current  # or None: `latest` named nothing
        self._wake, self._stop = threading.Event(), False
        self._thread = threading.Thread(target=self._run, name="reload", daemon=True)
        metrics.version(worker.ranker.name, worker.ranker.version)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End; a version that is being loaded is left alone."""
        self._stop = True
        self._wake.set()

    def look(self) -> None:
        """Look now, and once more at what was refused (SIGHUP)."""
        self._refused = self._current
        self._wake.set()

    def _run(self) -> None:
        while not self._stop:
            self._wake.wait(self._seconds)
            self._wake.clear()
            if not self._stop:
                self._once()

    def _once(self) -> None:
        version = None
        try:
            version = latest(self._model_dir)
            if version in (self._current, self._refused):
                return
            begun = time.perf_counter()
            ranker = load(version, self._threads)
        except PleRecError as error:
            self._refuse(version, str(error))
        except Exception as error:  # whatever is in that folder, the old version goes on
            failed("reload_failed", error, version=version)
            self._refuse(version, type(error).__name__)
        else:
            lost, new = _differences(self._worker.ranker, ranker)
            self._worker.ranker, self._current = ranker, version
            self._refused = version
            self._metrics.version(ranker.name, ranker.version)
            self._metrics.reloads.labels("loaded").inc()
            say("reload", version=ranker.version, seconds=time.perf_counter() - begun)
            if lost or new:
                warn("signature_differs", version=ranker.version, lost=",".join(lost), new=",".join(new))

    def _refuse(self, version: Path | None, why: str) -> None:
        if version is None and self._refused is None:
            return  # said already
        self._refused = version
        self._metrics.reloads.labels("refused").inc()
        warn("reload_refused", version=version or self._model_dir, why=why, kept=self._worker.ranker.version)


def load(version: Path, threads: int) -> Ranker:
    """A version, checked, that has answered once: the first call is slow.

    Raises:
        DataError: It is not as it was exported.
    """
    ranker = Ranker(version, threads)
    ranker.answer([ranker.read_rank({"items": [{}] * _FIRST_ITEMS})])
    _tell_precision(ranker)
    return ranker


def _tell_precision(ranker: Ranker) -> None:
    """Say what `auto` comes to on this machine, or that bf16, which was chosen to be faster, is slower on it."""
    took = ranker.dense_milliseconds
    told = {f"{name}_ms": value for name, value in took.items()}
    if ranker.dense_asked == "auto":
        say("dense", version=ranker.version, used=ranker.dense, **told)
    elif took and took["bf16"] > took["fp32"]:
        warn("bf16_is_slow", version=ranker.version, **told)


def _differences(old: Ranker, new: Ranker) -> tuple[list[str], list[str]]:
    """Features and tasks that only the one has."""
    before, after = _names(old), _names(new)
    return [name for name in before if name not in after], [name for name in after if name not in before]


def _names(ranker: Ranker) -> list[str]:
    return [*(each.name for each in ranker.signature.inputs), *ranker.signature.kinds]
