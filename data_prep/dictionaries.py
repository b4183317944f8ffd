"""The vocabularies of a dataset: counted, numbered, written, and open for the joins that encode."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from itertools import islice
from pathlib import Path

import ibis
import ibis.expr.types as ir
import pyarrow as pa
import pyarrow.parquet as pq

from data_prep import vocabulary
from data_prep.engines.base import Engine
from data_prep.parent import Parent
from data_prep.parts import PART, PartLayout, footer_if_whole
from data_prep.pieces import warn_of_pieces
from data_prep.vocabulary import Entries
from ple_rec.config.prep import MAX_ROWS, PrepConfig, SparseSpec, TableSpec
from ple_rec.config.schema import Table
from ple_rec.errors import DataError, UserError

logger = logging.getLogger(__name__)

ROW_GROUP_ROWS = 1_048_576
_PIECES = 65_536  # values of a vocabulary whose beginnings are looked at
_SPREAD, _SPREAD_ANYWAY = 32, 65_536  # integers for each value, and in any case, over which a vocabulary is spread
_LEAST, _MOST = -(2**63), 2**63 - 1


class Dictionaries:
    """The vocabularies that are made so far.

    Args:
        engine: Counts and joins.
        config: The configuration.
        folder: `vocab/` of the dataset; a file that a stopped run has left there stays, if it is whole.
        parent: The dataset whose ids stay as they are.

    Attributes:
        names: Tables that have a vocabulary.
        tables: Every table's sizes; those of bucketised features are known from the start.
        overflow: Of tables with more values than rows, `values` that found none free, the `limit` of values that have
            one, and the `handling` of the others, "row 0" or "hashed".
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
        """Where a vocabulary lies."""
        return self.folder / f"{table}.parquet"

    def make(self, table: str, train: ir.Table, bags: Mapping[str, ir.Table] | None = None) -> None:
        """Count the values of a table in the training rows, give them rows, and write them.

        Args:
            table: Which.
            train: The training rows.
            bags: By feature, the rows of the side table whose bag it is, with the `TIMES` that training rows meet them.

        Raises:
            UserError: Features of several types share the table.
            DataError: More values than an int32 counts.
        """
        spec = self.config.tables.get(table, TableSpec())
        capacity = spec.capacity
        allocated = MAX_ROWS if capacity is None else capacity
        if self.parent is not None:  # a model of the parent has so many rows, and takes no more
            old = next(each for each in self.parent.schema.tables if each.name == table)
            capacity, allocated = old.capacity, old.allocated
        limit = allocated - spec.hash_rows - 1
        fixed = allocated < MAX_ROWS
        kept = footer_if_whole(self.path(table))
        if kept is None or (fixed and kept.num_rows == limit):  # again: what is over is not kept
            self._write(table, spec, train, bags or {}, limit, fixed=fixed)
        self._warn_of_pieces(table)
        rows = self._values(table) + 1
        if rows - 1 > limit:
            self.path(table).unlink()
            raise DataError(
                f"vocabulary of table {table!r}",
                f"more than {limit:,} values in train",
                f"ids are int32, so that a table has at most {MAX_ROWS:,} rows",
                f'set tables.{table}.min_count, or capacity with overflow = "hash"',
            )
        if capacity is None and spec.hash_rows:
            capacity = rows + spec.hash_rows
        self.tables[table] = Table(name=table, rows=rows, capacity=capacity, hash_rows=spec.hash_rows)
        self.entries[table] = self._entries(table)

    def _entries(self, table: str) -> Entries:
        """A vocabulary to join with, spread where its values are integers that lie close together."""
        entries = self.engine.read([self.path(table)])
        if not self.engine.span or not entries["raw"].type().is_integer():
            return Entries(entries)
        raw = entries["raw"]
        (ends,) = self.engine.fetch(entries.aggregate(low=raw.min(), high=raw.max(), rows=raw.count())).to_pylist()
        low, high, rows = ends["low"], ends["high"], ends["rows"]
        far = not rows or high - low + 2 > min(self.engine.span, _SPREAD * rows + _SPREAD_ANYWAY)
        if far or low == _LEAST or high == _MOST:
            return Entries(entries)
        return Entries(self.engine.keep(f"spread_{table}", vocabulary.spread(entries, low, high)), low, high)

    def _write(
        self, table: str, spec: TableSpec, train: ir.Table, met: Mapping[str, ir.Table], limit: int, *, fixed: bool
    ) -> None:
        features = [f for f in self.config.sparse if f.table_name == table]
        kind = self._kind(table, features, train)
        singles = [f"raw__{f.name}" for f in features if not f.bag]
        bags = [f"raw__{f.name}" for f in features if f.bag and f.name not in met]
        sides = {f"raw__{f.name}": met[f.name] for f in features if f.name in met}
        counts = vocabulary.counts_of(vocabulary.values_of(train, singles, bags, sides), spec.min_count)
        taken = 0
        known = None
        if self.parent is not None:
            was = pq.read_schema(self.parent.vocabularies[table]).field("raw").type
            if was != kind:
                raise DataError(
                    f"tables.{table}",
                    f"{', '.join(f.name for f in features)} now of type {kind}, {was} in {self.parent.path}",
                    "an appended day keeps every column's type",
                    "write the day's files with the types of the first days",
                )
            known = self.engine.read([self.parent.vocabularies[table]])
            taken = pq.read_metadata(self.parent.vocabularies[table]).num_rows
            counts = vocabulary.new_values(counts, known)
        if fixed:
            counts = self.engine.keep(f"counts_{table}", counts)
            found = self.engine.fetch(counts.aggregate(values=counts.count()))["values"][0].as_py()
            self._warn(table, spec, taken + found - limit, limit)
        if self.path(table).exists():
            return
        numbered = vocabulary.numbered(counts, after=taken)
        if fixed:
            numbered = numbered.filter(numbered["row"] <= limit)
        if known is not None:
            numbered = ibis.union(known.select("raw", "row", "count"), numbered, distinct=False)
        layout = PartLayout(
            folder=self.folder,
            schema=pa.schema([("raw", kind), ("row", pa.int32()), ("count", pa.int64())]),
            fingerprint=None,
            dictionary=(),
            row_group_rows=ROW_GROUP_ROWS,
            name=f"{table}.parquet",
        )
        if not self.engine.write_parts(numbered.mutate(**{PART: ibis.literal(0, "int32")}), ["row"], layout):
            layout.write_empty()

    def _values(self, table: str) -> int:
        return int(pq.read_metadata(self.path(table)).num_rows)

    def _warn_of_pieces(self, table: str) -> None:
        with pq.ParquetFile(self.path(table)) as file:
            for batch in islice(file.iter_batches(_PIECES, columns=["raw"]), 1):  # the most frequent values
                for feature in self.config.sparse:
                    if feature.table_name == table:
                        warn_of_pieces(feature, batch["raw"])

    def _kind(self, table: str, features: list[SparseSpec], train: ir.Table) -> pa.DataType:
        """Type of the values of all features that share a table."""
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

    def _warn(self, table: str, spec: TableSpec, over: int, limit: int) -> None:
        if over <= 0:
            return
        handling = "hashed" if spec.hash_rows else "row 0"
        self.overflow[table] = {"values": over, "limit": limit, "handling": handling}
        where = f"are hashed into its last {spec.hash_rows:,} rows" if spec.hash_rows else "share row 0"
        logger.warning(
            "table %s: %s values of train found none of its %s rows free and %s%s",
            table,
            f"{over:,}",
            f"{limit + 1 + spec.hash_rows:,}",
            where,
            "" if spec.capacity is not None else "; a table grows by --append only if it was prepared with a capacity",
        )
