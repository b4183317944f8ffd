"""Every variant trains through the one loop, on one rank as on two."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from ple_rec.config.model import ModelConfig
from ple_rec.models.variants import VARIANTS
from ple_rec.training.evaluate import evaluate
from tests.training.small import SGD, on_ranks, records, small_config, train_small, write_small

WIDE, NARROW = {"expert_hidden": [8]}, {"expert_hidden": [6]}
TOWER = {"hidden": [4]}
STEPS = {"train": {"steps": 3, "report_every": 3}}
MODELS: dict[str, dict[str, Any]] = {
    "single_task": {"bottom": [8, 6]},
    "hard_sharing": {"bottom": [8, 6]},
    "asymmetric": {"bottom": [8, 6], "donors": {"watch": ["click"]}},
    "customized": {"bottom": [8, 6]},
    "cross_stitch": {"levels": [WIDE, NARROW]},
    "sluice": {"levels": [NARROW, NARROW], "subspaces": 3},
    "mmoe": {"experts": 3, "expert_hidden": [8, 6]},
    "ml_mmoe": {"levels": [{"experts": 3, **WIDE}, {"experts": 2, **NARROW}]},
    "cgc": {"expert_hidden": [8, 6]},
    "ple": {"levels": [WIDE, NARROW]},
}


def _all(rank: int, world_size: int, data: Path, folder: Path) -> dict[str, dict[str, Any]]:
    """Per variant the test metrics and gates after a few steps."""
    said = {}
    for variant, fields in MODELS.items():
        model = TypeAdapter(ModelConfig).validate_python(
            {"variant": variant, "tower": TOWER, **fields}, strict=False, extra="forbid"
        )
        config = small_config(data, SGD | STEPS).model_copy(update={"model": model})
        job = train_small(rank, world_size, config, folder / f"{variant}-{world_size}")
        said[variant] = evaluate(
            job.model,
            job.evaluation_loader("test").epoch(0),
            job.selection.tasks,
            job.ranks.device,
            exact_limit=1000,
            gate_labels=job.gate_labels,
        )
    return said


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("variants")
    data = write_small(folder / "data")
    (one,), (two, other) = (on_ranks(_all, ranks, data, folder) for ranks in (1, 2))
    assert two == other
    return {"folder": folder, "one": one, "two": two}


def test_the_list_is_complete() -> None:
    assert sorted(MODELS) == sorted(VARIANTS)


@pytest.mark.parametrize("variant", MODELS)
def test_one_rank_and_two_train_the_same_model(results: dict[str, Any], variant: str) -> None:
    one, two = results["one"][variant], results["two"][variant]
    for task, values in one["tasks"].items():
        for key in ("auc", "logloss") if task == "click" else ("mse", "calibration"):
            assert two["tasks"][task][key] == pytest.approx(values[key], rel=2e-3), (task, key)
    for ours, theirs in zip(one["gates"], two["gates"], strict=True):
        assert ours["experts"] == theirs["experts"]
        for row, other in zip(ours["mean"], theirs["mean"], strict=True):
            assert [value is None for value in row] == [value is None for value in other]
            assert [v for v in row if v is not None] == pytest.approx([v for v in other if v is not None], abs=1e-4)
    logs = [records(results["folder"] / f"{variant}-{ranks}") for ranks in (1, 2)]
    for record, other in zip(*logs, strict=True):
        assert math.isfinite(record["loss"])
        assert other["loss"] == pytest.approx(record["loss"], rel=2e-3)


def test_what_mixes_is_named(results: dict[str, Any]) -> None:
    named = {
        variant: [(gate["level"], gate["mixing"]) for gate in result["gates"]]
        for variant, result in results["one"].items()
    }
    assert named["ple"] == [(1, "softmax"), (2, "softmax")]
    assert named["customized"] == [(1, "concat")]
    assert named["cross_stitch"] == [(1, "stitch"), (2, "stitch")]
    assert named["sluice"] == [(1, "subspaces"), (2, "subspaces"), (None, "levels")]
    sluice = results["one"]["sluice"]["gates"]
    assert sluice[0]["experts"] == [f"{task}.0[{part}]" for task in ("click", "watch") for part in range(3)]
    assert (sluice[2]["outputs"], sluice[2]["experts"]) == (["click", "watch"], ["level 1", "level 2"])
    assert [sum(row) for row in sluice[2]["mean"]] == pytest.approx([1, 1])
    assert max(max(row) for row in sluice[2]["std"]) < 1e-6  # the same for every sample
