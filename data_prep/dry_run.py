"""`ple-rec prep --dry-run`: a report on a preparation from footers and a sample, without writing the dataset."""

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
from data_prep.run import Options, RawFiles, check_engine, from_files, planned, read_recipe
from data_prep.sources.files import discover
from data_prep.sources.find import find_all
from data_prep.sources.sample import Sampled, sample_csv
from data_prep.sources.table import RawTables, refuse_changes
from data_prep.survey import Survey, check_splits, count_rows
from data_prep.transforms.arithmetic import date_text
from data_prep.transforms.columns import REASON, SPLIT
from data_prep.transforms.expression_scope import warn_of_offsets
from data_prep.transforms.list_warnings import warn_of_lists
from data_prep.transforms.resolve import Resolved
from data_prep.transforms.rows import Derived
from data_prep.vocabulary.build import Vocabularies
from ple_rec.config.base import SPLITS
from ple_rec.config.prep import FilesConfig, TableSpec
from ple_rec.storage import Location
from ple_rec.text.units import short_bytes

SAMPLE_ROWS = 65_536  # So many rows are sampled at each place.
_PLACES = 3  # The sample is taken from begin, middle and end of the log.
_DIM = 16  # The size of the embedding tables is reported for this dimension.
_ROWS_SHOWN, _DAYS_SHOWN = 40, 10
_PHASES = {"survey": 1.0, "count": 1.0}  # The relative duration of each phase, about.


@dataclass(frozen=True)
class DryRun:
    """The outcome of a dry run; `str()` of it is for people.

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
class Guess:
    """Estimate of the number of values of a table.

    Args:
        sampled: Number of values in the training rows of the sample.
        expected: Number in the whole log, by `expected_values`.
    """

    sampled: int
    expected: int


def expected_values(sampled: int, once: int, scale: float) -> int:
    """Return the number of values to expect in a log, by GEE (Charikar et al., 2000).

    The estimate is sqrt(N / n) f_1 + sum of f_j, j > 1, if f_j values occur j times in a sample of n of N rows.

    Args:
        sampled: Number of values in the sample.
        once: Number of values that occur once in the sample, f_1.
        scale: Rows of the log per row of the sample, N / n.
    """
    return round(sampled - once + math.sqrt(scale) * once)


def dry_run(what: str, out: Location | None, options: Options, *, progress: Progress | None = None) -> DryRun:
    """Report what `prepare` would do with the same arguments.

    Args:
        what: Name of a recipe, or path of a TOML file.
        out: Path or address of the dataset directory that `prepare` would write.
        options: Options of `prepare`.
        progress: Progress for people who wait.

    Raises:
        UserError: The configuration, a path or the machine is not usable, as in `prepare`.
        DataError: A raw file breaks a rule, or the whole log is sampled and a day or a split has no rows. Bad rows of
            the sample are reported, not raised.
    """
    config, place, files = read_recipe(what, options.overrides)
    progress = progress or Progress()
    progress.name = config.name
    check_engine(options.engine)
    resolved, parent = planned(config, place, options)
    first = f"{config.name}: a dry run; nothing is written" + (f" to {out}" if out is not None else "")
    with tempfile.TemporaryDirectory(prefix="ple-rec-") as folder, open_stage(Path(folder) / "dataset") as stage:
        tables = _tables(resolved, files, options.source, stage.staging, progress)
        stage.begin("")
        engine = DuckEngine(stage.work, memory=options.memory, threads=options.threads)
        try:
            read = [file for each in tables.values() for file in each.table.files]
            with refuse_changes(read), progress.running(_PHASES, tables["log"].rows):
                sample = _SamplePipeline(engine, resolved, tables, stage, parent, progress).run_sample()
            return DryRun(f"{first}\n{sample}", sample.refused)
        finally:
            engine.close()


def bad_rows_of(resolved: Resolved, tables: Mapping[str, Sampled], work: Path) -> list[str]:
    """Return the reasons for which `prepare` would refuse a log, a line each; empty if it would not.

    Args:
        resolved: Configuration with its expressions.
        tables: Log and side tables by name; of CSV files, their beginnings.
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
                return _SamplePipeline(engine, resolved, tables, stage, None, progress).bad_rows()
        finally:
            engine.close()


