"""Bad calls: an exception of this package that says where, what, the rule and what to do, in words of Python."""

from __future__ import annotations

import re
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import ple_rec
from ple_rec.api.arguments import errors_name_arguments, override_texts
from ple_rec.config.load import load_config
from ple_rec.config.run import RunConfig
from ple_rec.errors import Option

untyped: Any = ple_rec  # a type checker would refuse some of these calls
CONFIG = {
    "name": "tiny",
    "data": {"path": Path("data"), "virtual_shards": np.int64(2)},
    "embeddings": {"dim": 4, "kernel": None},
    "model": {"variant": "ple", "levels": [{"expert_hidden": (4,)}]},
    "train": {"batch_size": 16, "epochs": 1},
    "runtime": {"device": "cpu", "threads": 1},
}


def test_errors_name_arguments_and_texts_of_users_stay() -> None:
    error = ple_rec.DataError("runs/--out", "is no --parent", f"{Option.RESUME} needs --config", f"{Option.OUT} --out")
    cause = OSError("disk")

    @errors_name_arguments
    def call() -> None:
        raise error from cause

    with pytest.raises(ple_rec.DataError) as caught:
        call()
    assert str(caught.value) == "runs/--out: is no --parent; resume=True needs --config. Fix: out --out"
    assert caught.value.fix == "out --out"
    assert caught.value.__cause__ is cause
    assert "raise error from cause" in "".join(traceback.format_exception(caught.value))
    assert str(error) == "runs/--out: is no --parent; --resume needs --config. Fix: --out --out"


def test_errors_show_control_characters_as_escapes() -> None:
    error = ple_rec.DataError("a\0b\0c\0", "\x1b[2J", "two\nlines", f"{Option.OUT} \x1b\0")

    @errors_name_arguments
    def call() -> None:
        raise error

    with pytest.raises(ple_rec.DataError) as caught:
        call()
    parts = (caught.value.place, caught.value.value, caught.value.rule, caught.value.fix)
    assert parts == (r"a\x00b\x00c\x00", r"\x1b[2J", "two\nlines", r"out \x1b\x00")


def test_a_path_with_a_null_character_is_refused(run: ple_rec.Run, here: Path) -> None:
    wrong = "a\0b"
    calls: list[Callable[[], Any]] = [
        lambda: ple_rec.load_run(wrong),
        lambda: ple_rec.load_model(wrong),
        lambda: ple_rec.load_model("s3://a/" + wrong),
        lambda: ple_rec.open_dataset(wrong),
        lambda: ple_rec.prepare("census", wrong),
        lambda: ple_rec.prepare("census", "out", source=wrong),
        lambda: ple_rec.train(CONFIG, run_dir=wrong),
        lambda: run.predict(wrong),
        lambda: run.predict("logs.csv", source=wrong),
        lambda: run.export(wrong),
    ]
    for call in calls:
        assert "a path has no null character" in raised(call)


def test_values_of_arguments_are_python(here: Path) -> None:
    def fix(call: Callable[[], Any]) -> str:
        return raised(call).partition(". Fix: ")[2]

    assert fix(lambda: untyped.prepare("census", "out", append="day=5")) == 'name it: parent="DIR"'
    assert fix(lambda: untyped.prepare("census", "out", parent="data")) == 'give append="day=N", or drop it'
    assert fix(lambda: untyped.prepare("census", "out", master="m")) == 'add engine="spark"'
    ple_rec.train("tiny.toml", run_dir="my --out")
    assert fix(lambda: ple_rec.train("tiny.toml", run_dir="my --out", resume=True, overrides={"seed": 9})) == (
        'resume with config="my --out/config.toml", or start another run_dir'
    )


def test_overrides_are_those_of_the_command_line() -> None:
    values = {"train.epochs": 2, "data.drop": ["a"], "tasks[0].weight": 0.5, "train.steps": None, "model": {"x": "y"}}
    texts = ["train.epochs=2", 'data.drop=["a"]', "tasks[0].weight=0.5", "train.steps=", 'model={x = "y"}']
    assert override_texts(values) == texts
    assert override_texts(("a=1", "b=2")) == ["a=1", "b=2"]
    assert override_texts({"a": np.float32(0.5), "b": True, "c": Path("x")}) == ["a=0.5", "b=true", 'c="x"']


