"""Edges of bucketised features and thresholds of labels, which are computed from the training rows.

A threshold is a quantile. The q-quantile of n values is the smallest value v such that at least q n of the values are
at most v. Edges are similar, but count the values below v (`quantile_edges`). Both are values that occur, and depend on
neither the order of the rows nor the engine.
"""

from __future__ import annotations

import logging
from fractions import Fraction

import ibis
import ibis.expr.types as ir

from data_prep.engines.base import Engine
from data_prep.expressions.kinds import INFINITY, integer
from data_prep.transforms.columns import REASON, SPLIT, space_columns
from data_prep.transforms.encode import count_reached_edges
from data_prep.transforms.labels import threshold_columns
from data_prep.transforms.resolve import Resolved
from ple_rec.config.prep import PrepConfig, ThresholdSpec, ThresholdValues
from ple_rec.errors import DataError

logger = logging.getLogger(__name__)

_NO_BIN = -1  # Bin of the rows in which `threshold.by`, whose values are binned, is missing.


def are_known(config: PrepConfig) -> bool:
    """Return True if the configuration has all edges and thresholds, so that none is computed from training rows."""
    unknown = [task for task in config.tasks if task.threshold is not None and task.threshold.values is None]
    return not unknown and all(f.quantiles is None or f.edges is not None for f in config.sparse)


