"""Read raw logs as the inputs of a model, for `ple-rec predict --data`.

The result has the feature columns that `ple-rec prep` would encode, in the order of the log, for the rows that
`log.where` keeps (with `all_rows`, for every row). Expressions, joins and rules for features are those of the
preparation. Its tasks, splits, `checks`, sample weights and sampling are not applied, so the log need not have the
columns that only these read.
"""

from __future__ import annotations

import shutil
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import ibis.expr.types as ir
import pyarrow as pa
import pyarrow.compute as pc

from data_prep.diagnose import find_cause
from data_prep.engines.base import Engine
from data_prep.engines.duck import DuckEngine
from data_prep.failures import DiskFullError, EngineError, OutOfMemoryError
from data_prep.inputs.columns import ID_PREFIX, check_inputs, id_expressions, inputs_config
from data_prep.inputs.histories import LogHistories, compute_histories, fetch_events, read_stored_events
from data_prep.inputs.rates import compute_rates, read_counts
from data_prep.inputs.times import RawTimeColumn, find_raw_times
from data_prep.page_checksums import check_pages
from data_prep.progress import Progress
from data_prep.sources.files import POSITION, RawFile, RawTable, discover
from data_prep.sources.table import check_unchanged, refuse_changes, shown_value
from data_prep.transforms.columns import REASON
from data_prep.transforms.histories import join_offsets
from data_prep.transforms.history_append import StoredEvents
from data_prep.transforms.rates import RateCounts, join_rates
from data_prep.transforms.resolve import Resolved, resolve
from data_prep.transforms.rows import Derived, LogRows, derive
from ple_rec.config.prep import FilesConfig, LogConfig, PrepConfig
from ple_rec.errors import DataError, Option, UserError
from ple_rec.storage import Location

MAX_BATCH_ROWS = 131_072  # Largest number of rows of the log that are computed together.
_RUN_AGAIN = f"run again with {Option.OVERWRITE} when nothing writes to them"


@dataclass(frozen=True)
class InputOptions:
    """Options for reading raw logs as a model's inputs.

    Args:
        data: File, folder or glob of the log's files (`--data`).
        dataset: Directory of the dataset that the model was trained on, which has the counts of its rates and the
            events of its histories; None for a model without both.
        source: Folder of the files of side tables (`--from`).
        features: Names of the features that the model reads.
        ids: Names of the id columns, which are copied to the output: columns of the log, `side.column`, `group`,
            features before encoding, and columns of `carry` in the preparation.
        optional_ids: Those names of `ids` whose columns are left out if the log does not have them.
        all_rows: True to read also the rows that `log.where` leaves out.
        memory: Approximate number of bytes that DuckDB and this process may use; None for most of the machine's memory.
        threads: Number of threads of DuckDB; None for one per core.
    """

    data: str
    source: str
    features: tuple[str, ...]
    ids: tuple[str, ...]
    dataset: Location | None = None
    optional_ids: tuple[str, ...] = ()
    all_rows: bool = False
    memory: int | None = None
    threads: int | None = None


