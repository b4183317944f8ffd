"""Extents: the number of rows of each split, the ranges of its columns and the sizes of its columns of lists.

The other statistics need them. Most are read from Parquet footers; one query computes the others.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import ibis
import ibis.expr.types as ir
import pyarrow.parquet as pq

from data_prep.stats.together import SPLIT, Parts, split_result, union_splits
from ple_rec.config.base import Split
from ple_rec.config.schema import DatasetSchema, Task


@dataclass(frozen=True)
class Range:
    """Least and greatest value of a column of numbers; both are None if it has only nulls."""

    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Bags:
    """Size of a column of lists: number of ids in all rows, and number of empty rows."""

    ids: int
    empty: int


@dataclass(frozen=True)
class Extent:
    """Size of a split and ranges of its columns.

    Attributes:
        rows: Number of rows.
        ranges: Ranges of single-valued sparse columns, dense columns and labels of regressions, by column. A column
            without statistics in the footers is left out.
        bags: Sizes of columns of lists, by feature.
        labels: Ranges of the labels in the sample space, by regression task.
    """

    rows: int
    ranges: Mapping[str, Range]
    bags: Mapping[str, Bags]
    labels: Mapping[str, Range]


def extents(parts: Parts, schema: DatasetSchema) -> dict[Split, Extent]:
    """Return the extent of every split.

    Args:
        parts: Parts (Parquet files) of the dataset, whose footers hold statistics.
        schema: Schema of the dataset.
    """
    figures: dict[Split, dict[str, Any]] = {split: {} for split in parts.files}
    in_spaces = [(task.label, task.space) for task in _regressions(schema) if task.space is not None]
    if columns := list(dict.fromkeys([*_bags(schema), *chain.from_iterable(in_spaces)])):
        rows = union_splits(parts.rows(columns))
        counted = split_result(
            parts.engine.fetch(rows.group_by(SPLIT).aggregate(**_figures(rows, schema))), parts.files
        )
        figures = {split: next(iter(table.to_pylist()), {}) for split, table in counted.items()}
    return {split: _extent(files, figures[split], schema) for split, files in parts.files.items()}


def footer_ranges(files: Sequence[Path], columns: Collection[str]) -> tuple[int, dict[str, Range]]:
    """Return the number of rows of Parquet files, and the ranges of some columns of numbers that have statistics."""
    rows = 0
    ends: dict[str, tuple[float, float]] = {}
    for file in files:
        footer = pq.read_metadata(file)
        rows += footer.num_rows
        indices = [i for i in range(footer.num_columns) if footer.schema.column(i).path in columns]
        for group in (footer.row_group(i) for i in range(footer.num_row_groups)):
            for i in indices:
                column = group.column(i)
                statistics = column.statistics
                if statistics is None or not statistics.has_min_max:
                    continue
                # Negative zero becomes 0, since the order of rows decides which of both zeros a writer records.
                low, high = statistics.min + 0, statistics.max + 0
                previous = ends.get(column.path_in_schema, (low, high))
                ends[column.path_in_schema] = (min(low, previous[0]), max(high, previous[1]))
    return rows, {name: Range(low + 0.0, high + 0.0) for name, (low, high) in ends.items()}


def _figures(rows: ir.Table, schema: DatasetSchema) -> dict[str, Any]:
    """Return the aggregates that footers do not hold: sizes of lists, and ranges of labels in their sample spaces."""
    figures: dict[str, Any] = {}
    for i, bag in enumerate(_bags(schema)):
        length = ibis.ifelse(rows[bag].isnull(), 0, rows[bag].length()).cast("int64")
        figures |= {f"ids{i}": length.sum(), f"empty{i}": (length == 0).sum()}
    for i, task in enumerate(_regressions(schema)):
        if task.space is not None:
            label = ibis.ifelse(rows[task.space].cast("boolean"), rows[task.label], None)
            figures |= {f"low{i}": label.min(), f"high{i}": label.max()}
    return figures


def _extent(files: Sequence[Path], figures: Mapping[str, Any], schema: DatasetSchema) -> Extent:
    """Return the extent of a split from the footers of its files and the computed aggregates of `_figures`."""
    columns = {feature.name for feature in schema.sparse if not feature.bag}
    columns |= {number.name for number in schema.dense} | {task.label for task in _regressions(schema)}
    rows, ranges = footer_ranges(files, columns)
    bags = {
        bag: Bags(int(figures.get(f"ids{i}") or 0), int(figures.get(f"empty{i}") or 0))
        for i, bag in enumerate(_bags(schema))
    }
    labels = {}
    for i, task in enumerate(_regressions(schema)):
        if task.space is None:
            labels[task.name] = ranges.get(task.label, Range())
        elif (low := figures.get(f"low{i}")) is None:
            labels[task.name] = Range()
        else:
            labels[task.name] = Range(low + 0.0, figures[f"high{i}"] + 0.0)  # Negative zero becomes 0.
    return Extent(rows, ranges, bags, labels)


def _bags(schema: DatasetSchema) -> list[str]:
    return [feature.name for feature in schema.sparse if feature.bag]


def _regressions(schema: DatasetSchema) -> list[Task]:
    return [task for task in schema.tasks if task.kind == "regression"]
