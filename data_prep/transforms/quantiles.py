"""Edges of buckets and thresholds that are exact quantiles of the training rows.

The q-quantile of n values is the smallest value that at least q n of them do not exceed. So it is one of the values,
whatever their order and on any engine.
"""

from __future__ import annotations

import logging
from fractions import Fraction

import ibis
import ibis.expr.types as ir

from data_prep.engines.base import Engine
from data_prep.expressions.kinds import INFINITY, integer
from data_prep.transforms.columns import REASON, SPLIT, space_columns
from data_prep.transforms.encode import reached
from data_prep.transforms.labels import threshold_columns
from data_prep.transforms.resolve import Resolved
from ple_rec.config.prep import PrepConfig, ThresholdSpec, ThresholdValues
from ple_rec.errors import DataError

logger = logging.getLogger(__name__)

_WITHOUT_BY = -1  # part of the rows that have no value of `threshold.by`


def are_known(config: PrepConfig) -> bool:
    """Return True if the configuration leaves no edges and no thresholds to the training rows."""
    unknown = [task for task in config.tasks if task.threshold is not None and task.threshold.values is None]
    return not unknown and all(f.quantiles is None or f.edges is not None for f in config.sparse)


def find(
    engine: Engine, rows: ir.Table, resolved: Resolved
) -> tuple[dict[str, tuple[float, ...]], dict[str, ThresholdValues]]:
    """Return the edges of features with `quantiles` and the thresholds of tasks, by name.

    Args:
        engine: Engine that computes them.
        rows: Rows of `derive`, under a name of the engine; bad rows are left out if the configuration drops them.
        resolved: Configuration with its expressions.

    Raises:
        DataError: No training row has a value to take a quantile of, or all have the same where edges are needed.
    """
    config = resolved.config

    def train_rows(*columns: str) -> ir.Table:
        """Return some columns of the training rows, so that a query is not compiled for all of them."""
        train = engine.narrow(rows, [SPLIT, REASON, *columns])
        train = train.filter(train[SPLIT] == 0)
        # Without "drop", a bad row ends the run anyway.
        return train.filter(train[REASON] == 0) if config.on_bad_row == "drop" else train

    edges: dict[str, tuple[float, ...]] = {}
    for i, feature in enumerate(config.sparse):
        if feature.quantiles is not None:
            key = f"{resolved.place}: sparse[{i}].quantiles"
            column = f"raw__{feature.name}"
            edges[feature.name] = edges_of(engine, train_rows(column), column, feature.quantiles, key)
            if not edges[feature.name]:
                raise DataError(
                    key,
                    f"the training rows do not have two values of {feature.source}",
                    "an edge lies between two values of the training rows",
                    "leave the feature out, or give its `edges`",
                )
    spaces = space_columns(config)
    thresholds: dict[str, ThresholdValues] = {}
    for i, task in enumerate(config.tasks):
        if task.threshold is not None and task.threshold.values is None:
            value, by = threshold_columns(i)
            read = [value] if task.threshold.by is None else [value, by]
            if task.space is None:
                inside = train_rows(*read)
            else:
                inside = train_rows(*read, spaces[task.name]).filter(spaces[task.name])
            thresholds[task.name] = _thresholds(engine, inside, resolved, i, task.threshold)
    return edges, thresholds


def edges_of(engine: Engine, rows: ir.Table, column: str, bins: int, key: str) -> tuple[float, ...]:
    """Return the edges that cut the values of a column into parts of about equal size; each part has a value.

    Edge i of n is the smallest value that has at least i/n of all values below it, or else the largest value. Equal
    values lie in one part, so there may be fewer parts than asked for, which is logged as a warning.

    Args:
        engine: Engine that computes them.
        rows: Rows, of which those without a finite value do not count.
        column: Name of the column.
        bins: Number of parts.
        key: Place of that number in the configuration, for the warning.
    """
    counts = _value_counts(rows, column)
    ranked = counts.mutate(
        below=counts["count"].sum().over(ibis.cumulative_window(order_by="value")) - counts["count"],
        total=counts["count"].sum().over(ibis.window()),
    )
    # In integers: as floats, 0.07 * 100 is more than 7.
    firsts = {
        f"edge{i}": ranked["value"].min(where=ranked["below"] * bins >= ranked["total"] * i) for i in range(1, bins)
    }
    ends = {"least": ranked["value"].min(), "most": ranked["value"].max()}
    (row,) = engine.fetch(ranked.aggregate(**firsts, **ends)).to_pylist()
    least, most = row.pop("least"), row.pop("most")
    edges = sorted({most if edge is None else edge for edge in row.values()} - {least})
    if most is not None and len(edges) + 1 < bins:
        logger.warning(
            "%s: %d parts of equal size were asked for, and the training rows have values for %d: equal values lie in "
            "one part. Fix: ask for fewer, if that is too few",
            key,
            bins,
            len(edges) + 1,
        )
    return tuple(edges)


