"""Training with the mean of histories: it learns, ranks do not matter, a run resumes and goes on with later days."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ple_rec.cli import main
from ple_rec.config.load import dump_toml
from ple_rec.config.run import RunConfig
from ple_rec.data.dataset import DatasetDirectory
from ple_rec.planning.plan_input import describe_dataset, meta_model
from ple_rec.runs.layout import CONFIG, write_text
from ple_rec.training.checks import select_run_columns
from ple_rec.training.context import build_context
from ple_rec.training.evaluate import evaluate
from ple_rec.training.model import first_layer_shape, model_sizes
from ple_rec.training.prepared import prepare_run
from ple_rec.training.warm_start import WarmStart, load_warm_start
from tests.histories import FINGERPRINT, LENGTH, write_histories
from tests.training.small import SGD, on_ranks, ranks_of, relative, small_config, train_small, whole_state

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
    for name, drop in {"with": ["user", "noise"], "without": ["user", "noise", "liked"]}.items():
        job = train_small(rank, world_size, config(folder, ADAM, 60, drop=drop), folder / f"learns {name}")
        batches = job.evaluation_loader("test").epoch(0)
        metrics = evaluate(
            job.model, batches, job.selection.tasks, job.ranks.device, exact_limit=1000, gate_labels=job.gate_labels
        )
        losses[name] = metrics["tasks"]["click"]["ne"]
    return losses


def test_a_model_learns_from_a_history(folder: Path) -> None:
    losses = on_ranks(_losses, 1, folder)[0]
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


def _resumed(rank: int, world_size: int, folder: Path) -> list[dict[str, Tensor]]:
    # Id dropout reads the epoch and the seed, which a resumed run has to have, too.
    changes = ADAM | {"checkpoint": {"every": 7}, "embeddings": {"dim": 4, "id_dropout": 0.2}}
    whole, half = folder / "whole", folder / "half"
    states = [whole_state(train_small(rank, world_size, config(folder, changes), whole))]
    train_small(rank, world_size, config(folder, changes, 13), half)
    return [*states, whole_state(train_small(rank, world_size, config(folder, changes), half, resume=True))]


def test_a_resumed_run_ends_in_the_same_bits(folder: Path) -> None:
    whole, resumed = on_ranks(_resumed, 1, folder)[0]
    assert all(torch.equal(resumed[name], value) for name, value in whole.items())


def test_sizes_know_the_columns_of_a_history(folder: Path) -> None:
    tables = {"liked_age": {"dim": 8}, "video": {"pooling": "sum"}}
    run = config(folder, {"embeddings": {"dim": 4, "tables": tables}}, request_features=["liked"])
    described = describe_dataset(run)
    selection = select_run_columns(run, described)
    model = meta_model(run, described, cuda=False)
    # Four features, three items and an age, and one dense feature.
    assert first_layer_shape(run, selection)[0] == model.shared_columns.width == 4 * 4 + (3 * 4 + 8) + 1
    columns = {"liked.video", "liked.author", "liked.tab", "liked_age"}
    assert model.mean_features == columns
    shared = [width for is_shared, width in model.shared_columns.runs if is_shared]
    assert sum(shared) == 3 * 4 + 8
    without = meta_model(config(folder, drop=["liked"]), described, cuda=False)
    assert model.flops_per_sample() > without.flops_per_sample()
    assert model_sizes(run, selection).dense_parameters <= model.dense_parameters()


def test_a_plan_counts_the_events_of_a_history(folder: Path) -> None:
    described = describe_dataset(config(folder))
    mean = json.loads((folder / "data/stats.json").read_text())["columns"]["liked"]["train"]["mean_length"]
    assert described.ids_per_sample["liked.video"] == described.ids_per_sample["liked_age"] == mean
    dataset = DatasetDirectory(folder / "data")
    dataset.__dict__["_stats"] = {}
    assert dataset.ids_per_sample(dataset.schema.history_columns())["liked.video"] == LENGTH


def test_ages_keep_their_ids_unless_their_table_is_named(folder: Path) -> None:
    embeddings: dict[str, Any] = {"dim": 4, "id_dropout": 0.2, "tables": {"tab": {"id_dropout": 0.0}}}
    shares = prepare_run(config(folder, {"embeddings": embeddings}), 1).id_dropout
    assert shares == dict.fromkeys(("user", "video", "author", "liked.video", "liked.author"), 0.2)
    embeddings["tables"] = {"liked_age": {"id_dropout": 0.1}}
    assert prepare_run(config(folder, {"embeddings": embeddings}), 1).id_dropout["liked_age"] == 0.1


def _went_on(rank: int, world_size: int, folder: Path) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    first = config(folder, ADAM)
    before = whole_state(train_small(rank, world_size, first, folder / "day 1"))
    write_text(folder / "day 1" / CONFIG, dump_toml(first))
    later = build_context(small_config(folder / "later", {"embeddings": {"dim": 4}}), ranks_of(rank, world_size))
    load_warm_start(later, WarmStart(str(folder / "day 1"), "step-20", FINGERPRINT, 3, 1.0))
    return before, whole_state(later)


def test_a_run_goes_on_with_a_later_dataset(folder: Path) -> None:
    write_histories(folder / "later", seed=1, fingerprint="later", ancestors=(FINGERPRINT,))
    before, after = on_ranks(_went_on, 1, folder)[0]
    tables = [name for name in before if name.startswith("model.embeddings")]
    assert len(tables) == 5
    assert all(torch.equal(after[name], before[name]) for name in tables)


def test_a_whole_run_and_its_pages(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = config(folder, ADAM | {"checkpoint": {"every": 10}}, 20, **REQUESTS)
    file = tmp_path / "run.toml"
    file.write_text(dump_toml(run))
    out = str(tmp_path / "run")
    assert main(["train", "--config", str(file), "--run-dir", out]) == 0
    assert main(["evaluate", out, "--split", "valid"]) == 0
    assert main(["report", out]) == 0
    assert main(["plan", "--config", str(file), "--device", "cpu", "--ranks-per-host", "2"]) == 0
    assert main(["verify", str(folder / "data")]) == 0
    capsys.readouterr()
