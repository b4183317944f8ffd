"""Verdicts on planted numbers, one case of the rule each."""

from __future__ import annotations

from typing import Any

import pytest

from ple_rec.analysis.compare.gain import gain_entry
from ple_rec.analysis.compare.results import claimed_pairs, judge_comparison

METRICS = {"income": "auc", "vcr": "mse"}
BASE = {"income": 0.9, "vcr": 0.13}


def document(gains: dict[str, tuple[float, float]], seeds: int = 5, rows: Any = None) -> dict[str, Any]:
    """A comparison in which variants have these gains, give or take 0.0001 a seed; `rows` half the row intervals."""
    jitter = [0.0001 * (seed % 3 - 1) for seed in range(seeds)]

    def values(task: str, gain: float) -> dict[str, float]:
        sign = 1 if METRICS[task] == "auc" else -1
        return {str(seed): BASE[task] + 0.01 * seed + sign * (gain + move) for seed, move in enumerate(jitter)}

    base = {task: {str(seed): BASE[task] + 0.01 * seed for seed in range(seeds)} for task in METRICS}
    variants: dict[str, Any] = {
        "single": {
            "model": "single_task",
            "failed": {},
            "tasks": {t: {"values": base[t], "gain": None} for t in METRICS},
        }
    }
    for name, pair in gains.items():
        tasks = {}
        for task, gain in zip(METRICS, pair, strict=True):
            interval = None if rows is None else (gain - rows, gain + rows)
            made = values(task, gain)
            tasks[task] = {"values": made, "gain": gain_entry(METRICS[task], made, base[task], interval)}
        variants[name] = {"model": name, "failed": {}, "tasks": tasks}
    told = {task: {"kind": "any", "metric": metric} for task, metric in METRICS.items()}
    return {"baseline": "single", "tasks": told, "variants": variants}


@pytest.mark.parametrize(
    ("gains", "word", "negative", "said"),
    [
        ((0.002, 0.001), "better", [], "cgc beats single on all tasks: income +0.002 AUC (+0.0019 to +0.0021 over 5"),
        ((0.002, -0.001), "seesaw", ["vcr"], "shows the seesaw against single: better on income, worse on vcr"),
        (
            (-0.002, 0.00001),
            "negative",
            ["income"],
            "negative transfer against single: worse on income, better",
        ),
        ((-0.002, -0.001), "negative", ["income", "vcr"], "worse on income and vcr, better on none"),
        ((0.00001, 0.001), "some", [], "cgc is better than single on vcr, and within noise on income"),
        ((0.00001, -0.00001), "noise", [], "cgc is within noise of single on all tasks"),
    ],
)
def test_every_case_of_the_rule(gains: tuple[float, float], word: str, negative: list[str], said: str) -> None:
    found = judge_comparison(document({"cgc": gains}))
    judged = found["variants"]["cgc"]
    assert judged["verdict"] == word
    assert judged["negative_transfer"] == negative
    assert judged["beats"] == (word == "better")
    assert judged["seesaw"] == (word == "seesaw")
    assert said in judged["sentence"]
    assert "single" not in found["variants"]
    assert "every 95 % interval" in found["rule"]
    assert found["sentences"][0] == judged["sentence"]
    assert "2 gains over single were judged" in found["sentences"][-1]


def test_what_another_test_split_might_undo_is_noise() -> None:
    assert judge_comparison(document({"cgc": (0.002, 0.001)}, rows=0.0005))["variants"]["cgc"]["verdict"] == "better"
    found = judge_comparison(document({"cgc": (0.002, 0.001)}, rows=0.0015))["variants"]["cgc"]
    assert found["tasks"] == {"income": "better", "vcr": "noise"}
    assert "+0.0005 to +0.0035 over test rows" in found["sentence"]


def test_one_seed_is_judged_by_the_rows_or_not_at_all() -> None:
    found = judge_comparison(document({"cgc": (0.002, -0.001)}, seeds=1))
    assert found["variants"]["cgc"]["verdict"] == "not judged"
    assert "one seed: no interval" in found["sentences"][0]
    assert len(found["sentences"]) == 1
    found = judge_comparison(document({"cgc": (0.002, -0.001)}, seeds=1, rows=0.0005))
    assert found["variants"]["cgc"]["verdict"] == "seesaw"
    assert "one seed: no interval, +0.0015 to +0.0025 over test rows" in found["sentences"][0]


def test_a_metric_that_is_undefined_is_said_and_not_judged() -> None:
    told = document({"cgc": (0.002, 0.001)})
    income = told["variants"]["cgc"]["tasks"]["income"]
    income["gain"] = gain_entry("auc", dict.fromkeys("01234", None), income["values"])
    judged = judge_comparison(told)["variants"]["cgc"]
    assert judged["verdict"] == "not judged"
    assert judged["tasks"] == {"income": "not judged", "vcr": "better"}
    assert "income no AUC gain" in judged["sentence"]


def test_failed_runs_are_told() -> None:
    told = document({"cgc": (0.002, 0.001)})
    told["variants"]["cgc"]["failed"] = {"7": "out of memory"}
    told["variants"]["single"]["failed"] = {"8": "out of memory"}
    found = judge_comparison(told)
    assert "Failed and left out: seed 7." in found["sentences"][0]
    assert found["sentences"][-1] == "single, the baseline, failed with seed 8: gains leave these seeds out."


def test_a_variant_without_any_run_is_not_judged() -> None:
    told = document({"cgc": (0.002, 0.001)})
    told["variants"]["cgc"] |= {"tasks": {}, "failed": {"0": "diverged"}}
    assert judge_comparison(told)["variants"]["cgc"]["verdict"] == "not judged"


def test_ple_and_cgc_are_held_against_mmoe_by_their_own_paired_differences() -> None:
    told = document({"ple": (0.003, 0.002), "cgc": (0.0001, 0.002), "mmoe": (0.002, 0.002), "ml_mmoe": (0.001, 0.0)})
    assert claimed_pairs(told) == [("ple", "mmoe"), ("ple", "ml_mmoe"), ("cgc", "mmoe")]
    pairs = judge_comparison(told)["pairs"]
    assert pairs["ple over mmoe"]["tasks"] == {"income": "better", "vcr": "noise"}
    assert pairs["ple over ml_mmoe"]["beats"]
    assert pairs["cgc over mmoe"]["negative_transfer"] == ["income"]
    told["pairs"] = {"ple over mmoe": {task: told["variants"]["ple"]["tasks"][task]["gain"] for task in METRICS}}
    assert judge_comparison(told)["pairs"]["ple over mmoe"]["beats"]


def test_gains_are_of_the_same_seed() -> None:
    entry = gain_entry("mse", {"0": 0.1, "1": 0.3, "2": 0.2, "3": None}, {"1": 0.4, "0": 0.15, "3": 0.1}, (0.0, 1.0))
    assert entry["values"] == pytest.approx({"0": 0.05, "1": 0.1})
    assert entry["mean"] == pytest.approx(0.075)
    assert entry["sd"] == pytest.approx(0.05 / 2**0.5)
    assert gain_entry("auc", {"0": 0.6}, {"0": 0.5})["sd"] is None
    assert gain_entry("auc", {}, {"0": 0.5}, (0.0, 1.0))["row_interval"] is None
