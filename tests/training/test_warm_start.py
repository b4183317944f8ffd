"""Day by day: a run starts from the weights of another, on the same dataset or on one that descends from it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from ple_rec.cli import main
from ple_rec.config.load import load_schema
from ple_rec.config.plan import dump_plan
from ple_rec.config.run import RunConfig
from ple_rec.distributed.table_init import initial_bound, uniform_rows_
from ple_rec.errors import DataError, UserError
from ple_rec.runs.diff import compare_runs
from ple_rec.runs.directory import RunDirectory
from ple_rec.runs.layout import PLAN, write_text
from ple_rec.runs.record import read_record
from ple_rec.training.context import build_context
from ple_rec.training.loop import train_steps
from ple_rec.training.preflight import check_training
from ple_rec.training.prepared import prepare_run
from ple_rec.training.run import evaluate_run, train
from ple_rec.training.warm_start import WarmStart, load_warm_start, read_warm_start, resolve_warm_start
from tests.datasets import TABLES
from tests.training.small import (
    on_ranks,
    ranks_of,
    records,
    relative,
    small_config,
    train_small,
    whole_state,
    write_small,
)

pytestmark = pytest.mark.usefixtures("no_charts")

CAPACITY = 48
YESTERDAY = {"user": 15, "item": 30, "tag": 12}  # rows in use
TODAY = TABLES | {"user": 26}  # no batch holds the last two users
EPOCH = {"train": {"batch_size": 24, "steps": 9, "report_every": 9}}
RUN, NEXT = "runs/feed-8", "runs/feed-9"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`feed-8`, `feed-9`, whose parent it is, `feed-10`, the child of both, and `other`."""
    folder, ancestors = tmp_path_factory.mktemp("days"), list[str]()
    for day in (8, 9, 10):
        used = YESTERDAY if day == 8 else TODAY
        data = write_small(folder / f"feed-{day}", seed=day, used=used, capacity=CAPACITY, ancestors=tuple(ancestors))
        ancestors.insert(0, load_schema(data).fingerprint)
    write_small(folder / "other", capacity=CAPACITY)
    return folder


def config_of(data: Path, **changes: Any) -> RunConfig:
    return small_config(data, EPOCH | changes)


def fingerprint(data: Path) -> str:
    return load_schema(data).fingerprint


SHARDINGS = ("row_wise", "table_wise")
WRITTEN = {1: "row_wise", 2: "table_wise"}  # by number of ranks
State = dict[str, Tensor]


def _sharded(data: Path, sharding: str, **changes: Any) -> RunConfig:
    return config_of(data, embeddings={"dim": 4, "sharding": sharding}, **changes)


def _write(rank: int, world_size: int, folder: Path) -> State:
    sharding = WRITTEN[world_size]
    run_dir = folder / f"{sharding}-{world_size}"
    job = train_small(rank, world_size, _sharded(folder / "feed-8", sharding), run_dir)
    if rank == 0:
        write_text(run_dir / PLAN, dump_plan(job.plan))
    return whole_state(job)


class _Read(NamedTuple):
    fresh: State
    loaded: State


def _read(rank: int, world_size: int, folder: Path) -> tuple[dict[str, list[_Read]], State]:
    """By run: what another one has at first and loads of it, of each sharding; after an epoch one of row_wise-1."""
    found: dict[str, list[_Read]] = {}
    for sharding in SHARDINGS:
        for ranks, written in WRITTEN.items():
            name = f"{written}-{ranks}"
            start = WarmStart(str(folder / name), "step-9", fingerprint(folder / "feed-8"), 3, 1.0)
            job = build_context(_sharded(folder / "feed-9", sharding, seed=5), ranks_of(rank, world_size))
            fresh = whole_state(job)
            load_warm_start(job, start)
            found.setdefault(name, []).append(_Read(fresh, whole_state(job)))
            if name == f"{sharding}-1":
                run_dir = folder / f"warm-{world_size}"
                run_dir.mkdir(exist_ok=True)
                train_steps(job, RunDirectory(run_dir, run_dir), resume=False, warm_start=start)
                trained = whole_state(job)
    return found, trained


