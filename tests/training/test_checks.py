"""What a configuration asks of its dataset, and of a run that is there already."""

from __future__ import annotations

import json
import shutil
import tomllib
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch

from ple_rec.config.base import Split
from ple_rec.config.load import ConfigError, dump_toml, load_config
from ple_rec.config.run import RunConfig
from ple_rec.data.dataset import DatasetDirectory
from ple_rec.errors import DataError, UserError
from ple_rec.models.losses import LOSSES
from ple_rec.models.weighting import WEIGHTINGS
from ple_rec.training.checks import chosen_tasks, loss_names, select_run_columns
from ple_rec.training.preflight import check_training
from ple_rec.training.prepared import prepare_run
from ple_rec.training.run import evaluate_run, train
from tests.datasets import set_column
from tests.training.small import resumes, small_config, write_small, write_unrelated

pytestmark = pytest.mark.usefixtures("no_charts")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small(tmp_path_factory.mktemp("checks") / "data")


def test_a_loss_weight_that_would_overflow_is_refused_before_the_run(data: Path, tmp_path: Path) -> None:
    config = small_config(data, {"tasks": [{"name": "click", "decay": 1.1}], "train": {"steps": 1000}})
    with pytest.raises(UserError) as caught:
        check_training(config, tmp_path / "run", resume=False, overwrite=False, world_size=1)
    assert str(caught.value) == (
        "tasks.click.decay: got 1.1; after 1000 steps the weight is e^95; a loss weight stays below e^60. Fix: use a "
        'decay of at most 1, or train.weight_schedule = "epoch"'
    )
    check_training(
        small_config(data, {"tasks": [{"name": "click", "decay": 1.1}], "train": {"weight_schedule": "epoch"}}),
        tmp_path / "run",
        resume=False,
        overwrite=False,
        world_size=1,
    )


@pytest.mark.parametrize(
    ("task", "loss", "message"),
    [
        (
            "click",
            "huber",
            'tasks.click.loss: got "huber" on a binary task; huber is for regression tasks. Fix: use cross_entropy',
        ),
        (
            "watch",
            "cross_entropy",
            'tasks.watch.loss: got "cross_entropy" on a regression task; cross_entropy is for binary tasks. Fix: use '
            "mse or huber",
        ),
    ],
)
def test_a_loss_of_another_kind_of_task_is_refused(
    task: str, loss: str, message: str, data: Path, tmp_path: Path
) -> None:
    config = small_config(data, {"tasks": [{"name": task, "loss": loss}]})
    with pytest.raises(UserError) as caught:
        check_training(config, tmp_path / "run", resume=False, overwrite=False, world_size=1)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    "changes",
    [{"train": {"best_metric": "click.auc"}}, {"early_stopping": {"metric": "mean.ne", "patience": 1}}],
    ids=["best_metric", "early_stopping"],
)
def test_a_metric_of_two_classes_is_refused_where_validation_has_one(
    changes: dict[str, Any], data: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(data, tmp_path / "data")
    stats = json.loads((copy / "stats.json").read_text())
    stats["tasks"]["click"]["valid"] = {"samples": 1234, "mean": 0.0, "positives": 0}
    (copy / "stats.json").write_text(json.dumps(stats))
    (copy / "_SUCCESS").write_text("")
    with pytest.raises(UserError) as caught:
        check_training(small_config(copy, changes), tmp_path / "run", resume=False, overwrite=False, world_size=1)
    assert str(caught.value).endswith(
        "; it needs positives and negatives, and of the 1,234 samples of click in the validation split 0 are positive. "
        "Fix: use another metric, such as loss, or split the dataset differently"
    )
    del stats["tasks"]  # by hand, without counts: found out at the first evaluation
    (copy / "stats.json").write_text(json.dumps(stats))
    check_training(small_config(copy, changes), tmp_path / "run", resume=False, overwrite=False, world_size=1)


@pytest.mark.parametrize(
    ("tasks", "expected"),
    [
        ([], ("cross_entropy", "mse")),
        ([{"name": "watch"}, {"name": "click"}], ("mse", "cross_entropy")),
        ([{"name": "watch", "loss": "huber"}, {"name": "click"}], ("huber", "cross_entropy")),
    ],
)
def test_a_task_has_the_loss_of_its_kind_or_the_one_it_asks_for(
    tasks: list[dict[str, str]], expected: tuple[str, ...], data: Path
) -> None:
    config = small_config(data, {"tasks": tasks})
    selection = select_run_columns(config, DatasetDirectory(data))
    assert loss_names(config, selection, chosen_tasks(config, selection)) == expected


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("tasks[1].huber_delta=0.0", "tasks[1].huber_delta: got 0.0; must be > 0"),
        ("tasks[1].huber_delta=-2", "tasks[1].huber_delta: got -2; must be > 0"),
        (
            "tasks[0].huber_delta=2.0",
            'tasks[0]: huber_delta = 2.0 with no loss; it belongs to huber. Set loss = "huber", or drop it',
        ),
        (
            "tasks[1].loss=mse",
            'tasks[1]: huber_delta = 0.5 with loss = "mse"; it belongs to huber. Set loss = "huber", or drop it',
        ),
        (
            "tasks[1].loss=hubr",
            'tasks[1].loss: got "hubr"; did you mean "huber"? (known: cross_entropy, mse, huber)',
        ),
        (
            "train.loss_weighting=uncertain",
            'train.loss_weighting: got "uncertain"; did you mean "uncertainty"? (known: schedule, uncertainty)',
        ),
    ],
)
def test_a_wrong_loss_is_a_problem_of_the_configuration(
    override: str, problem: str, data: Path, tmp_path: Path
) -> None:
    file = tmp_path / "run.toml"
    tasks = [{"name": "click"}, {"name": "watch", "loss": "huber", "huber_delta": 0.5}]
    config = small_config(data, {"tasks": tasks})
    file.write_text(dump_toml(config))
    assert load_config(RunConfig, file) == config
    with pytest.raises(ConfigError) as caught:
        load_config(RunConfig, file, [override])
    assert str(caught.value) == f"--set: 1 problem\n  {problem}"


