"""Bad calls: an exception of this package that says where, what, the rule and what to do, in words of Python."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import ple_rec
from ple_rec.api.arguments import as_arguments, override_texts
from ple_rec.config.load import load_config
from ple_rec.config.run import RunConfig

untyped: Any = ple_rec  # a type checker would refuse some of these calls
CONFIG = {
    "name": "tiny",
    "data": {"path": Path("data"), "virtual_shards": np.int64(2)},
    "embeddings": {"dim": 4, "kernel": None},
    "model": {"variant": "ple", "levels": [{"expert_hidden": (4,)}]},
    "train": {"batch_size": 16, "epochs": 1},
    "runtime": {"device": "cpu", "threads": 1},
}


@pytest.mark.parametrize(
    ("flags", "arguments"),
    [
        ("pass --overwrite, or give another --out", "pass overwrite=True, or give another out"),
        ("go on with --resume, or give another --run-dir", "go on with resume=True, or give another run_dir"),
        ("--data data/feed --split test", 'data="data/feed", split="test"'),
        ("--set train.steps=1", "overrides train.steps=1"),
        ("--auto-resume goes on", 'resume="auto" goes on'),
        ("`ple-rec train --resume --run-dir x` ends --it", "`ple-rec train --resume --run-dir x` ends it"),
        ("it is a recipe: ple-rec train --config a", "it is a recipe: ple-rec train --config a"),
        ("a - b -- c", "a - b -- c"),
    ],
)
def test_messages_name_arguments(flags: str, arguments: str) -> None:
    assert as_arguments(flags) == arguments


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
        (lambda: untyped.train("tniy.toml"), "UserError: tniy.toml: no such file; recipes: "),
        (lambda: untyped.train({"a": {1, 2}}), "UserError: config.a: got a set; a configuration holds texts, numbers"),
        (lambda: untyped.train("tiny.toml", ranks=0), "UserError: ranks: got 0 (int); it is a whole number from 1 on"),
        (lambda: untyped.train("tiny.toml", ranks=True), "UserError: ranks: got true (bool)"),
        (lambda: untyped.train("tiny.toml", ranks=99), "UserError: "),
        (lambda: untyped.train("tiny.toml", run_dir=""), 'UserError: run_dir: got "" (str); it is a path'),
        (lambda: untyped.train("tiny.toml", run_dir="s3://b/run"), "UserError: run_dir: got the address s3://"),
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
            'UserError: overrides: got "seed=1" (str); they are texts',
        ),
        (lambda: untyped.train("tiny.toml", overrides=[1]), "UserError: overrides: got 1 (int); they are texts"),
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
            'UserError: config: got "tencent-synthetic"; data that is made',
        ),
        (lambda: untyped.prepare("census", "out", engine="dask"), 'UserError: engine: got "dask" (str); known: duckdb'),
        (lambda: untyped.prepare("census", "out", parent="data"), "UserError: parent: no append; it names what a day"),
        (lambda: untyped.prepare("census", "out", memory=10), "UserError: memory: got 10 (int); at least 64 MiB"),
        (lambda: untyped.plan("tiny.toml"), "UserError: device: missing; a plan is for hosts of a kind"),
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
            "DoesNotFitError: embeddings: table user takes ",
        ),
        (
            lambda: untyped.compare("tiny.toml"),
            "UserError: tiny.toml: the configuration of a run; a comparison is a file",
        ),
        (lambda: untyped.compare("census-compare", variants=["x"]), 'UserError: variants: got "x"; known: '),
        (lambda: untyped.compare("census-compare", seeds=-1), "UserError: seeds: got -1 (int)"),
        (lambda: untyped.compare("census-compare", reuse=["nix"]), "UserError: reuse: nix holds no compare.toml"),
    ],
)
def test_a_bad_call_is_told(here: Path, call: Callable[[], Any], message: str) -> None:
    told = raised(call)
    assert told.startswith(message)
    assert "--" not in re.sub(r"ple-rec [^`]*", "", told)


def test_a_run_refuses_what_does_not_fit_it(feed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(feed)
    run = ple_rec.load_run("run")
    assert raised(lambda: run.evaluate("tset")).startswith('UserError: split: got "tset" (str); did you mean "test"?')  # type: ignore[arg-type]
    assert raised(lambda: run.evaluate(checkpoint="step-7")).startswith("UserError: ")
    assert raised(lambda: run.evaluate(overrides={"seed": 9})).startswith("UserError: overrides seed: was 3, is 9")
    assert raised(lambda: run.embeddings("video")).startswith('UserError: table: got "video"; did you mean "video_id"?')
    assert raised(lambda: run.predict(3)).startswith("UserError: data: got a int (")
    assert raised(lambda: run.predict([3])).startswith("UserError: data: got a list (")
    assert raised(lambda: run.predict("test")) == (
        "UserError: data: got 'test'; a split is an argument of its own. Fix: give split='test'"
    )
    assert raised(lambda: run.predict(ids="video_id")).endswith("it is a list of columns. Fix: give ids=['video_id']")
    assert raised(lambda: run.embeddings("VIDEO")).startswith('UserError: table: got "VIDEO"; did you mean "video_id"?')
    with pytest.raises(KeyError, match=r"tset; there are .*test"):
        run.metrics["tset"]
    assert raised(lambda: run.predict("data/test")).endswith('Fix: data="data", split="test"')
    assert raised(lambda: run.predict("raw/log", "test")).startswith("UserError: split: data raw/log are raw logs")
    assert raised(lambda: run.predict(ids=["usr"])).startswith('UserError: ids: got "usr"')
    assert raised(lambda: run.predict({"user_id": [1]})).startswith("DataError: the table: lacks ")
    assert raised(lambda: run.predict({"user_id": [1], "b": [1, 2]})).startswith("UserError: data: got a dict (")
    assert raised(lambda: run.export("out", precision="fp8")).startswith('UserError: precision: got "fp8" (str)')  # type: ignore[arg-type]
    assert raised(lambda: run.export("raw")).startswith("UserError: out: raw holds ")
    assert raised(lambda: ple_rec.load_model("run")).startswith("UserError: run: is a run, not a model of one")


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
