"""Report on a preparation without making the dataset, from Parquet footers and a sample of the log.

`ple-rec prep --dry-run` prints the result of `dry_run`: the size of the files, the shares of the splits, the bad rows,
the columns with their numbers of values, and the size of the embedding tables. `ple-rec init` checks the configuration
that it has written by `refusal_reasons_of_log`. Both run passes of `data_prep.pipeline` on the sample: `dry_run` up to
the vocabularies, `refusal_reasons_of_log` up to the survey, which counts the rows by split and the bad rows.

The sample is taken in two steps. First, CSV files are read only at their beginnings, and the number of rows of the
whole table is estimated (`TableSample`). Then, at most three ranges of the rows of the log that can be read are taken.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import ibis
import ibis.expr.types as ir
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_prep.engines.base import Engine
from data_prep.engines.duck import DuckEngine
from data_prep.output.parent import Parent
from data_prep.output.stage import Stage, open_stage
from data_prep.pipeline import Pipeline
from data_prep.progress import Progress
from data_prep.run import FindTables, Options, check_engine, find_configured_tables, read_recipe, resolve_with_parent
from data_prep.sources.files import discover
from data_prep.sources.find import find_all
from data_prep.sources.sample import TableSample, sample_csv
from data_prep.sources.table import RawTables, refuse_changes
from data_prep.survey import Survey, check_splits, count_rows
from data_prep.transforms.arithmetic import date_text
from data_prep.transforms.columns import REASON, SPLIT
from data_prep.transforms.expression_scope import warn_of_offsets
from data_prep.transforms.list_warnings import warn_of_lists
from data_prep.transforms.resolve import Resolved
from data_prep.transforms.rows import Derived
from data_prep.transforms.vectors import FrozenVectors
from data_prep.vocabulary.build import Vocabularies
from data_prep.vocabulary.turnover import TableRowCounts
from ple_rec.config.base import SPLITS
from ple_rec.config.prep import FilesConfig, TableSpec
from ple_rec.config.schema import VOCAB_DAY, Table
from ple_rec.storage import Location
from ple_rec.text.units import short_bytes

SAMPLE_ROWS = 65_536  # Number of rows that are sampled at each place of the log.
_PLACES = 3  # The sample is taken from the beginning, the middle and the end of the log.
_DIM = 16  # The size of the embedding tables is reported for this dimension.
_MAX_FEATURES_SHOWN = 40
_MAX_RUNS_SHOWN = 10  # Maximum number of runs of consecutive days that the report lists.
_PHASES = {"survey": 1.0, "count": 1.0}  # Approximate relative duration of each phase.


@dataclass(frozen=True)
class DryRun:
    """Report of a dry run; `str()` returns the text.

    Args:
        text: Lines of the report.
        refused: True if the sample shows that `prepare` will refuse the log.
    """

    text: str
    refused: bool = False

    def __str__(self) -> str:
        """Return the report."""
        return self.text


@dataclass(frozen=True)
class ValueEstimate:
    """Number of distinct values for which an embedding table needs rows; with a parent dataset, only new values.

    Args:
        sampled: Number of these values in the training rows of the sample. It includes values for which the capacity of
            the table has no row.
        expected: Estimated number in the training rows of the whole log, by `estimate_distinct_values`.
    """

    sampled: int
    expected: int


def estimate_distinct_values(sampled: int, singletons: int, scale: float) -> int:
    """Estimate the number of distinct values in a log by GEE, the guaranteed-error estimator (Charikar et al., 2000).

    The estimate is sqrt(N / n) f_1 + sum of f_j, j > 1, if f_j values occur j times in a sample of n of N rows.

    Args:
        sampled: Number of distinct values in the sample, the sum of all f_j.
        singletons: Number of values that occur once in the sample, f_1.
        scale: Rows of the log per row of the sample, N / n.
    """
    return round(sampled - singletons + math.sqrt(scale) * singletons)


def dry_run(recipe: str, out: Location | None, options: Options, *, progress: Progress | None = None) -> DryRun:
    """Report what `prepare` would do with the same arguments.

    Args:
        recipe: Name of a recipe, or path of a TOML file.
        out: Path or address of the dataset directory that `prepare` would write; None if none is given.
        options: Options of `prepare`.
        progress: Progress that is shown to the user; None to show none.

    Raises:
        UserError: The configuration, a path or the machine is not usable, as in `prepare`.
        DataError: A raw file breaks a rule, or the whole log is sampled and a day or a split has no rows. Bad rows of
            the sample are reported, not raised.
    """
    config, place, find_tables = read_recipe(recipe, options.overrides)
    progress = progress or Progress()
    progress.name = config.name
    check_engine(options.engine)
    resolved, parent = resolve_with_parent(config, place, options)
    first = f"{config.name}: a dry run; nothing is written" + (f" to {out}" if out is not None else "")
    with tempfile.TemporaryDirectory(prefix="ple-rec-") as folder, open_stage(Path(folder) / "dataset") as stage:
        tables = _sample_tables(resolved, find_tables, options.source, stage.staging, progress)
        stage.begin("")  # A fingerprint is needed only to continue a stopped run.
        engine = DuckEngine(stage.work, memory=options.memory, threads=options.threads)
        try:
            read = [file for each in tables.values() for file in each.table.files]
            with refuse_changes(read), progress.running(_PHASES, tables["log"].rows):
                sample = _SamplePipeline(engine, resolved, tables, stage, parent, progress).run_sample()
            return DryRun(f"{first}\n{sample}", sample.refused)
        finally:
            engine.close()


def refusal_reasons_of_log(resolved: Resolved, tables: Mapping[str, TableSample], work: Path) -> list[str]:
    """Return a line for each rule that rows of a log break, if its sample has more bad rows than the log may have.

    Otherwise no line is returned; the rest of the log may still be refused.

    Args:
        resolved: Configuration with its expressions.
        tables: Samples of the log and of the side tables, by name.
        work: Path of a new folder for temporary files.

    Raises:
        UserError: The configuration does not fit the log.
        DataError: A raw file breaks a rule, or the whole log is sampled and a day or a split has no rows.
    """
    with open_stage(work) as stage:
        stage.begin("")
        engine = DuckEngine(stage.work)
        try:
            progress = Progress()
            with progress.running(_PHASES, tables["log"].rows):
                return _SamplePipeline(engine, resolved, tables, stage, None, progress).refusal_reasons()
        finally:
            engine.close()


def _sample_tables(
    resolved: Resolved, find_tables: FindTables, source: str | None, staging: Path, progress: Progress
) -> dict[str, TableSample]:
    """Return samples of the log and of the side tables, by name.

    CSV files that the configuration names are read only at their beginning; of other files, `TableSample` has all
    rows.
    """
    if find_tables is not find_configured_tables:
        raw = find_tables(resolved, source, staging, progress, digest=False)
        return {name: TableSample.complete(table) for name, table in raw.by_name.items()}
    root = source if source is not None else "."
    configs: dict[str, FilesConfig] = {"log": resolved.config.log, **resolved.config.sides}
    tables = {}
    for name, files_of_table in find_all(resolved.place, configs, root).items():
        listed, kind = files_of_table
        if kind == "csv":
            with refuse_changes(listed):
                types = resolved.config.found.types.get(name, {})
                tables[name] = sample_csv(name, listed, configs[name].csv, staging, progress.say, inferred=types)
            resolved.check_columns(tables[name].table)
        else:
            progress.say(f"{name}: reading the footers of {len(listed):,} file(s)")
            check = resolved.check_columns
            table = discover(name, configs[name], root, staging, listing=files_of_table, check=check, digest=False)
            tables[name] = TableSample.complete(table)
    return tables


def dry_run_synthetic(name: str, **arguments: Any) -> DryRun:
    """Report what `data_prep.synthetic.prepare_synthetic` would do with the same arguments.

    Raises:
        UserError: An argument is out of its range.
    """
    from data_prep.synthetic.prepare import make_design

    design = make_design(name, **arguments)
    rows, tables = int(design.recipe()["rows"]), design.schema_fields().get("tables", ())
    lines = [f"{name}: a dry run; nothing is written", f"  rows         {rows:,}"]
    lines += [_tables_line([table.rows for table in tables])] if tables else []
    return DryRun("\n".join(lines))


class _SamplePipeline(Pipeline):
    """Pipeline over a sample of the log. It makes no dataset: `run_sample` and `refusal_reasons` replace `run`.

    Args:
        engine: Engine that runs the expressions.
        resolved: Configuration with its expressions.
        tables: Samples of the log and of the side tables, by name. At most three ranges of the log's rows are read.
        stage: Temporary folder, in which the vocabularies are written.
        parent: Dataset to which a day is appended; None if no day is appended.
        progress: Progress that is shown to the user.

    Attributes:
        tables: Argument `tables`.
        log: Sample of the log; `log.rows` counts the whole log, `log.table.rows` the rows that can be read.
        sides_are_complete: True if all rows of all side tables are read.
        ranges: Ranges [first, last) of positions of the log that are read.
        scanned: Number of rows in these ranges.
        scale: Rows of the log per row that is read, at least 1.
        row_counts: Numbers of rows of tables whose values are admitted or expire, by table; empty before they are
            known, and without a parent.
    """

    def __init__(
        self,
        engine: Engine,
        resolved: Resolved,
        tables: Mapping[str, TableSample],
        stage: Stage,
        parent: Parent | None,
        progress: Progress,
    ) -> None:
        raw = RawTables(tables["log"].table, {name: each.table for name, each in tables.items() if name != "log"})
        super().__init__(engine, resolved, raw, stage, "", parent, progress)
        self.tables, self.log = tables, tables["log"]
        self.sides_are_complete = all(each.is_complete for name, each in tables.items() if name != "log")
        self.ranges = _sample_ranges(raw.log.rows)
        self.scanned = sum(last - first for first, last in self.ranges)
        self.scale = max(self.log.rows / max(self.scanned, 1), 1.0)
        self.row_counts: Mapping[str, TableRowCounts] = {}
        self._scale_min_counts()

    @property
    def reads_every_row(self) -> bool:
        """True if the sample is the whole log and all side tables."""
        return all(each.is_complete for each in self.tables.values()) and self.scanned == self.log.rows

    @property
    def log_rows_per_row(self) -> float:
        """Number of rows of the log for each row that is read."""
        return self.scale

    def _scale_min_counts(self) -> None:
        """Divide each `min_count` by `scale`, since values occur less often in the sample than in the log.

        Where values are counted by day, each count is multiplied by `log_rows_per_row` instead, since it is added to
        counts of the parent.
        """
        specs = {
            name: spec
            if spec.counted_days
            else spec.model_copy(update={"min_count": math.ceil(spec.min_count / self.scale)})
            for name, spec in self.config.tables.items()
        }
        self.config = self.config.model_copy(update={"tables": specs})

    def _sample_log(self) -> ir.Table:
        """Return rows from the beginning, the middle and the end of the files that are read."""
        self.progress.say(f"sampling {self.scanned:,} of {self.log.rows:,} rows of the log")
        scans = [self.rows.scan(first, last) for first, last in self.ranges]
        return self.engine.materialize("sample", ibis.union(*scans, distinct=False) if scans[1:] else scans[0])

    def run_sample(self) -> DryRun:
        """Run the passes up to the vocabularies, and return the report.

        Raises:
            UserError: The configuration does not fit the log.
            DataError: A raw file breaks a rule, or the whole log is sampled and a day or a split has no rows.
        """
        derived, counted = self._survey_sample()
        self._count_json()
        self.progress.begin_phase("count")
        rows = self.engine.materialize("derived", derived.table) if self.is_wide else derived.table
        train = rows.filter((rows[SPLIT] == SPLITS.index("train")) & (rows[REASON] == 0))
        values = self._estimate_values(self._build_vocabularies(train, counted.rows["train"]))
        refused = self._is_refused(counted)
        lines = [
            *self._file_lines(counted),
            *self._split_lines(counted),
            *self._bad_row_lines(counted, derived, refused=refused),
        ]
        return DryRun("\n".join([*lines, *self._column_lines(values), *self._table_lines(values)]), refused)

    def refusal_reasons(self) -> list[str]:
        """Return a line for each rule that rows break, if the sample shows that `prepare` will refuse the log.

        Raises:
            UserError: The configuration does not fit the log.
            DataError: A raw file breaks a rule, or the whole log is sampled and a day or a split has no rows.
        """
        derived, counted = self._survey_sample()
        return list(self._bad_row_lines(counted, derived, refused=True)) if self._is_refused(counted) else []

    def _survey_sample(self) -> tuple[Derived, Survey]:
        """Warn of expressions that may be wrong, and take the sample in place of the log.

        Returns:
            Rows of the sample with all computed columns, and the counts of these rows.
        """
        self.progress.begin_phase("survey")
        warn_of_offsets(self.resolved)
        warn_of_lists(self.resolved)
        self.rows = replace(self.rows, log=self._sample_log()).with_sides().materialize_links()
        FrozenVectors(self.engine, self.rows.sides, self.resolved)  # It refuses bad vectors, as in a preparation.
        self._fill_in_from_log()
        derived = self.derived_rows()
        derived = replace(derived, table=self.engine.create_view(derived.table))
        counted = count_rows(self.engine, derived)
        if self.reads_every_row:
            check_splits(self.resolved, counted, self.day_1)
        return derived, counted

    def _estimate_values(self, vocabularies: Vocabularies) -> dict[str, ValueEstimate]:
        """Estimate the number of distinct values by table; with a parent, only of values that the parent lacks."""
        self.row_counts = vocabularies.row_counts
        is_new = None if self.parent is None else [(VOCAB_DAY, "==", vocabularies.day)]
        estimates = {}
        for name in vocabularies.names:
            new = pq.read_table(vocabularies.path(name), columns=["count"], filters=is_new)
            sampled = new.num_rows + int(vocabularies.overflow.get(name, {}).get("values", 0))
            # Counts by day are those of the log, so the count of a value that the sample has once is `scale`.
            once = self.scale if name in self.config.value_tables else 1
            singletons = int(pc.sum(pc.less_equal(new["count"], once)).as_py() or 0)
            estimates[name] = ValueEstimate(sampled, estimate_distinct_values(sampled, singletons, self.scale))
        return estimates

    def _is_refused(self, counted: Survey) -> bool:
        """Return whether the sample alone has more bad rows than the whole log may have.

        False also if only a part of a side table is read, since good rows may look bad then.
        """
        allowed = self.config.max_bad_fraction * self.scale * counted.total if self.config.on_bad_row == "drop" else 0
        return self.sides_are_complete and counted.bad_rows > allowed

    def _file_lines(self, counted: Survey) -> Iterator[str]:
        """Yield lines on the files and rows of each table, on the sampled rows, and on what a sample cannot tell."""
        for name, each in self.tables.items():
            rows = f"{'' if each.is_complete else 'about '}{each.rows:,}"
            yield f"  {name:12} {each.files:>6,} file(s) {rows:>15} rows {short_bytes(each.size):>10}"
        where = "" if self.config.log.where is None else f"; those of {self.scanned:,} that log.where keeps"
        yield f"  sample       {counted.total:,} rows: {self._describe_sample()}{where}"
        if not self.reads_every_row:
            yield "  not known    whether each day and split has rows, and what the other rows hold"
        for name, each in self.tables.items():
            if name != "log" and not each.is_complete:
                read = f"of {name} the first {each.table.rows:,} rows are read"
                yield f"  not known    {read}: its columns look emptier here than they are"

    def _describe_sample(self) -> str:
        if self.log.is_complete:
            return "the whole log" if self.scanned == self.log.rows else "beginning, middle and end of the log"
        read = len(self.log.table.files)
        files = f"{read:,} of {self.log.files:,} files" if read < self.log.files else f"{read:,} file(s)"
        return f"from the beginnings of {files}, in CSV"

    def _split_lines(self, counted: Survey) -> Iterator[str]:
        total = max(counted.total, 1)
        shares = [f"{split} {counted.rows[split] / total:.0%}" for split in SPLITS]
        in_no_split = counted.total - counted.bad_rows - sum(counted.rows.values())
        yield f"  split        {', '.join(shares)}, none {in_no_split / total:.0%} of the sample"
        yield from _day_lines(counted)

    def _bad_row_lines(self, counted: Survey, derived: Derived, *, refused: bool) -> Iterator[str]:
        """Yield a line for each rule that rows of the sample break, with what prep will do about them."""
        verdict = "dropped" if self.sides_are_complete else "perhaps fewer, since not all side rows are read"
        if refused:
            limit = f"more than max_bad_fraction = {self.config.max_bad_fraction}: "
            verdict = f"{limit if self.config.on_bad_row == 'drop' else ''}prep will refuse the log"
        for number, count in sorted(counted.bad_rows_by_rule.items()):
            yield f"  bad rows     {count / counted.total:.2%} break {derived.rules[number - 1].reason} ({verdict})"

    def _column_lines(self, values: Mapping[str, ValueEstimate]) -> Iterator[str]:
        """Yield a line for each feature and task: what its column becomes, and the number of values of its table.

        Columns of one table have the same numbers.
        """
        kind = "train values" if self.parent is None else "new values"
        yield f"  {'column':24} {'becomes':34} {f'{kind} sampled':>22} {'in all, about':>18}"
        for feature in self.config.sparse[:_MAX_FEATURES_SHOWN]:
            if feature.bucketised:
                yield f"  {feature.name:24} {len(feature.edges or ()) + 1} buckets"
                continue
            estimate = values[feature.table_name]
            becomes = f"{'bag of ' if feature.bag else ''}rows of table {feature.table_name}"
            yield f"  {feature.name:24} {becomes:34} {estimate.sampled:>22,} {estimate.expected:>18,}"
        if (more := len(self.config.sparse) - _MAX_FEATURES_SHOWN) > 0:
            yield f"  ... and {more} sparse features more"
        for dense in self.config.dense_features:
            yield f"  {dense.name:24} dense, {dense.normaliser}"
        for vector in self.config.vectors:
            side = self.resolved.frozen.get(vector.name)
            stored = "" if side is None else f", stored once for each row of {side.side}"
            yield f"  {vector.name:24} vector of {vector.width} numbers, {vector.normaliser}{stored}"
        for history in self.config.histories:
            events = self.events[history.name]
            count = self.engine.fetch(events.aggregate(count=events.count()))["count"][0].as_py()
            in_all = f"{round(count * self.scale):,} events in all, about"
            yield f"  {history.name:24} history, at most the last {history.length:,} events; {in_all}"
        for task in self.config.tasks:
            space = f" where {task.space}" if task.space is not None else ""
            yield f"  {task.name:24} {task.kind}: {task.source}{space}"

    def _table_lines(self, values: Mapping[str, ValueEstimate]) -> Iterator[str]:
        """Yield the lines on embedding tables that are too small, or on new values, and on the size of all tables."""
        if self.parent is None:
            yield from self._overflow_lines(values)
            yield _tables_line(self._table_sizes(values))
        else:
            yield from self._new_value_lines(self.parent, values)
            yield _tables_line([table.allocated_rows for table in self.parent.schema.tables])

    def _overflow_lines(self, values: Mapping[str, ValueEstimate]) -> Iterator[str]:
        """Yield a line for each table whose capacity is too small for the expected number of values."""
        for name, spec in self.config.tables.items():
            expected = values[name].expected
            if spec.capacity is not None and expected >= spec.capacity - spec.hash_rows:
                beyond = "are hashed" if spec.hash_rows else "share row 0"
                words = f"{spec.capacity:,} rows for about {expected:,} values"
                yield f"  capacity     table {name}: {words}, the rarest of which {beyond}"

    def _new_value_lines(self, parent: Parent, values: Mapping[str, ValueEstimate]) -> Iterator[str]:
        """Yield a line for each table with new values: their number, and the number of rows that are free for them."""
        about = "" if self.reads_every_row else "about "
        for table in parent.schema.tables:
            new = values[table.name].expected if table.name in values else 0
            if table.name in self.row_counts:
                yield f"  rows         table {table.name}: {about}{self._turnover_text(table, new)}"
            elif new:
                words = f"{about}{new:,} new, {len(table.free_rows):,} of {table.allocated_rows:,} rows free"
                if new > len(table.free_rows):
                    words += f"; the rarest {'are hashed' if table.hash_rows else 'share row 0'}"
                yield f"  new values   table {table.name}: {words}"

    def _turnover_text(self, table: Table, new: int) -> str:
        """Describe the rows of a table whose values are admitted or expire; `new` values get rows, or lack them."""
        counts = self.row_counts[table.name]
        free = counts.free + counts.assigned
        text = f"{new:,} new and {counts.freed:,} expired, {free:,} of {table.allocated_rows:,} rows free"
        return f"{text}; the rarest {'are hashed' if table.hash_rows else 'share row 0'}" if new > free else text

    def _table_sizes(self, values: Mapping[str, ValueEstimate]) -> list[int]:
        """Return the expected number of rows of each embedding table."""
        # n edges make n + 1 buckets. Row 0 of every table stands for missing and unknown values.
        sizes = [len(feature.edges or ()) + 2 for feature in self.config.sparse if feature.bucketised]
        sizes += [len(history.age_edges) + 2 for history in self.config.histories]
        for name, estimate in values.items():
            spec = self.config.tables.get(name, TableSpec())
            sizes.append(estimate.expected + 1 + spec.hash_rows if spec.capacity is None else spec.capacity)
        return sizes


def _sample_ranges(rows: int) -> list[tuple[int, int]]:
    """Return disjoint ranges [first, last) of positions that are sampled from a log with `rows` rows.

    There are three, at its beginning, middle and end; in a short log they touch each other, or there are fewer.
    """
    starts = sorted({max(rows - SAMPLE_ROWS, 0) * i // (_PLACES - 1) for i in range(_PLACES)})
    firsts = [starts[0], *(max(start, before + SAMPLE_ROWS) for before, start in pairwise(starts))]
    return [(first, min(start + SAMPLE_ROWS, rows)) for first, start in zip(firsts, starts, strict=True)]


def _day_lines(counted: Survey) -> Iterator[str]:
    """Yield a line for each run of consecutive days whose rows lie in the same splits; at most ten, and the rest."""
    runs: list[tuple[int, int, str]] = []
    for day in sorted(counted.other_days.union(*counted.rows_by_day.values())):
        names = ", ".join(split for split in SPLITS if day in counted.rows_by_day[split]) or "none"
        if runs and runs[-1][1:] == (day - 1, names):
            runs[-1] = (runs[-1][0], day, names)
        else:
            runs.append((day, day, names))
    for i, (first, last, names) in enumerate(runs[:_MAX_RUNS_SHOWN]):
        span = date_text(first) if first == last else f"{date_text(first)} to {date_text(last)}"
        yield f"  {'days' if i == 0 else '':12} {span:24} {names}"
    if rest := runs[_MAX_RUNS_SHOWN:]:
        yield f"  {'':12} ... and {len(rest)} more run(s) of days, until {date_text(rest[-1][1])}"


def _tables_line(rows: Sequence[int]) -> str:
    weights = short_bytes(sum(rows) * _DIM * 4)
    return f"  tables       {len(rows)}, with about {sum(rows):,} rows in all; {weights} of fp32 weights at dim {_DIM}"