def test_a_dict_is_the_content_of_a_file(here: Path) -> None:
    plan = ple_rec.plan(CONFIG, device="cpu")
    assert plan._config == load_config(RunConfig, "tiny.toml")
    based = {"base": "tiny.toml", "embeddings": {"dim": 8}}
    assert ple_rec.plan(based, device="cpu")._config.embeddings.dim == 8
    steps = based | {"train": {"epochs": None, "steps": 7}}  # None takes back what the base has
    assert (ple_rec.plan(steps, device="cpu")._config.train.steps, CONFIG["train"]) == (
        7,
        {"batch_size": 16, "epochs": 1},
    )
    with pytest.raises(ple_rec.UserError, match="nix: unknown key"):
        ple_rec.train(based | {"nix": None})
    with pytest.raises(ple_rec.UserError) as caught:
        ple_rec.train(based | {"train": {"epoch": 2}})
    assert str(caught.value) == "config (base tiny.toml): 1 problem\n  train.epoch: unknown key; did you mean `epochs`?"


FRAME = pd.DataFrame({"user": [1, 2]})


def raised(call: Callable[[], Any]) -> str:
    with pytest.raises(ple_rec.PleRecError) as caught:
        call()
    error = caught.value
    assert all([error.place, error.value, error.rule, error.fix])
    return f"{type(error).__name__}: {error}"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: untyped.train(5),
            "UserError: config: got 5 (int); it is the name of a recipe, the path of a TOML file",
        ),
        (lambda: untyped.train("tniy.toml"), "UserError: tniy.toml: no such file in "),
        (lambda: untyped.train({"a": {1, 2}}), "UserError: config.a: got a set; a configuration holds texts, numbers"),
        (lambda: untyped.train("tiny.toml", ranks=0), "UserError: ranks: got 0 (int); it is a whole number from 1 on"),
        (lambda: untyped.train("tiny.toml", ranks=True), "UserError: ranks: got true (bool)"),
        (lambda: untyped.train("tiny.toml", ranks=99), "UserError: data/train: 8 row group(s) for 99 ranks; "),
        (lambda: untyped.train("tiny.toml", run_dir=""), 'UserError: run_dir: got "" (str); it is a path'),
        (
            lambda: untyped.train("tiny.toml", run_dir="s3x://b/run"),
            "UserError: s3x://b/run: has the unknown scheme s3x://; ",
        ),
        (
            lambda: untyped.train("tiny.toml", resume="yes"),
            'UserError: resume: got "yes" (str); known: False, True, auto',
        ),
        (
            lambda: untyped.train("tiny.toml", resume=True),
            "UserError: runs/tiny: holds no run; resume=True goes on with one",
        ),
        (
            lambda: untyped.train("tiny.toml", resume=True, overwrite=True),
            "UserError: resume=True overwrite=True: both given; one keeps the run, the other removes it",
        ),
        (
            lambda: untyped.train("tiny.toml", overrides="seed=1"),
            'UserError: overrides: got "seed=1" (str); it is a list of texts',
        ),
        (lambda: untyped.train("tiny.toml", overrides=[1]), "UserError: overrides: got 1 (int); it is a list of texts"),
        (
            lambda: untyped.train("tiny.toml", overrides={"sed": 1}),
            "ConfigError: overrides: 1 problem\n  sed: unknown key",
        ),
        (lambda: untyped.train("tiny.toml", init_from="nix"), "UserError: nix: no such run"),
        (lambda: untyped.train("tiny.toml", plan="nix.json"), "UserError: nix.json: "),
        (lambda: untyped.load_run("nix"), "UserError: nix: no such run"),
        (lambda: untyped.load_run(None), "UserError: path: got a NoneType; it is a path"),
        (lambda: untyped.load_model("nix"), "UserError: nix: "),
        (lambda: untyped.open_dataset("nix"), "UserError: nix: no such directory"),
        (lambda: untyped.open_dataset("data").read("tset"), 'UserError: split: got "tset" (str); did you mean "test"?'),
        (
            lambda: untyped.open_dataset("data").read("test", ["usr"]),
            'UserError: columns: got "usr"; did you mean "user"? (known: user, age, click, like)',
        ),
        (lambda: untyped.open_dataset("data").report(), "UserError: data/stats.html: no such file"),
        (lambda: untyped.prepare("cencus", "out"), "UserError: prep: unknown data set 'cencus'; known are"),
        (lambda: untyped.prepare({"name": "x"}, "out"), "ConfigError: config: 3 problems"),
        (lambda: untyped.prepare(FRAME, "out"), "UserError: config: got a DataFrame; it is the name of a recipe"),
        (lambda: untyped.prepare("census", "out", source=FRAME), "UserError: source: got a DataFrame; it is a path"),
        (
            lambda: untyped.prepare("tencent-synthetic", "out"),
            'UserError: config: got "tencent-synthetic"; synthetic data is generated',
        ),
        (lambda: untyped.prepare("census", "out", engine="dask"), 'UserError: engine: got "dask" (str); known: duckdb'),
        (
            lambda: untyped.prepare("census", "out", parent="data"),
            "UserError: parent: no append; it names the dataset to which a day",
        ),
        (lambda: untyped.prepare("census", "out", memory=10), "UserError: memory: got 10 (int); at least 64 MiB"),
        (lambda: untyped.plan("tiny.toml"), "UserError: device: missing; a plan needs the kind of its hosts"),
        (lambda: untyped.plan("tiny.toml", 0, "cpu"), "UserError: hosts: got 0 (int)"),
        (lambda: untyped.plan("tiny.toml", 1, "h10"), 'UserError: device: got "h10" (str); did you mean "h100"?'),
        (
            lambda: untyped.plan("tiny.toml", 1, "cpu", rows={"usr": 9}),
            'UserError: rows: got "usr"; did you mean "user"?',
        ),
        (
            lambda: untyped.plan(
                "tiny.toml", 1, "h100", rows={"user": 2_000_000_000}, overrides={"embeddings.dim": 512}
            ),
            "DoesNotFitError: embeddings.dim: table user takes ",
        ),
        (
            lambda: untyped.compare("tiny.toml"),
            "UserError: tiny.toml: the configuration of a run; a comparison has a file of its own",
        ),
        (lambda: untyped.compare("census-compare", variants=["x"]), 'UserError: variants: got "x"; known: '),
        (lambda: untyped.compare("census-compare", seeds=-1), "UserError: seeds: got -1 (int)"),
        (lambda: untyped.compare("census-compare", reuse=["nix"]), "UserError: reuse: nix holds no compare.toml"),
    ],
)
def test_a_bad_call_is_told(here: Path, call: Callable[[], Any], message: str) -> None:
    told = raised(call)
    assert told.startswith(message)
    assert "--" not in re.sub(r"ple-rec [^`,;]*", "", told)


