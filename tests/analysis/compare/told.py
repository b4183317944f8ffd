"""compare.json as a comparison of three binary tasks would tell it: a single-task baseline, hard sharing and PLE."""

from __future__ import annotations

import math
from itertools import combinations
from typing import Any

from ple_rec.analysis.compare.gain import gain_entry, mean_sd
from ple_rec.analysis.compare.results import judge_comparison

TASKS = ("click", "finish", "like")
PAIRS = tuple(combinations(TASKS, 2))
STEPS = [100, 200, 300]
CORRELATIONS = (0.5, None, -0.1)  # of the labels of each pair
GAINS = {"single_task": 0.0, "hard_sharing": -0.01, "ple": 0.02}


def told() -> dict[str, Any]:
    """What `compute_results` returns."""
    base = {task: {str(seed): 0.7 + 0.01 * k + 0.001 * seed for seed in range(2)} for k, task in enumerate(TASKS)}
    results: dict[str, Any] = {
        "name": "told",
        "data": "data/feed",
        "match": "none",
        "reference": "ple",
        "baseline": "single_task",
        "seeds": [0, 1],
        "missing": 0,
        "remarks": [],
        "tasks": {task: {"kind": "binary", "metric": "auc"} for task in TASKS},
        "label_correlations": [
            {"tasks": list(pair), "rows": 1000, "value": value} for pair, value in zip(PAIRS, CORRELATIONS, strict=True)
        ],
        "variants": {name: _variant(name, gain, base) for name, gain in GAINS.items()},
    }
    return results | {"verdict": judge_comparison(results)}


def _variant(name: str, gain: float, base: dict[str, dict[str, float]]) -> dict[str, Any]:
    alone = name == "single_task"
    tasks = {}
    for task, values in base.items():
        own = {seed: value + gain + (0.001 if seed == "1" else 0) for seed, value in values.items()}
        tasks[task] = {"values": own, **mean_sd(list(own.values()))} | {
            "gain": None if alone else gain_entry("auc", own, values)
        }
    shared: list[float | None] = [None if alone else gain * 10 + math.exp(-step / 100) for step in STEPS]
    conflict = [
        {
            "tasks": list(pair),
            "seeds": 2,
            "step": STEPS,
            "parameters": shared,
            "parameters_sd": [None if alone else 0.01] * 3,
            "inputs": [gain * place for place in range(1, 4)],
            "inputs_sd": [0.02] * 3,
        }
        for pair in PAIRS
    ]
    return {
        "model": name,
        "sizes": {},
        "cost": {"flops_per_sample": 1000, "dense_parameters": 100, "samples_per_second": 5.0, "peak_bytes": 1 << 20},
        "seeds": [0, 1],
        "failed": {},
        "gates": {"gates": _gates(), "differences": []} if name == "ple" else {"gates": [], "differences": []},
        "conflict": conflict,
        "sharing": _sharing() if name == "ple" else [],
        "tasks": tasks,
    }


def _gates() -> list[dict[str, Any]]:
    experts = [
        {"name": f"{owner}.0", "shared": owner == "shared", "mean": 0.5, "std": 0.1} for owner in ("click", "shared")
    ]
    return [
        {"level": level, "output": output, "experts": experts, "of_shared": 0.5}
        for level, outputs in ((1, (*TASKS, "shared")), (2, TASKS))
        for output in outputs
    ]


def _sharing() -> list[dict[str, Any]]:
    none = {"mean": None, "sd": None}
    return [
        {"tasks": list(pair), "level": level, "among_shared": none, "shared_and_own": {"mean": 0.1 * level, "sd": 0.01}}
        for pair in PAIRS
        for level in (1, 2)
    ]
