"""The tags and numbers that every logger is told."""

from __future__ import annotations

from pathlib import Path

from ple_rec.training.loggers.base import final_scalars, flatten_config, record_scalars
from tests.training.small import small_config

TRAIN = {
    "split": "train",
    "step": 4,
    "learning_rate": 0.5,
    "table_learning_rate": None,
    "loss": 2.0,
    "tasks": {"click": {"loss": 1.0, "weight": 3, "auc": None}},
    "peak_bytes": 7,
}
VALID = {
    "split": "valid",
    "step": 4,
    "learning_rate": 0.5,
    "loss": 3.0,
    "tasks": {"click": {"auc": 0.75, "ne": float("inf")}},
    "best": True,
}


def test_numbers_of_records() -> None:
    assert record_scalars(TRAIN) == {
        "train/learning_rate": 0.5,
        "train/loss": 2.0,
        "train/peak_bytes": 7.0,
        "train/click/loss": 1.0,
        "train/click/weight": 3.0,
    }
    assert record_scalars(VALID) == {"valid/loss": 3.0, "valid/click/auc": 0.75}


def test_numbers_of_results() -> None:
    metrics = {
        "checkpoint": "step-4",
        "test": {"tasks": {"click": {"auc": 0.5, "gauc": None}}, "gates": [{"level": 1}]},
        "valid": {"tasks": {"click": {"auc": 0.25}}},
        "steps": 4,
        "stopped_early": True,
        "parameters": {"dense": 3},
    }
    assert final_scalars(metrics) == {"final/steps": 4.0, "final/valid/click/auc": 0.25, "final/test/click/auc": 0.5}


def test_keys_of_a_configuration() -> None:
    found = flatten_config(small_config(Path("data"), {"tasks": [{"name": "click", "weight": 2}]}))
    assert found["data.path"] == "data"
    assert found["data.drop"] == "[]"
    assert found["tasks[0].weight"] == 2
    assert found["model.levels[1].expert_hidden"] == "[6]"
    assert "train.epochs" not in found