def test_a_run_refuses_what_does_not_fit_it(feed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(feed)
    run = ple_rec.load_run("run")
    assert raised(lambda: run.evaluate("tset")).startswith('UserError: split: got "tset" (str); did you mean "test"?')  # type: ignore[arg-type]
    assert "run/checkpoints: no checkpoint 'step-7'; there are " in raised(lambda: run.evaluate(checkpoint="step-7"))
    assert raised(lambda: run.evaluate(overrides={"seed": 9})).startswith("UserError: overrides seed: was 3, is 9")
    assert raised(lambda: run.embeddings("video")).startswith('UserError: table: got "video"; did you mean "video_id"?')
    assert raised(lambda: run.predict(3)).startswith("UserError: data: got a int (")
    assert raised(lambda: run.predict([3])).startswith("UserError: data: got a list (")
    assert raised(lambda: run.predict("test")) == (
        "UserError: data: got 'test'; a split is an argument of its own. Fix: give split='test'"
    )
    assert raised(lambda: run.predict(ids="video_id")).endswith("it is a list. Fix: give ids=['video_id']")
    assert raised(lambda: run.embeddings("VIDEO")).startswith('UserError: table: got "VIDEO"; did you mean "video_id"?')
    with pytest.raises(KeyError, match=r"tset; there are .*test"):
        run.metrics["tset"]
    assert raised(lambda: run.predict("data/test")).endswith('Fix: give data="data", and split="test"')
    assert raised(lambda: run.predict("raw/log", "test")).startswith("UserError: split: raw/log are raw logs")
    assert raised(lambda: run.predict(ids=["usr"])).startswith('UserError: ids: got "usr"')
    assert raised(lambda: run.predict({"user_id": [1]})).startswith("DataError: the table: lacks ")
    assert raised(lambda: run.predict({"user_id": [1], "b": [1, 2]})).startswith("UserError: data: got a dict (")
    assert raised(lambda: run.export("out", precision="fp8")).startswith('UserError: precision: got "fp8" (str)')  # type: ignore[arg-type]
    assert raised(lambda: run.export("raw")).startswith("UserError: out: raw holds ")
    assert raised(lambda: ple_rec.load_model("run")).startswith("UserError: run: is a run, not an exported model")


WHOLE, NUMBER, TEXT, LIST = "it is a whole number from ", "it is a number from 0 on", "it is text", "it is a list"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda run: run.dataset.read("test", "user_id"), f'columns: got "user_id" (str); {LIST}. Fix: give columns='),
        (lambda run: run.dataset.read("test", 5), f"columns: got 5 (int); {LIST}"),
        (lambda run: run.dataset.read(["test"]), "split: got a list; known: train, valid, test"),
        (lambda run: run.export("out", user_features="user_id"), f'user_features: got "user_id" (str); {LIST}'),
        (lambda run: run.export("out", user_features=[5]), "user_features: holds 5 (int); it is a list of texts"),
        (lambda run: run.export("out", examples=-1), f"examples: got -1 (int); {WHOLE}0 on"),
        (lambda run: run.export("out", examples="3"), f'examples: got "3" (str); {WHOLE}0 on'),
        (lambda run: run.export("out", examples=2.5), f"examples: got 2.5 (float); {WHOLE}0 on"),
        (lambda run: run.export("out", examples=True), f"examples: got true (bool); {WHOLE}0 on"),
        (lambda run: run.export("out", examples=np.ones(2, int)), f"examples: got a ndarray; {WHOLE}0 on"),
        (lambda run: run.export("out", tolerance="x"), f'tolerance: got "x" (str); {NUMBER}'),
        (lambda run: run.export("out", tolerance=float("nan")), f"tolerance: got nan (float); {NUMBER}"),
        (lambda run: run.export("out", auc_loss=-1), f"auc_loss: got -1 (int); {NUMBER}"),
        (lambda run: run.export("out", version=3), f"version: got 3 (int); {TEXT}"),
        (lambda run: run.export("out", delta=3), f"delta: got 3 (int); {TEXT}"),
        (lambda run: run.export("out", delta="v1", delta_share=-1), f"delta_share: got -1 (int); {NUMBER}"),
        (lambda run: untyped.squash_version("out", 3), f"version: got 3 (int); {TEXT}"),
        (lambda run: run.evaluate(checkpoint=56), f"checkpoint: got 56 (int); {TEXT}"),
        (lambda run: run.predict(checkpoint=56), f"checkpoint: got 56 (int); {TEXT}"),
        (lambda run: run.embeddings(["video_id"]), f"table: got a list; {TEXT}"),
        (lambda run: run.embeddings("video_id", checkpoint=56), f"checkpoint: got 56 (int); {TEXT}"),
        (lambda run: run.predict(source=5), "source: got 5 (int); it is a path"),
        (lambda run: run.predict(split=5), f"split: got 5 (int); {LIST}"),
        (lambda run: run.predict(batch_size=True), f"batch_size: got true (bool); {WHOLE}1 on"),
        (lambda run: untyped.train(run.config, init_from=5), "init_from: got 5 (int); it is a path"),
        (lambda run: untyped.plan(run.config, 1, "cpu", rows=["a"]), "rows: got a list; it is a dict"),
        (lambda run: untyped.compare("census-compare", variants="ple"), f'variants: got "ple" (str); {LIST}'),
        (lambda run: untyped.compare("census-compare", reuse="runs/a"), f'reuse: got "runs/a" (str); {LIST}'),
        (lambda run: untyped.prepare("census", "out", append=9), f"append: got 9 (int); {TEXT}"),
    ],
)
def test_every_argument_is_looked_at(feed: Path, call: Callable[[Any], Any], message: str) -> None:
    assert raised(lambda: call(ple_rec.load_run(feed / "run"))).startswith(f"UserError: {message}")