def _value_counts(rows: ir.Table, column: str, *by: str) -> ir.Table:
    """Return how often each finite value of a column occurs, in each group of rows."""
    values = rows.select(*by, value=rows[column].cast("float64"))
    values = values.filter(values["value"].abs() < INFINITY)  # NaN is above all numbers
    return values.group_by([*by, "value"]).aggregate(count=values.count().cast("int64"))


def _thresholds(engine: Engine, train: ir.Table, resolved: Resolved, i: int, spec: ThresholdSpec) -> ThresholdValues:
    """Return the thresholds of task i.

    Args:
        engine: Engine that computes them.
        train: Training rows in the space of the task.
        resolved: Configuration with its expressions.
        i: Index of the task.
        spec: Threshold of the task.
    """
    value, by = threshold_columns(i)
    edges: tuple[float, ...] = ()
    part: ir.IntegerValue = ibis.literal(0)
    if spec.by is not None:
        edges = edges_of(engine, train, by, spec.bins, f"{resolved.place}: tasks[{i}].threshold.bins")
        part = ibis.ifelse(train[by].isnull(), _WITHOUT_BY, reached(train[by], edges))
    quantiles = quantiles_of(engine, train, value, part, spec.quantile)
    if empty := [part for part in range(len(edges) + 1) if part not in quantiles]:
        where = f" where {spec.by} lies in part {empty[0] + 1} of {len(edges) + 1}" if spec.by is not None else ""
        raise _no_value(resolved, f"tasks[{i}].threshold.value", spec.value + where)
    missing = quantiles.get(_WITHOUT_BY)
    if spec.by is not None and missing is None:
        missing = quantiles_of(engine, train, value, ibis.literal(0), spec.quantile)[0]
    values = tuple(quantiles[part] for part in range(len(edges) + 1))
    return ThresholdValues(edges=edges, values=values, missing=missing)


def quantiles_of(engine: Engine, rows: ir.Table, column: str, part: ir.IntegerValue, share: float) -> dict[int, float]:
    """Return the quantile of a column in each part of the rows that has a value, by the number of the part.

    Args:
        engine: Engine that computes them.
        rows: Rows, of which those without a finite value do not count.
        column: Name of the column.
        part: Number of the part of each row.
        share: Share of the values that do not exceed the quantile, to six decimals, e.g. 0.6.
    """
    counts = _value_counts(rows.mutate(part=part.cast("int64")), column, "part")
    ranked = counts.mutate(
        reached=counts["count"].sum().over(ibis.cumulative_window(group_by="part", order_by="value")),
        total=counts["count"].sum().over(ibis.window(group_by="part")),
    )
    # In integers: as floats, 0.28 * 25 is more than 7. A denominator of 10^6 leaves int64 room for 10^12 rows.
    above, below = Fraction(str(share)).limit_denominator(1_000_000).as_integer_ratio()
    enough = ranked.filter(ranked["reached"] * integer(below) >= ranked["total"] * integer(above))
    quantiles = engine.fetch(enough.group_by("part").aggregate(value=enough["value"].min()))
    return dict(zip(*quantiles.to_pydict().values(), strict=True))


def _no_value(resolved: Resolved, key: str, what: str) -> DataError:
    return DataError(
        f"{resolved.place}: {key}",
        f"no training row has a value of {what} to tell apart",
        "a quantile is taken of the training rows",
        "give the number itself, or take fewer parts",
    )