@pytest.fixture(scope="module")
def written(folder: Path) -> dict[str, State]:
    return {f"{WRITTEN[ranks]}-{ranks}": on_ranks(_write, ranks, folder)[0] for ranks in WRITTEN}


@pytest.fixture(scope="module")
def read(folder: Path, written: dict[str, State]) -> dict[int, tuple[dict[str, list[_Read]], State]]:
    return {world_size: on_ranks(_read, world_size, folder)[0] for world_size in (1, 2)}


def test_all_weights_and_optimizer_state_come_over_at_any_number_of_ranks_and_sharding(
    written: dict[str, State], read: dict[int, tuple[dict[str, list[_Read]], State]]
) -> None:
    for name, state in written.items():
        for fresh, loaded in (one for found, _ in read.values() for one in found[name]):
            assert loaded.keys() == state.keys()
            assert [key for key in state if not torch.equal(loaded[key], state[key])] == [], name
            for key in ("model.normalise.mean_F", "model.normalise.knots_GQ"):  # today's data has statistics of its own
                assert not torch.equal(fresh[key], loaded[key])
        steps = [value for key, value in state.items() if key.endswith(".step")]
        assert steps
        assert all(int(step) == 9 for step in steps)  # Adam's own count goes on


def _initial(table: str, seed: int) -> Tensor:
    whole = torch.empty(CAPACITY, 4)
    uniform_rows_(whole, initial_bound(CAPACITY, 1.0), seed=seed, table=table, first_row=0, first_column=0, dim=4)
    return whole


def test_rows_without_a_value_are_fresh_and_new_ones_learn(
    written: dict[str, State], read: dict[int, tuple[dict[str, list[_Read]], State]]
) -> None:
    weight = "model.embeddings.embedding_bags.{}.weight".format
    squares = "optimizer.embeddings.embedding_bags.{0}.weight.{0}.momentum1".format
    for table, rows in YESTERDAY.items():
        initial = _initial(table, seed=3)
        for state in written.values():
            assert torch.equal(state[weight(table)][rows:], initial[rows:])
            assert not state[squares(table)][rows:].any()
            assert state[squares(table)][:rows].any()
        for _, trained in read.values():
            assert torch.equal(trained[weight(table)][TODAY[table] :], initial[TODAY[table] :])
            new = trained[weight(table)][rows : TODAY[table]] != initial[rows : TODAY[table]]
            assert new.any(dim=1).float().mean() > 0.5 or rows == TODAY[table]


def test_ranks_that_start_together_go_on_learning_as_one_alone(
    folder: Path, read: dict[int, tuple[dict[str, list[_Read]], State]]
) -> None:
    (found, one), (_, two) = read[1], read[2]
    before = found["row_wise-1"][0].loaded
    weights = [name for name in one if name.startswith("model.") and one[name].is_floating_point()]
    moved = {name: relative(one[name], before[name]) for name in weights}
    assert min(moved[name] for name in weights if "normalise" not in name) > 1e-3
    new = slice(YESTERDAY["user"], TODAY["user"] - 2)  # users of today alone, each with samples
    users = "model.embeddings.embedding_bags.user.weight"
    assert (one[users][new] != before[users][new]).any(dim=1).all()
    assert {name: error for name in weights if (error := relative(two[name], one[name])) > 1e-5} == {}
    for world_size in read:
        losses = {r["step"]: r["loss"] for r in records(folder / f"warm-{world_size}") if r["split"] == "valid"}
        assert losses.keys() == {0, 9}
        assert losses[9] < losses[0]


def _train(rank: int, world_size: int, config: RunConfig, run_dir: Path, init_from: Any = None) -> dict[str, Any]:
    return train(config, run_dir, init_from=init_from)


