"""Plan of a vocabulary before its values are counted: type, rows of the parent, and greatest number of values."""

from __future__ import annotations

from dataclasses import dataclass

import ibis.expr.types as ir
import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.output.parent import Parent
from data_prep.vocabulary import turnover
from ple_rec.config.prep import MAX_ROWS, PrepConfig, SparseSpec, TableSpec
from ple_rec.errors import DataError, UserError


@dataclass(frozen=True)
class VocabularyPlan:
    """Plan of a vocabulary whose values are not counted yet.

    Args:
        table: Name of its table.
        spec: Configuration of the table.
        features: Features that share the table.
        kind: Type of the values.
        parent_rows: Number of rows of the parent dataset's vocabulary; 0 without a parent.
        parent_values: Number of these rows that belong to a value; the others are free.
        kept_values: Number of the parent's values that keep their rows; all of them until it is decided which expire.
        limit: Largest number of values with a row of their own.
    """

    table: str
    spec: TableSpec
    features: tuple[SparseSpec, ...]
    kind: pa.DataType
    parent_rows: int
    parent_values: int
    kept_values: int
    limit: int

    @property
    def has_fixed_size(self) -> bool:
        """True if a capacity or the parent dataset limits the table, so its size does not depend on the values."""
        return self.limit + self.spec.hash_rows + 1 < MAX_ROWS


def plan_vocabulary(
    config: PrepConfig, parent: Parent | None, table: str, features: list[SparseSpec], train: ir.Table
) -> VocabularyPlan:
    """Return the plan of the vocabulary of a table.

    Args:
        config: Configuration of the preparation.
        parent: Dataset to which a day is appended; None if no day is appended.
        table: Name of the table.
        features: Features that share the table.
        train: Training rows, with the raw values of the features.

    Raises:
        UserError: The features give values of several types.
        DataError: The values have another type than in the parent dataset.
    """
    spec, kind = config.tables.get(table, TableSpec()), _value_type(table, features, train)
    parent_rows = parent_values = 0
    _, allocated = table_capacity(config, parent, table)
    if parent is not None:
        old_kind = pq.read_schema(parent.vocabularies[table]).field("raw").type
        if old_kind != kind:
            raise DataError(
                f"tables.{table}",
                f"{', '.join(f.name for f in features)} now of type {kind}, but {old_kind} in {parent.path}",
                "an appended day keeps every column's type",
                "write the day's files with the types of the first days",
            )
        parent_rows, parent_values = turnover.count_rows(parent.vocabularies[table])
    limit = allocated - spec.hash_rows - 1
    return VocabularyPlan(table, spec, tuple(features), kind, parent_rows, parent_values, parent_values, limit)


def table_capacity(config: PrepConfig, parent: Parent | None, table: str) -> tuple[int | None, int]:
    """Return the capacity of a table, or None if it has none, and the largest number of rows that it may have."""
    if parent is not None:  # A model that was trained on the parent has embedding tables of this size.
        old = next(old for old in parent.schema.tables if old.name == table)
        return old.capacity, old.allocated_rows
    capacity = config.tables.get(table, TableSpec()).capacity
    return capacity, MAX_ROWS if capacity is None else capacity


def _value_type(table: str, features: list[SparseSpec], train: ir.Table) -> pa.DataType:
    """Return the type of the values of all features that share a table, string or int64; refuse several types."""
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
