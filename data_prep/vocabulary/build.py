"""Construction of the vocabularies of a dataset: values are counted, numbered, written, and opened for joins."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import ibis
import ibis.expr.types as ir
import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.engines.base import PART, Engine
from data_prep.engines.look_up import Entries
from data_prep.output.parent import Parent
from data_prep.output.parts import PartLayout
from data_prep.sources.footers import footer_if_whole
from data_prep.transforms.list_warnings import warn_of_pieces
from data_prep.vocabulary import numbering
from ple_rec.config.prep import MAX_ROWS, PrepConfig, SparseSpec, TableSpec
from ple_rec.config.schema import Table
from ple_rec.errors import DataError, UserError

logger = logging.getLogger(__name__)

ROW_GROUP_ROWS = 1_048_576
_PIECES = 65_536  # So many values are checked for pieces of badly cut lists.
# A vocabulary of n values is spread over at most 32 n + 65,536 integers.
_SPREAD, _SPREAD_ANYWAY = 32, 65_536
SPREAD_FOR_ROWS = 2**20  # With fewer training rows, spreading takes longer than the faster join saves.
_VALUES, _TOGETHER = 2**20, 64  # One query counts several vocabularies, up to so many values and vocabularies.
_LEAST, _MOST = -(2**63), 2**63 - 1


@dataclass(frozen=True)
class _Vocabulary:
    """Vocabulary before its values are counted.

    Args:
        table: Name of its table.
        spec: Configuration of the table.
        features: Features that share the table.
        kind: Type of the values.
        parent_rows: Number of values that the parent has, whose rows stay as they are.
        limit: Number of values that may have a row.
    """

    table: str
    spec: TableSpec
    features: tuple[SparseSpec, ...]
    kind: pa.DataType
    parent_rows: int
    limit: int

    @property
    def fixed(self) -> bool:
        """True if the size of the table does not depend on its values."""
        return self.limit + self.spec.hash_rows + 1 < MAX_ROWS


class Vocabularies:
    """Vocabularies of a dataset.

    Args:
        engine: Engine that counts values and joins with vocabularies.
        config: Configuration of the preparation.
        folder: Folder `vocab/` of the dataset; whole files of a stopped run are kept.
        parent: Dataset whose ids an appended day keeps; None for any other dataset.

    Attributes:
        names: Names of the tables that have a vocabulary.
        tables: Tables by name; before `make`, those of bucketised features alone.
        entries: Vocabularies to join with, by table.
        overflow: Overflow of each table with more values than rows: the number of `values` without a row, the `limit`
            of values with one, and the `handling` of the others, "row 0" or "hashed".
    """

    def __init__(self, engine: Engine, config: PrepConfig, folder: Path, parent: Parent | None) -> None:
        self.engine, self.config, self.folder, self.parent = engine, config, folder, parent
        folder.mkdir(exist_ok=True)
        self.names = list(dict.fromkeys(f.table_name for f in config.sparse if not f.bucketised))
        self.tables: dict[str, Table] = {
            f.name: Table(name=f.name, rows=len(f.edges or ()) + 2) for f in config.sparse if f.bucketised
        }
        self.entries: dict[str, Entries] = {}
        self.overflow: dict[str, dict[str, int | str]] = {}

    def path(self, table: str) -> Path:
        """Return the path of the vocabulary of a table."""
        return self.folder / f"{table}.parquet"

    def make(self, train: ir.Table, rows: int, bags: Mapping[str, ir.Table], advance: Callable[[int], None]) -> None:
        """Count the values of every table in the training rows, number them, and write the vocabularies.

        Args:
            train: Training rows, under a name of the engine.
            rows: Number of the training rows.
            bags: Rows of side tables by bag feature, with the number of training rows that have each in `TIMES`.
            advance: Function that gets the number of tables that have been counted.

        Raises:
            UserError: Features of several types share a table.
            DataError: A table has more values than an int32 counts.
        """
        features: dict[str, list[SparseSpec]] = {name: [] for name in self.names}
        for feature in self.config.sparse:
            if not feature.bucketised:
                features[feature.table_name].append(feature)
        alike: dict[tuple[pa.DataType, bool], list[_Vocabulary]] = {}
        for name in self.names:
            each = self._vocabulary(name, features[name], train)
            footer = footer_if_whole(self.path(name))
            # A full vocabulary is counted again, since its file does not tell how many values have no row.
            if footer is None or (each.fixed and footer.num_rows == each.limit):
                alike.setdefault((each.kind, any(f.name in bags for f in each.features)), []).append(each)
        size = max(1, min(_TOGETHER, _VALUES // max(rows, 1)))
        for some in alike.values():
            for first in range(0, len(some), size):
                self._write(some[first : first + size], train, bags)
                advance(len(some[first : first + size]))
        for name in self.names:
            self._open(name, features[name], rows)

    def _vocabulary(self, table: str, features: list[SparseSpec], train: ir.Table) -> _Vocabulary:
        """Return the type and the limits of a vocabulary."""
        spec, kind, parent_rows = self.config.tables.get(table, TableSpec()), self._kind(table, features, train), 0
        _, allocated = self._capacity(table)
        if self.parent is not None:
            old_kind = pq.read_schema(self.parent.vocabularies[table]).field("raw").type
            if old_kind != kind:
                raise DataError(
                    f"tables.{table}",
                    f"{', '.join(f.name for f in features)} now of type {kind}, {old_kind} in {self.parent.path}",
                    "an appended day keeps every column's type",
                    "write the day's files with the types of the first days",
                )
            parent_rows = pq.read_metadata(self.parent.vocabularies[table]).num_rows
        return _Vocabulary(table, spec, tuple(features), kind, parent_rows, allocated - spec.hash_rows - 1)

    def _capacity(self, table: str) -> tuple[int | None, int]:
        """Return the capacity of a table, None if it has none, and the most rows that it may have."""
        if self.parent is not None:  # The embedding tables of a model of the parent cannot grow.
            old = next(each for each in self.parent.schema.tables if each.name == table)
            return old.capacity, old.allocated
        capacity = self.config.tables.get(table, TableSpec()).capacity
        return capacity, MAX_ROWS if capacity is None else capacity

    def _open(self, table: str, features: Sequence[SparseSpec], rows: int) -> None:
        """Add a vocabulary that has been written to `tables` and `entries`."""
        for feature in features:
            if feature.bag:
                self._warn_of_pieces(feature)
        spec = self.config.tables.get(table, TableSpec())
        capacity, allocated = self._capacity(table)
        footer = pq.read_metadata(self.path(table))
        used, limit = footer.num_rows + 1, allocated - spec.hash_rows - 1
        if used - 1 > limit:
            self.path(table).unlink()
            raise DataError(
                f"vocabulary of table {table!r}",
                f"more than {limit:,} values in train",
                f"ids are int32, so that a table has at most {MAX_ROWS:,} rows",
                f'set tables.{table}.min_count, or capacity with overflow = "hash"',
            )
        if capacity is None and spec.hash_rows:
            capacity = used + spec.hash_rows
        self.tables[table] = Table(name=table, rows=used, capacity=capacity, hash_rows=spec.hash_rows)
        self.entries[table] = self._entries(table, footer, rows)

    def _entries(self, table: str, footer: pq.FileMetaData, rows: int) -> Entries:
        """Return a vocabulary to join with; it is spread for many rows if its values are integers close together."""
        entries = self.engine.read([self.path(table)])
        integers = entries["raw"].type().is_integer()
        if not self.engine.span or not integers or not footer.num_rows or rows < SPREAD_FOR_ROWS:
            return Entries(entries)
        ends = [footer.row_group(i).column(0).statistics for i in range(footer.num_row_groups)]
        low, high = min(each.min for each in ends), max(each.max for each in ends)
        too_wide = high - low + 2 > min(self.engine.span, _SPREAD * footer.num_rows + _SPREAD_ANYWAY)
        if too_wide or low == _LEAST or high == _MOST:
            return Entries(entries)
        return Entries(self.engine.keep(f"spread_{table}", numbering.spread(entries, low, high)), low, high)

    def _write(self, some: Sequence[_Vocabulary], train: ir.Table, side_bags: Mapping[str, ir.Table]) -> None:
        """Count, number and write vocabularies of one type of values by one query."""
        columns = [f"raw__{f.name}" for each in some for f in each.features if f.name not in side_bags]
        rows = self.engine.narrow(train, columns) if columns else train
        if columns and len(some) > 1:  # The engine would plan all columns of `train` anew for each vocabulary.
            rows = self.engine.keep("values", rows)
        values = []
        for each in some:
            singles = [f"raw__{f.name}" for f in each.features if not f.bag]
            bags = [f"raw__{f.name}" for f in each.features if f.bag and f.name not in side_bags]
            sides = {f"raw__{f.name}": side_bags[f.name] for f in each.features if f.name in side_bags}
            values.append(numbering.values_of(rows, singles, bags, sides))
        counts = numbering.counts_of(numbering.beside(values), [each.spec.min_count for each in some])
        known = None
        if self.parent is not None:
            known = numbering.beside([self.engine.read([self.parent.vocabularies[each.table]]) for each in some])
            counts = numbering.new_values(counts, known)
        if any(each.fixed for each in some):
            counts = self.engine.keep("counts", counts)
            self._warn_of_overflow(some, counts)
        missing = [part for part, each in enumerate(some) if not self.path(each.table).exists()]
        if not missing:
            return
        numbered = numbering.numbered(counts, after=[each.parent_rows for each in some])
        if any(each.fixed for each in some):
            limits = [each.limit if each.fixed else MAX_ROWS for each in some]
            numbered = numbered.filter(numbered["row"] <= numbering.of_each(numbered, limits))
        if known is not None:
            numbered = ibis.union(known.select(numbered.columns), numbered, distinct=False)
        if len(some) == 1:
            numbered = numbered.mutate(**{PART: ibis.literal(0, "int32")})
        elif len(missing) < len(some):
            numbered = numbered.filter(numbered[PART].isin(missing))
        layout = PartLayout(
            folder=self.folder,
            schema=pa.schema([("raw", some[0].kind), ("row", pa.int32()), ("count", pa.int64())]),
            fingerprint=None,
            dictionary=(),
            row_group_rows=ROW_GROUP_ROWS,
            names=tuple(self.path(each.table).name for each in some),
        )
        written = {file.part for file in self.engine.write_parts(numbered, ["row"], layout)}
        for part in set(missing) - written:
            layout.write_empty(part)

    def _warn_of_pieces(self, feature: SparseSpec) -> None:
        with pq.ParquetFile(self.path(feature.table_name)) as file:
            for batch in islice(file.iter_batches(_PIECES, columns=["raw"]), 1):  # The most frequent values come first.
                warn_of_pieces(feature, batch["raw"])

    def _kind(self, table: str, features: list[SparseSpec], train: ir.Table) -> pa.DataType:
        """Return the type of the values of all features that share a table."""
        kinds = {}
        for feature in features:
            kind = train[f"raw__{feature.name}"].type()
            kinds[feature.name] = (kind.value_type if feature.bag else kind).copy(nullable=True)
        if len(set(kinds.values())) > 1:
            raise UserError(
                f"tables.{table}",
                ", ".join(f"{name} gives {kind}" for name, kind in kinds.items()),
                "features that share a table have values of one type",
                "cast one of them, e.g. cast(x as string)",
            )
        return pa.string() if next(iter(kinds.values())).is_string() else pa.int64()

    def _warn_of_overflow(self, some: Sequence[_Vocabulary], counts: ir.Table) -> None:
        """Warn of the tables that have too few rows for their values."""
        part = counts[PART] if PART in counts.columns else ibis.literal(0, "int32")
        totals = self.engine.fetch(counts.group_by(part=part).aggregate(values=counts.count())).to_pydict()
        new = dict(zip(totals["part"], totals["values"], strict=True))
        for i, each in enumerate(some):
            if each.fixed and (over := each.parent_rows + new.get(i, 0) - each.limit) > 0:
                self._warn(each, over)

    def _warn(self, each: _Vocabulary, over: int) -> None:
        hash_rows = each.spec.hash_rows
        handling = "hashed" if hash_rows else "row 0"
        self.overflow[each.table] = {"values": over, "limit": each.limit, "handling": handling}
        where = f"are hashed into its last {hash_rows:,} rows" if hash_rows else "share row 0"
        logger.warning(
            "table %s: %s values of train found none of its %s rows free and %s%s",
            each.table,
            f"{over:,}",
            f"{each.limit + 1 + hash_rows:,}",
            where,
            ""
            if each.spec.capacity is not None
            else "; a table grows by --append only if it was prepared with a capacity",
        )
