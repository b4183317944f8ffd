"""The recipes for mmoe-synthetic: the PLE paper's sizes in each, and a run from preparation to test metrics."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ple_rec.cli import main
from ple_rec.config.load import load_config
from ple_rec.config.run import RunConfig

VARIANTS = ("ple", "cgc", "mmoe", "ml-mmoe", "hard-sharing", "cross-stitch", "sluice", "single-task")
MODELS = {name: load_config(RunConfig, f"synthetic-{name}") for name in VARIANTS}


def test_the_recipes_differ_in_the_model_alone() -> None:
    ple = MODELS["ple"]
    for name, config in MODELS.items():
        assert config.model.variant == name.replace("-", "_")
        assert config.model_copy(update={"model": ple.model, "name": ple.name}) == ple


def test_the_sizes_are_those_of_the_paper() -> None:
    """A task's path has layers of 256, 128 and 64; experts are single layers, two levels at most."""
    for name, config in MODELS.items():
        model = config.model
        below: list[tuple[int, ...]] = [tuple(level.expert_hidden) for level in getattr(model, "levels", ())]
        below = below or [getattr(model, "expert_hidden", ()) or getattr(model, "bottom", ())]
        path = (*(width for level in below for width in level), *model.tower.hidden)
        assert path == ((216, 216, 64) if name == "sluice" else (256, 128, 64)), name
        if name != "single-task":
            assert all(len(level) == 1 for level in below), name


def test_a_run_comes_near_the_noise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model without any embedding table trains from the command line; four inputs make it a matter of seconds."""
    monkeypatch.chdir(tmp_path)
    data = ["--rows", "5000", "--dim", "4", "--correlation", "0.8", "--out", "data/mmoe-synthetic", "--threads", "1"]
    assert main(["prep", "mmoe-synthetic", *data]) == 0
    quick = ("runtime.device=cpu", "runtime.threads=1", "train.epochs=3", "train.batch_size=64")
    settings = [word for setting in quick for word in ("--set", setting)]
    assert main(["train", "--config", "synthetic-single-task", *settings]) == 0
    found = json.loads((tmp_path / "runs" / "synthetic-single-task" / "metrics.json").read_text())["test"]["tasks"]
    stats = json.loads((tmp_path / "data" / "mmoe-synthetic" / "stats.json").read_text())
    for task, floor in stats["reachable"]["test"].items():
        assert floor["mse"] < found[task]["mse"] < 0.2 * floor["variance"]
