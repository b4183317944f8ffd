"""Raw logs as a model's inputs, for prediction: the columns that `ple-rec prep` would encode, of every row, in order.

The same expressions, joins and rules as in a preparation, without what is about labels: no task, split, check, weight
or sampling, and no column that these alone read. Only `log.where` leaves rows out.
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
from data_prep.engines.failures import DiskFullError, EngineError, OutOfMemoryError
from data_prep.page_checksums import check_pages
from data_prep.progress import Progress
from data_prep.sources.files import POSITION, RawFile, RawTable, discover
from data_prep.sources.table import check_unchanged, refuse_changes, shown_value
from data_prep.transforms.columns import REASON
from data_prep.transforms.input_columns import CARRIED, carried, check_inputs, inputs_config
from data_prep.transforms.raw_times import RawTimeColumn, raw_times_of
from data_prep.transforms.resolve import Resolved, resolve
from data_prep.transforms.rows import Derived, LogRows, derive
from ple_rec.config.prep import FilesConfig, LogConfig, PrepConfig
from ple_rec.errors import DataError, Option, UserError

UNIT_ROWS = 131_072  # rows of the log that are computed together, at most
_AGAIN = f"run again with {Option.OVERWRITE} when nothing writes to them"


@dataclass(frozen=True)
class Asked:
    """What is read of raw logs.

    Args:
        data: `--data`: a file, a folder or a glob of the log's files.
        source: `--from`: the folder of the files of side tables.
        features: Names of the features that the model reads.
        ids: Columns to carry along: those of the log, `side.column` ones, `group`, features as they are before ids, and
            carried columns of the preparation.
        if_there: Flag that columns of `ids` which the log does not have are left out.
        all_rows: Flag that rows are read, too, which `log.where` leaves out.
        memory: Bytes that DuckDB and this process may use, about.
        threads: Threads of DuckDB; None for all cores.
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
        resolved: Preparation of the inputs, with the files.
        written: Id columns that are read as they were written, by name.

    Attributes:
        ids: Names of the columns that are carried along.
        rows: Number of rows of the log's files.
        tables: Files of the log and of the side tables.
        left_out: `log.where`, where there is one.
    """

    def __init__(self, engine: Engine, resolved: Resolved, written: Mapping[str, RawTimeColumn]) -> None:
        self._source, self._written = LogRows(engine, resolved), written
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
        """Return what tells these files from others: name, rows, size, time of change."""
        return [
            {"table": name, "file": file.shown, "rows": file.rows, "bytes": file.size, "stamp": list(file.stamp)}
            for name, table in self.tables.items()
            for file in table.files
        ]

    def locate(self, position: int) -> str:
        """Return where a row of the log lies, for messages; of CSV that takes reading its file up to the row."""
        return self._log.locate(position)

    def file_of(self, position: int) -> str:
        """Return the name of the file that a row of the log lies in, for messages."""
        return self._log.file_of(position).shown

    def batches(self, first: int = 0) -> Generator[pa.Table]:
        """Yield the rows from a position on, in order: `POSITION`, `raw__<feature>`, `weights__<feature>`, dense, ids.

        An id column has the prefix `CARRIED`. There is one batch at least, be it without rows.

        Raises:
            DataError: a row that breaks a rule of a feature, or a file that is damaged or has changed.
        """
        try:
            with refuse_changes(self._files, _AGAIN):
                check_pages(self._source.resolved)
                if not self._source.sides:
                    self._source = self._source.with_sides(keep=True)  # read once, joined to every unit
                for start in range(first, self.rows, self._unit) if first < self.rows else [first]:
                    yield self._unit_of(start, min(start + self._unit, max(self.rows, start)))
        except EngineError as error:
            raise diagnosed(error, self._source.engine, self._source.resolved, self._source.joined) from error
        except OutOfMemoryError as error:
            rule = "rows of the log are joined and sorted in it"
            raise UserError(f"predict {Option.MEMORY}", error.value, rule, "give more") from error
        except DiskFullError as error:
            raise UserError(
                f"predict {Option.OUT}", error.value, "what DuckDB spills needs room there", error.fix
            ) from error

    def check_unchanged(self) -> None:
        """Refuse what has been read if a file was replaced meanwhile.

        Raises:
            DataError: one was.
        """
        check_unchanged(self._files, _AGAIN)

    def _unit_of(self, first: int, last: int) -> pa.Table:
        derived = derive(self._source.joined(first, last), self._source.resolved, split=False)
        wanted = [name for name in derived.table.columns if name == POSITION or not name.startswith("__")]
        rows = self._source.engine.fetch(derived.table.select(*wanted, REASON).order_by(POSITION))
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
        if self._written:
            places_N = pc.subtract(rows[POSITION], first)
            for name, column in self._written.items():
                i = rows.column_names.index(f"{CARRIED}{name}")
                rows = rows.set_column(i, rows.column_names[i], column.rows(first, last).take(places_N))
        return rows

    def _refuse(self, derived: Derived, reason: int) -> None:
        rule, position, shown = derived.first_broken(self._source.engine, reason)
        raise DataError(
            self.locate(position),
            f"{self._source.resolved.quoted(rule.key)} is {shown_value(shown)}",
            f"{rule.rule}; training saw no such row",
            "correct or remove the row",
        )


@contextmanager
def open_inputs(config: PrepConfig, place: str, asked: Asked, work: Path, progress: Progress) -> Iterator[Inputs]:
    """Open raw logs, whose rows are read as a preparation reads them.

    Args:
        config: Configuration of the preparation of the dataset that the model was trained on, with `[found]`.
        place: Name of the configuration in messages.
        asked: What is read.
        work: A folder for what does not fit in memory, and for CSV files as Parquet, which a later call finds there.
        progress: Progress for people who wait.

    Raises:
        UserError: files that are not there, or an id column that nothing is.
        DataError: a file that is damaged, or lacks a column.
    """
    where = None if asked.all_rows else config.log.where
    log = LogConfig(files=(asked.data,), format=None, csv=config.log.csv, where=where)
    csv = work / "csv"
    csv.mkdir(parents=True, exist_ok=True)

    def found(name: str, files: FilesConfig, root: str, resolved: Resolved | None = None) -> RawTable:
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

    raw = found("log", log, ".")
    ids = carried(config, asked.ids, raw, if_there=asked.if_there)
    config = config.model_copy(update={"log": log})
    resolved = resolve(inputs_config(config, asked.features, ids), place, prepared=True)
    check_inputs(resolved, raw)
    resolved.check_columns(raw)
    written = raw_times_of(config, ids, raw, lambda as_text: found("log", as_text, "."))
    tables = {"log": raw}
    for name, side in resolved.config.sides.items():
        tables[name] = found(name, cast(FilesConfig, side), asked.source, resolved)
    spill = work / "engine"
    shutil.rmtree(spill, ignore_errors=True)  # of a call that was killed
    spill.mkdir()
    engine = DuckEngine(spill, memory=asked.memory, threads=asked.threads, once=True)
    try:
        yield Inputs(engine, replace(resolved, tables=tables), written)
    finally:
        engine.close()
