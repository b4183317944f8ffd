"""Expert utilisation and its distances: against scipy, and against gates averaged directly over the test split."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ple_rec.analysis.utilisation import compute_utilisation, jensen_shannon, read_gate_levels
from ple_rec.runs.metrics import GateLevel
from ple_rec.training.preflight import load_run_config
from ple_rec.training.trained import load_trained_weights, open_trained_run


def _distance(p: Any, q: Any) -> float:
    from scipy.spatial.distance import jensenshannon  # type: ignore[import-untyped]

    return float(jensenshannon(p, q, base=2))


def _level(outputs: list[str], mean: list[list[float | None]], mixing: str = "softmax") -> GateLevel:
    experts = ["a.0", "b.0", "shared.0", "shared.1"][: len(mean[0])]
    std = [[None if value is None else 0.1 for value in row] for row in mean]
    return GateLevel(level=1, mixing=mixing, outputs=outputs, experts=experts, mean=mean, std=std)


@pytest.mark.parametrize("seed", range(5))
def test_the_distance_is_that_of_scipy(seed: int) -> None:
    p, q = np.random.default_rng(seed).dirichlet([0.3] * 5, 2)
    assert jensen_shannon(p, q) == pytest.approx(_distance(p, q), abs=1e-12)
    assert jensen_shannon(3 * p, q) == pytest.approx(_distance(p, q), abs=1e-12)  # weights need not sum to 1
    assert jensen_shannon(p, q) == jensen_shannon(q, p)


def test_the_distance_at_its_ends() -> None:
    assert jensen_shannon([0.2, 0.8], [0.2, 0.8]) == 0
    assert jensen_shannon([1, 0], [0, 1]) == pytest.approx(1)
    assert jensen_shannon([0, 0], [0.5, 0.5]) is None


def test_differences_are_over_what_two_tasks_share() -> None:
    level = _level(["a", "b"], [[0.5, None, 0.4, 0.1], [None, 0.2, 0.2, 0.6]])
    found = compute_utilisation([level], ["a", "b"])
    (difference,) = found.differences
    assert (difference.tasks, difference.shared, difference.level) == (("a", "b"), ("shared.0", "shared.1"), 1)
    assert difference.among_shared == pytest.approx(_distance([0.8, 0.2], [0.25, 0.75]))
    assert difference.shared_and_own == pytest.approx(_distance([0.4, 0.1, 0.5], [0.2, 0.6, 0.2]))
    assert [gate.of_shared for gate in found.gates] == pytest.approx([0.5, 0.8])
    assert [[expert.shared for expert in gate.experts] for gate in found.gates] == [[False, True, True]] * 2


def test_one_shared_expert_leaves_its_share_to_compare() -> None:
    level = _level(["a", "b", "shared"], [[0.9, None, 0.1], [None, 0.3, 0.7], [0.2, 0.3, 0.5]])
    (difference,) = compute_utilisation([level], ["a", "b"]).differences  # the shared gate is no task's
    assert difference.among_shared is None
    assert difference.shared_and_own == pytest.approx(_distance([0.1, 0.9], [0.7, 0.3]))


@pytest.mark.parametrize("mixing", ["concat", "stitch"])
def test_what_is_no_gate_is_left_out(mixing: str) -> None:
    found = compute_utilisation([_level(["a", "b"], [[0.5, 0.5], [1.5, -0.5]], mixing)], ["a", "b"])
    assert (found.gates, found.differences) == ((), ())
    alone = compute_utilisation([_level(["a", "b"], [[1.0, None], [None, 1.0]])], ["a", "b"])
    assert alone.gates == ()


def test_means_and_deviations_are_those_of_the_gates_over_the_test_split(tiny_run: Path) -> None:
    found = compute_utilisation(
        read_gate_levels(json.loads((tiny_run / "metrics.json").read_text())), ["click", "watch"]
    )
    config = load_run_config(tiny_run)
    with open_trained_run(config, tiny_run, "best") as job, torch.no_grad():
        load_trained_weights(job, tiny_run, "best")
        job.model.eval()
        with closing(job.evaluation_loader("test").epoch(0)) as batches:
            rows = [[a_BOE[: batch.rows].double() for a_BOE in job.model(batch)[1]] for batch in batches]
        levels = [torch.cat(parts) for parts in zip(*rows, strict=True)]
        legends = job.gate_labels
    assert len(levels[0]) == 101
    assert [(gate.level, gate.output) for gate in found.gates] == [
        (1, "click"),
        (1, "watch"),
        (1, "shared"),
        (2, "click"),
        (2, "watch"),
    ]
    for gate in found.gates:
        legend, a_NOE = legends[gate.level - 1], levels[gate.level - 1]
        o = legend.outputs.index(gate.output)
        for expert in gate.experts:
            weights_N = a_NOE[:, o, legend.experts.index(expert.name)]
            assert expert.mean == pytest.approx(float(weights_N.mean()), abs=1e-9)
            assert expert.std == pytest.approx(float(weights_N.std(correction=0)), abs=1e-6)
        assert sum(expert.mean for expert in gate.experts) == pytest.approx(1, abs=1e-6)
    assert {difference.level for difference in found.differences} == {1, 2}
