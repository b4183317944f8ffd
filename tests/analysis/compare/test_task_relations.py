"""Conflict, sharing and label correlation of a comparison, from what runs have written; damaged runs are holes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ple_rec.analysis.compare.task_relations import average_conflict, average_sharing, compute_label_correlations


def _pair(inputs: float | None, parameters: float | None, tasks: tuple[str, str] = ("a", "b")) -> dict[str, Any]:
    return {"tasks": list(tasks), "inputs": {"mean": inputs}, "parameters": {"mean": parameters}}


def _run(folder: Path, records: dict[int, list[dict[str, Any]]]) -> Path:
    """A run directory whose log has a record of validation at each step."""
    folder.mkdir()
    lines = [
        {"split": "valid", "step": step, "gradient_conflict": pairs} if pairs else {"split": "valid", "step": step}
        for step, pairs in records.items()
    ]
    (folder / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_conflict_is_a_mean_over_the_runs_at_the_steps_that_all_have(tmp_path: Path) -> None:
    first = _run(tmp_path / "0", {10: [_pair(0.1, None)], 20: [_pair(0.2, 0.5)]})
    second = _run(tmp_path / "1", {20: [_pair(0.4, None)], 30: [_pair(0.0, 0.0)]})
    (found,) = average_conflict([first, second])
    assert (found["tasks"], found["seeds"], found["step"]) == (["a", "b"], 2, [20])
    assert found["inputs"] == pytest.approx([0.3])
    assert found["inputs_sd"] == pytest.approx([0.02**0.5])
    assert (found["parameters"], found["parameters_sd"]) == ([0.5], [None])
    (alone,) = average_conflict([first])
    assert (alone["parameters"], alone["inputs_sd"]) == ([None, 0.5], [None, None])


def test_runs_that_recorded_nothing_are_left_out(tmp_path: Path) -> None:
    told = _run(tmp_path / "told", {10: [_pair(0.1, 0.2)]})
    silent = _run(tmp_path / "silent", {10: []})
    damaged = _run(tmp_path / "damaged", {10: []})
    (damaged / "analysis.json").write_text('{"gradient_conflict": {"checkpoints": [')
    (found,) = average_conflict([silent, told, damaged, tmp_path / "gone"])
    assert (found["seeds"], found["inputs"]) == (1, [0.1])
    assert average_conflict([silent, tmp_path / "gone"]) == []


def test_a_run_that_was_analysed_alone_has_its_checkpoints(tmp_path: Path) -> None:
    run = _run(tmp_path / "run", {10: [], 20: []})
    checkpoints = [{"step": 20, "best": True, "pairs": [_pair(-0.3, 0.1)]}]
    (run / "analysis.json").write_text(json.dumps({"gradient_conflict": {"checkpoints": checkpoints}}))
    (found,) = average_conflict([run])
    assert (found["step"], found["inputs"]) == ([20], [-0.3])


def test_sharing_is_a_mean_over_runs_level_by_level() -> None:
    def metrics(weight: float) -> dict[str, Any]:
        level = {
            "level": 1,
            "mixing": "softmax",
            "outputs": ["a", "b"],
            "experts": ["a.0", "b.0", "shared.0"],
            "mean": [[1 - weight, None, weight], [None, 0.5, 0.5]],
            "std": [[0.0, None, 0.0], [None, 0.0, 0.0]],
        }
        return {"test": {"gates": [level]}}

    (found,) = average_sharing([metrics(0.5), metrics(0.0)], ["a", "b"])
    assert (found["tasks"], found["level"]) == (["a", "b"], 1)
    assert found["among_shared"] == {"mean": None, "sd": None}  # there is one
    apart = (0.5 * (0.5 * np.log2(0.5 / 0.25) + 0.5 * np.log2(0.5 / 0.75) + np.log2(1 / 0.75))) ** 0.5
    assert found["shared_and_own"]["mean"] == pytest.approx((0 + apart) / 2)
    assert found["shared_and_own"]["sd"] == pytest.approx(apart / 2**0.5)
    assert average_sharing([{"test": {"gates": []}}], ["a", "b"]) == []


def test_label_correlation_is_of_the_first_rows_that_can_be_read(tmp_path: Path) -> None:
    for name in ("damaged", "whole"):
        (tmp_path / name).mkdir()
    (tmp_path / "damaged" / "test_rows.npz").write_bytes(b"PK")
    labels = np.array([[0, 1], [1, 0], [1, 0], [0, 1], [1, 1]], dtype=np.float32)
    weights = np.ones_like(labels)
    weights[4, 1] = 0
    np.savez(tmp_path / "whole" / "test_rows.npz", labels=labels, weights=weights, scores=labels, tasks=["b", "a"])
    runs = [tmp_path / name for name in ("gone", "damaged", "whole")]
    assert compute_label_correlations(runs, ["a", "b"]) == [
        {"tasks": ("a", "b"), "rows": 4, "value": pytest.approx(-1)}
    ]
    assert compute_label_correlations(runs[:2], ["a", "b"]) is None
