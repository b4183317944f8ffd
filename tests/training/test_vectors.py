"""Training with vectors: it learns from them, ranks do not matter, a run resumes, and wrong configurations end."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ple_rec.cli import main
from ple_rec.config.model import VECTOR_DIM
from ple_rec.config.run import RunConfig
from ple_rec.data.dataset import DatasetDirectory
from ple_rec.errors import DataError, UserError
from ple_rec.planning.plan_input import describe_dataset, meta_model
from ple_rec.training.checks import select_run_columns
from ple_rec.training.evaluate import evaluate
from ple_rec.training.model import build_unsharded_model, first_layer_shape, model_sizes
from ple_rec.training.prepared import prepare_run
from tests.training.small import SGD, on_ranks, relative, small_config, train_small, whole_state
from tests.vectors import CONTENT, TASTE, write_vectors

ADAM = {"dense_optimizer": {"learning_rate": 0.01}}
REQUESTS = {"request_features": ["user", "taste"], "shuffle": "requests"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vectors")
    write_vectors(folder / "data")
    return folder


def config(folder: Path, changes: dict[str, Any] | None = None, steps: int = 60, **data: Any) -> RunConfig:
    sections: dict[str, Any] = {"train": {"batch_size": 24, "steps": steps, "report_every": steps}, "data": data}
    model = {"model": {"vector_dim": 6}}
    return small_config(folder / "data", model | sections | (changes or {}))


def _losses(rank: int, world_size: int, folder: Path) -> dict[str, float]:
    """Normalised entropy on valid after some epochs, by the vectors that are read."""
    losses = {}
    cases: dict[str, dict[str, Any]] = {"all": {}, "taste": {"vectors": ["taste"]}, "none": {"vectors": []}}
    for name, data in cases.items():
        job = train_small(rank, world_size, config(folder, ADAM, 150, **data), folder / f"learns {name}")
        batches = job.evaluation_loader("valid").epoch(0)
        metrics = evaluate(
            job.model, batches, job.selection.tasks, job.ranks.device, exact_limit=1000, gate_labels=job.gate_labels
        )
        losses[name] = metrics["tasks"]["liked"]["ne"]
    return losses


def test_a_model_learns_from_vectors(folder: Path) -> None:
    losses = on_ranks(_losses, 1, folder)[0]
    assert losses["all"] < 0.6 * losses["taste"]
    assert losses["taste"] < 0.95 * losses["none"]


def _state(rank: int, world_size: int, folder: Path, data: dict[str, Any]) -> dict[str, Tensor]:
    run = folder / f"{world_size} {'requests' if data else 'rows'}"
    return whole_state(train_small(rank, world_size, config(folder, SGD_SMALL, 20, **data), run))


SGD_SMALL = {"dense_optimizer": {"kind": "sgd", "learning_rate": 0.05}, "table_optimizer": SGD["table_optimizer"]}


@pytest.mark.parametrize("data", [{}, REQUESTS], ids=["rows", "requests"])
def test_two_ranks_train_the_weights_of_one(data: dict[str, Any], folder: Path) -> None:
    (one,), (two, other) = (on_ranks(_state, ranks, folder, data) for ranks in (1, 2))
    assert one.keys() == two.keys() == other.keys()
    assert [name for name in one if "vectors.projections" in name]
    for name, value in one.items():
        assert torch.equal(two[name], other[name]), name
        assert not value.numel() or relative(two[name], value) < 1e-5, name


def _resumed(rank: int, world_size: int, folder: Path) -> list[dict[str, Tensor]]:
    states = []
    every = {"checkpoint": {"every": 7}}
    whole = folder / "whole"
    states.append(whole_state(train_small(rank, world_size, config(folder, ADAM | every, 20), whole)))
    half = folder / "half"
    train_small(rank, world_size, config(folder, ADAM | every, 13), half)
    states.append(whole_state(train_small(rank, world_size, config(folder, ADAM | every, 20), half, resume=True)))
    return states


def test_a_resumed_run_ends_in_the_same_bits(folder: Path) -> None:
    whole, resumed = on_ranks(_resumed, 1, folder)[0]
    assert all(torch.equal(resumed[name], value) for name, value in whole.items())
    saved = {name.partition("vectors.")[2] for name in whole if ".vectors." in name and name.startswith("model.")}
    assert saved == {"mean_W", "scale_W", *(f"projections.{i}.{part}" for i in (0, 1) for part in ("weight", "bias"))}


def test_sizes_know_the_projections(folder: Path) -> None:
    run = config(folder)
    described = describe_dataset(run)
    selection = select_run_columns(run, described)
    model = meta_model(run, described, cuda=False)
    width, _ = first_layer_shape(run, selection)
    assert width == model.shared_columns.width == 4 + 1 + 2 * 6
    projections = 6 * (TASTE + CONTENT) + 2 * 6
    without = meta_model(config(folder, vectors=[]), described, cuda=False)
    # Experts and gates of the first level read 12 columns more, too.
    assert model.dense_parameters() - without.dense_parameters() > projections
    assert model.flops_per_sample() > without.flops_per_sample() + 2 * 6 * (TASTE + CONTENT)
    assert model_sizes(run, selection).dense_parameters <= model.dense_parameters()
    default = config(folder).model_copy(update={"model": run.model.model_copy(update={"vector_dim": None})})
    assert first_layer_shape(default, selection)[0] == 4 + 1 + 2 * VECTOR_DIM


def test_a_plan_reserves_the_memory_of_frozen_tables(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "run.toml"
    file.write_text(f"""
name = "plan"
[data]
path = "{folder / "data"}"
[model]
variant = "single_task"
bottom = [4]
[train]
batch_size = 32
steps = 1
""")
    argv = ["plan", "--config", str(file), "--device", "cpu", "--ranks-per-host", "2"]
    assert main([*argv, "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["reserved"]["frozen_bytes"] == 4 * CONTENT * 31
    assert main(argv) == 0
    assert "frozen tables of vectors take 992 B of each host's memory" in capsys.readouterr().out
    assert main([*argv, "--json", "--set", "data.vectors=[]"]) == 0
    assert "frozen_bytes" not in json.loads(capsys.readouterr().out)["reserved"]


def test_a_wrong_name_is_refused(folder: Path) -> None:
    with pytest.raises(UserError) as caught:
        prepare_run(config(folder, vectors=["contemt"]), 1)
    assert str(caught.value) == (
        f"data.vectors: got 'contemt'; {folder / 'data'} has taste, content. Fix: did you mean 'content'?"
    )


def test_lacking_statistics_are_named(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "data", tmp_path / "data")
    stats = json.loads((tmp_path / "data" / "stats.json").read_text())
    (tmp_path / "data" / "_SUCCESS").write_text("")
    for change, words in (
        ({}, "no columns.content.train.mean, columns.content.train.std"),
        ({"mean": [0.0], "std": [1.0]}, "1 values of columns.content.train.mean; vectors of 'content' have 4 numbers"),
    ):
        stats["columns"]["content"] = {"train": change}
        (tmp_path / "data" / "stats.json").write_text(json.dumps(stats))
        run = config(tmp_path)
        dataset = DatasetDirectory(run.data.path)
        with pytest.raises(DataError) as caught:
            build_unsharded_model(run, select_run_columns(run, dataset), dataset.statistics(), torch.device("meta"))
        assert words in str(caught.value)
