"""Cells: number of rows in each state of the labels of several tasks, and sums of regression labels, from one query.

The state of a row says for every task whether the row is inside its sample space, and whether its label is positive.
It determines a binary label. A regression label y is summed as the integer

    q = round(y 2^k)        |q| <= 2^24

where k is the same for all rows, so that a label is rounded to 2^-25 of the power of two above the greatest label.
Products of at most 2^48 are integers, too, and their sums have 38 decimal digits. So no sum depends on the order of
rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, combinations_with_replacement
from typing import Any, NamedTuple

import ibis
import ibis.expr.types as ir
import pyarrow as pa

from data_prep.engines.base import Engine
from data_prep.stats.dense import rate
from ple_rec.config.schema import Task

_BLOCK_TASKS = 6  # Tasks of one query, which have 4^6 states.
_ROUND = 1.5 * 2.0**52  # (y + _ROUND) - _ROUND is y, rounded to an integer.
_BITS = 24
_SUM = "decimal(38, 0)"  # Type of sums of products, since 64 bits suffice for 2^15 rows only.
STATE, COUNT = "state__", "count__"


def blocks(tasks: Sequence[Task]) -> list[list[Task]]:
    """Return groups of tasks such that any two tasks are together in a group."""
    if len(tasks) <= _BLOCK_TASKS:
        return [list(tasks)]
    half = _BLOCK_TASKS // 2
    parts = [list(tasks[start : start + half]) for start in range(0, len(tasks), half)]
    return [a + b for a, b in combinations(parts, 2)]


def exponents(tasks: Sequence[Task], greatest: Mapping[str, float]) -> dict[str, int]:
    """Return k of every regression task, from the greatest absolute label."""
    return {task.name: _BITS - math.frexp(greatest[task.name])[1] for task in tasks if task.kind == "regression"}


def fetch_cells(
    engine: Engine, rows: ir.Table, tasks: Sequence[Task], scale: Mapping[str, int], keys: Sequence[str]
) -> pa.Table:
    """Return the cells of rows: counts and sums by the values of `keys` and by state.

    Args:
        engine: Engine that counts.
        rows: Rows with the labels and spaces of the tasks.
        tasks: Tasks of one block.
        scale: Exponent k of every regression task.
        keys: Columns beside the state.

    Returns:
        Table of the keys, the state, the count, and the sums of q_i (`sum_i`) and q_i q_j (`sum_i_j`) of regressions.
    """
    columns: dict[str, Any] = {STATE: ibis.literal(0, "int32")}
    for i, task in enumerate(tasks):
        inside = _inside(rows, task)
        positive = (rows[task.label] > 0).fill_null(False)
        state = ibis.ifelse(inside, ibis.ifelse(positive, 3, 2), ibis.ifelse(positive, 1, 0))
        columns[STATE] = columns[STATE] + state.cast("int32") * ibis.literal(4**i, "int32")
    numbers = [i for i, task in enumerate(tasks) if task.kind == "regression"]
    for i in numbers:
        scaled = rows[tasks[i].label].cast("float64") * 2.0 ** scale[tasks[i].name]
        whole = ((scaled + _ROUND) - _ROUND).cast("int64")
        columns[f"q{i}"] = ibis.ifelse(_inside(rows, tasks[i]), whole, 0)
    states = rows.select(*keys, **columns)
    sums: dict[str, Any] = {COUNT: states.count().cast("int64")}
    for i in numbers:
        sums[f"sum_{i}"] = states[f"q{i}"].sum()
    for i, j in combinations_with_replacement(numbers, 2):
        sums[f"sum_{i}_{j}"] = (states[f"q{i}"] * states[f"q{j}"]).cast(_SUM).sum()
    return engine.fetch(states.group_by([*keys, STATE]).aggregate(**sums))


def _inside(rows: ir.Table, task: Task) -> ir.BooleanValue:
    if task.space is None:
        return ibis.literal(True)
    return rows[task.space].cast("boolean").fill_null(False)  # The column may also be a label or a number.


def by_value(cells: pa.Table, key: str | None) -> dict[Any, list[dict[str, Any]]]:
    """Return the cells by value of one key, summed over the other keys; for None, all cells under the value None."""
    sums = [name for name in cells.column_names if name == COUNT or name.startswith("sum_")]
    keys = [STATE] if key is None else [key, STATE]
    table = cells.group_by(keys).aggregate([(name, "sum") for name in sums])
    table = table.rename_columns(
        [name.removesuffix("_sum") if name not in keys else name for name in table.column_names]
    )
    out: dict[Any, list[dict[str, Any]]] = {}
    for cell in table.to_pylist():
        out.setdefault(None if key is None else cell[key], []).append(cell)
    return out


class Pair(NamedTuple):
    """Sums over the rows inside the spaces of two tasks, in units of 2^-k."""

    samples: int
    a: int
    b: int
    aa: int
    bb: int
    ab: int


@dataclass
class Tally:
    """Sums over cells, by the name of a task or of two tasks."""

    samples: dict[str, int] = field(default_factory=dict)
    sums: dict[str, int] = field(default_factory=dict)
    squares: dict[str, int] = field(default_factory=dict)
    positives: dict[str, int] = field(default_factory=dict)
    outside: dict[str, tuple[int, int]] = field(default_factory=dict)
    pairs: dict[tuple[str, str], Pair] = field(default_factory=dict)

    def add(self, tasks: Sequence[Task], cells: Iterable[Mapping[str, Any]]) -> None:
        """Count the cells of one block of tasks."""
        known = list(cells)
        for i, task in enumerate(tasks):
            inside = [cell for cell in known if _state(cell, i) >= 2]
            self.samples[task.name] = sum(cell[COUNT] for cell in inside)
            self.positives[task.name] = sum(cell[COUNT] for cell in inside if _state(cell, i) == 3)
            self.sums[task.name] = sum(_sum(task, cell, i) for cell in inside)
            self.squares[task.name] = sum(_square(task, cell, i) for cell in inside)
            outside = [cell for cell in known if _state(cell, i) < 2]
            self.outside[task.name] = (
                sum(cell[COUNT] for cell in outside),
                sum(cell[COUNT] for cell in outside if _state(cell, i) == 1),
            )
        for (i, a), (j, b) in combinations(enumerate(tasks), 2):
            both = [cell for cell in known if _state(cell, i) >= 2 and _state(cell, j) >= 2]
            self.pairs[a.name, b.name] = Pair(
                samples=sum(cell[COUNT] for cell in both),
                a=sum(_sum(a, cell, i) for cell in both),
                b=sum(_sum(b, cell, j) for cell in both),
                aa=sum(_square(a, cell, i) for cell in both),
                bb=sum(_square(b, cell, j) for cell in both),
                ab=sum(_product(a, b, cell, i, j) for cell in both),
            )

    def mean(self, task: Task, scale: Mapping[str, int]) -> float | None:
        """Return the mean label inside the space; None without samples."""
        k = scale.get(task.name, 0)
        total, samples = self.sums[task.name], self.samples[task.name]
        return rate(total, samples << k) if k >= 0 else rate(total << -k, samples)

    def std(self, task: Task, scale: Mapping[str, int]) -> float | None:
        """Return the standard deviation of the label inside the space; None without samples."""
        samples, total, squares = (sums_of[task.name] for sums_of in (self.samples, self.sums, self.squares))
        if not samples:
            return None
        return math.ldexp(math.sqrt(samples * squares - total**2) / samples, -scale.get(task.name, 0))


def _state(cell: Mapping[str, Any], i: int) -> int:
    return int(cell[STATE]) >> 2 * i & 3


def _sum(task: Task, cell: Mapping[str, Any], i: int) -> int:
    return int(cell[f"sum_{i}"]) if task.kind == "regression" else int(cell[COUNT]) * (_state(cell, i) == 3)


def _square(task: Task, cell: Mapping[str, Any], i: int) -> int:
    return int(cell[f"sum_{i}_{i}"]) if task.kind == "regression" else _sum(task, cell, i)


def _product(a: Task, b: Task, cell: Mapping[str, Any], i: int, j: int) -> int:
    if a.kind == "regression":
        if b.kind == "regression":
            return int(cell[f"sum_{i}_{j}"])
        return _sum(a, cell, i) * (_state(cell, j) == 3)
    return _sum(b, cell, j) * (_state(cell, i) == 3)