def find(
    engine: Engine, rows: ir.Table, resolved: Resolved
) -> tuple[dict[str, tuple[float, ...]], dict[str, ThresholdValues]]:
    """Compute the edges of features with `quantiles`, by feature, and the unknown thresholds of tasks, by task.

    Args:
        engine: Engine that computes them.
        rows: Result of `derive`, as a table or view of the engine. Bad rows are ignored if the configuration drops
            them.
        resolved: Configuration with its expressions.

    Raises:
        DataError: The training rows have fewer than two different values of a feature that needs edges; or the
            training rows in the sample space of a task, or in one of its bins, have no value for its threshold.
    """
    config = resolved.config

    def train_rows(*columns: str) -> ir.Table:
        """Return columns of the training rows. Only the needed ones, since the engine compiles all that it is given."""
        train = engine.select_columns(rows, [SPLIT, REASON, *columns])
        train = train.filter(train[SPLIT] == 0)
        # Without "drop", bad rows need not be filtered, since one of them ends the preparation with an error.
        return train.filter(train[REASON] == 0) if config.on_bad_row == "drop" else train

    edges: dict[str, tuple[float, ...]] = {}
    for i, feature in enumerate(config.sparse):
        if feature.quantiles is not None and feature.edges is None and f"raw__{feature.name}" in rows.columns:
            key = f"{resolved.place}: sparse[{i}].quantiles"
            column = f"raw__{feature.name}"
            edges[feature.name] = quantile_edges(engine, train_rows(column), column, feature.quantiles, key)
            if not edges[feature.name]:
                raise DataError(
                    key,
                    f"the training rows do not have two values of {feature.source}",
                    "an edge lies between two values of the training rows",
                    "remove the feature, or give `edges` in place of `quantiles`",
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


def quantile_edges(engine: Engine, rows: ir.Table, column: str, bins: int, key: str) -> tuple[float, ...]:
    """Return the edges that divide the values of a column into bins of about equal size, none of which is empty.

    Of n bins, edge i is the smallest value that has at least i/n of all values below it, or else the largest value.
    Equal values are in the same bin, so there may be fewer bins than requested. This is logged as a warning.

    Args:
        engine: Engine that computes them.
        rows: Rows; those without a finite value are ignored.
        column: Name of the column.
        bins: Requested number of bins.
        key: Place of this number in the configuration, for the warning.
    """
    counts = _value_counts(rows, column)
    ranked = counts.mutate(
        below=counts["count"].sum().over(ibis.cumulative_window(order_by="value")) - counts["count"],
        total=counts["count"].sum().over(ibis.window()),
    )
    # Computed in integers, since in floating point 0.07 * 100 > 7.
    firsts = {
        f"edge{i}": ranked["value"].min(where=ranked["below"] * bins >= ranked["total"] * i) for i in range(1, bins)
    }
    ends = {"least": ranked["value"].min(), "most": ranked["value"].max()}
    (row,) = engine.fetch(ranked.aggregate(**firsts, **ends)).to_pylist()
    least, most = row.pop("least"), row.pop("most")
    edges = sorted({most if edge is None else edge for edge in row.values()} - {least})
    if most is not None and len(edges) + 1 < bins:
        logger.warning(
            "%s: %d bins of equal size are configured, but the training rows give only %d, since equal values are in "
            "one bin. Fix: configure fewer bins, or ignore this warning",
            key,
            bins,
            len(edges) + 1,
        )
    return tuple(edges)


def _value_counts(rows: ir.Table, column: str, *by: str) -> ir.Table:
    """Return how often each finite value of a column occurs, for each combination of values of the columns `by`."""
    values = rows.select(*by, value=rows[column].cast("float64"))
    values = values.filter(values["value"].abs() < INFINITY)  # Engines sort NaN above infinity, so it is removed, too.
    return values.group_by([*by, "value"]).aggregate(count=values.count().cast("int64"))


def _thresholds(engine: Engine, train: ir.Table, resolved: Resolved, i: int, spec: ThresholdSpec) -> ThresholdValues:
    """Return the threshold of task i in each bin, and if there are bins, the one for rows in which `by` is missing.

    The latter is the quantile of those rows, or of all rows if none of those has a value.

    Args:
        engine: Engine that computes them.
        train: Training rows in the sample space of the task.
        resolved: Configuration with its expressions.
        i: Index of the task.
        spec: Threshold of the task.
    """
    value, by = threshold_columns(i)
    edges: tuple[float, ...] = ()
    bin_number: ir.IntegerValue = ibis.literal(0)
    if spec.by is not None:
        edges = quantile_edges(engine, train, by, spec.bins, f"{resolved.place}: tasks[{i}].threshold.bins")
        bin_number = ibis.ifelse(train[by].isnull(), _NO_BIN, count_reached_edges(train[by], edges))
    quantiles = quantiles_by_bin(engine, train, value, bin_number, spec.quantile)
    if empty := [number for number in range(len(edges) + 1) if number not in quantiles]:
        where = f" where {spec.by} lies in bin {empty[0] + 1} of {len(edges) + 1}" if spec.by is not None else ""
        raise _no_value(resolved, f"tasks[{i}].threshold.value", spec.value + where, spec)
    missing = quantiles.get(_NO_BIN)
    if spec.by is not None and missing is None:
        missing = quantiles_by_bin(engine, train, value, ibis.literal(0), spec.quantile)[0]
    values = tuple(quantiles[number] for number in range(len(edges) + 1))
    return ThresholdValues(edges=edges, values=values, missing=missing)


def quantiles_by_bin(
    engine: Engine, rows: ir.Table, column: str, bin_number: ir.IntegerValue, share: float
) -> dict[int, float]:
    """Return the quantile of a column in each bin of the rows that has a value, by the number of the bin.

    Args:
        engine: Engine that computes them.
        rows: Rows; those without a finite value are ignored.
        column: Name of the column.
        bin_number: Number of the bin of each row.
        share: Share of the values that are at most the quantile, to six decimals, e.g. 0.6.
    """
    counts = _value_counts(rows.mutate(bin=bin_number.cast("int64")), column, "bin")
    ranked = counts.mutate(
        reached=counts["count"].sum().over(ibis.cumulative_window(group_by="bin", order_by="value")),
        total=counts["count"].sum().over(ibis.window(group_by="bin")),
    )
    # Computed in integers, since in floating point 0.28 * 25 > 7. With a denominator of 10^6, the products fit into
    # int64 for 10^12 rows.
    numerator, denominator = Fraction(str(share)).limit_denominator(1_000_000).as_integer_ratio()
    enough = ranked.filter(ranked["reached"] * integer(denominator) >= ranked["total"] * integer(numerator))
    quantiles = engine.fetch(enough.group_by("bin").aggregate(value=enough["value"].min()))
    return dict(zip(*quantiles.to_pydict().values(), strict=True))


def _no_value(resolved: Resolved, key: str, what: str, spec: ThresholdSpec) -> DataError:
    fix = "write the number itself into the label's expression"
    if spec.by is not None:
        fix += ", or set fewer bins"
    return DataError(
        f"{resolved.place}: {key}",
        f"no training row has a value of {what}",
        "a threshold is a quantile of the training rows",
        fix,
    )
