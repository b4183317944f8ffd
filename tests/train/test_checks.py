"""What a configuration asks of its dataset, and of a run that is there already."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ple_rec.config.load import dump_toml
from ple_rec.errors import DataError, UserError
from ple_rec.train.run import check, check_resumable, evaluate_run, train
from tests.train.small import small_config, write_small


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small(tmp_path_factory.mktemp("checks") / "data")


def test_a_loss_weight_that_would_overflow_is_refused_before_the_run(data: Path, tmp_path: Path) -> None:
    config = small_config(data, {"tasks": [{"name": "click", "decay": 1.1}], "train": {"steps": 1000}})
    with pytest.raises(UserError) as caught:
        check(config, tmp_path / "run", resume=False, overwrite=False, world_size=1)
    assert str(caught.value) == (
        "tasks.click.decay: got 1.1; after 1000 steps the weight is e^95; a loss weight stays below e^60. Fix: use a "
        'decay of at most 1, or train.weight_schedule = "epoch"'
    )
    check(
        small_config(data, {"tasks": [{"name": "click", "decay": 1.1}], "train": {"weight_schedule": "epoch"}}),
        tmp_path / "run",
        resume=False,
        overwrite=False,
        world_size=1,
    )


def test_a_run_goes_on_under_its_own_configuration_only(data: Path, tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(dump_toml(small_config(data)))
    check_resumable(small_config(data, {"train": {"steps": 9}, "runtime": {"threads": 2}}), tmp_path)
    with pytest.raises(UserError) as caught:
        check_resumable(small_config(data, {"seed": 4, "embeddings": {"dim": 8}}), tmp_path)
    assert str(caught.value).startswith(
        f"{tmp_path / 'config.toml'}: seed was 3, is 4; embeddings.dim was 4, is 8; --resume goes on with the same "
        "run; only name, data.path, "
    )


def test_a_decayed_schedule_keeps_its_length(data: Path, tmp_path: Path) -> None:
    decay = {"schedule": {"decay": "cosine"}}
    (tmp_path / "config.toml").write_text(dump_toml(small_config(data, decay)))
    with pytest.raises(UserError, match=r"train\.steps was 4, is 9; --resume goes on with the same run"):
        check_resumable(small_config(data, decay | {"train": {"steps": 9}}), tmp_path)


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
        f"{other}: fingerprint {fingerprints[0]}; {checkpoint} was trained on {fingerprints[1]}; other vocabularies "
        "would make its ids mean something else. Fix: evaluate the dataset that it was trained on, or one prepared "
        "from it as its parent"
    )

    train(small_config(data, {"train": {"steps": 6}}), run_dir, resume=True)
    assert f"goes on from {run_dir / 'checkpoints' / 'step-4'}\n" in capsys.readouterr().out


def test_a_damaged_manifest_is_said(data: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    train(small_config(data), run_dir)
    (run_dir / "checkpoints" / "step-4" / "manifest.json").write_text("{")
    with pytest.raises(DataError, match=r"manifest\.json: unreadable"):
        evaluate_run(run_dir, splits=["test"], checkpoint="best")
