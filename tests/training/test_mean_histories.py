"""Training with the mean of histories: it learns from them, ranks do not matter, a run resumes and goes on elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ple_rec.config.run import RunConfig
from ple_rec.training.evaluate import evaluate
from tests.histories import write_histories
from tests.training.small import SGD, on_ranks, relative, small_config, train_small, whole_state

ADAM = {"dense_optimizer": {"learning_rate": 0.01}, "table_optimizer": {"learning_rate": 0.1}}
# Two or three rows of a request have different videos, and one history.
REQUESTS = {"request_features": ["user", "liked"], "shuffle": "requests"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`data/` with a history, and runs."""
    folder = tmp_path_factory.mktemp("histories")
    write_histories(folder / "data")
    return folder


def config(folder: Path, changes: dict[str, Any] | None = None, steps: int = 20, **data: Any) -> RunConfig:
    """A run that reads the dataset of `folder`."""
    sections: dict[str, Any] = {"train": {"batch_size": 48, "steps": steps, "report_every": steps}, "data": data}
    return small_config(folder / "data", sections | (changes or {}))


def _losses(rank: int, world_size: int, folder: Path) -> dict[str, float]:
    """Normalised entropy of `click` on the test split, by the features that are read."""
    losses = {}
    for name, drop in {"with": [], "without": ["liked"]}.items():
        job = train_small(rank, world_size, config(folder, ADAM, 200, drop=drop), folder / f"learns {name}")
        batches = job.evaluation_loader("test").epoch(0)
        metrics = evaluate(
            job.model, batches, job.selection.tasks, job.ranks.device, exact_limit=1000, gate_labels=job.gate_labels
        )
        losses[name] = metrics["tasks"]["click"]["ne"]
    return losses


def test_a_model_learns_from_a_history(folder: Path) -> None:
    losses = on_ranks(_losses, 1, folder)[0]
    print(losses)
    assert losses["with"] < 0.6
    assert losses["without"] > 0.9


SGD_SMALL = {"dense_optimizer": {"kind": "sgd", "learning_rate": 0.05}, "table_optimizer": SGD["table_optimizer"]}


def _state(rank: int, world_size: int, folder: Path, data: dict[str, Any]) -> dict[str, Tensor]:
    run = folder / f"{world_size} {'requests' if data else 'rows'}"
    return whole_state(train_small(rank, world_size, config(folder, SGD_SMALL, **data), run))


@pytest.mark.parametrize("data", [{}, REQUESTS], ids=["rows", "requests"])
def test_two_ranks_train_the_weights_of_one(data: dict[str, Any], folder: Path) -> None:
    (one,), (two, other) = (on_ranks(_state, ranks, folder, data) for ranks in (1, 2))
    assert one.keys() == two.keys() == other.keys()
    assert [name for name in one if "liked_age" in name]
    for name, value in one.items():
        assert torch.equal(two[name], other[name]), name
        assert not value.numel() or relative(two[name], value) < 1e-5, name
