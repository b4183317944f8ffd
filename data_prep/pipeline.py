"""Pipeline that makes a dataset directory from raw logs; `data_prep.run.prepare` calls it.

It makes these passes, each of which uses the results of the passes before it:

    discover   list the raw files, read their footers and digests -> fingerprint; an existing dataset with it is reused
    fill in    compute day 1, edges and thresholds from the log   -> table `[found]` of the configuration
    rates      count by key and day, and join the rates to rows   -> `rates/`
    histories  find the events before each row                    -> two offsets of each row
    survey     count the rows by split, part and day              -> row range of each part; an error if too many rows
                                                                     are bad, or a split has none
    count      count the raw values of each embedding table       -> `vocab/`, and `rates/` for values that may expire
    freeze     store the vectors of side tables once              -> `vectors/`
    events     encode and sort the events of histories            -> `histories/`
    encode     replace raw values by ids, and write the parts     -> `train/`, `valid/`, `test/`
    describe   compute statistics of the parts                    -> `stats.json`, `stats.html`, `schema.toml`,
                                                                     `prep.toml`, `_SUCCESS`

The caller of this module makes the pass `discover`; `Pipeline` makes the others.

Terms:

    log          table of samples, in one or more files; its rows are numbered by a position
    side table   table of users or items, for example, whose columns are joined to the log
    bag          list column of a side table
    part         one Parquet file of a split; during the survey, a range of `output.part_rows` positions of the log. A
                 file of train has the good rows of train in one range; the rows of valid and test in all ranges are
                 divided into files by group
    unit         a few parts that are encoded and written together, since they fit in memory
    day 1        day from which a split by day counts its days
    edges        boundaries of the buckets of a sparse feature that is made from numbers
    threshold    value above which a number is a positive label of a task
    space        condition that selects the rows which have the label of a task
    parent       earlier dataset whose ids are kept when a day is appended

Each pass builds Ibis expressions, and an engine (`data_prep.engines`: DuckDB or Spark) computes them. The files of the
dataset do not depend on the engine, on the number of threads or on the order in which the raw files are listed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, replace
from itertools import chain
from typing import Any

import ibis
import ibis.expr.types as ir

from data_prep import stats
from data_prep.diagnose import find_cause
from data_prep.engines.base import Engine, PartFile, Unit
from data_prep.failures import EngineError
from data_prep.first_day import find_day_1
from data_prep.output.frozen_tables import write_frozen_tables
from data_prep.output.histories import write_events
from data_prep.output.metadata import bucket_names, build_schema, column_types, inferred_types
from data_prep.output.parent import Parent
from data_prep.output.rate_tables import write_counted_tables
from data_prep.output.split_writer import MAX_KEPT_CELLS, SplitWriter, column_count, query_column_count
from data_prep.output.stage import Stage
from data_prep.output.writer import finish, write_atomically
from data_prep.page_checksums import check_pages
from data_prep.progress import Progress
from data_prep.sources.table import RawTables, refuse_changes
from data_prep.stats.drift import Groups
from data_prep.survey import Survey, survey
from data_prep.transforms import expression_scope, histories, quantiles, rates, side_bags
from data_prep.transforms.arithmetic import date_text
from data_prep.transforms.columns import REASON, SPLIT, space_columns
from data_prep.transforms.history_append import StoredEvents
from data_prep.transforms.json_counts import JsonCount, count_json, warn_of_texts
from data_prep.transforms.list_warnings import warn_of_lists
from data_prep.transforms.resolve import Resolved
from data_prep.transforms.rows import Derived, LogRows, derive, rows_between
from data_prep.transforms.splits import features_that_determine, split_key
from data_prep.transforms.vectors import FrozenVectors
from data_prep.vocabulary.build import Vocabularies
from ple_rec.config.base import SPLITS, Split
from ple_rec.config.load import dump_toml
from ple_rec.config.prep import PREP_FILE, DaySplit, HeldOutSplit, PrepConfig
from ple_rec.config.schema import HISTORIES_DIR, RATES_DIR, VECTORS_DIR, VOCAB_DIR, VectorTable

# Increase this version if a change of the code gives other parts, ids or normalisers for the same inputs.
FORMAT_VERSION = 5
# Correlations of labels within slices of the rows are computed from a sample of about this many training rows at most.
SLICE_SAMPLE_ROWS = 4_000_000
# With more columns than this, the computed rows of the log are kept on the disk; see `Pipeline.is_wide`.
WIDE_COLUMNS = 64
# Approximate relative durations of the phases, for the progress bar. The pass `fill in` belongs to the phase `survey`.
PHASES = {"survey": 1.0, "count": 2.0, "encode": 8.0, "describe": 2.2}


def fingerprint(config: PrepConfig, raw: RawTables, parent: str | None) -> str:
    """Return the digest of all inputs that determine the bytes of a dataset directory.

    Args:
        config: Configuration of the preparation.
        raw: Files of the log and of the side tables.
        parent: Fingerprint of the parent dataset, to which a day is appended; None if no day is appended.
    """
    content = {
        "format": FORMAT_VERSION,
        # The values of `[found]` follow from the files, or from the parent. Without vectors, the digest is that of
        # versions that had none.
        "config": config.model_dump(mode="json", exclude={"found"} | (set() if config.vectors else {"vectors"})),
        "log": raw.log.digest(),
        "sides": {name: table.digest() for name, table in sorted(raw.sides.items())},
        "parent": parent,
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


class Pipeline:
    """One run of the passes, which makes one dataset directory.

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
        original_config: Configuration as it was before the pass `fill in`.
        rows: Rows of the log, with the configuration as far as it is filled in.
        day_1: Day 1 of the split, as a number of days since 1970-01-01; None before it is known, and for a split
            without day 1.
        wide_rows: Rows of the log with all computed columns, kept by the engine. None if `is_wide` is False, and before
            they are computed.
        json_counts: Counts of the texts that are read as JSON; empty before they are counted.
        frozen_tables: Frozen tables that have been written, by name of the vector feature.
        rate_counts: Tables in which the rates are counted, by name; empty before they are counted.
        events: Events of each history with raw values, by its name; empty before they are computed.
        event_counts: Number of stored events of each history, by its name; empty before they are written.
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
        self.rows = LogRows(
            engine, replace(resolved, config=self.original_config.with_found_values(), tables=raw.by_name)
        )
        self.fingerprint, self.parent, self.progress = fingerprint, parent, progress
        self.day_1: int | None = None
        self.wide_rows: Derived | None = None
        self.json_counts: list[JsonCount] = []
        self.frozen_tables: dict[str, VectorTable] = {}
        self.rate_counts: Mapping[str, ir.Table] = {}
        self.events: Mapping[str, ir.Table] = {}
        self.event_counts: Mapping[str, int] = {}

    @property
    def resolved(self) -> Resolved:
        """Configuration with its parsed expressions, as far as it is filled in."""
        return self.rows.resolved

    @property
    def config(self) -> PrepConfig:
        """Configuration as far as it is filled in."""
        return self.resolved.config

    @config.setter
    def config(self, config: PrepConfig) -> None:
        self.rows = replace(self.rows, resolved=replace(self.resolved, config=config))

    @property
    def reads_every_row(self) -> bool:
        """True if every row of the log is read. A dry run reads a sample and overrides this property."""
        return True

    @property
    def log_rows_per_row(self) -> float:
        """Number of rows of the log for which each row that is read stands. A dry run overrides this property."""
        return 1.0

    def run(self) -> None:
        """Write every file of the dataset directory into the stage.

        Raises:
            UserError: The configuration does not fit the log, memory is exhausted, or the disk is full.
            DataError: The log breaks a rule, or a file is damaged or has changed since it was listed.
        """
        try:
            # The fingerprint contains the digests of the raw files, so the files must not change while they are read.
            with refuse_changes(self.raw.files):
                counts, vocabularies, files = self._process_raw_rows()
            self.progress.begin_phase("describe")
            self._write_descriptions(counts, vocabularies, files)
        except EngineError as error:
            raise find_cause(error, self.engine, self.resolved, self.rows.joined) from error

    def _process_raw_rows(self) -> tuple[Survey, Vocabularies, dict[Split, list[PartFile]]]:
        """Run the passes from `fill in` to `encode`, which read raw rows.

        Returns:
            Counts of the survey, vocabularies, and parts by split.
        """
        self.progress.begin_phase("survey")
        for table in self.resolved.tables.values():
            self.resolved.check_columns(table)
        expression_scope.warn_of_offsets(self.resolved)
        warn_of_lists(self.resolved)
        if not self.engine.verifies_pages:
            check_pages(self.resolved)
        # The rows of side tables that belong to a row of the log are looked up once, for all passes.
        self.rows = self.rows.with_sides().materialize_links()
        frozen = FrozenVectors(self.engine, self.rows.sides, self.resolved)
        self._fill_in_from_log()
        if self.is_wide:
            derived = self.derived_rows()
            self.wide_rows = replace(derived, table=self.engine.materialize("derived", derived.table))
        counts = survey(self.engine, self.derived_rows(), self.resolved, self.raw.log, self.day_1)
        self._count_json()
        if self.wide_rows is not None:
            # Columns that only messages about bad rows show are not needed after the survey.
            narrow = self.engine.select_columns(self.wide_rows.table, self.wide_rows.part_columns())
            self.wide_rows = replace(self.wide_rows, table=narrow)
        self.progress.begin_phase("count")
        train = self._split_rows("train", counts, sorted(counts.part_ranges["train"]))
        vocabularies = self._build_vocabularies(train, counts.rows["train"])
        self.progress.begin_phase("encode")
        value_tables = self.config.value_tables
        counts_of_values = {value_tables[table]: each for table, each in vocabularies.value_counts.items()}
        counted_tables = {**self.rate_counts, **counts_of_values}
        write_counted_tables(self.engine, counted_tables, self.stage.folder / RATES_DIR, self.fingerprint)
        self.frozen_tables = write_frozen_tables(frozen, self.stage.folder / VECTORS_DIR, self.fingerprint)
        self.event_counts = write_events(
            self.engine,
            self.config,
            self.events,
            vocabularies.lookup_tables,
            vocabularies.tables,
            self.stage.folder / HISTORIES_DIR,
            self.fingerprint,
        )
        return counts, vocabularies, self._write_parts(counts, vocabularies, frozen)

    def _count_json(self) -> None:
        """Set `json_counts`, and warn of texts that are not JSON."""
        self.json_counts = count_json(self.engine, self.rows.joined(), self.resolved)
        warn_of_texts(self.json_counts, self.raw.log)

    def derived_rows(self, first: int = 0, last: int | None = None) -> Derived:
        """Return rows of the log with all computed columns, except that sparse features still have their raw values.

        Args:
            first: Position of the first row.
            last: Position after the last row; None for the end of the log.
        """
        if self.wide_rows is None:
            return derive(self.rows.joined(first, last), self.resolved, self.day_1)
        return replace(self.wide_rows, table=rows_between(self.wide_rows.table, first, last))

    @property
    def is_wide(self) -> bool:
        """True if the computed rows are kept on the disk, so that the survey, the counts and the parts read them there.

        A query that computes many columns is slow to compile, and each query that reads a JSON field parses the text
        again. Rows with too many cells are not kept, since they would fill the disk.
        """
        is_slow = query_column_count(self.config) > WIDE_COLUMNS
        reads_json = any(expression.json_texts for expression in self.resolved.parsed.values())
        return (is_slow or reads_json) and column_count(self.config) * self.raw.log.rows <= MAX_KEPT_CELLS

    def _fill_in_from_log(self) -> None:
        """Set `day_1`, join rates and histories, and compute edges and thresholds that are left to the log."""
        split = self.config.split
        if isinstance(split, DaySplit | HeldOutSplit):
            self.day_1 = find_day_1(self.engine, self.rows.joined(), self.resolved, is_complete=self.reads_every_row)
            if self.day_1 is not None and split.day_1 is None:
                self._fill_in(day_1=date_text(self.day_1))
        self._fill_in_quantiles()
        if self.config.rates:
            # A bad row counts in no rate, and labels, by whose thresholds rows may be bad, do not read rates. So
            # thresholds are computed before rates, but the edges of features that read rates after them.
            earlier = None
            if self.parent is not None:
                earlier = rates.RateCounts.read(self.engine, self.parent.config, self.parent.rate_tables)
            complete, say = self.reads_every_row, self.progress.say
            counts = rates.count_rates(self.rows, self.day_1, is_complete=complete, earlier=earlier, say=say)
            self.rows = rates.with_rates(self.rows, counts)
            self.rate_counts = counts.tables
            self._fill_in(**counts.dates())
            self._fill_in_quantiles()
        if self.config.histories:
            events = None
            if self.parent is not None:
                events = StoredEvents.read(self.engine, self.parent.config, self.parent.events)
            complete, say = self.reads_every_row, self.progress.say
            self.rows, events = histories.with_histories(
                self.rows, self.day_1, is_complete=complete, earlier=events, say=say
            )
            self.events = events.tables
            self._fill_in(**events.dates())

    def _fill_in_quantiles(self) -> None:
        """Compute the unknown edges and thresholds that can be computed from the present columns of `rows`."""
        if not quantiles.are_known(self.config):
            rows = self.derived_rows().table  # Computed without the edges and thresholds, which are not known yet.
            rows = self.engine.materialize("unsettled", rows) if self.is_wide else self.engine.create_view(rows)
            edges, thresholds = quantiles.find(self.engine, rows, self.resolved)
            known = self.config.found
            self._fill_in(edges=known.edges | edges, thresholds=known.thresholds | thresholds)

    def _fill_in(self, **values: Any) -> None:
        """Add values that were computed from the log to `[found]` of the configuration."""
        from_log = self.config.found.model_copy(update=values)
        self.config = self.config.model_copy(update={"found": from_log}).with_found_values()

    def _split_rows(self, split: Split, counts: Survey, parts: Sequence[int]) -> ir.Table:
        """Return the rows of a split in some parts, with all computed columns.

        A range of the log is filtered by split only if it also contains rows of other splits, or bad rows.

        Args:
            split: Split of the dataset.
            counts: Survey, which has the row range of each part.
            parts: Numbers of the parts, in ascending order.
        """
        tables = []
        for first, last, needs_filter in counts.merge_ranges(split, parts):
            table = self.derived_rows(first, last + 1).table
            if needs_filter:
                in_split = table[SPLIT] == SPLITS.index(split)
                table = table.filter(in_split & (table[REASON] == 0) if counts.bad_rows else in_split)
            tables.append(table)
        return tables[0] if len(tables) == 1 else ibis.union(*tables, distinct=False)

    def _build_vocabularies(self, train: ir.Table, rows: int) -> Vocabularies:
        """Make the vocabularies of all tables from the rows of train, and return them.

        Args:
            train: Training rows with all computed columns.
            rows: Number of these rows.
        """
        folder = self.stage.folder / VOCAB_DIR
        vocabularies = Vocabularies(self.engine, self.config, folder, self.parent, self.log_rows_per_row)
        train = self.engine.create_view(train)
        by_day = bool(self.config.value_tables)
        bags = side_bags.training_bags(self.engine, self.rows.sides, train, self.resolved, by_day=by_day)
        # Progress is counted in rows of the log, which are divided among the tables here. `done` is a number of tables.
        rows_per_table = self.raw.log.rows / max(len(vocabularies.names), 1)
        vocabularies.build(train, rows, bags, lambda done: self.progress.advance(round(done * rows_per_table)))
        return vocabularies

    def _write_parts(
        self, counts: Survey, vocabularies: Vocabularies, frozen: FrozenVectors
    ) -> dict[Split, list[PartFile]]:
        """Write the parts of every split in units of a few parts, and return the parts by split.

        Parts that an interrupted run has completed are not written again.
        """
        writers: dict[str, SplitWriter] = {}
        lookup_tables, embedding_tables = vocabularies.lookup_tables, vocabularies.tables
        for split in SPLITS:
            folder = self.stage.folder / split
            folder.mkdir(exist_ok=True)
            writers[split] = SplitWriter(
                self.engine, self.config, folder, self.fingerprint, lookup_tables, embedding_tables, self.progress
            )
        max_rows = self.engine.max_unit_rows(column_count(self.config))
        bags = side_bags.encoded_bags(
            self.engine, self.raw.sides, lookup_tables, embedding_tables, self.resolved, max_rows
        )

        def with_side_values(rows: ir.Table) -> ir.Table:
            return frozen.with_rows(side_bags.with_bags(rows, bags))

        units = chain.from_iterable(
            self._split_units(split, writers[split], counts, with_side_values) for split in SPLITS
        )
        with closing(self.engine.write_units(units, column_count(self.config), self.progress.advance)) as written:
            for unit, files in written:
                writers[unit.sink.folder.name].record_written(unit, files)
        return {split: writers[split].files() for split in SPLITS}

    def _split_units(
        self, split: Split, writer: SplitWriter, counts: Survey, with_side_values: Callable[[ir.Table], ir.Table]
    ) -> Iterator[Unit]:
        """Yield the units in which the parts of a split are written.

        Training rows are in the order of the log. Rows of valid and test are sorted by their group, such as the user.

        Args:
            split: Split of the dataset.
            writer: Writer of the split.
            counts: Survey, which has the row range of each part.
            with_side_values: Function that adds columns: the encoded bags of side tables, and rows of frozen tables.
        """

        def read_parts(parts: Sequence[int]) -> ir.Table:
            return with_side_values(self._split_rows(split, counts, parts))

        if split == "train":
            return writer.units_in_log_order(
                {part: rows.rows for part, rows in counts.part_ranges[split].items()}, read_parts
            )
        return writer.units_by_group(read_parts(sorted(counts.part_ranges[split])), counts.rows[split])

    def _write_descriptions(
        self, counts: Survey, vocabularies: Vocabularies, files: Mapping[Split, Sequence[PartFile]]
    ) -> None:
        """Write the statistics, `prep.toml`, `schema.toml` and at last `_SUCCESS`, which marks a complete dataset."""
        folder = self.stage.folder
        schema = build_schema(
            self.config,
            vocabularies.tables.values(),
            files,
            self.fingerprint,
            self.parent,
            self.frozen_tables,
            self.event_counts,
        )
        parts = {split: sorted((folder / split).glob("*.parquet")) for split in SPLITS}
        described = stats.compute(
            self.engine,
            parts,
            schema,
            slices=self.config.slices,
            vocabularies={name: folder / VOCAB_DIR / f"{name}.parquet" for name in vocabularies.names},
            frozen_tables={name: folder / VECTORS_DIR / f"{name}.parquet" for name in self.frozen_tables},
            names=bucket_names(self.config),
            dropped=[
                {"split": split, "rows": rows, "reason": why} for (split, why), rows in counts.dropped_rows.items()
            ],
            overflow=vocabularies.overflow,
            table_rows={table: asdict(each) for table, each in vocabularies.row_counts.items()},
            slice_stride=-(-counts.rows["train"] // SLICE_SAMPLE_ROWS),
            source=self.raw.listing(),
            groups=self._groups(counts),
            json_texts=[count.to_json() for count in self.json_counts],
        )
        columns = space_columns(self.config)
        spaces = {columns[task.name]: task.space for task in self.config.tasks if task.space is not None}
        stats.write_page(described, schema, folder / "stats.html", spaces)
        types = {"types": inferred_types(self.resolved), "columns": column_types(self.resolved)}
        values = self.config.found.model_copy(update=types)
        write_atomically(folder / PREP_FILE, dump_toml(self.original_config.model_copy(update={"found": values})))
        finish(folder, schema, self.fingerprint, described)

    def _groups(self, counts: Survey) -> Groups | None:
        """Describe the groups, such as all rows of a user, that the split keeps together; None if it keeps none."""
        key = split_key(self.config)
        if key is None or counts.effective_groups is None:
            return None
        # The effective numbers of groups are those of train, and of valid and test together.
        return Groups(
            self.resolved.parsed[key].text, features_that_determine(key, self.resolved), *counts.effective_groups
        )