def test_the_saved_configuration_of_a_huber_without_delta_reads_back(data: Path, tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    config = small_config(data, {"tasks": [{"name": "click"}, {"name": "watch", "loss": "huber"}]})
    file.write_text(dump_toml(config))
    assert "huber_delta" not in file.read_text()
    assert load_config(RunConfig, file) == config
    assert load_config(RunConfig, file, ["tasks[1].huber_delta=3"]).tasks[1].huber_delta == 3.0


def test_the_losses_of_the_models_page_are_a_configuration_and_every_name_is_there(
    data: Path, repository: Path
) -> None:
    page = (repository / "docs" / "models.md").read_text().split("## Losses\n")[1]
    example = tomllib.loads(page[page.index("    [[tasks]]") :].split("\n\nAnother")[0])
    example["train"] |= {"batch_size": 24, "steps": 4}
    config = small_config(data, example)
    selection = select_run_columns(config, DatasetDirectory(data))
    assert loss_names(config, selection, chosen_tasks(config, selection)) == ("cross_entropy", "huber")
    assert [name for name in LOSSES if f"| `{name}` |" not in page] == []
    assert [name for name in WEIGHTINGS if f"\n    {name} " not in page] == []


def test_a_run_does_not_go_on_under_another_weighting(data: Path, tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(dump_toml(small_config(data)))
    changes = {"train": {"batch_size": 24, "steps": 4, "report_every": 2, "loss_weighting": "uncertainty"}}
    with pytest.raises(UserError, match=r"train\.loss_weighting was 'schedule', is 'uncertainty'; --resume goes on"):
        resumes(small_config(data, changes), tmp_path)


def test_the_best_checkpoint_by_gauc_needs_groups(data: Path, tmp_path: Path) -> None:
    without = write_small(tmp_path / "without", group=False)
    for metric, instead in (("click.gauc", "click.auc"), ("mean.gauc", "mean.auc")):
        changes = {"train": {"batch_size": 24, "steps": 4, "best_metric": metric}}
        check_training(small_config(data, changes), tmp_path / "run", resume=False, overwrite=False, world_size=1)
        with pytest.raises(UserError) as caught:
            check_training(
                small_config(without, changes), tmp_path / "run", resume=False, overwrite=False, world_size=1
            )
        assert str(caught.value) == (
            f"train.best_metric: got {metric!r}; GAUC is AUC inside groups, and the dataset has no group column. Fix: "
            f"name the column of users or requests by `group` in the dataset's schema.toml, or use {instead}"
        )
    for metric in ("watch.gauc", "click.xyz"):
        changes = {"train": {"batch_size": 24, "steps": 4, "best_metric": metric}}
        with pytest.raises(UserError, match=r"it is one of loss, click\.auc, click\.ne, click\.logloss, watch\.mse,"):
            check_training(
                small_config(without, changes), tmp_path / "run", resume=False, overwrite=False, world_size=1
            )


def test_the_best_checkpoint_by_subgroup_gauc_needs_subgroups(data: Path, tmp_path: Path) -> None:
    changes = {"train": {"batch_size": 24, "steps": 4, "best_metric": "click.subgroup_gauc"}}
    divided, without = (write_small(tmp_path / name, subgroup=name == "divided") for name in ("divided", "without"))
    check_training(small_config(divided, changes), tmp_path / "run", resume=False, overwrite=False, world_size=1)
    with pytest.raises(UserError) as caught:
        check_training(small_config(without, changes), tmp_path / "run", resume=False, overwrite=False, world_size=1)
    assert str(caught.value) == (
        "train.best_metric: got 'click.subgroup_gauc'; subgroup GAUC is AUC inside subgroups, and the dataset has no "
        'subgroup column. Fix: prepare the dataset with a list, such as group = ["user_id", "time.day"], or use '
        "click.gauc"
    )


def test_a_run_goes_on_under_its_own_configuration_only(data: Path, tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(dump_toml(small_config(data)))
    resumes(small_config(data, {"train": {"steps": 9}, "runtime": {"threads": 2}}), tmp_path)
    with pytest.raises(UserError) as caught:
        resumes(small_config(data, {"seed": 4, "embeddings": {"dim": 8}}), tmp_path)
    assert str(caught.value).startswith(
        f"{tmp_path / 'config.toml'}: seed was 3, is 4; embeddings.dim was 4, is 8; --resume goes on with the same "
        "run; only name, data.path, "
    )


def test_a_decayed_schedule_keeps_its_length(data: Path, tmp_path: Path) -> None:
    decay = {"schedule": {"decay": "cosine"}}
    (tmp_path / "config.toml").write_text(dump_toml(small_config(data, decay)))
    with pytest.raises(UserError, match=r"train\.steps was 4, is 9; --resume goes on with the same run") as caught:
        resumes(small_config(data, decay | {"train": {"steps": 9}}), tmp_path)
    reason = "the length of the run may not, since schedule.decay = cosine ends with the run"
    assert f" may change ({reason}). Fix: " in str(caught.value)


def test_evaluation_needs_no_training_split_and_knows_its_dataset(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = tmp_path / "run"
    metrics = train(small_config(data), run_dir)
    assert "goes on" not in capsys.readouterr().out

    moved = tmp_path / "moved"
    moved.mkdir()
    for entry in data.iterdir():
        if entry.name != "train":
            (moved / entry.name).symlink_to(entry)
    again = evaluate_run(run_dir, splits=["test"], checkpoint="best", overrides=[f"data.path={moved}"])
    assert again["test"]["tasks"] == metrics["test"]["tasks"]

    other = write_small(tmp_path / "other", seed=1)
    fingerprints = [json.loads((path / "_SUCCESS").read_text())["fingerprint"] for path in (other, data)]
    with pytest.raises(UserError) as caught:
        evaluate_run(run_dir, splits=["test"], checkpoint="best", overrides=[f"data.path={other}"])
    checkpoint = run_dir / "checkpoints" / "step-4"
    assert str(caught.value) == (
        f"{other}: is dataset {fingerprints[0]}; {checkpoint} was trained on {data}, dataset {fingerprints[1]} (tasks, "
        "features and tables are alike, rows and vocabularies are not); other vocabularies would make its ids mean "
        "something else. Fix: give the dataset that it was trained on, or one that `ple-rec prep --append` made from it"
    )

    unrelated = write_unrelated(tmp_path / "unrelated")
    slices = ["evaluation.slices=['user']", f"data.path={unrelated}"]  # a column that the other one lacks, too
    with pytest.raises(UserError, match=rf"^{unrelated}: is dataset .* was trained on {data}, .*\(tasks: gone: click "):
        evaluate_run(run_dir, splits=["test"], checkpoint="best", overrides=slices)

    train(small_config(data, {"train": {"steps": 6}}), run_dir, resume=True)
    assert f"goes on from {run_dir / 'checkpoints' / 'step-4'}\n" in capsys.readouterr().out


def test_a_damaged_manifest_is_said(data: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    train(small_config(data), run_dir)
    (run_dir / "checkpoints" / "step-4" / "manifest.json").write_text("{")
    with pytest.raises(DataError, match=r"manifest\.json: unreadable"):
        evaluate_run(run_dir, splits=["test"], checkpoint="best")


def test_a_task_trained_on_all_samples_has_no_space_in_training_alone(data: Path, tmp_path: Path) -> None:
    tasks = [{"name": "click"}, {"name": "watch", "samples": "all"}]
    filled = write_small(tmp_path / "filled", edit=_outside_watched_for_a_second)
    kept = 0
    wide, own = small_config(filled, {"tasks": tasks}), small_config(filled)
    with ExitStack() as stack:
        loaders = [prepare_run(config, 1).training_loader(0) for config in (wide, own)]
        epochs = [stack.enter_context(closing(loader.epoch(0))) for loader in loaders]
        for every, inside in zip(*epochs, strict=True):
            space = inside.in_space_BK[: every.rows, 1].bool()
            labels = every.labels_BK[: every.rows, 1]
            assert every.in_space_BK[: every.rows].all()
            assert torch.equal(labels[space], inside.labels_BK[: every.rows, 1][space])
            assert (labels[~space] == 1).all()
            kept += int((~space).sum())
    assert kept > 0
    assert [task.space for task in prepare_run(wide, 1).selection.tasks] == [None, "watched"]  # what is evaluated
    with pytest.raises(DataError, match="no label of task 'watch'"):  # which is null outside
        train(small_config(data, {"tasks": tasks}), tmp_path / "run")


def _outside_watched_for_a_second(_: Split, table: pa.Table) -> pa.Table:
    return set_column(table, "watch_time", pc.fill_null(table["watch_time"], 1.0).combine_chunks())
