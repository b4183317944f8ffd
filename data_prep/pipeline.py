"""Pipeline that makes a dataset directory from raw logs.

It makes these passes, each of which uses the results of the passes before it:

    discover   list the raw files, read their footers and digests -> fingerprint; an existing dataset with it is reused
    fill in    compute day 1, edges and thresholds from the log   -> `[found]` of `prep.toml`
    survey     count the rows by split, part and day              -> row range of each part; an error if a row is bad
    count      count the raw values of each embedding table       -> `vocab/`
    encode     replace raw values by ids, and write the parts     -> `train/`, `valid/`, `test/`
    describe   compute statistics of the parts                    -> `stats.json`, `stats.html`, `schema.toml`,
                                                                     `_SUCCESS`

The caller of this module makes the pass `discover`; `Pipeline` makes the others.

Terms:

    log          table of samples, in one or more files; its rows are numbered by a position
    side table   table of users or items, for example, whose columns are joined to the log
    part         one Parquet file of a split; before the encoding, a range of the log whose rows will become such a file
    day 1        day from which a split by day counts its days
    edges        boundaries of the buckets of a sparse feature that is made from numbers
    threshold    value above which a number is a positive label of a task
    space        condition of the rows that have the label of a task
    parent       dataset to which a day is appended; its ids stay the same

Each pass builds Ibis expressions, and an engine (`data_prep.engines`: DuckDB or Spark) computes them. The files of the
dataset do not depend on the engine, on the number of threads or on the order in which the raw files are listed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from itertools import chain
from typing import Any

import ibis
import ibis.expr.types as ir

from data_prep import stats
from data_prep.diagnose import diagnosed
from data_prep.engines.base import Engine, PartFile, Unit
from data_prep.failures import EngineError
from data_prep.output.metadata import bucket_names, build_schema, inferred_types
from data_prep.output.parent import Parent
from data_prep.output.split_writer import KEPT_CELLS, SplitWriter, columns_of
from data_prep.output.stage import Stage
from data_prep.output.writer import finish, write_whole
from data_prep.page_checksums import check_pages
from data_prep.progress import Progress
from data_prep.sources.table import RawTables, refuse_changes
from data_prep.stats.drift import Groups
from data_prep.survey import RowRange, Survey, no_day, survey
from data_prep.transforms import expression_scope, quantiles, side_bags
from data_prep.transforms.arithmetic import date_text, day_number, days_since_1970
from data_prep.transforms.columns import REASON, SPLIT, space_columns
from data_prep.transforms.list_warnings import warn_of_lists
from data_prep.transforms.resolve import Resolved
from data_prep.transforms.rows import Derived, LogRows, between, derive
from data_prep.transforms.splits import columns_that_tell, split_key
from data_prep.vocabulary.build import Vocabularies
from ple_rec.config.base import SPLITS, Split
from ple_rec.config.load import dump_toml
from ple_rec.config.prep import PREP_FILE, DaySplit, HeldOutSplit, PrepConfig
from ple_rec.config.problems import ConfigError
from ple_rec.config.schema import VOCAB_DIR

# Increase this version if a change of the code gives other parts, ids or normalisers for the same inputs.
FORMAT_VERSION = 5
# The correlations of labels within slices of the rows are computed on a sample of at most about this many train rows.
SLICE_SAMPLE = 4_000_000
# A table with more columns than this is wide: its derived rows are computed once and kept, if they have few cells.
WIDE = 64
# Approximate relative durations of the phases, for the progress bar.
PHASES = {"survey": 1.0, "count": 2.0, "encode": 8.0, "describe": 2.2}


def fingerprint(config: PrepConfig, raw: RawTables, parent: str | None) -> str:
    """Return the digest of all inputs that determine the bytes of a dataset directory.

    Args:
        config: Configuration of the preparation.
        raw: Files of the log and of the side tables.
        parent: Fingerprint of the parent, if a day is appended to it; None for any other dataset.
    """
    content = {
        "format": FORMAT_VERSION,
        # The values in `found` are computed from the files or copied from the parent, so they add no information.
        "config": config.model_dump(mode="json", exclude={"found"}),
        "log": raw.log.digest(),
        "sides": {name: table.digest() for name, table in sorted(raw.sides.items())},
        "parent": parent,
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def find_day_1(engine: Engine, rows: ir.Table, resolved: Resolved, *, whole: bool = True) -> int | None:
    """Return day 1 of a split by day, as a number of days since 1970-01-01.

    Day 1 is the date in the configuration, or else the first day of the log.

    Args:
        engine: Engine that computes the first day of the log.
        rows: Rows of the log, joined to the side tables.
        resolved: Configuration with its parsed expressions.
        whole: True if `rows` is the whole log; False for a sample, whose first day may be later. For a sample, a day 1
            that is taken from the log is not compared with the dates of the split.

    Returns:
        Day 1; None if the split needs no day 1, since it is not by day or names its days by dates alone.

    Raises:
        UserError: With this day 1, the days of the split are not in order.
        DataError: Day 1 would be the first day of the log, but no row has a valid time.
    """
    split = resolved.config.split
    if not isinstance(split, DaySplit | HeldOutSplit):
        return None
    if split.day_1 is None and all(isinstance(day, str) for day in split.named_days()):
        return None
    day_1 = days_since_1970(split.day_1) if split.day_1 is not None else _first_day(engine, rows, resolved)
    known = whole or split.day_1 is not None
    if known and isinstance(split, DaySplit) and (problems := split.misplaced(lambda day: day_number(day, day_1))):
        raise ConfigError.of(resolved.place, [f"split: {problem}" for problem in problems])
    return day_1


def _first_day(engine: Engine, rows: ir.Table, resolved: Resolved) -> int:
    """Return the first day of the log, as a number of days since 1970-01-01."""
    local = expression_scope.local_time(expression_scope.columns_of(rows), resolved)
    times = rows.select(count=local.count, in_range=local.in_range)
    first = engine.fetch(times.filter("in_range").aggregate(first=times["count"].min()))["first"][0].as_py()
    if first is None:
        raise no_day(engine, rows, resolved)
    return local.day_at(first)


class Pipeline:
    """Run that makes one dataset directory.

    Args:
        engine: Engine that computes the Ibis expressions.
        resolved: Configuration with its parsed expressions. If a day is appended, it also has the `[found]` values of
            the parent.
        raw: Files of the log and of the side tables.
        stage: Temporary folder in which the dataset is written until it is complete.
        fingerprint: Fingerprint of the dataset.
        parent: Dataset to which a day is appended; None for any other dataset.
        progress: Progress that is shown to the user.

    Attributes:
        original_config: Configuration before any values of this log are filled in.
        rows: Rows of the log, and the configuration with the values that are filled in so far.
        day_1: Day 1 of the split, as a number of days since 1970-01-01; None before it is known, and for a split
            without day 1.
        wide_rows: Derived rows, which the engine has computed once and keeps; None if `is_wide` is False.
    """

    def __init__(
        self,
        engine: Engine,
        resolved: Resolved,
        raw: RawTables,
        stage: Stage,
        fingerprint: str,
        parent: Parent | None,
        progress: Progress,
    ) -> None:
        self.engine, self.raw, self.stage = engine, raw, stage
        self.original_config = resolved.config
        self.rows = LogRows(engine, replace(resolved, config=self.original_config.filled(), tables=raw.by_name))
        self.fingerprint, self.parent, self.progress = fingerprint, parent, progress
        self.day_1: int | None = None
        self.wide_rows: Derived | None = None

    @property
    def resolved(self) -> Resolved:
        """The configuration with its parsed expressions and with the values of the log that are filled in so far."""
        return self.rows.resolved

    @property
    def config(self) -> PrepConfig:
        """The configuration with the values of the log that are filled in so far."""
        return self.resolved.config

    @config.setter
    def config(self, config: PrepConfig) -> None:
        self.rows = replace(self.rows, resolved=replace(self.resolved, config=config))

    @property
    def whole(self) -> bool:
        """True if every row of the log is read. A dry run, which reads a sample, overrides this property."""
        return True

    def run(self) -> None:
        """Write every file of the dataset directory into the stage.

        Raises:
            UserError: The configuration does not fit the log, or memory is exhausted.
            DataError: The log breaks a rule, a file has changed since it was listed, or the disk is full.
        """
        try:
            # The fingerprint contains the digests of the raw files, so the files must not change while they are read.
            with refuse_changes(self.raw.files):
                counts, vocabularies, files = self._read()
            self.progress.phase("describe")
            self._describe(counts, vocabularies, files)
        except EngineError as error:
            raise diagnosed(error, self.engine, self.resolved, self.rows.joined) from error

    def _read(self) -> tuple[Survey, Vocabularies, dict[Split, list[PartFile]]]:
        """Run the passes that read the raw files, and return the survey, the vocabularies and the parts."""
        self.progress.phase("survey")
        for table in self.resolved.tables.values():
            self.resolved.check_columns(table)
        expression_scope.warn_of_offsets(self.resolved)
        warn_of_lists(self.resolved)
        if not self.engine.verifies_pages:
            check_pages(self.resolved)
        self.rows = self.rows.with_sides().linked_once()
        self._fill_in_from_log()
        if self.is_wide:
            derived = self.derived()
            self.wide_rows = replace(derived, table=self.engine.keep("derived", derived.table))
        counts = survey(self.engine, self.derived(), self.resolved, self.raw.log, self.day_1)
        if self.wide_rows is not None:
            narrow = self.engine.narrow(self.wide_rows.table, self.wide_rows.for_parts())
            self.wide_rows = replace(self.wide_rows, table=narrow)
        self.progress.phase("count")
        train = self._rows_of("train", counts, sorted(counts.parts["train"]))
        vocabularies = self._vocabularies(train, counts.rows["train"])
        self.progress.phase("encode")
        return counts, vocabularies, self._write(counts, vocabularies)

    def derived(self, first: int = 0, last: int | None = None) -> Derived:
        """Return rows of the log with every column of the dataset that can be computed before ids are known.

        Args:
            first: Position of the first row.
            last: Position after the last row; None for the end of the log.
        """
        if self.wide_rows is None:
            return derive(self.rows.joined(first, last), self.resolved, self.day_1)
        return replace(self.wide_rows, table=between(self.wide_rows.table, first, last))

    @property
    def is_wide(self) -> bool:
        """True if the derived rows are computed once and kept on the disk.

        A query that derives many columns is slow to compile, and several queries read these rows. Rows with too many
        cells are not kept, since they would fill the disk.
        """
        columns = columns_of(self.config)
        return columns > WIDE and columns * self.raw.log.rows <= KEPT_CELLS

    def _fill_in_from_log(self) -> None:
        """Compute day 1, edges and thresholds from the log if the configuration does not give them."""
        split = self.config.split
        if isinstance(split, DaySplit | HeldOutSplit):
            self.day_1 = find_day_1(self.engine, self.rows.joined(), self.resolved, whole=self.whole)
            if self.day_1 is not None and split.day_1 is None:
                self._fill_in(day_1=date_text(self.day_1))
        if not quantiles.are_known(self.config):
            rows = self.derived().table
            rows = self.engine.keep("unsettled", rows) if self.is_wide else self.engine.named(rows)
            edges, thresholds = quantiles.find(self.engine, rows, self.resolved)
            self._fill_in(edges=edges, thresholds=thresholds)

    def _fill_in(self, **values: Any) -> None:
        """Add values that were computed from the log to `[found]` of the configuration."""
        from_log = self.config.found.model_copy(update=values)
        self.config = self.config.model_copy(update={"found": from_log}).filled()

    def _rows_of(self, split: Split, counts: Survey, parts: Sequence[int]) -> ir.Table:
        """Return the derived rows of a split that lie in some parts of the log.

        A range of the log is filtered only if it also contains rows of other splits, or bad rows.

        Args:
            split: Split of the dataset.
            counts: Survey, which has the row range of each part.
            parts: Numbers of the parts, ascending.
        """
        tables = []
        for first, last, mixed in _runs([counts.parts[split][part] for part in parts]):
            table = self.derived(first, last + 1).table
            if mixed:
                in_split = table[SPLIT] == SPLITS.index(split)
                table = table.filter(in_split & (table[REASON] == 0) if counts.bad else in_split)
            tables.append(table)
        return tables[0] if len(tables) == 1 else ibis.union(*tables, distinct=False)

    def _vocabularies(self, train: ir.Table, rows: int) -> Vocabularies:
        """Make the vocabularies of all tables from the rows of train, and return them.

        Args:
            train: Derived rows of train.
            rows: Number of these rows.
        """
        vocabularies = Vocabularies(self.engine, self.config, self.stage.folder / VOCAB_DIR, self.parent)
        train = self.engine.named(train)
        bags = side_bags.training_bags(self.engine, self.rows.sides, train, self.resolved)
        share = self.raw.log.rows / max(len(vocabularies.names), 1)
        vocabularies.make(train, rows, bags, lambda tables: self.progress.advance(round(tables * share)))
        return vocabularies

    def _write(self, counts: Survey, vocabularies: Vocabularies) -> dict[Split, list[PartFile]]:
        """Write the parts of every split, and return the parts by split.

        The parts are written in units, each of which is a few parts that fit in memory together. Parts that a stopped
        run has completed are not written again.
        """
        writers: dict[str, SplitWriter] = {}
        entries, tables = vocabularies.entries, vocabularies.tables
        for split in SPLITS:
            folder = self.stage.folder / split
            folder.mkdir(exist_ok=True)
            writers[split] = SplitWriter(
                self.engine, self.config, folder, self.fingerprint, entries, tables, self.progress
            )
        at_once = self.engine.unit_rows(columns_of(self.config))
        bags = side_bags.encoded_bags(self.engine, self.raw.sides, entries, tables, self.resolved, at_once)
        units = chain.from_iterable(self._units(split, writers[split], counts, bags) for split in SPLITS)
        with closing(self.engine.write_units(units, columns_of(self.config), self.progress.advance)) as written:
            for unit, files in written:
                writers[unit.layout.folder.name].done(unit, files)
        return {split: writers[split].files() for split in SPLITS}

    def _units(self, split: Split, writer: SplitWriter, counts: Survey, bags: Mapping[str, ir.Table]) -> Iterator[Unit]:
        """Yield the units of a split.

        The rows of train are in the order of the log, those of valid and test in the order of their group.

        Args:
            split: Split of the dataset.
            writer: Writer of the split.
            counts: Survey, which has the row range of each part.
            bags: Encoded lists of the side tables, which are joined to the rows.
        """

        def rows_of(parts: Sequence[int]) -> ir.Table:
            return side_bags.with_bags(self._rows_of(split, counts, parts), bags)

        if split == "train":
            return writer.in_order({part: rows.rows for part, rows in counts.parts[split].items()}, rows_of)
        return writer.by_group(rows_of(sorted(counts.parts[split])), counts.rows[split])

    def _describe(self, counts: Survey, vocabularies: Vocabularies, files: Mapping[Split, Sequence[PartFile]]) -> None:
        """Write the statistics, `prep.toml`, `schema.toml` and at last `_SUCCESS`, which marks a complete dataset."""
        folder = self.stage.folder
        schema = build_schema(self.config, vocabularies.tables.values(), files, self.fingerprint, self.parent)
        parts = {split: sorted((folder / split).glob("*.parquet")) for split in SPLITS}
        described = stats.compute(
            self.engine,
            parts,
            schema,
            slices=self.config.slices,
            vocabularies={name: folder / VOCAB_DIR / f"{name}.parquet" for name in vocabularies.names},
            names=bucket_names(self.config),
            dropped=[{"split": split, "rows": rows, "reason": why} for (split, why), rows in counts.dropped.items()],
            overflow=vocabularies.overflow,
            every=-(-counts.rows["train"] // SLICE_SAMPLE),
            source=self.raw.listing(),
            groups=self._groups(counts),
        )
        columns = space_columns(self.config)
        spaces = {columns[task.name]: task.space for task in self.config.tasks if task.space is not None}
        stats.write_page(described, schema, folder / "stats.html", spaces)
        values = self.config.found.model_copy(update={"types": inferred_types(self.resolved)})
        write_whole(folder / PREP_FILE, dump_toml(self.original_config.model_copy(update={"found": values})))
        finish(folder, schema, self.fingerprint, described)

    def _groups(self, counts: Survey) -> Groups | None:
        """Return the groups of rows, such as those of a user, that the split never divides; None without groups."""
        key = split_key(self.config)
        if key is None or counts.groups is None:
            return None
        return Groups(self.resolved.parsed[key].text, columns_that_tell(key, self.resolved), *counts.groups)


def _runs(ranges: Sequence[RowRange]) -> list[tuple[int, int, bool]]:
    """Merge neighbouring ranges of the log into runs, each of which is read as one range.

    Ranges of only wanted rows are merged if they adjoin. Ranges that also contain other rows are merged in any case,
    since they need a filter anyway.

    Args:
        ranges: Ranges in the order of the log.

    Returns:
        First and last position of each run, and True if the run may contain other rows.
    """
    runs: list[tuple[int, int, bool]] = []
    for rows in ranges:
        if runs:
            first, last, mixed = runs[-1]
            if (mixed and not rows.whole) or (not mixed and rows.whole and rows.first == last + 1):
                runs[-1] = (first, rows.last, mixed)
                continue
        runs.append((rows.first, rows.last, not rows.whole))
    return runs
