"""Expert utilisation (the paper's Fig. 8): how much of each expert every gate takes, and how tasks differ in that.

Over the whole test split, of the best checkpoint: mean and standard deviation of A_oe, from `metrics.json`. Of two
tasks' gates on one level, p and q their mean weights:

    among shared     JS(p_S / sum p_S, q_S / sum q_S)                 S the experts that both read
    shared and own   JS((p_S, 1 - sum p_S), (q_S, 1 - sum q_S))       what is not shared counts as one expert of its own

    JS(p, q) = sqrt( 1/2 sum_i p_i log2(p_i / m_i) + 1/2 sum_i q_i log2(q_i / m_i) )         m = (p + q) / 2

JS is the Jensen-Shannon distance, a metric: 0 where p = q, and 1 where no outcome has weight in both. The first
distance needs two shared experts, and says whether two tasks prefer different ones of them. The second needs one, and
also says whether one task leans on the shared experts more than the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ple_rec.runs.results import GateLevel, mapping


def jensen_shannon(p: Sequence[float], q: Sequence[float]) -> float | None:
    """The distance between two lists of weights, each of which is divided by its sum; None where one has none.

    Args:
        p: Weights of each outcome, not negative.
        q: Of the same outcomes.
    """
    p_N, q_N = np.asarray(p, dtype=float), np.asarray(q, dtype=float)
    if not p_N.sum() > 0 or not q_N.sum() > 0:
        return None
    p_N, q_N = p_N / p_N.sum(), q_N / q_N.sum()
    m_N = (p_N + q_N) / 2
    return float(np.sqrt(max(0.0, (_information(p_N, m_N) + _information(q_N, m_N)) / 2)))


def _information(p_N: NDArray[np.float64], m_N: NDArray[np.float64]) -> float:
    """Kullback-Leibler divergence in bits; an outcome without weight adds nothing."""
    there = p_N > 0
    return float((p_N[there] * np.log2(p_N[there] / m_N[there])).sum())


GATED = "softmax"  # of the ways to make A, the one that has gates


@dataclass(frozen=True)
class Expert:
    """An expert as one gate sees it.

    Args:
        name: `owner.index`.
        shared: Whether it belongs to no task.
        mean: Of its weight over the samples.
        std: Of the same.
    """

    name: str
    shared: bool
    mean: float
    std: float


@dataclass(frozen=True)
class Gate:
    """A gate over two experts or more.

    Args:
        level: From 1.
        output: Whose it is: a task, `shared`, or an expert of the next level.
        experts: That it reads.
    """

    level: int
    output: str
    experts: tuple[Expert, ...]

    @property
    def of_shared(self) -> float:
        """The sum of the mean weights of shared experts."""
        return sum(expert.mean for expert in self.experts if expert.shared)


@dataclass(frozen=True)
class Difference:
    """How differently two tasks use what they share on one level.

    Args:
        level: From 1.
        tasks: The two.
        shared: Experts that both read.
        among_shared: Distance between their weights over these; None for a single one.
        shared_and_own: Distance with all that is not shared as one more.
    """

    level: int
    tasks: tuple[str, str]
    shared: tuple[str, ...]
    among_shared: float | None
    shared_and_own: float | None


@dataclass(frozen=True)
class Utilisation:
    """Every gate of a model, bottom level first, and the differences between its tasks; empty without gates."""

    gates: tuple[Gate, ...]
    differences: tuple[Difference, ...]

    def record(self) -> dict[str, Any]:
        """For `analysis.json`."""
        gates = [asdict(gate) | {"of_shared": gate.of_shared} for gate in self.gates]
        return {"gates": gates, "differences": [asdict(difference) for difference in self.differences]}


def gates_of(record: Mapping[str, Any]) -> list[Gate]:
    """The gates of what `Utilisation.record` made."""
    return [
        Gate(gate["level"], gate["output"], tuple(Expert(**expert) for expert in gate["experts"]))
        for gate in record.get("gates", ())
    ]


def utilisation(levels: Sequence[GateLevel], tasks: Sequence[str]) -> Utilisation:
    """Return what the gates of an evaluation say.

    Args:
        levels: Levels of the model as a split of `metrics.json` has them.
        tasks: Names of the tasks.
    """
    gates = [gate for level in levels if level.mixing == GATED for gate in _gates_of(level, tasks)]
    differences = []
    for level in dict.fromkeys(gate.level for gate in gates):
        of_tasks = [gate for gate in gates if gate.level == level and gate.output in tasks]
        differences += [found for a, b in combinations(of_tasks, 2) if (found := _difference(a, b)) is not None]
    return Utilisation(tuple(gates), tuple(differences))


def _gates_of(level: GateLevel, tasks: Sequence[str]) -> list[Gate]:
    gates = []
    for output, mean, std in zip(level.outputs, level.mean, level.std, strict=True):
        read = [
            Expert(name, name.rpartition(".")[0] not in tasks, weight, std[e] or 0.0)
            for e, name in enumerate(level.experts)
            if (weight := mean[e]) is not None
        ]
        if len(read) > 1:  # a single expert is passed on: there is no gate
            gates.append(Gate(int(level.level), output, tuple(read)))
    return gates


def _difference(a: Gate, b: Gate) -> Difference | None:
    of_a, of_b = ({expert.name: expert.mean for expert in gate.experts} for gate in (a, b))
    shared = tuple(name for name in of_a if name in of_b)
    if not shared:
        return None
    p, q = ([weights[name] for name in shared] for weights in (of_a, of_b))
    rest = [[max(0.0, sum(weights.values()) - sum(own))] for weights, own in ((of_a, p), (of_b, q))]
    among = jensen_shannon(p, q) if len(shared) > 1 else None
    return Difference(a.level, (a.output, b.output), shared, among, jensen_shannon(p + rest[0], q + rest[1]))


def recorded_gates(metrics: Mapping[str, Any], split: str = "test") -> list[GateLevel]:
    """Return the levels of a split as `metrics.json` has them."""
    return GateLevel.read_all(mapping(metrics.get(split)).get("gates"))
