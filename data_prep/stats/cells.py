"""Counts and sums of the labels of several tasks, which one query computes for the rows in each state.

The *state* of a row says for every task whether the row is in the task's sample space (the rows on which its label
counts: those where the column `space` is true, or all rows), and whether the label is positive; so it determines all
binary labels. It is an integer whose digit i in base 4 is that of task i: 2 if the row is in the sample space, else 0,
and 1 more if the label is positive. A *cell* is the result for one state: the number of its rows, and sums of
regression labels. A regression label y is summed as the integer

    q = round(y 2^k)        |q| <= 2^24

where k is the same for all rows: 2^(24 - k) is the least power of two above the greatest absolute label, and the
rounding changes a label by at most 2^-25 times this power. Products of two such integers are at most 2^48, and their
sums have at most 38 decimal digits. Sums of integers do not depend on the order of rows.
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

_BLOCK_TASKS = 6  # Most tasks of one query, since they have 4^6 states.
_ROUND = 1.5 * 2.0**52  # (y + _ROUND) - _ROUND is y, rounded to an integer.
_BITS = 24  # Bits of a scaled regression label.
_SUM = "decimal(38, 0)"  # Type of sums of products, since 64 bits suffice for 2^15 rows only.
STATE, COUNT = "state__", "count__"  # Columns with the state, and with the number of rows, of a cell.


def task_blocks(tasks: Sequence[Task]) -> list[list[Task]]:
    """Divide tasks into overlapping blocks of at most 6, such that any two tasks are together in a block."""
    if len(tasks) <= _BLOCK_TASKS:
        return [list(tasks)]
    half = _BLOCK_TASKS // 2
    halves = [list(tasks[start : start + half]) for start in range(0, len(tasks), half)]
    return [a + b for a, b in combinations(halves, 2)]


def scale_exponents(tasks: Sequence[Task], greatest: Mapping[str, float]) -> dict[str, int]:
    """Return the exponent k of every regression task, from its greatest absolute label."""
    return {task.name: _BITS - math.frexp(greatest[task.name])[1] for task in tasks if task.kind == "regression"}


def fetch_cells(
    engine: Engine, rows: ir.Table, tasks: Sequence[Task], scale: Mapping[str, int], keys: Sequence[str]
) -> pa.Table:
    """Compute the cells of rows, by the values of `keys` and by state.

    Args:
        engine: Engine that counts.
        rows: Rows with the labels and spaces of the tasks.
        tasks: Tasks of one block.
        scale: Exponent k of every regression task.
        keys: Columns by which rows are grouped, in addition to the state.

    Returns:
        Table of the keys, the state, the number of rows, and for regression tasks, with positions i and j in `tasks`,
        the sums of q_i (`sum_i`) and of q_i q_j (`sum_i_j`).
    """
    columns: dict[str, Any] = {STATE: ibis.literal(0, "int32")}
    for i, task in enumerate(tasks):
        inside = _inside(rows, task)
        positive = (rows[task.label] > 0).fill_null(False)
        state = ibis.ifelse(inside, ibis.ifelse(positive, 3, 2), ibis.ifelse(positive, 1, 0))
        columns[STATE] = columns[STATE] + state.cast("int32") * ibis.literal(4**i, "int32")
    regressions = [i for i, task in enumerate(tasks) if task.kind == "regression"]
    for i in regressions:
        scaled = rows[tasks[i].label].cast("float64") * 2.0 ** scale[tasks[i].name]
        rounded = ((scaled + _ROUND) - _ROUND).cast("int64")
        columns[f"q{i}"] = ibis.ifelse(_inside(rows, tasks[i]), rounded, 0)
    states = rows.select(*keys, **columns)
    sums: dict[str, Any] = {COUNT: states.count().cast("int64")}
    for i in regressions:
        sums[f"sum_{i}"] = states[f"q{i}"].sum()
    for i, j in combinations_with_replacement(regressions, 2):
        sums[f"sum_{i}_{j}"] = (states[f"q{i}"] * states[f"q{j}"]).cast(_SUM).sum()
    return engine.fetch(states.group_by([*keys, STATE]).aggregate(**sums))


def _inside(rows: ir.Table, task: Task) -> ir.BooleanValue:
    if task.space is None:
        return ibis.literal(True)
    return rows[task.space].cast("boolean").fill_null(False)  # The column may also be a label or a number.


def sum_by_value(cells: pa.Table, key: str | None) -> dict[Any, list[dict[str, Any]]]:
    """Return the cells by value of `key`, summed over all other keys; if `key` is None, all cells are under None."""
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
    """Sums over the rows in the sample spaces of both of two tasks, a and b.

    The sums are those of the labels (`a`, `b`), of their squares (`aa`, `bb`) and of their product (`ab`). Regression
    labels are summed as the integers q; a binary label is 0 or 1.
    """

    samples: int
    a: int
    b: int
    aa: int
    bb: int
    ab: int


@dataclass
class Tally:
    """Sums over cells, by the name of a task or by the names of two tasks.

    Attributes:
        samples: Number of rows in the sample space.
        sums: Sum of the labels in units of 2^-k; k is 0 for a binary task.
        squares: Sum of the squares of the labels in units of 2^-2k.
        positives: Number of rows in the sample space whose label is positive.
        outside: Number of rows outside the sample space, and how many of them have a positive label.
        pairs: Sums for every two tasks.
    """

    samples: dict[str, int] = field(default_factory=dict)
    sums: dict[str, int] = field(default_factory=dict)
    squares: dict[str, int] = field(default_factory=dict)
    positives: dict[str, int] = field(default_factory=dict)
    outside: dict[str, tuple[int, int]] = field(default_factory=dict)
    pairs: dict[tuple[str, str], Pair] = field(default_factory=dict)

    def add(self, tasks: Sequence[Task], cells: Iterable[Mapping[str, Any]]) -> None:
        """Set the figures of the tasks of one block, and of their pairs, from all its cells.

        A task or a pair in several blocks has the same figures in each.
        """
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
        """Return the mean label in the sample space, from the exponents k by task; None without samples."""
        k = scale.get(task.name, 0)
        total, samples = self.sums[task.name], self.samples[task.name]
        return rate(total, samples << k) if k >= 0 else rate(total << -k, samples)

    def std(self, task: Task, scale: Mapping[str, int]) -> float | None:
        """Return the standard deviation of the label in the sample space; None without samples."""
        samples, total, squares = (sums_of[task.name] for sums_of in (self.samples, self.sums, self.squares))
        if not samples:
            return None
        return math.ldexp(math.sqrt(samples * squares - total**2) / samples, -scale.get(task.name, 0))


def _state(cell: Mapping[str, Any], i: int) -> int:
    """Return the digit of task i in a cell's state, from 0 to 3."""
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