def _tables(
    resolved: Resolved, files: RawFiles, source: str | None, staging: Path, progress: Progress
) -> dict[str, Sampled]:
    """Return the log and the side tables by name; of CSV files, their beginnings."""
    if files is not from_files:
        raw = files(resolved, source, staging, progress, digest=False)
        return {name: Sampled.all_of(table) for name, table in raw.by_name.items()}
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
            tables[name] = Sampled.all_of(table)
    return tables


def dry_run_synthetic(name: str, **arguments: Any) -> DryRun:
    """Report what `data_prep.synthetic.prepare_synthetic` would do with the same arguments.

    Raises:
        UserError: An argument is out of its range.
    """
    from data_prep.synthetic.prepare import design_of

    design = design_of(name, **arguments)
    rows, tables = int(design.recipe()["rows"]), design.fields().get("tables", ())
    lines = [f"{name}: a dry run; nothing is written", f"  rows         {rows:,}"]
    lines += [_tables_line([table.rows for table in tables])] if tables else []
    return DryRun("\n".join(lines))


class _SamplePipeline(Pipeline):
    """Pipeline over a sample of the log, up to the vocabularies.

    Args:
        engine: Engine that runs the expressions.
        resolved: Configuration with its expressions.
        tables: Log and side tables by name; of CSV files, their beginnings.
        stage: Temporary folder of the vocabularies.
        parent: Dataset whose ids an appended day keeps; None for any other dataset.
        progress: Progress that is shown to the user.
    """

    def __init__(
        self,
        engine: Engine,
        resolved: Resolved,
        tables: Mapping[str, Sampled],
        stage: Stage,
        parent: Parent | None,
        progress: Progress,
    ) -> None:
        raw = RawTables(tables["log"].table, {name: each.table for name, each in tables.items() if name != "log"})
        super().__init__(engine, resolved, raw, stage, "", parent, progress)
        self.tables, self.log = tables, tables["log"]
        self.whole_sides = all(each.whole for name, each in tables.items() if name != "log")
        self.ranges = _sample_ranges(raw.log.rows)
        self.scanned = sum(last - first for first, last in self.ranges)
        self.scale = max(self.log.rows / max(self.scanned, 1), 1.0)
        self._expect_fewer()

    @property
    def whole(self) -> bool:
        """True if the sample is the whole log and all side tables."""
        return all(each.whole for each in self.tables.values()) and self.scanned == self.log.rows

    def _expect_fewer(self) -> None:
        """Scale each `min_count` to the sample."""
        specs = {
            name: spec.model_copy(update={"min_count": math.ceil(spec.min_count / self.scale)})
            for name, spec in self.config.tables.items()
        }
        self.config = self.config.model_copy(update={"tables": specs})

    def _sampled(self) -> ir.Table:
        """Return rows from begin, middle and end of the files that are read."""
        self.progress.say(f"sampling {self.scanned:,} of {self.log.rows:,} rows of the log")
        scans = [self.rows.scan(first, last) for first, last in self.ranges]
        return self.engine.keep("sample", ibis.union(*scans, distinct=False) if scans[1:] else scans[0])

    def run_sample(self) -> DryRun:
        """Run the passes up to the vocabularies, and return the report.

        Raises:
            UserError: The configuration does not fit the log.
            DataError: A raw file breaks a rule, or the whole log is sampled and a day or a split has no rows.
        """
        derived, counted = self._surveyed()
        self.progress.phase("count")
        rows = derived.table
        train = rows.filter((rows[SPLIT] == SPLITS.index("train")) & (rows[REASON] == 0))
        values = self._count_values(self._vocabularies(train, counted.rows["train"]))
        refused = self._refuses(counted)
        lines = [*self._files(counted), *self._splits(counted), *self._bad(counted, derived, refused=refused)]
        return DryRun("\n".join([*lines, *self._columns(values), *self._table_lines(values)]), refused)

    def bad_rows(self) -> list[str]:
        """Return the reasons for which the sample shows that `prepare` refuses the log, a line each.

        Raises:
            UserError: The configuration does not fit the log.
            DataError: A raw file breaks a rule, or the whole log is sampled and a day or a split has no rows.
        """
        derived, counted = self._surveyed()
        return list(self._bad(counted, derived, refused=True)) if self._refuses(counted) else []

    def _surveyed(self) -> tuple[Derived, Survey]:
        self.progress.phase("survey")
        warn_of_offsets(self.resolved)
        warn_of_lists(self.resolved)
        self.rows = replace(self.rows, log=self._sampled()).with_sides().linked_once()
        self._fill_in_from_log()
        derived = self.derived()
        derived = replace(derived, table=self.engine.named(derived.table))
        counted = count_rows(self.engine, derived)
        if self.whole:
            check_splits(self.resolved, counted, self.day_1)
        return derived, counted

    def _count_values(self, vocabularies: Vocabularies) -> dict[str, Guess]:
        """Estimate the number of values of each table; with a parent, of its new values."""
        first = {} if self.parent is None else {table.name: table.rows for table in self.parent.schema.tables}
        guesses = {}
        for name in vocabularies.names:
            new = pq.read_table(vocabularies.path(name), columns=["count"], filters=[("row", ">=", first.get(name, 1))])
            sampled = new.num_rows + int(vocabularies.overflow.get(name, {}).get("values", 0))
            once = int(pc.sum(pc.equal(new["count"], 1)).as_py() or 0)
            guesses[name] = Guess(sampled, expected_values(sampled, once, self.scale))
        return guesses

    def _refuses(self, counted: Survey) -> bool:
        """Return whether the sample has more bad rows than the whole log may have; never if side rows are missing."""
        allowed = self.config.max_bad_fraction * self.scale * counted.total if self.config.on_bad_row == "drop" else 0
        return self.whole_sides and counted.bad > allowed

    def _files(self, counted: Survey) -> Iterator[str]:
        """Yield lines on the files and rows of each table, the sampled rows, and the limits of a sample."""
        for name, each in self.tables.items():
            rows = f"{'' if each.whole else 'about '}{each.rows:,}"
            yield f"  {name:12} {each.files:>6,} file(s) {rows:>15} rows {short_bytes(each.size):>10}"
        where = "" if self.config.log.where is None else f"; log.where takes these of {self.scanned:,}"
        yield f"  sample       {counted.total:,} rows: {self._place()}{where}"
        if not self.whole:
            yield "  not known    whether each day and split has rows, and what the other rows hold"
        for name, each in self.tables.items():
            if name != "log" and not each.whole:
                read = f"of {name} the first {each.table.rows:,} rows are read"
                yield f"  not known    {read}: its columns look emptier here than they are"

    def _place(self) -> str:
        if self.log.whole:
            return "the whole log" if self.scanned == self.log.rows else "begin, middle and end of the log"
        read = len(self.log.table.files)
        of = f"{read:,} of {self.log.files:,} files" if read < self.log.files else f"{read:,} file(s)"
        return f"from the beginnings of {of}, in CSV"

    def _splits(self, counted: Survey) -> Iterator[str]:
        known = max(counted.total, 1)
        shares = [f"{split} {counted.rows[split] / known:.0%}" for split in SPLITS]
        none = counted.total - counted.bad - sum(counted.rows.values())
        yield f"  split        {', '.join(shares)}, none {none / known:.0%} of the sample"
        yield from _day_lines(counted)

    def _bad(self, counted: Survey, derived: Derived, *, refused: bool) -> Iterator[str]:
        verdict = "dropped" if self.whole_sides else "perhaps fewer, since not all side rows are read"
        if refused:
            limit = f"more than max_bad_fraction = {self.config.max_bad_fraction}: "
            verdict = f"{limit if self.config.on_bad_row == 'drop' else ''}prep will refuse them"
        for number, count in sorted(counted.broken.items()):
            yield f"  bad rows     {count / counted.total:.2%} break {derived.rules[number - 1].reason} ({verdict})"

    def _columns(self, values: Mapping[str, Guess]) -> Iterator[str]:
        kind = "train values" if self.parent is None else "new values"
        yield f"  {'column':24} {'becomes':34} {f'{kind} sampled':>22} {'in all, about':>18}"
        for feature in self.config.sparse[:_ROWS_SHOWN]:
            if feature.bucketised:
                yield f"  {feature.name:24} {len(feature.edges or ()) + 1} buckets"
                continue
            guess = values[feature.table_name]
            becomes = f"{'bag of ' if feature.bag else ''}rows of table {feature.table_name}"
            yield f"  {feature.name:24} {becomes:34} {guess.sampled:>22,} {guess.expected:>18,}"
        if (more := len(self.config.sparse) - _ROWS_SHOWN) > 0:
            yield f"  ... and {more} sparse features more"
        for number in self.config.dense:
            yield f"  {number.name:24} dense, {number.normaliser}"
        for task in self.config.tasks:
            space = f" where {task.space}" if task.space is not None else ""
            yield f"  {task.name:24} {task.kind}: {task.source}{space}"

    def _table_lines(self, values: Mapping[str, Guess]) -> Iterator[str]:
        if self.parent is None:
            yield from self._full(values)
            yield _tables_line(self._sizes(values))
        else:
            yield from self._new_values(self.parent, values)
            yield _tables_line([table.allocated for table in self.parent.schema.tables])

    def _full(self, values: Mapping[str, Guess]) -> Iterator[str]:
        """Yield a line for each table whose capacity is less than the expected number of values."""
        for name, spec in self.config.tables.items():
            most = values[name].expected
            if spec.capacity is not None and most >= spec.capacity - spec.hash_rows:
                beyond = "are hashed" if spec.hash_rows else "share row 0"
                words = f"{spec.capacity:,} rows for about {most:,} values"
                yield f"  capacity     table {name}: {words}, the rarest of which {beyond}"

    def _new_values(self, parent: Parent, values: Mapping[str, Guess]) -> Iterator[str]:
        """Yield a line for each table with new values: their number, and the free rows."""
        about = "" if self.whole else "about "
        for table in parent.schema.tables:
            new = values[table.name].expected if table.name in values else 0
            if new:
                words = f"{about}{new:,} new, {len(table.free):,} of {table.allocated:,} rows free"
                if new > len(table.free):
                    words += f"; the rarest {'are hashed' if table.hash_rows else 'share row 0'}"
                yield f"  new values   table {table.name}: {words}"

    def _sizes(self, values: Mapping[str, Guess]) -> list[int]:
        """Return the expected rows of each table."""
        sizes = [len(feature.edges or ()) + 2 for feature in self.config.sparse if feature.bucketised]
        for name, guess in values.items():
            spec = self.config.tables.get(name, TableSpec())
            sizes.append(guess.expected + 1 + spec.hash_rows if spec.capacity is None else spec.capacity)
        return sizes


