"""Expert utilisation (the paper's Fig. 8): the weight of each expert in every gate, and how tasks differ in it.

`metrics.json` has the mean and the standard deviation of A_oe over the whole test split at the best checkpoint. Let p
and q be the mean weights of two tasks' gates on one level, and S the experts that both read:

    among shared     JS(p_S / sum p_S, q_S / sum q_S)
    shared and own   JS((p_S, 1 - sum p_S), (q_S, 1 - sum q_S))       the other experts count as one

    JS(p, q) = sqrt( 1/2 sum_i p_i log2(p_i / m_i) + 1/2 sum_i q_i log2(q_i / m_i) )         m = (p + q) / 2

JS is the Jensen-Shannon distance, a metric: it is 0 if p = q, and 1 if no outcome has weight in both. The first
distance needs two shared experts, and shows whether two tasks prefer different ones of them. The second needs one, and
also shows whether one task uses the shared experts more than the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ple_rec.analysis.result import Difference, Expert, Gate, Utilisation
from ple_rec.runs.metrics import GateLevel
from ple_rec.text.json_values import mapping


def jensen_shannon(p: Sequence[float], q: Sequence[float]) -> float | None:
    """Return the distance between two lists of weights after division by their sums; None if a sum is 0.

    Args:
        p: Weights of the outcomes, not negative.
        q: Weights of the same outcomes, not negative.
    """
    p_N, q_N = np.asarray(p, dtype=float), np.asarray(q, dtype=float)
    if not p_N.sum() > 0 or not q_N.sum() > 0:
        return None
    p_N, q_N = p_N / p_N.sum(), q_N / q_N.sum()
    m_N = (p_N + q_N) / 2
    return float(np.sqrt(max(0.0, (_information(p_N, m_N) + _information(q_N, m_N)) / 2)))


def _information(p_N: NDArray[np.float64], m_N: NDArray[np.float64]) -> float:
    """Return the Kullback-Leibler divergence in bits; an outcome without weight adds nothing."""
    positive_N = p_N > 0
    return float((p_N[positive_N] * np.log2(p_N[positive_N] / m_N[positive_N])).sum())


# Only this mixing computes A by gates.
GATED = "softmax"


def utilisation(levels: Sequence[GateLevel], tasks: Sequence[str]) -> Utilisation:
    """Return the gates of an evaluation and the differences between its tasks.

    Args:
        levels: Levels of the model as a split of `metrics.json` has them.
        tasks: Names of the tasks.
    """
    gates = [gate for level in levels if level.mixing == GATED for gate in _gates_of(level, tasks)]
    differences = []
    for level in dict.fromkeys(gate.level for gate in gates):
        task_gates = [gate for gate in gates if gate.level == level and gate.output in tasks]
        pairs = (_difference(a, b) for a, b in combinations(task_gates, 2))
        differences += [difference for difference in pairs if difference is not None]
    return Utilisation(tuple(gates), tuple(differences))


def _gates_of(level: GateLevel, tasks: Sequence[str]) -> list[Gate]:
    gates = []
    for output, mean, std in zip(level.outputs, level.mean, level.std, strict=True):
        experts = [
            Expert(name, name.rpartition(".")[0] not in tasks, weight, std[e] or 0.0)
            for e, name in enumerate(level.experts)
            if (weight := mean[e]) is not None
        ]
        # A single expert is passed on without a gate.
        if len(experts) > 1:
            gates.append(Gate(int(level.level), output, tuple(experts)))
    return gates


def _difference(a: Gate, b: Gate) -> Difference | None:
    weights_a, weights_b = ({expert.name: expert.mean for expert in gate.experts} for gate in (a, b))
    shared = tuple(name for name in weights_a if name in weights_b)
    if not shared:
        return None
    p, q = ([weights[name] for name in shared] for weights in (weights_a, weights_b))
    rest = [[max(0.0, sum(weights.values()) - sum(common))] for weights, common in ((weights_a, p), (weights_b, q))]
    among = jensen_shannon(p, q) if len(shared) > 1 else None
    return Difference(a.level, (a.output, b.output), shared, among, jensen_shannon(p + rest[0], q + rest[1]))


def recorded_gates(metrics: Mapping[str, Any], split: str = "test") -> list[GateLevel]:
    """Return the levels of a split as `metrics.json` has them."""
    return GateLevel.read_all(mapping(metrics.get(split)).get("gates"))
