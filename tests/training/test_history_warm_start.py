"""A run with attention over histories starts from the tables of one with their mean, and the reverse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ple_rec.config.run import RunConfig
from ple_rec.errors import UserError
from ple_rec.models.embeddings import weight_key
from ple_rec.training.context import build_context
from ple_rec.training.preflight import check_training
from ple_rec.training.prepared import prepare_run
from ple_rec.training.run import evaluate_run, train
from ple_rec.training.trained import load_table_rows
from ple_rec.training.warm_start import WarmStart, load_warm_start, resolve_warm_start
from tests.histories import FINGERPRINT, write_histories
from tests.training.small import on_ranks, ranks_of, small_config, whole_state

pytestmark = pytest.mark.usefixtures("no_charts")

TABLES = ("user", "video", "author", "tab", "liked_age")
UNPOOLED = TABLES[1:]
State = dict[str, Tensor]


def _config(
    data: Path, history: str, *, sharding: str = "row_wise", hidden: tuple[int, ...] | None = None
) -> RunConfig:
    config = small_config(
        data,
        {
            "tasks": [{"name": "click"}, {"name": "watch"}],
            "seed": 5,
            "embeddings": {"dim": 8, "sharding": sharding},
            "train": {"batch_size": 48, "steps": 6, "report_every": 6},
        },
    )
    model = config.model.model_copy(update={"history": history, "history_hidden": hidden})
    return config.model_copy(update={"model": model})


def _train(rank: int, world_size: int, config: RunConfig, run_dir: Path, start: Any = None) -> dict[str, Any]:
    return train(config, run_dir, init_from=start)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`data`, and finished runs `mean` and `din` of two ranks."""
    folder = tmp_path_factory.mktemp("warm")
    write_histories(folder / "data")
    for history in ("mean", "din"):
        on_ranks(_train, 2, _config(folder / "data", history), folder / history, init=False)
    return folder


def _tables(state: State, *, din: bool) -> State:
    """Rows and optimizer state of every table, by name."""
    tables = {}
    for name in TABLES:
        key = weight_key(name, unpooled=din and name in UNPOOLED)
        tables[name] = state[f"model.{key}"]
        tables[f"{name} squares"] = state[f"optimizer.{key}.{name}.momentum1"]
    return tables


def _states(rank: int, world_size: int, folder: Path) -> dict[str, tuple[State, State]]:
    """By kind of the run that begins: its state at first, and after the tables of the other kind were loaded."""
    results = {}
    for now, before in (("din", "mean"), ("mean", "din")):
        start = WarmStart(str(folder / before), "step-6", FINGERPRINT, 5, 1.0)
        job = build_context(_config(folder / "data", now, sharding="table_wise"), ranks_of(rank, world_size))
        fresh = whole_state(job)
        load_warm_start(job, start)
        results[now] = fresh, whole_state(job)
    return results


def _saved(rank: int, world_size: int, folder: Path) -> dict[str, State]:
    states = {}
    for history in ("mean", "din"):
        job = build_context(_config(folder / "data", history), ranks_of(rank, world_size))
        load_warm_start(job, WarmStart(str(folder / history), "step-6", FINGERPRINT, 5, 1.0))
        states[history] = whole_state(job)
    return states


def test_tables_and_their_optimizer_come_over_and_dense_layers_begin_anew(folder: Path) -> None:
    saved = on_ranks(_saved, 1, folder)[0]
    loaded = on_ranks(_states, 3, folder)[0]
    for now, before in (("din", "mean"), ("mean", "din")):
        fresh, state = loaded[now]
        expected = _tables(saved[before], din=before == "din")
        found = _tables(state, din=now == "din")
        assert [name for name in expected if not torch.equal(found[name], expected[name])] == []
        assert all(values.any() for values in found.values())
        rest = {key for key in state if not any(f".{name}." in key for name in TABLES)}
        assert {"model.towers.0.layers.0.weight", "model.normalise.mean_F"} <= rest
        assert state.keys() == fresh.keys()
        assert [key for key in rest if not torch.equal(state[key], fresh[key])] == []


def test_a_run_goes_on_from_the_tables_of_the_other_kind(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = _config(folder / "data", "din", hidden=(8, 4))
    start = (folder / "mean", "best")
    check_training(config, tmp_path / "run", resume=False, overwrite=False, world_size=1, init_from=start)
    metrics = train(config, tmp_path / "run", init_from=start)
    output = capsys.readouterr().out
    assert "the dense layers begin with random weights, since model.history was mean, is din" in output
    assert metrics["init_from"]["run"] == str(folder / "mean")
    # Attention of other sizes between runs that both have it does not fit.
    with pytest.raises(UserError, match=r"model\.history_hidden was None, is \[8, 4\]; the weights fit"):
        resolve_warm_start(prepare_run(config, 1), tmp_path / "other", (folder / "din", "best"))


def _loaded(rank: int, world_size: int, configs: list[RunConfig], start: WarmStart) -> list[State]:
    states = []
    for config in configs:
        job = build_context(config, ranks_of(rank, world_size))
        load_warm_start(job, start)
        states.append(whole_state(job))
    return states


def test_without_histories_the_dense_layers_come_over_too(folder: Path, tmp_path: Path) -> None:
    mean, din = (
        config.model_copy(update={"data": config.data.model_copy(update={"drop": ("liked",)})})
        for config in (_config(folder / "data", "mean"), _config(folder / "data", "din", hidden=(8, 4)))
    )
    train(mean, tmp_path / "mean")
    start = resolve_warm_start(prepare_run(din, 1), tmp_path / "din", (tmp_path / "mean", "latest"))
    assert start is not None
    of_mean, of_din = on_ranks(_loaded, 1, [mean, din], start)[0]
    assert [key for key in of_mean if not torch.equal(of_din[key], of_mean[key])] == []


def test_rows_of_a_table_are_read_under_either_key(folder: Path) -> None:
    for history in ("mean", "din"):
        config = _config(folder / "data", history)
        rows_RD = load_table_rows(config, folder / history, "latest", "video")
        assert rows_RD.shape == (40, 8)
        assert rows_RD.any()
    found = evaluate_run(folder / "din", splits=["test"], checkpoint="best")
    assert found["test"]["tasks"]["click"]["samples"] == 256
