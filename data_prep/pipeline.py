"""Raw logs -> a dataset directory: the passes in their order.

    discover   files, footers, digests               -> fingerprint; the same one is there: done
    settle     day 1, edges and thresholds           -> `[found]` of `prep.toml`
    survey     rows by split, part and day; bad rows -> what will be written, or a refusal
    count      the vocabulary of every table         -> `vocab/`
    encode     ids, labels, spaces                   -> `train/`, `valid/`, `test/`
    describe   statistics of the parts               -> `stats.json`, `stats.html`, `schema.toml`, `_SUCCESS`

Every pass is Ibis expressions; an engine (`data_prep.engines`) runs them. Nothing that is written depends on the
engine, on the number of threads or on the order in which files are listed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import ibis
import ibis.expr.types as ir

from data_prep import stats
from data_prep.diagnose import diagnosed
from data_prep.engines.base import Engine, Unit
from data_prep.engines.failures import EngineError
from data_prep.output.metadata import bucket_names, build_schema, inferred_types
from data_prep.output.parent import Parent
from data_prep.output.parts import PartFile
from data_prep.output.split_writer import KEPT_CELLS, SplitWriter, columns_of
from data_prep.output.stage import Stage
from data_prep.output.writer import finish, write_whole
from data_prep.page_checksums import check_pages
from data_prep.progress import Progress
from data_prep.sources.files import RawFile, RawTable
from data_prep.sources.table import refuse_changes
from data_prep.stats.drift import Groups
from data_prep.survey import RowRange, Survey, no_day, survey
from data_prep.transforms import expression_scope, quantiles, side_bags
from data_prep.transforms.arithmetic import number_of, numbered, text_of
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

FORMAT_VERSION = 5  # raise it when the same configuration and files would give other parts, ids or normalisers
SLICE_SAMPLE = 4_000_000  # rows of train that label correlations are sliced on, about, at most
WIDE = 64  # Rows with more columns than these are derived once, and kept, if their cells are few.
PHASES = {"survey": 1.0, "count": 2.0, "encode": 8.0, "describe": 2.2}  # about how long each takes


@dataclass(frozen=True)
class RawTables:
    """The files of a run: the log and its side tables."""

    log: RawTable
    sides: Mapping[str, RawTable]

    @property
    def files(self) -> list[RawFile]:
        """The files of all tables."""
        return [file for table in (self.log, *self.sides.values()) for file in table.files]


def fingerprint(config: PrepConfig, raw: RawTables, parent: str | None) -> str:
    """Digest of all that the bytes of a dataset directory depend on."""
    content = {
        "format": FORMAT_VERSION,
        # Without `found`, whose values follow from the files, or from the parent.
        "config": config.model_dump(mode="json", exclude={"found"}),
        "log": raw.log.digest(),
        "sides": {name: table.digest() for name, table in sorted(raw.sides.items())},
        "parent": parent,
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def find_day_1(engine: Engine, rows: ir.Table, resolved: Resolved, *, whole: bool = True) -> int | None:
    """Return day 1 of a split by day, in days from 1970-01-01; None where it is not needed.

    The first day of rows that are not the `whole` log may be later than that of the log, and so refuses no split.

    Raises:
        UserError: By it the days of the split are not in order.
        DataError: It is the first day of the log, and no row has a day.
    """
    split = resolved.config.split
    if not isinstance(split, DaySplit | HeldOutSplit):
        return None
    if split.day_1 is None and all(isinstance(day, str) for day in split.named_days()):
        return None
    day_1 = number_of(split.day_1) if split.day_1 is not None else _first_day(engine, rows, resolved)
    known = whole or split.day_1 is not None
    if known and isinstance(split, DaySplit) and (problems := split.misplaced(lambda day: numbered(day, day_1))):
        raise ConfigError.of(resolved.place, [f"split: {problem}" for problem in problems])
    return day_1


def _first_day(engine: Engine, rows: ir.Table, resolved: Resolved) -> int:
    """The first day of the log."""
    local = expression_scope.local_time(expression_scope.columns_of(rows), resolved)
    times = rows.select(count=local.count, sane=local.sane)
    found = engine.fetch(times.filter("sane").aggregate(first=times["count"].min()))["first"][0].as_py()
    if found is None:
        raise no_day(engine, rows, resolved)
    return local.day_at(found)


class Pipeline:
    """One run.

    Args:
        engine: Runs the expressions.
        resolved: Configuration, of an appended day with the `[found]` of the parent.
        raw: Files of the log and of the side tables.
        stage: Folder in which the dataset grows.
        fingerprint: Fingerprint of the dataset.
        parent: Dataset whose ids this one keeps.
        progress: Progress for people who wait.

    Attributes:
        given: Configuration without the values that are taken from this log.
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
        self.given = resolved.config
        tables = {"log": raw.log, **raw.sides}
        self.rows = LogRows(engine, replace(resolved, config=self.given.filled(), tables=tables))
        self.fingerprint, self.parent, self.progress = fingerprint, parent, progress
        self.day_1: int | None = None
        self.kept: Derived | None = None

    @property
    def resolved(self) -> Resolved:
        """The configuration with its expressions and the values that were taken from the log so far."""
        return self.rows.resolved

    @property
    def config(self) -> PrepConfig:
        """The configuration with the values that were taken from the log so far."""
        return self.resolved.config

    @config.setter
    def config(self, config: PrepConfig) -> None:
        self.rows = replace(self.rows, resolved=replace(self.resolved, config=config))

    @property
    def whole(self) -> bool:
        """Whether every row of the log is read."""
        return True

    def run(self) -> None:
        """Make every file of the dataset directory in the stage.

        Raises:
            UserError: The configuration does not fit the log, or memory is exhausted.
            DataError: The log breaks a rule, a file has changed since it was listed, or the disk is full.
        """
        try:
            with refuse_changes(self.raw.files):  # of which the fingerprint speaks
                found, made, files = self._read()
            self.progress.phase("describe")
            self._describe(found, made, files)
        except EngineError as error:
            raise diagnosed(error, self.engine, self.resolved, self.rows.joined) from error

    def _read(self) -> tuple[Survey, Vocabularies, dict[Split, list[PartFile]]]:
        """Survey, vocabularies and parts: all that reads the raw files."""
        self.progress.phase("survey")
        for table in self.resolved.tables.values():
            self.resolved.check_columns(table)
        expression_scope.warn_of_offsets(self.resolved)
        warn_of_lists(self.resolved)
        if not self.engine.verifies_pages:
            check_pages(self.resolved)
        self.rows = self.rows.with_sides().linked_once()
        self._settle()
        if self.is_wide:
            derived = self.derived()
            self.kept = replace(derived, table=self.engine.keep("derived", derived.table))
        found = survey(self.engine, self.derived(), self.resolved, self.raw.log, self.day_1)
        if self.kept is not None:
            self.kept = replace(self.kept, table=self.engine.narrow(self.kept.table, self.kept.for_parts()))
        self.progress.phase("count")
        train = self._rows_of("train", found, sorted(found.parts["train"]))
        made = self._vocabularies(train, found.rows["train"])
        self.progress.phase("encode")
        return found, made, self._write(found, made)

    def derived(self, first: int = 0, last: int | None = None) -> Derived:
        """Return the rows whose position lies in a range, with every column of the dataset but the ids."""
        if self.kept is None:
            return derive(self.rows.joined(first, last), self.resolved, self.day_1)
        return replace(self.kept, table=between(self.kept.table, first, last))

    @property
    def is_wide(self) -> bool:
        """Whether rows are derived once and kept, since each query over so many columns is slow to compile."""
        columns = columns_of(self.config)
        return columns > WIDE and columns * self.raw.log.rows <= KEPT_CELLS

    def _settle(self) -> None:
        """Fill in what the configuration leaves to the log: day 1, edges, thresholds."""
        split = self.config.split
        if isinstance(split, DaySplit | HeldOutSplit):
            self.day_1 = find_day_1(self.engine, self.rows.joined(), self.resolved, whole=self.whole)
            if self.day_1 is not None and split.day_1 is None:
                self._fill_in(day_1=text_of(self.day_1))
        if not quantiles.are_known(self.config):
            rows = self.derived().table
            rows = self.engine.keep("unsettled", rows) if self.is_wide else self.engine.named(rows)
            edges, thresholds = quantiles.find(self.engine, rows, self.resolved)
            self._fill_in(edges=edges, thresholds=thresholds)

    def _fill_in(self, **values: Any) -> None:
        """Put values that were taken from the log into the configuration."""
        found = self.config.found.model_copy(update=values)
        self.config = self.config.model_copy(update={"found": found}).filled()

    def _rows_of(self, split: Split, found: Survey, parts: Sequence[int]) -> ir.Table:
        """The rows of a split that lie in some parts of the log, ascending; row by row only where parts are mixed."""
        tables = []
        for first, last, mixed in _runs([found.parts[split][part] for part in parts]):
            table = self.derived(first, last + 1).table
            if mixed:
                mine = table[SPLIT] == SPLITS.index(split)
                table = table.filter(mine & (table[REASON] == 0) if found.bad else mine)
            tables.append(table)
        return tables[0] if len(tables) == 1 else ibis.union(*tables, distinct=False)

    def _vocabularies(self, train: ir.Table, rows: int) -> Vocabularies:
        made = Vocabularies(self.engine, self.config, self.stage.folder / VOCAB_DIR, self.parent)
        train = self.engine.named(train)
        bags = side_bags.met_bags(self.engine, self.rows.sides, train, self.resolved)
        share = self.raw.log.rows / max(len(made.names), 1)
        made.make(train, rows, bags, lambda tables: self.progress.advance(round(tables * share)))
        return made

    def _write(self, found: Survey, made: Vocabularies) -> dict[Split, list[PartFile]]:
        """The parts of every split; those that a stopped run has finished stay."""
        writers: dict[str, SplitWriter] = {}
        for split in SPLITS:
            folder = self.stage.folder / split
            folder.mkdir(exist_ok=True)
            writers[split] = SplitWriter(self.engine, self.config, folder, self.fingerprint, made, self.progress)
        at_once = self.engine.unit_rows(columns_of(self.config))
        bags = side_bags.encoded_bags(self.engine, self.raw.sides, made, self.resolved, at_once)
        units = chain.from_iterable(self._units(split, writers[split], found, bags) for split in SPLITS)
        with closing(self.engine.write_units(units, columns_of(self.config), self.progress.advance)) as written:
            for unit, files in written:
                writers[unit.layout.folder.name].done(unit, files)
        return {split: writers[split].files() for split in SPLITS}

    def _units(self, split: Split, writer: SplitWriter, found: Survey, bags: Mapping[str, ir.Table]) -> Iterator[Unit]:
        def rows_of(parts: Sequence[int]) -> ir.Table:
            return side_bags.with_bags(self._rows_of(split, found, parts), bags)

        if split == "train":
            return writer.in_order({part: here.rows for part, here in found.parts[split].items()}, rows_of)
        return writer.by_group(rows_of(sorted(found.parts[split])), found.rows[split])

    def _describe(self, found: Survey, made: Vocabularies, files: Mapping[Split, Sequence[PartFile]]) -> None:
        """`schema.toml`, `prep.toml`, statistics, and `_SUCCESS` last."""
        folder = self.stage.folder
        schema = build_schema(self.config, made, files, self.fingerprint, self.parent)
        parts = {split: sorted((folder / split).glob("*.parquet")) for split in SPLITS}
        described = stats.compute(
            self.engine,
            parts,
            schema,
            slices=self.config.slices,
            vocabularies={name: folder / VOCAB_DIR / f"{name}.parquet" for name in made.names},
            names=bucket_names(self.config),
            dropped=[{"split": split, "rows": rows, "reason": why} for (split, why), rows in found.dropped.items()],
            overflow=made.overflow,
            every=-(-found.rows["train"] // SLICE_SAMPLE),
            source=source_of(self.raw),
            groups=self._groups(found),
        )
        columns = space_columns(self.config)
        spaces = {columns[task.name]: task.space for task in self.config.tasks if task.space is not None}
        stats.write_page(described, schema, folder / "stats.html", spaces)
        values = self.config.found.model_copy(update={"types": inferred_types(self.resolved)})
        write_whole(folder / PREP_FILE, dump_toml(self.given.model_copy(update={"found": values})))
        finish(folder, schema, self.fingerprint, described)

    def _groups(self, found: Survey) -> Groups | None:
        """The groups of rows that the split deals out whole, if it does."""
        key = split_key(self.config)
        if key is None or found.groups is None:
            return None
        return Groups(self.resolved.parsed[key].text, columns_that_tell(key, self.resolved), *found.groups)


def _runs(stretches: Sequence[RowRange]) -> list[tuple[int, int, bool]]:
    """Ascending stretches, joined where they may be read together.

    Returns:
        First and last position, and whether other rows may lie between.
    """
    runs: list[tuple[int, int, bool]] = []
    for here in stretches:
        if runs:
            first, last, mixed = runs[-1]
            if (mixed and not here.whole) or (not mixed and here.whole and here.first == last + 1):
                runs[-1] = (first, here.last, mixed)
                continue
        runs.append((here.first, here.last, not here.whole))
    return runs


def source_of(raw: RawTables) -> list[dict[str, Any]]:
    """The files of a run, for `stats.json`."""
    tables = {"log": raw.log, **raw.sides}
    return [
        {"table": name, "file": file.shown, "rows": file.rows, "bytes": file.size, "identity": file.identity}
        for name, table in tables.items()
        for file in table.files
    ]
