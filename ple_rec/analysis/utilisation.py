"""Expert utilisation (Fig. 8 of the PLE paper, Tang et al., RecSys 2020): the weight of each expert in every gate.

A_oe is the weight that the gate of output o gives expert e for a sample, where an output of a level is a task, or
experts of the next level. `metrics.json` has the mean and standard deviation of A over each evaluated split at the best
checkpoint. This module reads them, and measures how tasks differ in the means. Let p and q be the mean weights of two
tasks' gates on one level, and S the experts that both gates read:

    among shared     JS(p_S / sum p_S, q_S / sum q_S)                only the shared experts
    shared and own   JS((p_S, 1 - sum p_S), (q_S, 1 - sum q_S))      all other experts of a gate count as one

    JS(p, q) = sqrt( 1/2 sum_i p_i log2(p_i / m_i) + 1/2 sum_i q_i log2(q_i / m_i) )         m = (p + q) / 2

JS is the Jensen-Shannon distance: it is 0 if p = q, and 1 if no expert has weight in both. The first distance needs two
shared experts, and shows whether two tasks prefer different ones of them. The second one needs one shared expert, and
also shows whether one task uses the shared experts more than the other.

Shape suffixes: N weights that are compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ple_rec.analysis.result import ExpertWeight, Gate, GateDifference, Utilisation
from ple_rec.runs.metrics import GateLevel
from ple_rec.text.json_values import as_mapping


def jensen_shannon(p: Sequence[float], q: Sequence[float]) -> float | None:
    """Return the distance between two lists of weights after division by their sums; None if a sum is 0.

    Args:
        p: Non-negative weights.
        q: Non-negative weights of the same experts.
    """
    p_N, q_N = np.asarray(p, dtype=float), np.asarray(q, dtype=float)
    if not p_N.sum() > 0 or not q_N.sum() > 0:
        return None
    p_N, q_N = p_N / p_N.sum(), q_N / q_N.sum()
    m_N = (p_N + q_N) / 2
    return float(np.sqrt(max(0.0, (_kl_bits(p_N, m_N) + _kl_bits(q_N, m_N)) / 2)))


def _kl_bits(p_N: NDArray[np.float64], m_N: NDArray[np.float64]) -> float:
    """Return the Kullback-Leibler divergence in bits; a weight of 0 adds nothing."""
    positive_N = p_N > 0
    return float((p_N[positive_N] * np.log2(p_N[positive_N] / m_N[positive_N])).sum())


# Name of the mixing of experts by gates. In every other mixing, A is the same for all samples.
GATED = "softmax"


def compute_utilisation(levels: Sequence[GateLevel], tasks: Sequence[str]) -> Utilisation:
    """Return the gates of a model and the differences between its tasks.

    Args:
        levels: Gates of each level of the model, as `read_gate_levels` returns them.
        tasks: Names of the tasks.
    """
    gates = [gate for level in levels if level.mixing == GATED for gate in _level_gates(level, tasks)]
    differences = []
    for level in dict.fromkeys(gate.level for gate in gates):
        task_gates = [gate for gate in gates if gate.level == level and gate.output in tasks]
        pairs = (_difference(a, b) for a, b in combinations(task_gates, 2))
        differences += [difference for difference in pairs if difference is not None]
    return Utilisation(tuple(gates), tuple(differences))


def _level_gates(level: GateLevel, tasks: Sequence[str]) -> list[Gate]:
    gates = []
    for output, mean, std in zip(level.outputs, level.mean, level.std, strict=True):
        experts = [
            ExpertWeight(name, name.rpartition(".")[0] not in tasks, weight, std[e] or 0.0)
            for e, name in enumerate(level.experts)
            # The mean is None for an expert that the output does not read.
            if (weight := mean[e]) is not None
        ]
        # An output that reads a single expert has no gate.
        if len(experts) > 1:
            gates.append(Gate(int(level.level), output, tuple(experts)))
    return gates


def _difference(a: Gate, b: Gate) -> GateDifference | None:
    weights_a, weights_b = ({expert.name: expert.mean for expert in gate.experts} for gate in (a, b))
    shared = tuple(name for name in weights_a if name in weights_b)
    if not shared:
        return None
    p, q = ([weights[name] for name in shared] for weights in (weights_a, weights_b))
    rest = [[max(0.0, sum(weights.values()) - sum(common))] for weights, common in ((weights_a, p), (weights_b, q))]
    among = jensen_shannon(p, q) if len(shared) > 1 else None
    return GateDifference(a.level, (a.output, b.output), shared, among, jensen_shannon(p + rest[0], q + rest[1]))


def read_gate_levels(metrics: Mapping[str, Any], split: str = "test") -> list[GateLevel]:
    """Return the gates of each level of a model, averaged over a split; none if the metrics lack the split.

    Args:
        metrics: Content of `metrics.json`.
        split: Split over which the weights were averaged.
    """
    return GateLevel.read_all(as_mapping(metrics.get(split)).get("gates"))