class Inputs:
    """Rows of raw logs as inputs of a model; `open_inputs` returns them.

    Args:
        engine: Engine that computes the columns.
        resolved: Configuration of the inputs, with the files of the log and of the side tables.
        raw_times: Id columns that hold times, by name. They are read from the files and not by the engine, which would
            lose their type and time zone.
        dataset: Directory of the dataset that has the counts of the rates and the events of the histories; None if none
            is read.

    Attributes:
        ids: Names of the id columns.
        rows: Number of rows of the log's files.
        tables: Files of the log and of the side tables.
        filter_condition: Condition `log.where` of the rows that are read; None if all rows are read.
    """

    def __init__(
        self,
        engine: Engine,
        resolved: Resolved,
        raw_times: Mapping[str, RawTimeColumn],
        dataset: Location | None = None,
    ) -> None:
        self._log_rows, self._raw_times, self._dataset = LogRows(engine, resolved), raw_times, dataset
        self._counts: RateCounts | None = None
        self._stored_events: StoredEvents | None = None
        if dataset is not None and resolved.config.rates:
            self._counts = read_counts(engine, dataset, resolved.config)
        if dataset is not None and resolved.config.histories:
            self._stored_events = read_stored_events(engine, dataset, resolved.config)
        self._histories: LogHistories | None = None
        self._rates: Mapping[str, ir.Table] = {}  # Values of the rates by key and day, by name of the counted table.
        self.tables = resolved.tables
        self.ids = tuple(name.removeprefix(ID_PREFIX) for name in resolved.config.carry)
        self.rows = self._log.rows
        self.filter_condition = resolved.config.log.where
        columns = len(resolved.log_columns) + sum(map(len, resolved.side_columns.values()))
        self._batch_rows = min(MAX_BATCH_ROWS, engine.max_unit_rows(max(columns, 1)))

    @property
    def _log(self) -> RawTable:
        return self.tables["log"]

    @property
    def _files(self) -> list[RawFile]:
        return [file for table in self.tables.values() for file in table.files]

    def file_records(self) -> list[dict[str, object]]:
        """Return table, name, rows, bytes and stamp of each file; the stamp changes whenever the file is written."""
        return [
            {"table": name, "file": file.display_name, "rows": file.rows, "bytes": file.size, "stamp": list(file.stamp)}
            for name, table in self.tables.items()
            for file in table.files
        ]

    def locate(self, position: int) -> str:
        """Return the file and the line or row at a position of the log, for messages.

        A CSV file is read up to that line.
        """
        return self._log.locate(position)

    def file_name_at(self, position: int) -> str:
        """Return the name of the file that contains a position of the log, for messages."""
        return self._log.file_at(position).display_name

    def batches(self, first: int = 0) -> Generator[pa.Table]:
        """Yield the rows from a position on, in the order of the log.

        The columns are `POSITION`, `raw__<feature>` and `weights__<feature>` of sparse features, the dense features,
        the vectors, the columns of histories as in the parts of a dataset (their offsets count the events of `events`),
        and the id columns with the prefix `ID_PREFIX`. If the log has no row from that position on, one
        batch without rows is yielded.

        Args:
            first: Position of the first row.

        Raises:
            UserError: Memory is exhausted, or the disk is full.
            DataError: A row breaks a rule of a feature, an expression cannot be computed, or a file is damaged or has
                changed.
        """
        try:
            with refuse_changes(self._files, _RUN_AGAIN):
                check_pages(self._log_rows.resolved)
                if not self._log_rows.sides:
                    self._log_rows = self._log_rows.with_sides(materialize=True)  # Side tables are read once.
                # Histories also need the rows before the first one, which may be events.
                if self._counts is not None and self._dataset is not None:
                    begin = first if self._stored_events is None else 0
                    self._rates = compute_rates(self._log_rows, self._counts, self._dataset, begin)
                if self._stored_events is not None and self._dataset is not None:
                    rows, stored = self._joined(0, self.rows), self._stored_events
                    engine, resolved = self._log_rows.engine, self._log_rows.resolved
                    self._histories = compute_histories(engine, resolved, rows, stored, self._dataset)
                for start in range(first, self.rows, self._batch_rows) if first < self.rows else [first]:
                    yield self._read_batch(start, min(start + self._batch_rows, max(self.rows, start)))
        except EngineError as error:
            raise find_cause(error, self._log_rows.engine, self._log_rows.resolved, self._joined) from error
        except OutOfMemoryError as error:
            rule = "rows of the log are joined and sorted in memory"
            raise UserError(f"predict {Option.MEMORY}", error.value, rule, "give more") from error
        except DiskFullError as error:
            raise UserError(f"predict {Option.OUT}", error.value, "DuckDB spills data there", error.fix) from error

    def events(self, history: str) -> pa.Table:
        """Return the events of a history, after `batches` has yielded its first batch.

        Args:
            history: Name of the history.

        Returns:
            Time of each event, `log_time`, in seconds since 1970-01-01 UTC, and the raw values of each item under the
            name of its feature.
        """
        assert self._histories is not None
        return fetch_events(self._log_rows.engine, self._log_rows.resolved, history, self._histories.events[history])

    def check_unchanged(self) -> None:
        """Check that no file has changed since it was opened.

        Raises:
            DataError: A file has changed.
        """
        check_unchanged(self._files, _RUN_AGAIN)

    def _joined(self, first: int, last: int) -> ir.Table:
        """Return the rows at positions first to last - 1 with the columns of side tables, rates and histories."""
        rows = self._log_rows.joined(first, last)
        if self._rates:
            rows = join_rates(rows, self._rates, self._log_rows.resolved, rows.columns)
        return rows if self._histories is None else join_offsets(rows, self._histories.offsets)

    def _read_batch(self, first: int, last: int) -> pa.Table:
        derived = derive(self._joined(first, last), self._log_rows.resolved, split=False)
        # Internal columns have names that begin with `__`; of them, only the position is returned.
        columns = [name for name in derived.table.columns if name == POSITION or not name.startswith("__")]
        rows = self._log_rows.engine.fetch(derived.table.select(*columns, REASON).order_by(POSITION))
        if rows.num_rows > last - first or (rows.num_rows < last - first and self.filter_condition is None):
            raise DataError(
                f"{self.locate(first)} and the rows after it",
                f"{rows.num_rows:,} rows were read",
                f"the footers count {last - first:,}",
                "a file is damaged: copy or write it again",
            )
        # The number of the rule that each row breaks; 0 for a row that breaks none.
        reasons = rows[REASON].to_numpy()
        if reasons.any():
            self._raise_bad_row(derived, int(reasons[reasons > 0][0]))
        rows = rows.drop_columns(REASON)
        if self._raw_times:
            offsets = pc.subtract(rows[POSITION], first)  # `log.where` may have left out rows.
            for name, column in self._raw_times.items():
                i = rows.column_names.index(f"{ID_PREFIX}{name}")
                rows = rows.set_column(i, rows.column_names[i], column.read_rows(first, last).take(offsets))
        return rows

    def _raise_bad_row(self, derived: Derived, reason: int) -> None:
        """Raise the error of the first row that breaks a rule; `reason` is the rule's number in `Derived.rules`."""
        rule, position, value = derived.find_first_broken(self._log_rows.engine, reason)
        raise DataError(
            self.locate(position),
            f"{self._log_rows.resolved.quoted(rule.key)} is {shown_value(value)}",
            f"{rule.rule}; training saw no such row",
            "correct or remove the row",
        )