def _sample_ranges(rows: int) -> list[tuple[int, int]]:
    """Return the ranges [first, last) of positions that are sampled of a log of so many rows."""
    starts = sorted({max(rows - SAMPLE_ROWS, 0) * i // (_PLACES - 1) for i in range(_PLACES)})
    firsts = [starts[0], *(max(start, before + SAMPLE_ROWS) for before, start in pairwise(starts))]
    return [(first, min(start + SAMPLE_ROWS, rows)) for first, start in zip(firsts, starts, strict=True)]


def _day_lines(counted: Survey) -> Iterator[str]:
    """Yield a line for each run of days whose rows lie in the same splits."""
    runs: list[tuple[int, int, str]] = []
    for day in sorted(counted.other_days.union(*counted.days.values())):
        names = ", ".join(split for split in SPLITS if day in counted.days[split]) or "none"
        if runs and runs[-1][1:] == (day - 1, names):
            runs[-1] = (runs[-1][0], day, names)
        else:
            runs.append((day, day, names))
    for i, (first, last, names) in enumerate(runs[:_DAYS_SHOWN]):
        span = date_text(first) if first == last else f"{date_text(first)} to {date_text(last)}"
        yield f"  {'days' if i == 0 else '':12} {span:24} {names}"
    if rest := runs[_DAYS_SHOWN:]:
        yield f"  {'':12} ... and until {date_text(rest[-1][1])} {len(rest)} times another split"


def _tables_line(rows: Sequence[int]) -> str:
    weights = short_bytes(sum(rows) * _DIM * 4)
    return f"  tables       {len(rows)} of about {sum(rows):,} rows; {weights} of fp32 weights at dim {_DIM}"
