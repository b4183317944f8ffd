"""Pearson correlation of the labels of two tasks, from integer sums, and its intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import Any

from data_prep.stats.cells import Pair, Tally
from ple_rec.config.schema import Task

Z = 1.959963984540054  # of a 95 % interval
ENOUGH, ENOUGH_OF_A_CLASS = 200, 20  # samples, and samples of either class, from which on a slice is compared


def correlations(tally: Tally, tasks: Sequence[Task]) -> list[dict[str, Any]]:
    """R of every two tasks over the rows in both spaces; null where a label does not vary.

    `fewest` is the number of samples of the rarer class, of the two tasks; of regressions alone, `samples`.
    """
    kinds = {task.name: task.kind for task in tasks}
    order = {task.name: place for place, task in enumerate(tasks)}
    out = []
    for (a, b), pair in sorted(tally.pairs.items(), key=lambda item: (order[item[0][0]], order[item[0][1]])):
        counts = [total for name, total in ((a, pair.a), (b, pair.b)) if kinds[name] == "binary"]
        fewest = min([pair.samples, *(min(count, pair.samples - count) for count in counts)])
        out.append({"a": a, "b": b, "samples": pair.samples, "r": pearson(pair), "fewest": fewest})
    return out


def pearson(pair: Pair) -> float | None:
    """(n ab - a b) / sqrt((n aa - a^2) (n bb - b^2)), the differences in exact integers."""
    n = pair.samples
    a, b = n * pair.aa - pair.a**2, n * pair.bb - pair.b**2
    if a <= 0 or b <= 0:
        return None
    return min(1.0, max(-1.0, (n * pair.ab - pair.a * pair.b) / (math.sqrt(a) * math.sqrt(b))))


def fisher(r: float, samples: int, z: float = Z) -> tuple[float, float]:
    """95 % interval of a correlation by Fisher's z; for labels far from normal an approximation."""
    if samples <= 3:
        return -1.0, 1.0
    if abs(r) == 1:
        return r, r
    half = z / math.sqrt(samples - 3)
    return math.tanh(math.atanh(r) - half), math.tanh(math.atanh(r) + half)


def comparable(entry: Mapping[str, Any]) -> bool:
    """Whether a slice has the samples for its correlation to mean something."""
    return entry["r"] is not None and entry["samples"] >= ENOUGH and entry["fewest"] >= ENOUGH_OF_A_CLASS


def shift(values: Sequence[Mapping[str, Any]], a: str, b: str, among: int = 1) -> dict[str, Any] | None:
    """The greatest less the least r of two tasks among the values of a column; None of fewer than two values.

    The interval combines two Fisher intervals (Zou 2007) that are widened for having been picked among the m pairs of
    values (Sidak): with (1 + 0.95^(1/m)) / 2 in the place of 0.975. Where r is the same everywhere, it is above 0 in at
    most about one of twenty columns; where the surest of several shifts is picked, in one of twenty data sets.

    Args:
        values: Values of the column, each with its correlations.
        a: Name of a task.
        b: Name of the other task.
        among: Number of shifts, of columns and of pairs of tasks, among which this one is picked.
    """
    known = []
    for value in values:
        entry = next(e for e in value["correlation"] if (e["a"], e["b"]) == (a, b))
        if comparable(entry):
            known.append((entry["r"], entry["samples"], value["value"]))
    if len(known) < 2:
        return None
    low, high = min(known, key=lambda k: k[0]), max(known, key=lambda k: k[0])
    z = NormalDist().inv_cdf((1 + 0.95 ** (1 / (among * math.comb(len(known), 2)))) / 2)
    (low_l, low_u), (high_l, high_u) = fisher(*low[:2], z), fisher(*high[:2], z)
    difference = high[0] - low[0]
    interval = [
        difference - math.hypot(high[0] - high_l, low_u - low[0]),
        difference + math.hypot(high_u - high[0], low[0] - low_l),
    ]
    return {"a": a, "b": b, "shift": difference, "interval": interval, "low": low[2], "high": high[2]}


def wilson(positives: int, samples: int) -> tuple[float, float]:
    """95 % interval of a rate by Wilson's score; 0 to 1 of no sample."""
    if not samples:
        return 0.0, 1.0
    p, z2 = positives / samples, Z * Z
    middle = (p + z2 / (2 * samples)) / (1 + z2 / samples)
    half = Z / (1 + z2 / samples) * math.sqrt(p * (1 - p) / samples + z2 / (4 * samples * samples))
    return max(0.0, middle - half), min(1.0, middle + half)
