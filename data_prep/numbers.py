"""Numbers that a configuration leaves to the training rows: edges of buckets and thresholds, as exact quantiles.

The q-quantile of n values is the smallest one that at least q n of them do not exceed, so it is one of the values, in
any order and on any engine.
"""

from __future__ import annotations

from collections.abc import Sequence

import ibis
import ibis.expr.types as ir

from data_prep.columns import REASON, SPLIT, space_columns
from data_prep.encode import reached
from data_prep.engines.base import Engine
from data_prep.expressions.kinds import floating
from data_prep.labels import threshold_columns
from data_prep.resolve import Resolved
from ple_rec.config.prep import DaySplit, HeldOutSplit, PrepConfig, ThresholdSpec
from ple_rec.errors import DataError


def quantiles(engine: Engine, rows: ir.Table, column: str, shares: Sequence[float]) -> list[float]:
    """Quantiles of a column, nulls and NaN left out; nothing of no values."""
    counted = _counted(rows, column, [])
    total = counted["count"].sum().over(ibis.window())
    ranked = counted.mutate(
        below=counted["count"].sum().over(ibis.cumulative_window(order_by="value")).cast("float64"),
        total=total.cast("float64"),
    )
    found = engine.fetch(
        ranked.aggregate(
            **{
                f"q{i}": ranked["value"].min(where=ranked["below"] >= floating(share) * ranked["total"])
                for i, share in enumerate(shares)
            }
        )
    ).to_pylist()[0]
    return [found[f"q{i}"] for i in range(len(shares)) if found[f"q{i}"] is not None]


def _counted(rows: ir.Table, column: str, by: Sequence[str]) -> ir.Table:
    values = rows.select(*by, value=rows[column].cast("float64"))
    values = values.filter(values["value"].notnull() & ~values["value"].isnan())
    return values.group_by([*by, "value"]).aggregate(count=values.count())


def edges_of(engine: Engine, rows: ir.Table, column: str, bins: int) -> tuple[float, ...]:
    """Edges between so many bins of equal size; fewer where values repeat. Bin of x: how many edges it reaches."""
    found = quantiles(engine, rows, column, [i / bins for i in range(bins)])  # the first is the least value
    return tuple(sorted(set(found) - set(found[:1])))


def is_settled(config: PrepConfig) -> bool:
    """Whether the configuration leaves nothing to the training rows."""
    waiting = [task for task in config.tasks if task.threshold is not None and task.threshold.values is None]
    return not waiting and all(feature.quantiles is None for feature in config.sparse)


def left_open(config: PrepConfig, new: PrepConfig) -> PrepConfig:
    """Return the configuration of a dataset without what prep found and `new` leaves to prep as well.

    That is day 1, edges, thresholds and types of CSV columns. A number that `new` gives stays, to be compared.

    Args:
        config: Configuration as `prep.toml` of the dataset holds it.
        new: Configuration that it is compared with.
    """
    split, by_quantiles = config.split, {feature.name for feature in new.sparse if feature.quantiles is not None}
    by_rows = {task.name for task in new.tasks if task.threshold is not None and task.threshold.values is None}
    sparse, tasks = [], []
    if isinstance(split, DaySplit | HeldOutSplit) and getattr(new.split, "day_1", None) is None:
        split = split.model_copy(update={"day_1": None})
    for feature in config.sparse:
        if feature.edge_quantiles is not None and feature.name in by_quantiles:
            asked = {"quantiles": feature.edge_quantiles, "edges": None, "edge_quantiles": None}
            feature = feature.model_copy(update=asked)
        sparse.append(feature)
    for task in config.tasks:
        if task.threshold is not None and task.name in by_rows:
            threshold = task.threshold.model_copy(update={"edges": None, "values": None})
            task = task.model_copy(update={"threshold": threshold})
        tasks.append(task)
    return config.model_copy(
        update={
            "split": split,
            "sparse": tuple(sparse),
            "tasks": tuple(tasks),
            "log": config.log.with_inferred({}),
            "sides": {name: side.with_inferred({}) for name, side in config.sides.items()},
        }
    )


def settled(engine: Engine, rows: ir.Table, resolved: Resolved) -> PrepConfig:
    """Return the configuration with every number filled in.

    Args:
        engine: Computes them.
        rows: What `derive` makes of the configuration so far; rows that it finds bad are left out.
        resolved: The configuration.

    Raises:
        DataError: No training row has a value to take a quantile of.
    """
    train = rows.filter(rows[SPLIT] == 0)
    if resolved.config.on_bad_row == "drop":  # else a bad row ends the run, whatever the numbers are
        train = train.filter(train[REASON] == 0)
    sparse, tasks = [], []
    for i, feature in enumerate(resolved.config.sparse):
        if feature.quantiles is not None:
            edges = edges_of(engine, train, f"raw__{feature.name}", feature.quantiles)
            if not edges:
                raise _nothing(resolved, f"sparse[{i}].value", feature.source)
            found = {"quantiles": None, "edges": edges, "edge_quantiles": feature.quantiles}
            feature = feature.model_copy(update=found)
        sparse.append(feature)
    spaces = space_columns(resolved.config)
    for i, task in enumerate(resolved.config.tasks):
        if task.threshold is not None and task.threshold.values is None:
            counted = train if task.space is None else train.filter(spaces[task.name])
            spec = _threshold(engine, counted, resolved, i, task.threshold)
            task = task.model_copy(update={"threshold": spec})
        tasks.append(task)
    return resolved.config.model_copy(update={"sparse": tuple(sparse), "tasks": tuple(tasks)})


def _threshold(engine: Engine, train: ir.Table, resolved: Resolved, i: int, spec: ThresholdSpec) -> ThresholdSpec:
    """The threshold of a task, of the training rows in its space."""
    value, by = threshold_columns(i)
    edges = edges_of(engine, train, by, spec.bins) if spec.by is not None else ()
    part = reached(train[by], edges).fill_null(0).cast("int64") if edges else ibis.literal(0, "int64")
    counted = _counted(train.mutate(part=part), value, ["part"])
    mine = ibis.window(group_by="part")
    ranked = counted.mutate(
        below=counted["count"].sum().over(ibis.cumulative_window(group_by="part", order_by="value")).cast("float64"),
        total=counted["count"].sum().over(mine).cast("float64"),
    )
    enough = ranked.filter(ranked["below"] >= floating(spec.quantile) * ranked["total"])
    found = engine.fetch(enough.group_by("part").aggregate(value=enough["value"].min()).order_by("part")).to_pydict()
    values = dict(zip(found["part"], found["value"], strict=True))
    if missing := [part for part in range(len(edges) + 1) if part not in values]:
        where = f" where {spec.by} lies in part {missing[0] + 1} of {len(edges) + 1}" if edges else ""
        raise _nothing(resolved, f"tasks[{i}].threshold.value", spec.value + where)
    return spec.model_copy(update={"edges": edges, "values": tuple(values[part] for part in sorted(values))})


def _nothing(resolved: Resolved, key: str, what: str) -> DataError:
    return DataError(
        f"{resolved.place}: {key}",
        f"no training row has a value of {what} to tell apart",
        "a quantile is taken of the training rows",
        "give the number itself, or take fewer parts",
    )
