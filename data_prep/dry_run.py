"""`ple-rec prep --dry-run`: what would be done, from footers and a sample, without writing anything."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ibis
import ibis.expr.types as ir

from data_prep import numbers, sides
from data_prep.days import text_of
from data_prep.dictionaries import Dictionaries
from data_prep.engines.duck import DuckEngine
from data_prep.estimate import columns_needed, estimate, values_of
from data_prep.parent import Parent
from data_prep.pieces import warn_of_pieces
from data_prep.pipeline import find_day_1
from data_prep.progress import Progress
from data_prep.resolve import Resolved
from data_prep.rows import Derived, derive
from data_prep.run import Options, RawFiles, check_engine, from_files, planned, read_recipe
from data_prep.sources.files import POSITION, discover
from data_prep.sources.find import find_all
from data_prep.sources.sample import Sampled, sample_csv
from data_prep.sources.table import refuse_changes
from data_prep.splits import OUTSIDE, SAMPLED_OUT
from data_prep.survey import survey
from data_prep.words import taken, warn_of_offsets
from ple_rec.config.base import SPLITS
from ple_rec.config.prep import FilesConfig, PrepConfig

SAMPLE_ROWS = 65_536  # of each place that is sampled
_PLACES = 3  # begin, middle and end of the log
_DIM = 16  # of an embedding, for the size of the tables
_VOCABULARY_BYTES = 10  # a value of a vocabulary on disk, about
_ROWS_SHOWN, _DAYS_SHOWN = 40, 10
_CELLS_PER_SECOND = 8.0e6  # of the log, a core: what `make bench-prep` showed for 37 columns
_START_SECONDS = 5.0  # of any run, about: to plan queries takes as long for few rows as for many
_PHASES = {"sample": 2.0, "derive": 1.0, "count": 1.0}  # about how long each takes
_TENCENT_BYTES = 40  # a row of the parts, about
_NORMAL_BYTES = 3.71  # a normal float32, about: of its bits only the exponent's compress


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
        """The report."""
        return self.text


def dry_run(what: str, out: Path | None, options: Options, *, progress: Progress | None = None) -> DryRun:
    """Tell what `prepare` would do with the same arguments.

    Args:
        what: Name of a recipe, or path of a TOML file.
        out: Where the dataset directory would be.
        options: How.
        progress: Told what goes on.

    Raises:
        UserError: What `prepare` would find in configuration and files before it reads a row.
        DataError: Likewise; of a log that is sampled whole also a day or a split without rows. Rows of the sample that
            break a rule are told, not raised.
    """
    config, place, files = read_recipe(what, options.overrides)
    progress = progress or Progress()
    progress.name = config.name
    check_engine(options.engine)
    resolved, parent = planned(config, place, options)
    threads = options.threads or len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory(prefix="ple-rec-") as name:
        folder = Path(name)
        tables = _tables(resolved, files, options.source, folder / "staging", progress)
        engine = DuckEngine(folder, memory=options.memory, threads=options.threads)
        try:
            read = [file for each in tables.values() for file in each.table.files]
            with refuse_changes(read), progress.running(_PHASES, tables["log"].rows):
                rehearsal = _Rehearsal(engine, resolved, tables, parent, folder, threads, progress)
            return DryRun("\n".join(rehearsal.lines(out)), rehearsal.refused)
        finally:
            engine.close()


def _tables(
    resolved: Resolved, files: RawFiles, source: str | None, staging: Path, progress: Progress
) -> dict[str, Sampled]:
    """The log and the side tables by name, of CSV files their beginnings."""
    if files is not from_files:
        raw = files(resolved, source, staging, progress, digest=False)
        return {name: Sampled.all_of(table) for name, table in {"log": raw.log, **raw.sides}.items()}
    root = source if source is not None else "."
    given: dict[str, FilesConfig] = {"log": resolved.config.log, **resolved.config.sides}
    tables = {}
    for name, found in find_all(resolved.place, given, root).items():
        listed, kind = found
        if kind == "csv":
            with refuse_changes(listed):
                tables[name] = sample_csv(name, listed, given[name].csv, staging, progress.say)
            resolved.check_columns(tables[name].table)
        else:
            progress.say(f"{name}: reading the footers of {len(listed):,} file(s)")
            check = resolved.check_columns
            table = discover(name, given[name], root, staging, found=found, check=check, digest=False)
            tables[name] = Sampled.all_of(table)
    return tables


def dry_run_synthetic(name: str, **arguments: Any) -> DryRun:
    """Tell what `data_prep.synthetic.prepare_synthetic` would do with the same arguments.

    Raises:
        UserError: An argument out of its range.
    """
    from data_prep.synthetic.prepare import design_of

    design = design_of(name, **arguments)
    rows, tables = int(design.recipe()["rows"]), design.fields().get("tables", ())
    lines = [f"{name}: a dry run; nothing is written", f"  rows         {rows:,}"]
    lines += [_tables_line([table.rows for table in tables])] if tables else []
    row_bytes = _TENCENT_BYTES if tables else _NORMAL_BYTES * len(design.layout().schema)
    return DryRun("\n".join([*lines, _disk_line(row_bytes, rows)]))


class _Rehearsal:
    """The passes over a sample, and what they tell."""

    def __init__(
        self,
        engine: DuckEngine,
        resolved: Resolved,
        tables: Mapping[str, Sampled],
        parent: Parent | None,
        folder: Path,
        threads: int,
        progress: Progress,
    ) -> None:
        self.engine, self.tables, self.log = engine, tables, tables["log"]
        self.resolved = replace(resolved, tables={name: each.table for name, each in tables.items()})
        self.whole_sides = all(each.whole for name, each in tables.items() if name != "log")
        self.parent, self.threads, self.progress = parent, threads, progress
        warn_of_offsets(self.resolved)
        self.scanned = 0
        progress.phase("sample")
        rows = self._sample()
        self._tell("deriving their columns", "derive")
        self.day_1 = find_day_1(engine, rows, self.resolved, whole=self.whole)
        self.derived = self._derive(rows)
        if self.whole:
            self._check_splits()
        self._check_types(folder / "vocab")
        self._tell("counting their values", "count")
        table = self.derived.table
        found = engine.fetch(table.order_by(POSITION).select(*columns_needed(list(table.columns))))
        for feature in self.config.sparse:
            warn_of_pieces(feature, values_of(found[f"raw__{feature.name}"].combine_chunks()))
        self.rows = round(self.log.rows * found.num_rows / max(self.scanned, 1))  # that log.where takes, about
        self.estimate = estimate(found, self.config, self.rows / max(found.num_rows, 1), parent)

    @property
    def config(self) -> PrepConfig:
        return self.resolved.config

    @property
    def whole(self) -> bool:
        """Whether the sample is all there is."""
        return all(each.whole for each in self.tables.values()) and self.scanned == self.log.rows

    @property
    def refused(self) -> bool:
        """Whether the bad rows of the sample are more than the whole log may have, and not for want of side rows."""
        bad = sum(count for (_, reason), count in self.estimate.counts.items() if reason)
        return self.whole_sides and bad > (
            self.config.max_bad_fraction * self.rows if self.config.on_bad_row == "drop" else 0
        )

    def _tell(self, text: str, phase: str) -> None:
        self.progress.phase(phase)
        self.progress.say(f"{self.scanned:,} of {self.log.rows:,} rows: {text}")

    def _sample(self) -> ir.Table:
        """Rows from begin, middle and end of what can be read of the log, joined with the side tables."""
        table = self.log.table
        last = max(table.rows - SAMPLE_ROWS, 0)
        starts = sorted({last * i // (_PLACES - 1) for i in range(_PLACES)})
        scans: list[ir.Table] = []
        end = 0
        for start in starts:
            first, end = max(start, end), min(start + SAMPLE_ROWS, table.rows)
            if first < end or not scans:
                scans.append(self.engine.scan(table, self.resolved.log_columns, first, end))
                self.scanned += end - first
        self.progress.say(f"sampling {self.scanned:,} of {self.log.rows:,} rows of the log")
        rows = ibis.union(*scans, distinct=False) if len(scans) > 1 else scans[0]
        rows = taken(rows, self.resolved)
        tables = {}
        for name in self.config.sides:
            raw = self.tables[name].table
            self.progress.say(f"{name}: joining {raw.rows:,} rows")
            scan = self.engine.scan(raw, self.resolved.side_columns[name])
            tables[name] = sides.one_row_per_key(self.engine, raw, scan, name, self.resolved)
        return self.engine.keep("sample", sides.joined(rows, tables, self.resolved))

    def _derive(self, rows: ir.Table) -> Derived:
        """The derived rows under a name, so that what reads them is compiled without them."""
        if not numbers.is_settled(self.config):
            table = self.engine.named(derive(rows, self.resolved, self.day_1).table)
            self.resolved = numbers.settled(self.engine, table, self.resolved)
        derived = derive(rows, self.resolved, self.day_1)
        return replace(derived, table=self.engine.named(derived.table))

    def _check_splits(self) -> None:
        """Raise what `survey` has to say of days and splits; bad rows are told as shares."""
        config = self.config.model_copy(update={"on_bad_row": "drop", "max_bad_fraction": 1.0})
        survey(self.engine, self.derived, replace(self.resolved, config=config), self.log.table, self.day_1)

    def _check_types(self, folder: Path) -> None:
        """Raise what a vocabulary has to say of the types of its values, which are told without a row."""
        made = Dictionaries(self.engine, self.config, folder, self.parent)
        owners = [feature.table_name for feature in self.config.sparse]
        for table in made.names:
            if self.parent is not None or owners.count(table) > 1:
                made.make(table, self.derived.table.limit(0))

    def lines(self, out: Path | None) -> Iterator[str]:
        config, counts = self.config, self.estimate.counts
        yield f"{config.name}: a dry run; nothing is written" + (f" to {out}" if out is not None else "")
        for name, each in self.tables.items():
            rows = f"{'' if each.whole else 'about '}{each.rows:,}"
            yield f"  {name:12} {each.files:>6,} file(s) {rows:>15} rows {_size(each.size):>10}"
        taken = "" if config.log.where is None else f"; log.where takes these of {self.scanned:,}"
        yield f"  sample       {self.estimate.rows:,} rows: {self._where()}{taken}"
        yield from self._unknown()
        known = max(self.estimate.rows, 1)
        shares = [f"{split} {counts.get((i, 0), 0) / known:.0%}" for i, split in enumerate(SPLITS)]
        shares.append(f"none {sum(n for (split, why), n in counts.items() if split < 0 and not why) / known:.0%}")
        yield f"  split        {', '.join(shares)} of the sample"
        yield from _day_lines(self.estimate.days)
        yield from self._bad(known)
        yield f"  {'column':24} {'becomes':34} {'train values sampled':>22} {'in all, about':>18}"
        yield from self._columns()
        yield from self._sizes(out)

    def _where(self) -> str:
        if self.log.whole:
            return "the whole log" if self.scanned == self.log.rows else "begin, middle and end of the log"
        read = len(self.log.table.files)
        of = f"{read:,} of {self.log.files:,} files" if read < self.log.files else f"{read:,} file(s)"
        return f"from the beginnings of {of}, in CSV"

    def _unknown(self) -> Iterator[str]:
        """What a sample does not tell."""
        if not self.whole:
            yield "  not known    whether each day and split has rows, and what the other rows hold"
        for name, each in self.tables.items():
            if name != "log" and not each.whole:
                read = f"of {name} the first {each.table.rows:,} rows are read"
                yield f"  not known    {read}: its columns look emptier here than they are"

    def _bad(self, known: int) -> Iterator[str]:
        counts = self.estimate.counts
        verdict = "dropped" if self.whole_sides else "perhaps fewer, for not all side rows are read"
        if self.refused:
            limit = f"more than max_bad_fraction = {self.config.max_bad_fraction}: "
            verdict = f"{limit if self.config.on_bad_row == 'drop' else ''}prep will refuse them"
        for reason in sorted({reason for _, reason in counts if reason}):
            rule = self.derived.rules[reason - 1]
            count = sum(n for (_, r), n in counts.items() if r == reason)
            yield f"  bad rows     {count / known:.2%} break {rule.key}: {rule.rule} ({verdict})"

    def _columns(self) -> Iterator[str]:
        shown = 0
        for feature in self.config.sparse:
            if (shown := shown + 1) > _ROWS_SHOWN:
                yield f"  ... and {len(self.config.sparse) - _ROWS_SHOWN} sparse features more"
                break
            if feature.bucketised:
                yield f"  {feature.name:24} {len(feature.edges or ()) + 1} buckets"
                continue
            guess = self.estimate.guesses[feature.name]
            kind = f"{'bag of ' if feature.bag else ''}rows of table {feature.table_name}"
            yield f"  {feature.name:24} {kind:34} {guess.sampled:>22,} {guess.expected:>18,}"
        for number in self.config.dense:
            yield f"  {number.name:24} dense, {number.normaliser}"
        for task in self.config.tasks:
            space = f" where {task.space}" if task.space is not None else ""
            yield f"  {task.name:24} {task.kind}: {task.source}{space}"

    def _sizes(self, out: Path | None) -> Iterator[str]:
        rows = list(self._table_rows().values())
        yield _tables_line(rows)
        yield from self._full() if self.parent is None else self._new_values(self.parent)
        written = round(self.rows * self.estimate.written / max(self.estimate.rows, 1))
        yield _disk_line(self.estimate.row_bytes, written, sum(rows) * _VOCABULARY_BYTES, out)
        cells = self.log.rows * (len(self.resolved.log_columns) + sum(map(len, self.resolved.side_columns.values())))
        seconds = _START_SECONDS + cells / (_CELLS_PER_SECOND * self.threads)
        cores = f"{self.threads} core{'s' if self.threads > 1 else ''}"
        csv = ", CSV to be converted before" if any(not each.whole for each in self.tables.values()) else ""
        yield f"  time         about {_duration(seconds)} on {cores} of DuckDB, by the rate in docs/prep.md{csv}"

    def _full(self) -> Iterator[str]:
        """Tables of a capacity that is less than what is expected."""
        for name, spec in self.config.tables.items():
            most = self.estimate.tables[name].expected
            if spec.capacity is not None and most >= spec.capacity - spec.hash_rows:
                beyond = "are hashed" if spec.hash_rows else "share row 0"
                values = f"{spec.capacity:,} rows for about {most:,} values"
                yield f"  capacity     table {name}: {values}, the rarest of which {beyond}"

    def _new_values(self, parent: Parent) -> Iterator[str]:
        """New values of each table that has any, and its rows that are free for them."""
        about = "" if self.whole else "about "
        for table in parent.schema.tables:
            guess = self.estimate.tables.get(table.name)
            if guess is None or not guess.expected:
                continue
            words = f"{about}{guess.expected:,} new, {len(table.free):,} of {table.allocated:,} rows free"
            if guess.expected > len(table.free):
                words += f"; the rarest {'are hashed' if table.hash_rows else 'share row 0'}"
            yield f"  new values   table {table.name}: {words}"

    def _table_rows(self) -> Mapping[str, int]:
        if self.parent is not None:
            return {table.name: table.allocated for table in self.parent.schema.tables}
        rows: dict[str, int] = {}
        for feature in self.config.sparse:
            spec = self.config.tables.get(feature.table_name)
            if feature.bucketised:
                rows[feature.name] = len(feature.edges or ()) + 2
            elif spec is not None and spec.capacity is not None:
                rows[feature.table_name] = spec.capacity
            else:
                hashed = 0 if spec is None else spec.hash_rows
                rows[feature.table_name] = self.estimate.tables[feature.table_name].expected + 1 + hashed
        return rows


def _day_lines(days: Mapping[int, Set[int]]) -> Iterator[str]:
    """Yield the days that were found with the splits of their rows, a line for each run of days that are alike."""
    runs: list[tuple[int, int, str]] = []
    for day, found in sorted(days.items()):
        splits = {SPLITS.index("train") if split == SAMPLED_OUT else split for split in found}
        names = ", ".join(SPLITS[split] for split in sorted(splits) if split != OUTSIDE) or "none"
        if runs and runs[-1][1:] == (day - 1, names):
            runs[-1] = (runs[-1][0], day, names)
        else:
            runs.append((day, day, names))
    for i, (first, last, names) in enumerate(runs[:_DAYS_SHOWN]):
        span = text_of(first) if first == last else f"{text_of(first)} to {text_of(last)}"
        yield f"  {'days' if i == 0 else '':12} {span:24} {names}"
    if rest := runs[_DAYS_SHOWN:]:
        yield f"  {'':12} ... and until {text_of(rest[-1][1])} {len(rest)} times another split"


def _tables_line(rows: Sequence[int]) -> str:
    weights = _size(sum(rows) * _DIM * 4)
    return f"  tables       {len(rows)} of about {sum(rows):,} rows; {weights} of fp32 weights at dim {_DIM}"


def _disk_line(row_bytes: float, rows: int, vocabularies: float = 0, out: Path | None = None) -> str:
    words = f"about {_size(row_bytes * rows)} of parts ({row_bytes:.0f} bytes a row)"
    if vocabularies:
        words += f", {_size(vocabularies)} of vocabularies, and as much again while it works"
    if out is not None:
        place = next(folder for folder in out.absolute().parents if folder.is_dir())
        words += f"; {_size(shutil.disk_usage(place).free)} are free there"
    return f"  disk         {words}"


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(seconds, 1):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