@contextmanager
def open_inputs(
    config: PrepConfig, place: str, options: InputOptions, work: Path, progress: Progress
) -> Iterator[Inputs]:
    """Open raw logs, to read their rows as a preparation reads them.

    Args:
        config: Configuration of the preparation of the dataset that the model was trained on, with the values of
            `[found]` that the preparation took from its log, such as the types of CSV columns.
        place: Name of the configuration in messages.
        options: Options for reading the logs.
        work: Folder for data that does not fit in memory, and for CSV files that are converted to Parquet. Later calls
            with the same folder do not convert them again.
        progress: Progress that is shown to the user.

    Raises:
        UserError: A file does not exist, or the name of an id column is unknown.
        DataError: A file is damaged, or lacks a column.
    """
    where = None if options.all_rows else config.log.where
    log = LogConfig(files=(options.data,), format=None, csv=config.log.csv, where=where)
    csv = work / "csv"
    csv.mkdir(parents=True, exist_ok=True)

    def find(name: str, files: FilesConfig, root: str, resolved: Resolved | None = None) -> RawTable:
        return find_table(name, files, root, csv, config, resolved, progress)

    raw = find("log", log, ".")
    ids = id_expressions(config, options.ids, raw, optional=options.optional_ids)
    config = config.model_copy(update={"log": log})
    reduced = inputs_config(config, options.features, ids)
    # Vectors of side tables are read from the tables of `source`, which may have keys that the dataset lacks.
    resolved = resolve(reduced, place, is_from_dataset=True, offset_seconds=config.offset_seconds, freeze_vectors=False)
    check_inputs(resolved, raw)
    resolved.check_columns(raw)
    # CSV files are read once more with times as text, to keep their time zones.
    raw_times = find_raw_times(config, ids, raw, lambda text_log: find("log", text_log, "."))
    tables = {"log": raw}
    for name, side in resolved.config.sides.items():
        tables[name] = find(name, cast(FilesConfig, side), options.source, resolved)
    spill = work / "engine"
    shutil.rmtree(spill, ignore_errors=True)  # A call that was killed may have left it.
    spill.mkdir()
    engine = DuckEngine(spill, memory=options.memory, threads=options.threads, reads_once=True)
    try:
        needs_dataset = bool(resolved.config.rates or resolved.config.histories)
        dataset = options.dataset if needs_dataset else None
        assert dataset is not None or not needs_dataset  # A model with them was trained on a dataset that has them.
        yield Inputs(engine, replace(resolved, tables=tables), raw_times, dataset)
    finally:
        engine.close()


def find_table(
    name: str,
    files: FilesConfig,
    root: str,
    csv: Path,
    config: PrepConfig,
    resolved: Resolved | None,
    progress: Progress,
) -> RawTable:
    """Return the raw files of a table, read with the types of CSV columns that the preparation has inferred.

    Args:
        name: `log`, or the name of a side table.
        files: Patterns and format of the table.
        root: Folder of the files, file or address.
        csv: Folder for Parquet copies of CSV files.
        config: Configuration of the preparation.
        resolved: Configuration of the inputs, whose columns the files must have; None to check no columns.
        progress: Display of the progress.

    Raises:
        UserError: A file does not exist, or is not readable.
        DataError: A file is damaged, or lacks a column.
    """

    def check(table: RawTable) -> None:
        if resolved is not None:
            check_inputs(resolved, table)
            resolved.check_columns(table)

    try:
        types = config.found.types.get(name, {})
        return discover(
            name, files, root, csv, progress.say, check=check, digest=False, all_types=False, inferred=types
        )
    except UserError as error:
        flag = Option.DATA if name == "log" else Option.SOURCE
        raise UserError(flag, f"{error.place}: {error.value}", error.rule, error.fix) from error