def test_numbers_of_numpy_are_numbers(feed: Path, tmp_path: Path) -> None:
    run = ple_rec.load_run(feed / "run")
    assert len(run.predict(batch_size=np.int64(7))) == run.dataset.rows["test"]  # type: ignore[arg-type]
    assert ple_rec.plan(run.config, np.int64(2), "cpu", samples=np.int32(1000)).step_ms > 0  # type: ignore[arg-type]
    model = run.export(tmp_path / "model", examples=np.int64(1), tolerance=np.float32(0.1))  # type: ignore[arg-type]
    assert len(model.rank({}, [{}, {}], {"like": np.float32(2)}, top=np.int64(1))) == 1  # type: ignore[arg-type, dict-item]


def test_metrics_of_a_run_that_has_not_finished(here: Path) -> None:
    run = ple_rec.train("tiny.toml")
    (run.path / "metrics.json").unlink()
    assert run.status == "interrupted"
    assert raised(lambda: run.metrics) == (
        "UserError: runs/tiny/metrics.json: the run is interrupted; a finished run has metrics. "
        "Fix: train it again with resume=True"
    )
    assert repr(run) == "Run('runs/tiny': interrupted)"
    assert "interrupted" in run._repr_html_()
    assert run.gates("valid").table().num_rows > 0