@pytest.fixture(scope="module")
def runs(folder: Path) -> Path:
    """`runs/feed-8` on 2 ranks, `runs/feed-9` from it and `runs/feed-10` from that on 1, each of its day."""
    on_ranks(_train, 2, config_of(folder / "feed-8"), folder / RUN, init=False)
    train(config_of(folder / "feed-9", seed=4), folder / NEXT, init_from=(folder / RUN, "best"))
    train(config_of(folder / "feed-10", seed=5), folder / "runs" / "feed-10", init_from=(folder / NEXT, "latest"))
    return folder / "runs"


def first_validation(run_dir: Path) -> dict[str, Any]:
    first = records(run_dir)[0]
    assert (first["split"], first["step"], first["best"]) == ("valid", 0, False)
    tasks: dict[str, Any] = first["tasks"]
    return tasks


def test_before_its_first_step_a_run_predicts_what_the_other_did(folder: Path, runs: Path, tmp_path: Path) -> None:
    for run, day in (("feed-8", 9), ("feed-9", 10)):
        today = [f"data.path={folder / f'feed-{day}'}"]
        before = evaluate_run(runs / run, splits=["valid"], checkpoint="best", overrides=today)
        assert before["checkpoint"] == "step-9"
        assert first_validation(runs / f"feed-{day}") == before["valid"]["tasks"]

    metrics = json.loads((runs / "feed-9" / "metrics.json").read_text())
    train(
        config_of(folder / "feed-9", train=EPOCH["train"] | {"steps": 1}), tmp_path, init_from=(runs / "feed-9", "best")
    )
    assert first_validation(tmp_path) == metrics["valid"]["tasks"]


def test_a_run_is_evaluated_on_every_descendant(folder: Path, runs: Path) -> None:
    data = folder / "feed-10"  # its parent is feed-9
    found = evaluate_run(runs / "feed-8", splits=["test"], checkpoint="best", overrides=[f"data.path={data}"])
    assert found["test"]["tasks"]["click"]["samples"] == 101


def test_the_run_says_where_it_started(folder: Path, runs: Path) -> None:
    expected = {
        "run": str(folder / RUN),
        "checkpoint": "step-9",
        "dataset": fingerprint(folder / "feed-8"),
        "seed": 3,
        "init_scale": 1.0,
    }
    assert json.loads((folder / NEXT / "init_from.json").read_text()) == expected
    assert json.loads((folder / NEXT / "metrics.json").read_text())["init_from"] == expected
    assert f"starts from <strong>{folder / RUN}:step-9</strong>" in (folder / NEXT / "report.html").read_text()
    diff = compare_runs(read_record(runs / "feed-8"), read_record(runs / "feed-9"))
    assert ("init_from", "random weights", f"{folder / RUN}:step-9") in diff.environment
    assert not (folder / RUN / "init_from.json").exists()


def test_rows_are_told_apart_from_those_of_the_first_run_of_the_chain(folder: Path, runs: Path) -> None:
    """The seed of the tables is the first run's, and rows that no value has are not called untouched."""
    for day, sizes in ((8, YESTERDAY), (9, TODAY), (10, TODAY)):
        health = json.loads((runs / f"feed-{day}" / "metrics.json").read_text())["table_health"]
        assert {t["table"]: (t["rows"], t["free"]) for t in health} == {
            table: (rows, CAPACITY - rows) for table, rows in sizes.items()
        }
        assert {t["table"]: t["never_touched"] for t in health} == {"user": 2 * (day > 8), "item": 0, "tag": 0}
    chain = json.loads((runs / "feed-10" / "init_from.json").read_text())
    assert (chain["run"], chain["seed"]) == (str(runs / "feed-9"), 3)


