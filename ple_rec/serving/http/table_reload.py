"""Reload of side tables: a new version of a table replaces the old one, while the model stays in memory."""

from __future__ import annotations

import time

from ple_rec.config.raw_form import RawSide
from ple_rec.errors import PleRecError, UnavailableError
from ple_rec.inference.load_version import VersionStamp, sides_of
from ple_rec.inference.model_dir import publish_command
from ple_rec.inference.ranker import Ranker
from ple_rec.inference.side_table import SideTable, load_table
from ple_rec.serving.http.metrics import ServerMetrics, log_error, log_info, log_warning
from ple_rec.serving.http.options import RATES_MAX_AGE
from ple_rec.storage import Location


class TableLoader:
    """Loader of the side tables of a model, which remembers those in memory and those that it has refused.

    A version that is damaged or does not fit the model is refused: it is logged and counted once, and the version in
    memory stays in use.

    Args:
        model_dir: Folder of the model.
        metrics: Metrics that count reloads.
        max_age: Largest age of a table's rates in days that is not logged as a warning.
    """

    def __init__(self, model_dir: Location, metrics: ServerMetrics, max_age: int = RATES_MAX_AGE) -> None:
        self._model_dir, self._metrics, self._max_age = model_dir, metrics, max_age
        self._loaded: dict[str, tuple[VersionStamp, SideTable]] = {}
        # Last refusal of each table, so that it is logged once: versions of the table and of the model, or the reason.
        self._refused: dict[str, tuple[VersionStamp, str] | str] = {}
        self._logged_as_old: dict[str, VersionStamp] = {}  # Version of each table whose age was logged as a warning.

    def retry(self) -> None:
        """Let the next call of `attach` try refused tables again."""
        self._refused.clear()

    def attach(self, ranker: Ranker, *, must_load: bool = False) -> Ranker:
        """Return the model with the newest side tables that can be used; the same object if it has them already.

        Args:
            ranker: Version of the model.
            must_load: True to raise the error of a table that cannot be loaded.

        Raises:
            DataError: A table is damaged, and `must_load` is True.
            UnavailableError: The model is in a store that cannot be read, and `must_load` is True.
        """
        tables: dict[str, SideTable] = {}
        for side in sides_of(ranker.raw_form):
            name = side.name
            self._load_newest(side, ranker, must_load=must_load)
            if name in self._loaded and _find_misfit(ranker, self._loaded[name][1]) is None:
                tables[name] = self._loaded[name][1]
                self._check_age(name)
        return ranker if tables == ranker.side_tables else ranker.with_side_tables(tables)

    def _check_age(self, name: str) -> None:
        """Set the metric of the age of a table's rates, and log once for each version that they are too old."""
        stamp, table = self._loaded[name]
        age = table.info.age_days(time.time())
        if age is None:
            return
        self._metrics.rates_age.labels(name).set(age)
        if age > self._max_age and self._logged_as_old.get(name) != stamp:
            self._logged_as_old[name] = stamp
            fields = {"table": name, "version": table.version, "as_of": table.info.as_of}
            log_warning("rates_are_old", **fields, age_days=age, rates_max_age=self._max_age)

    def _load_newest(self, side: RawSide, ranker: Ranker, *, must_load: bool) -> None:
        """Load the newest version of a table, unless it is in memory, has been refused, or does not fit the model."""
        name, attempt = side.name, None
        try:
            stamp = VersionStamp.of_table(self._model_dir, name)
            if stamp is None:
                return
            attempt = (stamp, ranker.version)
            if self._refused.get(name) == attempt:
                return
            started = time.perf_counter()
            in_memory, table = self._loaded.get(name, (None, None))
            if table is None or in_memory != stamp:
                table = load_table(stamp.path, name)
            if (misfit := _find_misfit(ranker, table)) is not None:
                command = publish_command(self._model_dir, name, from_dataset=side.is_from_dataset)
                self._refuse(name, attempt, f"{misfit}; run {command}")
            elif in_memory != stamp:
                self._loaded[name] = (stamp, table)
                self._refused.pop(name, None)
                self._metrics.table_reloads.labels("loaded").inc()
                fields = {name: value for name, value in table.describe().items() if value is not None}
                log_info("table", **fields, seconds=time.perf_counter() - started)
        except PleRecError as error:
            if must_load:
                raise
            # If a store does not answer, every check tries again, but only the first one logs it.
            no_answer = isinstance(error, UnavailableError)
            self._refuse(name, "unavailable" if no_answer else attempt or str(error), str(error))
        except Exception as error:  # Whatever the folder holds, the thread that checks for new versions goes on.
            if must_load:
                raise
            log_error("table_reload_failed", error, table=name)
            self._refuse(name, attempt or type(error).__name__, type(error).__name__)

    def _refuse(self, name: str, refusal: tuple[VersionStamp, str] | str, why: str) -> None:
        """Log and count a refusal, unless it repeats the last one of the table.

        Args:
            name: Name of the side table.
            refusal: Identity of the refusal, as in `_refused`.
            why: Reason of the refusal, for the log.
        """
        if self._refused.get(name) == refusal:
            return
        self._refused[name] = refusal
        self._metrics.table_reloads.labels("refused").inc()
        version = refusal[0].path.name if isinstance(refusal, tuple) else ""
        in_memory = self._loaded[name][1].version if name in self._loaded else ""
        log_warning("table_refused", table=name, version=version, why=why, kept=in_memory)


def _find_misfit(ranker: Ranker, table: SideTable) -> str | None:
    """Return why a side table cannot fill columns of a model; None if it can. A table that the model has fits it."""
    is_used = ranker.side_tables.get(table.info.name) is table
    return None if is_used else ranker.find_misfit(table.info)
