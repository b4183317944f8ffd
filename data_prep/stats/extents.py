"""Sizes of the splits and ranges of their columns, on which the other statistics depend; most come from footers."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import ibis
import ibis.expr.types as ir
import pyarrow.parquet as pq

from data_prep.stats.together import SPLIT, Parts, apart, together
from ple_rec.config.base import Split
from ple_rec.config.schema import DatasetSchema, Task


@dataclass(frozen=True)
class Range:
    """Least and greatest value of a column of numbers; None if it has only nulls."""

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
        ranges: Range of each single-valued column of numbers, by column.
        bags: Size of each column of lists, by feature.
        labels: Range of the labels inside the space, by regression task.
    """

    rows: int
    ranges: Mapping[str, Range]
    bags: Mapping[str, Bags]
    labels: Mapping[str, Range]


def extents(parts: Parts, schema: DatasetSchema) -> dict[Split, Extent]:
    """Return the extent of every split.

    Args:
        parts: Parts of the dataset, whose footers hold statistics.
        schema: Schema of the dataset.
    """
    figures: dict[Split, dict[str, Any]] = {split: {} for split in parts.files}
    in_spaces = [(task.label, task.space) for task in _regressions(schema) if task.space is not None]
    if columns := list(dict.fromkeys([*_bags(schema), *chain.from_iterable(in_spaces)])):
        rows = together(parts.rows(columns))
        counted = apart(parts.engine.fetch(rows.group_by(SPLIT).aggregate(**_figures(rows, schema))), parts.files)
        figures = {split: next(iter(table.to_pylist()), {}) for split, table in counted.items()}
    return {split: _extent(files, figures[split], schema) for split, files in parts.files.items()}


def footer_ranges(files: Sequence[Path], columns: Collection[str]) -> tuple[int, dict[str, Range]]:
    """Return the number of rows of Parquet files, and the ranges of some columns of numbers."""
    rows = 0
    ends: dict[str, tuple[float, float]] = {}
    for file in files:
        footer = pq.read_metadata(file)
        rows += footer.num_rows
        places = [i for i in range(footer.num_columns) if footer.schema.column(i).path in columns]
        for group in (footer.row_group(i) for i in range(footer.num_row_groups)):
            for i in places:
                column = group.column(i)
                known = column.statistics
                if known is None or not known.has_min_max:
                    continue
                # Negative zero becomes 0, since the order of rows decides which of the two zeros a writer records.
                low, high = known.min + 0, known.max + 0
                was = ends.get(column.path_in_schema, (low, high))
                ends[column.path_in_schema] = (min(low, was[0]), max(high, was[1]))
    return rows, {name: Range(low + 0.0, high + 0.0) for name, (low, high) in ends.items()}


def _figures(rows: ir.Table, schema: DatasetSchema) -> dict[str, Any]:
    """Return the aggregates that footers do not have: lengths of lists, and ranges of labels inside their spaces."""
    figures: dict[str, Any] = {}
    for i, bag in enumerate(_bags(schema)):
        length = ibis.ifelse(rows[bag].isnull(), 0, rows[bag].length()).cast("int64")
        figures |= {f"ids{i}": length.sum(), f"empty{i}": (length == 0).sum()}
    for i, task in enumerate(_regressions(schema)):
        if task.space is not None:
            label = ibis.ifelse(rows[task.space].cast("boolean"), rows[task.label], None)
            figures |= {f"low{i}": label.min(), f"high{i}": label.max()}
    return figures


def _extent(files: Sequence[Path], row: Mapping[str, Any], schema: DatasetSchema) -> Extent:
    columns = {feature.name for feature in schema.sparse if not feature.bag}
    columns |= {number.name for number in schema.dense} | {task.label for task in _regressions(schema)}
    rows, ranges = footer_ranges(files, columns)
    bags = {
        bag: Bags(int(row.get(f"ids{i}") or 0), int(row.get(f"empty{i}") or 0)) for i, bag in enumerate(_bags(schema))
    }
    labels = {}
    for i, task in enumerate(_regressions(schema)):
        if task.space is None:
            labels[task.name] = ranges.get(task.label, Range())
        elif (low := row.get(f"low{i}")) is None:
            labels[task.name] = Range()
        else:
            labels[task.name] = Range(low + 0.0, row[f"high{i}"] + 0.0)  # Negative zero becomes 0.
    return Extent(rows, ranges, bags, labels)


def _bags(schema: DatasetSchema) -> list[str]:
    return [feature.name for feature in schema.sparse if feature.bag]


def _regressions(schema: DatasetSchema) -> list[Task]:
    return [task for task in schema.tasks if task.kind == "regression"]