def test_a_run_killed_before_its_first_checkpoint_starts_from_there_again(
    folder: Path, runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = tmp_path / "run"
    shutil.copytree(runs / "feed-9", run_dir)
    shutil.rmtree(run_dir / "checkpoints")
    for name in ("metrics.json", ".saved"):
        (run_dir / name).unlink()
    train(config_of(folder / "feed-9", seed=4), run_dir, resume=True)
    assert records(run_dir) == records(runs / "feed-9")
    assert f"starts from {folder / RUN}/checkpoints/step-9, trained on dataset " in capsys.readouterr().out


def test_a_run_killed_before_its_first_checkpoint_is_refused_on_another_dataset(
    folder: Path, runs: Path, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    shutil.copytree(runs / "feed-9", run_dir)
    shutil.rmtree(run_dir / "checkpoints")
    for name in ("metrics.json", ".saved"):
        (run_dir / name).unlink()
    with pytest.raises(
        UserError, match=f"^--init-from {folder / RUN}: was trained on dataset .*; {folder / 'other'} is"
    ):
        train(config_of(folder / "other", seed=4), run_dir, resume=True)


def test_a_run_starts_without_the_plan_of_the_other_and_not_without_its_checkpoint(
    folder: Path, runs: Path, tmp_path: Path
) -> None:
    parent, run_dir, config = tmp_path / "parent", tmp_path / "run", config_of(folder / "feed-9")
    shutil.copytree(runs / "feed-8", parent)
    (parent / "plan.json").unlink()
    train(config, run_dir, init_from=(parent, "best"))
    shutil.rmtree(parent)
    shutil.rmtree(run_dir / "checkpoints")  # as of a run that was killed before its first one
    for name in ("metrics.json", ".saved"):
        (run_dir / name).unlink()
    with pytest.raises(UserError, match=f"^{parent}/checkpoints: no checkpoint 'step-9'; there are none"):
        train(config, run_dir, resume=True)


def test_a_run_that_goes_on_does_not_load_again(
    folder: Path, runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir, longer = tmp_path / "run", EPOCH["train"] | {"steps": 18}
    shutil.copytree(runs / "feed-9", run_dir)
    whole = train(
        config_of(folder / "feed-9", seed=4, train=longer), tmp_path / "whole", init_from=(runs / "feed-8", "best")
    )
    best = f"best loss {whole['best_value']:.4f}"
    assert [line for line in capsys.readouterr().out.splitlines() if line.endswith(best)][-1].startswith(
        f"step {whole['best_step']:>2}/18  valid loss {whole['best_value']:.4f}"
    )
    assert whole["best_metric"] == "loss"
    start = json.loads((run_dir / "init_from.json").read_text()) | {"run": "runs/gone"}
    (run_dir / "init_from.json").write_text(json.dumps(start))
    metrics = train(config_of(folder / "feed-9", seed=4, train=longer), run_dir, resume=True)
    assert "starts from" not in capsys.readouterr().out
    assert metrics["test"] == whole["test"]
    assert metrics["init_from"] == start


def test_a_run_directory_that_is_lost_comes_back_with_its_start(folder: Path, runs: Path, tmp_path: Path) -> None:
    config, run_dir = config_of(folder / "feed-9", seed=4, checkpoint={"path": f"{tmp_path}/ck"}), tmp_path / "run"
    whole = train(config, run_dir, init_from=(runs / "feed-8", "best"))
    start = (run_dir / "init_from.json").read_text()
    shutil.rmtree(run_dir)
    again = train(config, run_dir, resume=True)
    assert (run_dir / "init_from.json").read_text() == start
    assert (again["init_from"], again["table_health"]) == (whole["init_from"], whole["table_health"])


def refusal(config: RunConfig, run: Path, run_dir: Path, checkpoint: str = "best") -> str:
    with pytest.raises(UserError) as caught:
        resolve_warm_start(prepare_run(config, 1), run_dir, (run, checkpoint))
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_another_dataset_is_refused(folder: Path, runs: Path, tmp_path: Path) -> None:
    run, eight, nine = runs / "feed-9", fingerprint(folder / "feed-8"), fingerprint(folder / "feed-9")
    assert refusal(config_of(folder / "other"), run, tmp_path) == (
        f"--init-from {run}: was trained on dataset {nine}; {folder / 'other'} is {fingerprint(folder / 'other')} with "
        "no ancestors; a run starts only from the same dataset or an ancestor, since ids of other datasets mean "
        "something else. Fix: train on that dataset, or on one "
        "prepared from it by `ple-rec prep --append`"
    )
    assert f"{folder / 'feed-8'} is {eight} with no ancestors; a run" in refusal(
        config_of(folder / "feed-8"), run, tmp_path
    )


def test_other_parameters_are_refused_together(folder: Path, runs: Path, tmp_path: Path) -> None:
    changes: dict[str, Any] = {
        "embeddings": {"dim": 8},
        "model": config_of(folder / "feed-9").model.model_dump() | {"tower": {"hidden": [6]}},
        "dense_optimizer": {"kind": "adagrad", "learning_rate": 0.5},
        "data": {"path": str(folder / "feed-9"), "virtual_shards": 12, "drop": ["age", "tags"]},
        "tasks": [{"name": "watch"}, {"name": "click", "weight": 2.0}],
    }
    run = runs / "feed-8"
    assert refusal(small_config(folder / "feed-9", EPOCH | changes), run, tmp_path) == (
        f"--init-from {run}: embeddings.dim was 4, is 8; model.tower.hidden was [4], is [6]; dense_optimizer.kind was "
        "'adam', is 'adagrad'; tasks were click (binary), watch (regression), are watch (regression), click (binary); "
        "inputs: gone: tags (table tag, bag, weights), age (standard); the weights fit the same model, tasks, "
        "features, tables and kinds of optimizers only. Fix: train with --config "
        f"{run / 'config.toml'} and change what may differ by --set, or leave out --init-from"
    )


def test_another_capacity_is_refused(folder: Path, runs: Path, tmp_path: Path) -> None:
    data = write_small(tmp_path / "grown", capacity=50, ancestors=(fingerprint(folder / "feed-8"),))
    assert "table item had 48 rows, has 50 rows; table tag had 48 rows" in refusal(
        config_of(data), runs / "feed-8", tmp_path / "run"
    )


def test_what_changes_no_parameter_may_differ(folder: Path, runs: Path, tmp_path: Path) -> None:
    model = config_of(folder / "feed-9").model.model_dump() | {"dropout": 0.1}
    changes: dict[str, Any] = {
        "name": "warm",
        "seed": 9,
        "model": model,
        "embeddings": {
            "dim": 4,
            "init_scale": 0.5,
            "sharding": "table_wise",
            "tables": {"user": {"sharding": "row_wise"}},
        },
        "tasks": [{"name": "click", "weight": 2.0}, {"name": "watch", "loss": "huber"}],
        "dense_optimizer": {"learning_rate": 0.5, "clip_norm": 1.0},
        "table_optimizer": {"learning_rate": 0.5},
        "schedule": {"warmup_steps": 3},
        "early_stopping": {"patience": 3},
        "train": {"batch_size_per_rank": 12, "epochs": 2, "precision": "bf16", "pipeline": "sparse_dist"},
    }
    config = small_config(folder / "feed-9", EPOCH).model_dump(mode="json") | changes
    asked = RunConfig.model_validate_json(json.dumps(config))
    start = resolve_warm_start(prepare_run(asked, 1), tmp_path, (runs / "feed-8", "step-9"))
    assert start is not None
    assert start.path == runs / "feed-8" / "checkpoints" / "step-9"


def test_a_run_that_is_not_there_or_not_done_is_refused(folder: Path, runs: Path, tmp_path: Path) -> None:
    config, store = config_of(folder / "feed-9"), runs / "feed-8" / "checkpoints"
    assert refusal(config, tmp_path / "nix", tmp_path) == (
        f"--init-from {tmp_path / 'nix'}: no config.toml; a run directory has one. Fix: name a trained run"
    )
    assert refusal(config, runs / "feed-8", tmp_path, "step-7") == (
        f"{store}: no checkpoint 'step-7'; there are best, latest, step-9. Fix: name one of them, or train the run "
        "first"
    )
    assert refusal(config, runs / "feed-8", runs / "feed-8" / ".." / "feed-8") == (
        f"--init-from {runs / 'feed-8'}: is the run directory itself; a run starts from another run. Fix: give another "
        "--run-dir or name, or go on with the run by --resume"
    )
    half = tmp_path / "half"
    shutil.copytree(runs / "feed-8", half)
    unfinished = (
        f"--init-from {half}: the run has not finished; a run starts from another run that has been trained to its end "
        f"and evaluated. Fix: finish it: ple-rec train --run-dir {half} --resume"
    )
    metrics = json.loads((half / "metrics.json").read_text())
    (half / "metrics.json").write_text(json.dumps(metrics | {"steps": 5}))  # taken up again since
    assert refusal(config, half, tmp_path) == unfinished
    (half / "metrics.json").unlink()
    assert refusal(config, half, tmp_path) == unfinished
    (half / "metrics.json").write_text("{")
    with pytest.raises(
        DataError, match=r"metrics\.json: unreadable \(.*\); it says whether the run has finished\. Fix: copy"
    ):
        resolve_warm_start(prepare_run(config, 1), tmp_path, (half, "best"))


def test_a_damaged_record_of_the_start_is_said(folder: Path, tmp_path: Path) -> None:
    whole = {"run": "x", "checkpoint": "step-1", "dataset": "x", "seed": 0, "init_scale": 1.0}
    for damaged in ({"run": "x"}, whole | {"seed": "0"}, whole | {"run": 1}, whole | {"init_scale": None}):
        (tmp_path / "init_from.json").write_text(json.dumps(damaged))
        with pytest.raises(
            DataError, match=r"init_from\.json: unreadable \(.*\); it names the checkpoint that the run started from"
        ):
            read_warm_start(tmp_path)


def test_a_table_that_is_cut_by_columns_keeps_its_cut(folder: Path, tmp_path: Path) -> None:
    """With row-wise Adagrad a column shard has state of its own."""
    wide = {"embeddings": {"dim": 64, "sharding": "column_wise"}}
    run = tmp_path / "run"
    train(config_of(folder / "feed-8", **wide), run)
    train(config_of(folder / "feed-9", **wide), tmp_path / "same", init_from=(run, "best"))
    with pytest.raises(UserError) as caught:
        train(
            config_of(folder / "feed-9", embeddings={"dim": 64, "sharding": "row_wise"}),
            tmp_path / "other",
            init_from=(run, "best"),
        )
    assert str(caught.value) == (
        f"--init-from {run}: its column_wise shards are {{'item': [64], 'tag': [64], 'user': [64]}}, this run's are "
        "none; row-wise Adagrad keeps one state for each shard of a row, so shards of other widths need another state. "
        "Fix: train with the same embeddings.sharding and number of ranks, or leave out --init-from"
    )


def test_the_command_line(
    folder: Path, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    verb = ["train", "--config", f"{RUN}/config.toml", "--set", "data.path=feed-9", "--run-dir", str(tmp_path / "run")]
    assert main([*verb, "--init-from", "feed-8:bets"]) == 2
    assert "ple-rec: runs/feed-8/checkpoints: no checkpoint 'bets'; there are best" in capsys.readouterr().err
    assert main([*verb, "--init-from", "feed-7"]) == 2
    assert "ple-rec: feed-7: no such run; " in capsys.readouterr().err
    assert main([*verb, "--init-from", "feed-8:latest"]) == 0
    assert json.loads((tmp_path / "run" / "init_from.json").read_text())["run"] == RUN
    assert main([*verb, "--init-from", "feed-8", "--resume"]) == 2
    assert capsys.readouterr().err == (
        "ple-rec: --resume --init-from: both given; a resumed run has its own weights; its init_from.json says from "
        "which run it started. Fix: leave out --init-from, or start another --run-dir\n"
    )


def test_a_refusal_comes_before_an_earlier_run_is_removed(folder: Path, runs: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    shutil.copytree(runs / "feed-8", run_dir)
    config = config_of(folder / "other")
    for call in (
        lambda: check_training(
            config, run_dir, resume=False, overwrite=True, world_size=1, init_from=(runs / "feed-8", "best")
        ),
        lambda: train(config, run_dir, overwrite=True, init_from=(runs / "feed-8", "best")),
    ):
        with pytest.raises(UserError, match="was trained on dataset"):
            call()
    assert (run_dir / "metrics.json").is_file()
