"""Raw logs as a model's inputs, for prediction: the columns that `ple-rec prep` would encode, of every row, in order.

Expressions, joins and rules are those of a preparation, but there are no tasks, splits, checks, weights or sampling,
and columns that only these read are not needed. Only `log.where` leaves out rows.
"""

from __future__ import annotations

import shutil
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import pyarrow as pa
import pyarrow.compute as pc

from data_prep.diagnose import diagnosed
from data_prep.engines.base import Engine
from data_prep.engines.duck import DuckEngine
from data_prep.failures import DiskFullError, EngineError, OutOfMemoryError
from data_prep.inputs.columns import CARRIED, carried, check_inputs, inputs_config
from data_prep.inputs.times import RawTimeColumn, raw_times_of
from data_prep.page_checksums import check_pages
from data_prep.progress import Progress
from data_prep.sources.files import POSITION, RawFile, RawTable, discover
from data_prep.sources.table import check_unchanged, refuse_changes, shown_value
from data_prep.transforms.columns import REASON
from data_prep.transforms.resolve import Resolved, resolve
from data_prep.transforms.rows import Derived, LogRows, derive
from ple_rec.config.prep import FilesConfig, LogConfig, PrepConfig
from ple_rec.errors import DataError, Option, UserError

UNIT_ROWS = 131_072  # At most so many rows of the log are computed together.
_AGAIN = f"run again with {Option.OVERWRITE} when nothing writes to them"


@dataclass(frozen=True)
class InputOptions:
    """Options for reading raw logs as a model's inputs.

    Args:
        data: File, folder or glob of the log's files (`--data`).
        source: Folder of the files of side tables (`--from`).
        features: Names of the features that the model reads.
        ids: Names of the id columns: columns of the log, `side.column`, `group`, features before encoding, and carried
            columns of the preparation.
        if_there: True to leave out id columns that the log does not have.
        all_rows: True to read also the rows that `log.where` leaves out.
        memory: Bytes that DuckDB and this process may use, about; None for most of the machine's memory.
        threads: Number of threads of DuckDB; None for one per core.
    """

    data: str
    source: str
    features: tuple[str, ...]
    ids: tuple[str, ...]
    if_there: bool = False
    all_rows: bool = False
    memory: int | None = None
    threads: int | None = None


