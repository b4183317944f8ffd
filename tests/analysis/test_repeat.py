"""Several seeds of several configurations: what is reused, what is refused, and the summary."""

from __future__ import annotations

import json
import shutil
import statistics
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from ple_rec.analysis.repeat import format_summaries, repeat, summarise
from ple_rec.cli import main
from ple_rec.config.load import fingerprint, load_config, load_schema
from ple_rec.config.run import RunConfig
from ple_rec.errors import UserError
from ple_rec.runs.layout import configured_checkpoint_place, foreign_names
from ple_rec.runtime import ranks
from tests.tiny import write_tiny

RUNS = Path("runs")
WAYS_OUT = (
    "a run is never overwritten unasked. Fix: call with its settings again, give another --runs DIR, or replace such "
    "runs with --overwrite"
)
AUC = {0: 0.7, 1: 0.8, 2: 0.75}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with `data/` and `tiny.toml`."""
    write_tiny(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def tiny(*overrides: str) -> RunConfig:
    return load_config(RunConfig, "tiny.toml", overrides)


class Trainer:
    """Stands for `ple-rec train --overwrite`: leaves what a real run does, and fails where it is told to."""

    def __init__(self, failing: Sequence[int] = ()) -> None:
        self.failing = set(failing)
        self.started: list[str] = []

    def __call__(self, file: Path, run_dir: Path) -> int:
        assert foreign_names(run_dir) == []
        shutil.rmtree(run_dir, ignore_errors=True)
        (run_dir / "checkpoints" / "step-1").mkdir(parents=True)
        (run_dir / "checkpoints" / "latest").write_text("step-1\n")
        (run_dir / "checkpoints" / "step-1").mkdir(exist_ok=True)
        (run_dir / "checkpoints" / "step-1" / "manifest.json").write_text("{}")
        (run_dir / "config.toml").write_text(file.read_text())
        config = load_config(RunConfig, file)
        self.started.append(f"{config.name} {config.seed}")
        if config.seed in self.failing:
            return 4
        metrics = {
            "test": {"tasks": {"click": {"auc": AUC[config.seed], "samples": 64}}},
            "config_fingerprint": fingerprint(config),
            "dataset_fingerprint": load_schema(config.data.path).fingerprint,
        }
        (run_dir / "metrics.json").write_text(json.dumps(metrics))
        return 0

    def verb(self, argv: Sequence[str]) -> int:
        """In the place of `ranks.run_verb`."""
        verb, _, file, _, run_dir, *flags = argv
        assert (verb, flags) == ("train", ["--overwrite", "--ranks", "2"])
        return self(Path(file), Path(run_dir))


def contents(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_every_seed_is_run_once() -> None:
    trainer = Trainer()
    (first,), failed = repeat([tiny()], [0, 1], RUNS, trainer)
    assert (trainer.started, failed) == (["tiny 0", "tiny 1"], [])
    assert [tomllib.loads((RUNS / f"tiny/seed-{seed}.toml").read_text())["seed"] for seed in (0, 1)] == [0, 1]
    assert json.loads((RUNS / "tiny/repeat.json").read_text()) == first
    before = contents(RUNS)
    assert repeat([tiny()], [0, 1], RUNS, trainer) == ([first], [])
    assert repeat([tiny()], [0, 1], RUNS, trainer, overwrite=True) == ([first], [])
    assert len(trainer.started) == 2
    assert contents(RUNS) == before
    (second,), _ = repeat([tiny()], [0, 1, 2], RUNS, trainer)
    assert trainer.started[2:] == ["tiny 2"]
    assert second["seeds"] == [0, 1, 2]


def test_failed_runs_are_left_out_and_tried_again() -> None:
    trainer = Trainer(failing=[1])
    (summary,), failed = repeat([tiny()], [0, 1, 2], RUNS, trainer)
    assert failed == ["tiny seed 1"]
    assert (summary["seeds"], summary["tasks"]["click"]["auc"]["values"]) == ([0, 2], [0.7, 0.75])
    trainer.failing.clear()
    (summary,), failed = repeat([tiny()], [0, 1, 2], RUNS, trainer)
    assert failed == []
    assert trainer.started[3:] == ["tiny 1"]
    assert summary["tasks"]["click"]["auc"]["values"] == [0.7, 0.8, 0.75]


def test_an_unfinished_run_without_a_checkpoint_gives_way_to_any_configuration() -> None:
    run_dir = RUNS / "tiny" / "seed-0"
    run_dir.mkdir(parents=True)
    (run_dir / "config.toml").write_text("of another version")
    trainer = Trainer()
    assert repeat([tiny()], [0], RUNS, trainer)[1] == []
    assert trainer.started == ["tiny 0"]


def refused(*configs: RunConfig, seeds: Sequence[int] = (0, 1)) -> str:
    """What `repeat` says; it has started nothing and changed nothing."""
    before, trainer = contents(RUNS), Trainer()
    with pytest.raises(UserError) as caught:
        repeat(configs, seeds, RUNS, trainer)
    assert trainer.started == []
    assert contents(RUNS) == before
    return str(caught.value)


def test_another_configuration_of_the_same_name_is_refused() -> None:
    repeat([tiny()], [1], RUNS, Trainer())
    changed = tiny("train.epochs=3", "embeddings.dim=8")
    assert refused(changed) == (
        "runs/tiny/seed-1: holds a finished run of another configuration (embeddings.dim was 4, is 8; "
        f"train.epochs was 1, is 3); {WAYS_OUT}"
    )
    assert refused(tiny("name=other"), changed).startswith("runs/tiny/seed-1: holds a finished run")
    trainer = Trainer()
    assert repeat([changed], [0, 1], RUNS, trainer, overwrite=True)[1] == []
    assert trainer.started == ["tiny 0", "tiny 1"]
    assert tomllib.loads((RUNS / "tiny/seed-1/config.toml").read_text())["train"]["epochs"] == 3


def test_a_run_is_reused_whatever_overlaps_its_steps_and_keys_that_came_later() -> None:
    """Its configuration lacks keys that were added since, and its fingerprint covers other keys."""
    repeat([tiny("train.pipeline=none")], [0], RUNS, Trainer())
    metrics = RUNS / "tiny/seed-0/metrics.json"
    metrics.write_text(json.dumps(json.loads(metrics.read_text()) | {"config_fingerprint": "of an older version"}))
    trainer = Trainer()
    assert repeat([tiny()], [0], RUNS, trainer)[1] == []
    assert trainer.started == []


def test_many_changes_are_counted() -> None:
    repeat([tiny()], [0], RUNS, Trainer())
    keys = ["train.epochs=3", "embeddings.dim=8", "schedule.warmup_steps=1", "checkpoint.keep=1", "train.batch_size=8"]
    text = refused(tiny(*keys, "runtime.threads=2", "data.prefetch=1"))
    assert text.count(" was ") == 5
    assert f"; and 2 more); {WAYS_OUT}" in text


def test_an_unfinished_run_of_another_configuration_is_refused() -> None:
    repeat([tiny()], [0], RUNS, Trainer(failing=[0]))
    assert refused(tiny("train.epochs=3")) == (
        f"runs/tiny/seed-0: holds an unfinished run of another configuration (train.epochs was 1, is 3); {WAYS_OUT}"
    )


def test_a_run_whose_configuration_cannot_be_read_is_refused_by_its_fingerprint() -> None:
    repeat([tiny()], [0], RUNS, Trainer())
    (RUNS / "tiny/seed-0/config.toml").unlink()
    changed = tiny("train.epochs=3")
    assert refused(changed) == (
        "runs/tiny/seed-0: holds a finished run of another configuration "
        f"(fingerprint is now {fingerprint(changed)}); {WAYS_OUT}"
    )


def test_another_dataset_in_the_same_place_is_refused() -> None:
    repeat([tiny()], [0], RUNS, Trainer())
    schema = Path("data/schema.toml")
    schema.write_text(schema.read_text().replace('fingerprint = "tiny"', 'fingerprint = "0123456789abcdef"'))
    assert refused(tiny()) == (
        "runs/tiny/seed-0: holds a finished run on another dataset (fingerprint tiny; data has 0123456789ab); "
        f"{WAYS_OUT}"
    )
    trainer = Trainer()
    assert repeat([tiny()], [0], RUNS, trainer, overwrite=True)[1] == []
    assert trainer.started == ["tiny 0"]


def test_two_configurations_of_one_name_are_refused() -> None:
    assert refused(tiny(), tiny("train.epochs=3"), tiny("name=other")) == (
        "--config: 2 configurations are named 'tiny'; the runs of each lie in runs/<name>. "
        "Fix: give each a `name` of its own"
    )


def test_no_dataset_is_refused() -> None:
    assert refused(tiny(), tiny("name=other", "data.path=nowhere")).startswith("nowhere: no such directory in /")


def test_a_run_that_leaves_the_test_split_unread_is_refused() -> None:
    assert refused(tiny(), tiny("name=other", "evaluation.test=false")) == (
        "evaluation.test: got false in other; a summary has metrics on the test split. Fix: leave it out"
    )


def test_every_run_has_a_place_of_its_own_for_its_checkpoints(here: Path) -> None:
    path = f"checkpoint.path={here}/ck/{{run}}"
    assert repeat([tiny(path), tiny("name=other", path)], [0, 1], RUNS, Trainer())[1] == []
    runs = [RUNS / name / f"seed-{seed}" for name in ("tiny", "other") for seed in (0, 1)]
    places = [configured_checkpoint_place(run) for run in runs]
    assert places == [here / "ck" / name for name in ("tiny-seed-0", "tiny-seed-1", "other-seed-0", "other-seed-1")]
    trainer = Trainer()
    assert repeat([tiny(path)], [0, 1], RUNS, trainer)[1] == trainer.started == []


def test_runs_that_would_share_a_place_of_checkpoints_are_refused() -> None:
    assert refused(tiny("checkpoint.path=/ck")).startswith('checkpoint.path: got "/ck" for tiny seed 0 and tiny seed 1')
    two = [tiny("checkpoint.path=/ck"), tiny("checkpoint.path=/ck/", "name=other")]
    with pytest.raises(UserError, match='got "/ck/" for tiny seed 0 and other seed 0'):
        repeat(two, [0], RUNS, Trainer())
    assert repeat([tiny("checkpoint.path=/ck")], [0], RUNS, Trainer())[1] == []  # it shares its place with none


def test_a_file_in_the_place_of_the_runs() -> None:
    RUNS.write_text("")
    with pytest.raises(UserError) as caught:
        repeat([tiny()], [0], RUNS, Trainer())
    assert str(caught.value).startswith("runs/tiny: cannot be written (Not a directory); ")


def run(*tasks: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"test": {"tasks": {f"t{i}": values for i, values in enumerate(tasks)}}} | more


def test_mean_and_sample_deviation() -> None:
    values = [0.5, 0.75, 1.0]  # mean 3/4; squares of the deviations 1/16 + 0 + 1/16, over n - 1 = 2
    summary = summarise("x", {seed: run({"auc": value, "samples": 9}) for seed, value in enumerate(values)})
    assert summary == {
        "name": "x",
        "split": "test",
        "seeds": [0, 1, 2],
        "tasks": {"t0": {"auc": {"mean": 0.75, "sd": 0.25, "values": values}}},
        "paper": {},
    }
    assert statistics.stdev(values) != statistics.pstdev(values)


def test_an_undefined_metric_is_left_out() -> None:
    tasks = summarise("x", {0: run({"auc": None, "ne": 0.5}), 1: run({"auc": None, "ne": 1.5})})["tasks"]
    assert list(tasks["t0"]) == ["ne"]


def test_the_table() -> None:
    paper = {"t0": {"auc": 0.9522}}
    binary = {
        0: run({"auc": 0.94, "ne": 0.5, "logloss": 0.1, "calibration": 1.0}, {"auc": 0.99}, paper=paper),
        1: run({"auc": 0.96, "ne": 0.5, "logloss": 0.1, "calibration": 1.02}, {"auc": 0.99}, paper=paper),
    }
    regression = {3: run({"mse": 0.00012, "rmse": 0.5})}
    assert format_summaries([summarise("ple", binary), summarise("watch", regression)]) == (
        "                task               AUC                NE          log loss       calibration"
        "        MSE    RMSE  paper's AUC\n"
        "ple (2 seeds)     t0  0.9500 +- 0.0141  0.5000 +- 0.0000  0.1000 +- 0.0000  1.0100 +- 0.0141"
        "          -       -       0.9522\n"
        "ple (2 seeds)     t1  0.9900 +- 0.0000                 -                 -                 -"
        "          -       -            -\n"
        "watch (1 seed)    t0                 -                 -                 -                 -"
        "  1.200e-04  0.5000            -"
    )


def test_the_table_of_a_single_regression() -> None:
    summary = summarise("watch", {0: run({"mse": 0.25, "rmse": 0.5}), 1: run({"mse": 0.25, "rmse": 0.5})})
    assert format_summaries([summary]) == (
        "                 task               MSE              RMSE\n"
        "watch (2 seeds)    t0  0.2500 +- 0.0000  0.5000 +- 0.0000"
    )
    assert format_summaries([summarise("watch", {})]) == "no finished runs"


def test_the_verb(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    trainer = Trainer(failing=[1])
    monkeypatch.setattr(ranks, "run_verb", trainer.verb)
    command = ["repeat", "--config", "tiny.toml", "--runs", "runs", "--seeds", "2", "--ranks", "2"]
    assert main(command) == 5
    output = capsys.readouterr()
    assert output.out == "\n                task     AUC\ntiny (1 seed)  click  0.7000\n"
    assert output.err == "ple-rec: failed: tiny seed 1; the other runs are kept, run again to retry the failed ones\n"
    trainer.failing.clear()
    assert main(command) == 0
    assert capsys.readouterr().out == (
        "\n                 task               AUC\ntiny (2 seeds)  click  0.7500 +- 0.0707\n"
    )
    assert trainer.started == ["tiny 0", "tiny 1", "tiny 1"]

    changed = [*command, "--set", "train.epochs=3"]
    before = contents(RUNS)
    assert main(changed) == 2
    assert capsys.readouterr().err == (
        "ple-rec: runs/tiny/seed-0: holds a finished run of another configuration (train.epochs was 1, is 3); "
        f"{WAYS_OUT}\n"
    )
    assert contents(RUNS) == before
    assert main([*changed, "--overwrite"]) == 0
    assert trainer.started[3:] == ["tiny 0", "tiny 1"]
    assert main([*command, "--config", "tiny.toml"]) == 2
    assert "ple-rec: --config: 2 configurations are named 'tiny'; " in capsys.readouterr().err
