"""Construction of the vocabularies of a dataset, which map raw values to rows of embedding tables.

The values of a column in the training rows are counted and numbered by their frequency (`numbering.py`). A vocabulary
is written to `vocab/<table>.parquet` with the columns `raw`, `row` and `count`, and is opened as a table to join with.
Features that share an embedding table share a vocabulary.

On an appended day, the values of the parent's vocabulary keep their rows, and new values get the lowest rows that are
free. A vocabulary of an appended day has one column more, `day`: the day on which the row was assigned to its value, in
days from 1970-01-01; it is null if the day is not known. If the configuration of the table has `admit` or `expire`,
`turnover.py` decides which values get rows and which lose them. A row whose value has lost it keeps its place, with a
null `raw`, until another value gets it. So the place of an entry in the file is always its row.

Row 0 stands for missing values. A table may have a *capacity*, a fixed number of rows. Values without a row of their
own are unknown: they share row 0, or are hashed into the last rows of the table if these are set apart (`hash_rows`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import islice
from pathlib import Path

import ibis
import ibis.expr.types as ir
import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.engines.base import PART, Engine
from data_prep.engines.look_up import LookupTable
from data_prep.output.parent import Parent
from data_prep.output.parts import ParquetPartSink
from data_prep.sources.footers import read_verified_footer
from data_prep.transforms.arithmetic import date_text
from data_prep.transforms.columns import DAY
from data_prep.transforms.list_warnings import warn_of_pieces
from data_prep.transforms.splits import last_training_day
from data_prep.vocabulary import numbering, turnover
from data_prep.vocabulary.plan import VocabularyPlan, plan_vocabulary, table_capacity
from ple_rec.config.prep import MAX_ROWS, PrepConfig, SparseSpec, TableSpec
from ple_rec.config.schema import VOCAB_DAY, Table
from ple_rec.errors import DataError

logger = logging.getLogger(__name__)

ROW_GROUP_ROWS = 1_048_576  # Rows of a row group of a vocabulary's file.
_CHECKED_VALUES = 65_536  # Values of a bag that are checked for brackets and quotes of lists that were split badly.
# A vocabulary of n integers may be *spread*: every integer of their range gets an entry, so that an inner join,
# which is faster than a left join, keeps all rows. The range may have at most 32 n + 65,536 integers.
_MAX_SPREAD_FACTOR, _MAX_SPREAD_EXTRA = 32, 65_536
MIN_ROWS_TO_SPREAD = 2**20  # With fewer training rows, spreading takes longer than the faster join saves.
# One query counts several vocabularies, up to these numbers of values (one per training row and vocabulary) and of
# vocabularies.
_MAX_VALUES_PER_QUERY, _MAX_VOCABULARIES_PER_QUERY = 2**20, 64
_INT64_MIN, _INT64_MAX = -(2**63), 2**63 - 1


class Vocabularies:
    """Vocabularies of a dataset.

    Args:
        engine: Engine that counts values and joins with vocabularies.
        config: Configuration of the preparation.
        folder: Folder `vocab/` of the dataset; complete files that a stopped run has left are used.
        parent: Dataset to which a day is appended, and whose ids the day keeps; None if no day is appended.
        weight: Number of rows of the log for which each training row stands; more than 1 for a sample of the log.

    Attributes:
        names: Names of the tables that have a vocabulary.
        tables: Embedding tables by name; before `build`, only those of bucketised features.
        lookup_tables: Vocabularies to join with, by table.
        overflow: Overflow of each table with more values than rows: the number of `values` without a row of their own,
            the `limit` of values with one, and the `handling` of the former, "row 0" or "hashed".
        value_counts: Counts of values by day (`turnover.py`), by table; only of tables with `admit` or `expire`.
        row_counts: Numbers of rows of the same tables, by table; empty if no day is appended.
    """

    def __init__(
        self, engine: Engine, config: PrepConfig, folder: Path, parent: Parent | None, weight: float = 1.0
    ) -> None:
        self.engine, self.config, self.folder, self.parent, self.weight = engine, config, folder, parent, weight
        folder.mkdir(exist_ok=True)
        self.names = list(dict.fromkeys(f.table_name for f in config.sparse if not f.bucketised))
        self.tables: dict[str, Table] = {
            f.name: Table(name=f.name, rows=len(f.edges or ()) + 2) for f in config.sparse if f.bucketised
        }
        self.lookup_tables: dict[str, LookupTable] = {}
        self.overflow: dict[str, dict[str, int | str]] = {}
        self.value_counts: dict[str, ir.Table] = {}
        self.row_counts: dict[str, turnover.TableRowCounts] = {}

    @cached_property
    def day(self) -> int:
        """Last training day, in days from 1970-01-01."""
        day = last_training_day(self.config)
        assert day is not None  # Only a split by day has a parent, or tables with `admit` or `expire`.
        return day

    def path(self, table: str) -> Path:
        """Return the path of the vocabulary of a table."""
        return self.folder / f"{table}.parquet"

    def build(self, train: ir.Table, rows: int, bags: Mapping[str, ir.Table], advance: Callable[[int], None]) -> None:
        """Count the values of every table in the training rows, number them, and write the vocabularies.

        Args:
            train: Training rows, as a view of the engine.
            rows: Number of the training rows.
            bags: Rows of side tables, by the bag feature that is read from them. The column `LOG_ROW_COUNT` holds the
                number of training rows to which a row of the side table is joined: those of the day in the column
                `DAY` if values of a table are counted by day.
            advance: Callback that gets the number of tables that have just been counted.

        Raises:
            UserError: Features of several types share a table.
            DataError: A table would have more rows than an int32 can count, or values of another type than in the
                parent dataset; or all its values expire, and no value is new.
        """
        features: dict[str, list[SparseSpec]] = {name: [] for name in self.names}
        for feature in self.config.sparse:
            if not feature.bucketised:
                features[feature.table_name].append(feature)
        # Vocabularies that one query counts have values of one type, and all or none of them read side tables. Values
        # of a vocabulary in `by_day` are counted by a query of its own.
        by_type: dict[tuple[pa.DataType, bool], list[VocabularyPlan]] = {}
        by_day: list[VocabularyPlan] = []
        for name in self.names:
            vocabulary = plan_vocabulary(self.config, self.parent, name, features[name], train)
            # The counts by day are written after all vocabularies, so a run that goes on after a stop counts again.
            if vocabulary.spec.counted_days:
                by_day.append(vocabulary)
                continue
            footer = read_verified_footer(self.path(name))
            # A full vocabulary is counted again for `overflow`, since its file does not hold the values without a row.
            if footer is None or (vocabulary.has_fixed_size and footer.num_rows == vocabulary.limit):
                by_type.setdefault((vocabulary.kind, any(f.name in bags for f in vocabulary.features)), []).append(
                    vocabulary
                )
        batch_size = max(1, min(_MAX_VOCABULARIES_PER_QUERY, _MAX_VALUES_PER_QUERY // max(rows, 1)))
        batches = [
            group[first : first + batch_size]
            for group in by_type.values()
            for first in range(0, len(group), batch_size)
        ]
        for batch in [*batches, *([vocabulary] for vocabulary in by_day)]:
            self._write_batch(batch, train, bags)
            advance(len(batch))
        for name in self.names:
            self._add_written(name, features[name], rows)

    def _add_written(self, table: str, features: Sequence[SparseSpec], rows: int) -> None:
        """Add a vocabulary that has been written to `tables` and `lookup_tables`; `rows` counts the training rows.

        A vocabulary with too many values for its table is removed and refused. Values of a bag that look like pieces of
        printed lists give a warning.
        """
        for feature in features:
            if feature.bag:
                self._warn_of_pieces(feature)
        spec = self.config.tables.get(table, TableSpec())
        capacity, allocated = table_capacity(self.config, self.parent, table)
        footer = pq.read_metadata(self.path(table))
        used_rows, limit = footer.num_rows + 1, allocated - spec.hash_rows - 1
        if used_rows - 1 > limit:
            self.path(table).unlink()
            raise DataError(
                f"vocabulary of table {table!r}",
                f"more than {limit:,} values in train",
                f"ids are int32, so a table has at most {MAX_ROWS:,} rows",
                f'set tables.{table}.min_count, or capacity with overflow = "hash"',
            )
        if capacity is None and spec.hash_rows:
            capacity = used_rows + spec.hash_rows
        if self.parent is not None and spec.counted_days:
            files = self.path(table), self.parent.vocabularies[table]
            self.row_counts[table] = turnover.TableRowCounts.of_files(*files, self.day, limit)
        self.tables[table] = Table(name=table, rows=used_rows, capacity=capacity, hash_rows=spec.hash_rows)
        self.lookup_tables[table] = self._lookup_table(table, footer, rows)

    def _lookup_table(self, table: str, footer: pq.FileMetaData, rows: int) -> LookupTable:
        """Return a vocabulary to join with `rows` training rows, spread if that makes the join faster."""
        entries = self.engine.read([self.path(table)])
        integers = entries["raw"].type().is_integer()
        if not self.engine.max_inner_join_span or not integers or not footer.num_rows or rows < MIN_ROWS_TO_SPREAD:
            return LookupTable(entries)
        ends = [footer.row_group(i).column(0).statistics for i in range(footer.num_row_groups)]
        # A row group of freed rows alone has no least and greatest value.
        ends = [statistics for statistics in ends if statistics.has_min_max]
        if not ends:
            return LookupTable(entries)
        low, high = min(statistics.min for statistics in ends), max(statistics.max for statistics in ends)
        too_wide = high - low + 2 > min(
            self.engine.max_inner_join_span, _MAX_SPREAD_FACTOR * footer.num_rows + _MAX_SPREAD_EXTRA
        )
        if too_wide or low == _INT64_MIN or high == _INT64_MAX:
            return LookupTable(entries)
        return LookupTable(
            self.engine.materialize(f"spread_{table}", numbering.spread_over_range(entries, low, high)), low, high
        )

    def _write_batch(self, batch: Sequence[VocabularyPlan], train: ir.Table, side_bags: Mapping[str, ir.Table]) -> None:
        """Count, number and write several vocabularies by one query; their values have the same type.

        The column `PART` holds the index of the vocabulary in `batch` that a row belongs to.
        """
        values, known = self._collect_values(batch, train, side_bags), self._known_values(batch)
        freed_rows = 0
        if batch[0].spec.counted_days:
            counts, known = self._turn_over(batch[0], values[0], known)
            if known is not None:
                batch = [replace(batch[0], kept_values=self._count_values(known))]
                freed_rows = batch[0].parent_rows - batch[0].kept_values
        else:
            min_counts = [vocabulary.spec.min_count for vocabulary in batch]
            counts = numbering.count_values(numbering.union_vocabularies(values), min_counts)
            if known is not None:
                counts = numbering.new_values(counts, known)
        if any(vocabulary.has_fixed_size for vocabulary in batch):
            counts = self.engine.materialize("counts", counts)
            self._check_sizes(batch, counts)
        # Indices in `batch` of the vocabularies that have no file yet.
        missing = [part for part, vocabulary in enumerate(batch) if not self.path(vocabulary.table).exists()]
        if not missing:
            return
        if known is not None and freed_rows:
            freed = known.filter(known["raw"].isnull())
            numbered = numbering.assign_freed_rows(counts, freed, freed_rows, batch[0].parent_rows)
        else:
            numbered = numbering.assign_rows(counts, last_rows=[vocabulary.parent_rows for vocabulary in batch])
        if any(vocabulary.has_fixed_size for vocabulary in batch):
            limits = [vocabulary.limit if vocabulary.has_fixed_size else MAX_ROWS for vocabulary in batch]
            numbered = numbered.filter(numbered["row"] <= numbering.per_vocabulary(numbered, limits))
        schema = [("raw", batch[0].kind), ("row", pa.int32()), ("count", pa.int64())]
        if known is not None or batch[0].spec.counted_days:
            numbered = numbered.mutate(**{VOCAB_DAY: ibis.literal(self.day, "int32")})
            schema.append((VOCAB_DAY, pa.int32()))
        if known is not None:
            if freed_rows:
                numbered = self.engine.materialize("numbered", numbered)
                known = known.anti_join(numbered, "row")
            numbered = ibis.union(known.select(numbered.columns), numbered, distinct=False)
        if len(batch) == 1:
            numbered = numbered.mutate(**{PART: ibis.literal(0, "int32")})
        elif len(missing) < len(batch):
            numbered = numbered.filter(numbered[PART].isin(missing))
        sink = ParquetPartSink(
            folder=self.folder,
            schema=pa.schema(schema),
            fingerprint=None,
            dictionary_columns=(),
            row_group_rows=ROW_GROUP_ROWS,
            names=tuple(self.path(vocabulary.table).name for vocabulary in batch),
        )
        written = {file.part for file in self.engine.write_parts(numbered, ["row"], sink)}
        for part in set(missing) - written:
            sink.write_empty(part)

    def _collect_values(
        self, batch: Sequence[VocabularyPlan], train: ir.Table, side_bags: Mapping[str, ir.Table]
    ) -> list[ir.Table]:
        """Return the values of each vocabulary in the training rows, with their days if they are counted by day."""
        columns = [f"raw__{f.name}" for vocabulary in batch for f in vocabulary.features if f.name not in side_bags]
        others = [DAY] if batch[0].spec.counted_days else []
        rows = self.engine.select_columns(train, [*columns, *others]) if columns else train
        # Without stored rows, the engine would plan all columns of `train` again for each vocabulary.
        if columns and len(batch) > 1:
            rows = self.engine.materialize("values", rows)
        values = []
        for vocabulary in batch:
            singles = [f"raw__{f.name}" for f in vocabulary.features if not f.bag]
            bags = [f"raw__{f.name}" for f in vocabulary.features if f.bag and f.name not in side_bags]
            sides = {f"raw__{f.name}": side_bags[f.name] for f in vocabulary.features if f.name in side_bags}
            values.append(numbering.collect_values(rows, singles, bags, sides, others))
        return values

    def _known_values(self, batch: Sequence[VocabularyPlan]) -> ir.Table | None:
        """Return the vocabularies of the parent; None without a parent."""
        if self.parent is None:
            return None
        files = [self.parent.vocabularies[vocabulary.table] for vocabulary in batch]
        return numbering.union_vocabularies([numbering.with_days(self.engine.read([file])) for file in files])

    def _turn_over(
        self, vocabulary: VocabularyPlan, values: ir.Table, known: ir.Table | None
    ) -> tuple[ir.Table, ir.Table | None]:
        """Count the values of a vocabulary by day, and decide which of them get rows and which lose them.

        Returns:
            New values with their counts, and the vocabulary of the parent, in which the rows of expired values are
            free; None without a parent.
        """
        table, spec = vocabulary.table, vocabulary.spec
        counts = turnover.count_by_day(values, self.weight)
        if self.parent is None or known is None:
            counts = self.engine.materialize(f"value_counts_{table}", counts)
            self.value_counts[table] = turnover.latest_days(spec, counts, self.day)
            return turnover.total_counts(counts, spec.min_count), None
        earlier = self.engine.read([self.parent.value_counts[table]])
        counts = turnover.add_day(spec, earlier, counts, self.day)
        self.value_counts[table] = counts = self.engine.materialize(f"value_counts_{table}", counts)
        known = self.engine.materialize("known", turnover.expire_values(spec, known, counts, self.day))
        return numbering.new_values(turnover.admitted_values(spec, counts, self.day), known), known

    def _count_values(self, known: ir.Table) -> int:
        """Return the number of rows of a vocabulary that belong to a value."""
        (result,) = self.engine.fetch(known.aggregate(values=known["raw"].count())).to_pylist()
        return int(result["values"])

    def _warn_of_pieces(self, feature: SparseSpec) -> None:
        """Warn if values of a bag look like pieces of printed lists."""
        with pq.ParquetFile(self.path(feature.table_name)) as file:
            # The first batch has the most frequent values.
            for batch in islice(file.iter_batches(_CHECKED_VALUES, columns=["raw"]), 1):
                warn_of_pieces(feature, batch["raw"])

    def _check_sizes(self, batch: Sequence[VocabularyPlan], counts: ir.Table) -> None:
        """Record and report the tables that have too few rows for their values, and refuse a table that gets empty.

        Args:
            batch: Vocabularies whose values one query has counted.
            counts: Values without a row, with `PART` if there are several vocabularies.
        """
        part = counts[PART] if PART in counts.columns else ibis.literal(0, "int32")
        totals = self.engine.fetch(counts.group_by(part=part).aggregate(values=counts.count())).to_pydict()
        new = dict(zip(totals["part"], totals["values"], strict=True))
        for i, vocabulary in enumerate(batch):
            values = vocabulary.kept_values + new.get(i, 0)
            if vocabulary.parent_values and not values:
                self._refuse_empty(vocabulary)
            if vocabulary.has_fixed_size and (excess := values - vocabulary.limit) > 0:
                self._report_overflow(vocabulary, excess)

    def _refuse_empty(self, vocabulary: VocabularyPlan) -> None:
        expire = vocabulary.spec.expire
        assert expire is not None  # Values do not lose their rows otherwise.
        first, last = date_text(self.day - expire.unseen_days + 1), date_text(self.day)
        raise DataError(
            f"tables.{vocabulary.table}.expire",
            f"none of the {vocabulary.parent_values:,} values occurs in a training row of {first} to {last}, and no "
            "value is new",
            "an expiry leaves a table some of its values",
            f"check {', '.join(f.name for f in vocabulary.features)} in the logs of these days, or raise unseen_days",
        )

    def _report_overflow(self, vocabulary: VocabularyPlan, excess: int) -> None:
        hash_rows = vocabulary.spec.hash_rows
        handling = "hashed" if hash_rows else "row 0"
        self.overflow[vocabulary.table] = {"values": excess, "limit": vocabulary.limit, "handling": handling}
        consequence = f"are hashed into its last {hash_rows:,} rows" if hash_rows else "share row 0"
        logger.warning(
            "table %s: %s values of train have no row of their own, since the table has %s rows; they %s%s",
            vocabulary.table,
            f"{excess:,}",
            f"{vocabulary.limit + 1 + hash_rows:,}",
            consequence,
            ""
            if vocabulary.spec.capacity is not None
            else "; a table can grow by --append only if it was prepared with a capacity",
        )