class Inputs:
    """Rows of raw logs; see `open_inputs`.

    Args:
        engine: Engine that computes them.
        resolved: Configuration of the inputs, with the files.
        raw_times: Id columns of times, by name, which are read in the type and the zone of the file.

    Attributes:
        ids: Names of the id columns.
        rows: Number of rows of the log's files.
        tables: Files of the log and of the side tables.
        left_out: Condition `log.where`; None if no rows are left out.
    """

    def __init__(self, engine: Engine, resolved: Resolved, raw_times: Mapping[str, RawTimeColumn]) -> None:
        self._source, self._raw_times = LogRows(engine, resolved), raw_times
        self.tables = resolved.tables
        self.ids = tuple(name.removeprefix(CARRIED) for name in resolved.config.carry)
        self.rows = self._log.rows
        self.left_out = resolved.config.log.where
        columns = len(resolved.log_columns) + sum(map(len, resolved.side_columns.values()))
        self._unit = min(UNIT_ROWS, engine.unit_rows(max(columns, 1)))

    @property
    def _log(self) -> RawTable:
        return self.tables["log"]

    @property
    def _files(self) -> list[RawFile]:
        return [file for table in self.tables.values() for file in table.files]

    def stamps(self) -> list[dict[str, object]]:
        """Return the identity of each file: name, number of rows, size and time of change."""
        return [
            {"table": name, "file": file.shown, "rows": file.rows, "bytes": file.size, "stamp": list(file.stamp)}
            for name, table in self.tables.items()
            for file in table.files
        ]

    def locate(self, position: int) -> str:
        """Return the place of a row of the log for messages; a CSV file is read up to the row for that."""
        return self._log.locate(position)

    def file_of(self, position: int) -> str:
        """Return the name of the file that a row of the log lies in, for messages."""
        return self._log.file_of(position).shown

    def batches(self, first: int = 0) -> Generator[pa.Table]:
        """Yield the rows from a position on, in order: `POSITION`, `raw__<feature>`, `weights__<feature>`, dense, ids.

        An id column has the prefix `CARRIED`. A log without rows gives one batch without rows.

        Raises:
            UserError: Memory is exhausted, or the disk is full.
            DataError: A row breaks a rule of a feature, or a file is damaged or has changed.
        """
        try:
            with refuse_changes(self._files, _AGAIN):
                check_pages(self._source.resolved)
                if not self._source.sides:
                    self._source = self._source.with_sides(keep=True)  # They are read once, and joined to every unit.
                for start in range(first, self.rows, self._unit) if first < self.rows else [first]:
                    yield self._unit_of(start, min(start + self._unit, max(self.rows, start)))
        except EngineError as error:
            raise diagnosed(error, self._source.engine, self._source.resolved, self._source.joined) from error
        except OutOfMemoryError as error:
            rule = "rows of the log are joined and sorted in it"
            raise UserError(f"predict {Option.MEMORY}", error.value, rule, "give more") from error
        except DiskFullError as error:
            raise UserError(f"predict {Option.OUT}", error.value, "DuckDB spills data there", error.fix) from error

    def check_unchanged(self) -> None:
        """Refuse the rows that were read if a file has changed meanwhile.

        Raises:
            DataError: A file has changed.
        """
        check_unchanged(self._files, _AGAIN)

    def _unit_of(self, first: int, last: int) -> pa.Table:
        derived = derive(self._source.joined(first, last), self._source.resolved, split=False)
        columns = [name for name in derived.table.columns if name == POSITION or not name.startswith("__")]
        rows = self._source.engine.fetch(derived.table.select(*columns, REASON).order_by(POSITION))
        if rows.num_rows > last - first or (rows.num_rows < last - first and self.left_out is None):
            raise DataError(
                f"{self.locate(first)} and what follows",
                f"{rows.num_rows:,} rows were read",
                f"the footers count {last - first:,}",
                "a file is damaged: copy or write it again",
            )
        reasons = rows[REASON].to_numpy()
        if reasons.any():
            self._refuse(derived, int(reasons[reasons > 0][0]))
        rows = rows.drop_columns(REASON)
        if self._raw_times:
            places_N = pc.subtract(rows[POSITION], first)
            for name, column in self._raw_times.items():
                i = rows.column_names.index(f"{CARRIED}{name}")
                rows = rows.set_column(i, rows.column_names[i], column.rows(first, last).take(places_N))
        return rows

    def _refuse(self, derived: Derived, reason: int) -> None:
        rule, position, value = derived.first_broken(self._source.engine, reason)
        raise DataError(
            self.locate(position),
            f"{self._source.resolved.quoted(rule.key)} is {shown_value(value)}",
            f"{rule.rule}; training saw no such row",
            "correct or remove the row",
        )


@contextmanager
def open_inputs(
    config: PrepConfig, place: str, options: InputOptions, work: Path, progress: Progress
) -> Iterator[Inputs]:
    """Open raw logs, whose rows are read as a preparation reads them.

    Args:
        config: Configuration of the preparation of the dataset that the model was trained on, with `[found]`.
        place: Name of the configuration in messages.
        options: Options for reading the logs.
        work: Folder for data that does not fit in memory, and for CSV files as Parquet, which later calls use again.
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

    raw = find("log", log, ".")
    ids = carried(config, options.ids, raw, if_there=options.if_there)
    config = config.model_copy(update={"log": log})
    resolved = resolve(inputs_config(config, options.features, ids), place, prepared=True)
    check_inputs(resolved, raw)
    resolved.check_columns(raw)
    raw_times = raw_times_of(config, ids, raw, lambda as_text: find("log", as_text, "."))
    tables = {"log": raw}
    for name, side in resolved.config.sides.items():
        tables[name] = find(name, cast(FilesConfig, side), options.source, resolved)
    spill = work / "engine"
    shutil.rmtree(spill, ignore_errors=True)  # A call that was killed may have left it.
    spill.mkdir()
    engine = DuckEngine(spill, memory=options.memory, threads=options.threads, once=True)
    try:
        yield Inputs(engine, replace(resolved, tables=tables), raw_times)
    finally:
        engine.close()
