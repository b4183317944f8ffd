"""One scan of every split for what the other statistics must know before they start: sizes and ranges."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import ibis
import ibis.expr.types as ir

from data_prep.engines.base import Engine
from data_prep.stats.together import SPLIT, apart, together
from ple_rec.config.base import Split
from ple_rec.config.schema import DatasetSchema


@dataclass(frozen=True)
class Range:
    """Of a column of numbers: least and greatest value, and the least that is not 0, as absolute value."""

    low: float | None
    high: float | None
    nearest: float | None


@dataclass(frozen=True)
class Bags:
    """Of a column of lists: elements in all rows, and rows without any."""

    ids: int
    empty: int


@dataclass(frozen=True)
class Extent:
    """Of a split.

    Attributes:
        rows: Of the split.
        dense: By feature.
        bags: By feature.
        labels: Greatest absolute label inside the space, by regression task; 0 where there is none.
    """

    rows: int
    dense: Mapping[str, Range]
    bags: Mapping[str, Bags]
    labels: Mapping[str, float]


def extents(engine: Engine, parts: Mapping[Split, ir.Table], schema: DatasetSchema) -> dict[Split, Extent]:
    """The extent of every split."""
    rows = together(parts)
    found = apart(engine.fetch(rows.group_by(SPLIT).aggregate(**_figures(rows, schema))), parts)
    return {split: _extent(next(iter(table.to_pylist()), {}), schema) for split, table in found.items()}


def _figures(rows: ir.Table, schema: DatasetSchema) -> dict[str, Any]:
    figures: dict[str, Any] = {"rows": rows.count()}
    bags = [feature.name for feature in schema.sparse if feature.bag]
    regressions = [task for task in schema.tasks if task.kind == "regression"]
    for i, number in enumerate(schema.dense):
        x = rows[number.name]
        figures |= {f"low{i}": x.min(), f"high{i}": x.max(), f"near{i}": x.abs().nullif(0).min()}
    for i, bag in enumerate(bags):
        length = ibis.ifelse(rows[bag].isnull(), 0, rows[bag].length()).cast("int64")
        figures |= {f"ids{i}": length.sum(), f"empty{i}": (length == 0).sum()}
    for i, task in enumerate(regressions):
        label = rows[task.label].abs()
        figures[f"label{i}"] = label.max() if task.space is None else ibis.ifelse(rows[task.space], label, None).max()
    return figures


def _extent(row: Mapping[str, Any], schema: DatasetSchema) -> Extent:
    bags = [feature.name for feature in schema.sparse if feature.bag]
    regressions = [task for task in schema.tasks if task.kind == "regression"]
    return Extent(
        rows=row.get("rows", 0),
        dense={
            number.name: Range(_zero(row.get(f"low{i}")), _zero(row.get(f"high{i}")), row.get(f"near{i}"))
            for i, number in enumerate(schema.dense)
        },
        bags={bag: Bags(int(row.get(f"ids{i}") or 0), int(row.get(f"empty{i}") or 0)) for i, bag in enumerate(bags)},
        labels={task.name: row.get(f"label{i}") or 0.0 for i, task in enumerate(regressions)},
    )


def _zero(value: float | None) -> float | None:
    """No negative zero: which of the two an engine finds first depends on the order of rows."""
    return None if value is None else value + 0.0
