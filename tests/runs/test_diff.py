"""`ple-rec diff`: configurations, environments and metrics of two runs side by side, finished or not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ple_rec.cli import main
from ple_rec.config.metrics import METRICS
from ple_rec.runs.diff import RunDiff, compare_runs, diff_json, format_diff
from ple_rec.runs.record import read_record
from tests.runs.written_runs import TASKS, final_metrics, train_record, valid_record, write_checkpoint
from tests.runs.written_runs import write_run as write

RUNS = Path("runs")


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def diff(split: str = "test") -> RunDiff:
    """Of the runs `a` and `b`."""
    return compare_runs(read_record(RUNS / "a"), read_record(RUNS / "b"), split)


def finished(name: str, *overrides: str, **metrics: Any) -> None:
    write(RUNS / name, *overrides, metrics=final_metrics(**metrics))


def test_two_models_on_two_datasets() -> None:
    finished("a")
    click = {"auc": 0.75001, "auc_error_bound": 2e-5, "ne": 0.45, "logloss": 0.25, "calibration": 0.9, "samples": 65}
    drop = 'data.drop=["age_of_the_user_in_years", "some_other_feature_name"]'
    finished(
        "b",
        *("name=other", "seed=2", "model.variant=mmoe", "model.experts=2", drop),
        tasks={"click": click, "like": {"auc": 0.5}},
        world_size=2,
        dataset_fingerprint="f" * 16,
        samples_per_second=2048.0,
        parameters={"dense": 500, "tables": 200},
        versions={"python": "3.12.0", "torch": "2.13.0"},
    )
    assert (
        format_diff(diff(), 120)
        == """\
a  runs/a: ple, finished, step 16
b  runs/b: mmoe, finished, step 16

configuration, a -> b
  name: "tiny" -> "other"
  seed: 0 -> 2
  data.drop: [] -> ["age_of_the_user_in_years", "some_other_feature_name"]
  model.variant: "ple" -> "mmoe"
  model.levels[0].task_experts: 1 -> -
  model.levels[0].shared_experts: 1 -> -
  model.levels[0].expert_hidden: [4] -> -
  model.experts: - -> 2
  model.expert_hidden: - -> [128]

environment, a -> b
  dataset_fingerprint: 0123456789abcdef -> ffffffffffffffff
  world_size: 1 -> 2
  versions.python: 3.11.9 -> 3.12.0

the datasets differ: the metrics are not over the same samples

test                    a       b       b - a                    better
click AUC          0.7500  0.7500  +1.000e-05  within the bound 2.0e-05
click NE           0.5000  0.4500     -0.0500                         -
click log loss     0.2500  0.2500           0                      same
click calibration  1.0000  0.9000     -0.1000                         -
click samples          64      65          +1                         -
watch MSE          0.2500       -           -                         -
watch RMSE         0.5000       -           -                         -
watch MAE          0.3750       -           -                         -
watch calibration  1.2500       -           -                         -
like AUC                -  0.5000           -                         -

size and speed         a       b  b / a
dense parameters  1.00 k     500   0.50
table parameters     200     200   1.00
FLOPs/sample      2.00 k  2.00 k   1.00
samples/s         1.02 k  2.05 k   2.00"""
    )


@pytest.mark.parametrize(
    ("overrides", "changes", "verdict"),
    [
        ([], {}, "same configuration"),
        (["name=other"], {}, "same configuration but for the name"),
        (["seed=1"], {}, "same configuration but for the seed: the difference is noise of the seed"),
        (["seed=1", "name=x"], {}, "same configuration but for the seed: the difference is noise of the seed"),
        (["seed=1"], {"world_size": 2}, "same configuration but for the seed"),
        (["seed=1"], {"dataset_fingerprint": "f"}, "same configuration but for the seed"),
        (["seed=1", "embeddings.dim=8"], {}, None),
        (["embeddings.dim=8"], {}, None),
    ],
)
def test_the_verdict(overrides: list[str], changes: dict[str, Any], verdict: str | None) -> None:
    finished("a")
    finished("b", *overrides, **changes)
    found = diff()
    assert found.verdict() == verdict
    assert format_diff(found, 120).split("\n\n")[1].startswith(verdict or "configuration, ")


def test_an_unfinished_run_is_compared_on_the_validation_split() -> None:
    better = {"click": TASKS["click"] | {"auc": 0.875}}
    write(RUNS / "a", metrics=final_metrics(valid={"tasks": better}))
    write(RUNS / "b", "seed=1", log=[train_record(4), valid_record(4, better), train_record(), valid_record()])
    write_checkpoint(RUNS / "b", 8, ranks=1)
    found = diff()
    assert (found.split, found.environment) == ("valid", [])
    assert found.tasks["click"]["auc"] == (0.875, 0.75, 0.0, "a")
    assert found.sizes["samples_per_second"] == (1024.0, 32.0)
    assert found.sizes["dense_parameters"] == (1000.0, None)
    text = format_diff(found, 120)
    assert text.startswith("a  runs/a: ple, finished, step 16\nb  runs/b: ple, interrupted, step 8 of 16\n\n")
    assert "\n\nsame configuration but for the seed\n\n" in text  # the steps differ too
    assert "\ndense parameters  1.00 k   -      -\n" in text
    assert text.split("\n\n")[-3].splitlines() == [
        "b (interrupted): its last validation record, of step 8",
        "the validation split is compared, since not both runs have metrics on test",
        "b: parameters, FLOPs and versions are recorded when a run finishes",
    ]


def test_the_environment_of_an_unfinished_run_is_its_checkpoints() -> None:
    finished("a")
    write(RUNS / "b", log=[train_record()])
    assert diff().environment == []  # nothing is recorded before the first
    write_checkpoint(RUNS / "b", 8, dataset="other", ranks=3)
    assert diff().environment == [("dataset_fingerprint", "0123456789abcdef", "other"), ("world_size", 1, 3)]


def test_a_run_that_was_never_evaluated() -> None:
    finished("a")
    write(RUNS / "b")
    notes = diff().notes
    assert notes[0] == "b (failed to start): not evaluated yet, there are no metrics"
    write(RUNS / "c")
    found = compare_runs(read_record(RUNS / "b"), read_record(RUNS / "c"))
    assert (found.tasks, found.sizes) == ({}, {})
    assert found.notes[-1] == "a and b: parameters, FLOPs and versions are recorded when a run finishes"
    assert format_diff(found, 120).split("\n\n")[1] == "same configuration"


def test_the_split_is_chosen() -> None:
    finished("a", valid={"tasks": {"click": {"auc": 0.25}}})
    finished("b")
    assert diff("valid").tasks["click"]["auc"].a == 0.25
    assert diff("test").tasks["click"]["auc"].a == 0.75


@pytest.mark.parametrize(
    ("bound_a", "bound_b", "b", "within", "better"),
    [
        (2**-8, 2**-8, 0.75 + 2**-7, True, None),  # the bounds add up
        (2**-8, 2**-8, 0.75 + 2**-6, False, "b"),
        (2**-8, 0.0, 0.75 - 2**-8, True, None),
        (2**-8, 2**-8, 0.75, True, None),
        (0.0, 0.0, 0.75, False, None),
        (0.0, 0.0, 0.75 - 2**-20, False, "a"),
        (2**-8, None, 0.75 - 2**-8, False, "a"),  # one bound alone says nothing
    ],
)
def test_a_difference_within_the_error_of_the_auc(
    bound_a: float, bound_b: float | None, b: float, within: bool, better: str | None
) -> None:
    finished("a", tasks={"click": {"auc": 0.75, "auc_error_bound": bound_a}})
    finished("b", tasks={"click": {"auc": b, "auc_error_bound": bound_b}})
    one = diff().tasks["click"]["auc"]
    assert (one.within_bound, one.better, one.difference) == (within, better, b - 0.75)


@pytest.mark.parametrize(
    ("a", "b", "bound", "better", "word"),
    [
        ([0.5, 0.75], [0.5625, 0.8125], 0.25, None, "within the bound 2.5e-01"),  # half-widths of an eighth add up
        ([0.609375, 0.640625], [0.671875, 0.703125], 2**-5, "b", "b"),
        ([0.5625, 0.640625], None, 2**-4, None, "within the bound 6.2e-02"),  # the farther end counts
        (None, None, 0.0, "b", "b"),
        (False, [0.671875, 0.703125], float("inf"), None, "not certain"),  # nothing can be said of a
    ],
)
def test_a_difference_within_the_intervals_of_gauc(a: Any, b: Any, bound: float, better: str | None, word: str) -> None:
    for name, gauc, span in (("a", 0.625, a), ("b", 0.6875, b)):
        exact = {"gauc_exact": span is None, "gauc_interval": span or None}
        finished(name, tasks={"click": {"gauc": gauc, **exact}})
    found = diff()
    assert found.tasks["click"] == {"gauc": (0.625, 0.6875, bound, better)}
    assert found.tasks["click"]["gauc"].within_bound == (better is None)
    (line,) = [line for line in format_diff(found, 120).splitlines() if line.startswith("click GAUC")]
    assert line == f"click GAUC  0.6250  0.6875  +0.0625  {word:>6}"
    listed = json.loads(diff_json(found))["tasks"]["click"]["gauc"]
    assert listed["bound"] == (None if word == "not certain" else bound)


def test_a_last_validation_record_has_intervals_too() -> None:
    inexact = {"gauc": 0.625, "gauc_exact": False, "gauc_interval": [0.5, 0.75]}
    for name in "ab":
        write(RUNS / name, log=[train_record(), valid_record(8, {"click": inexact})])
    assert diff().tasks["click"]["gauc"] == (0.625, 0.625, 0.25, None)


@pytest.mark.parametrize("width", [50, 60, 80, 120])
def test_no_line_is_longer_than_the_terminal(width: int) -> None:
    tasks = {"purchase_after_a_click_" * 5: {"auc": 0.5}}
    name, many = "learning-rate-" * 15, "data.drop=" + json.dumps([f"feature_{i}" for i in range(30)])
    finished("a", tasks=tasks, versions={"python": "3." * 100})
    other = ("model={variant='mmoe', experts=2}", 'data.path="datasets/in/another/place"')
    write(RUNS / name, *other, many, log=[train_record(), valid_record(8, tasks)])
    found = compare_runs(read_record(RUNS / "a"), read_record(RUNS / name))
    text = format_diff(found, width)
    assert max(map(len, text.splitlines())) <= width
    assert "".join(text.split()).count(name) == 1  # goes on in the next line, and loses nothing
    assert "feature_29" in text
    assert "\n  model.levels[0].shared_experts" in text


def test_what_is_printed_obeys_no_file() -> None:
    finished("a", tasks={"cl\x1bick": {"auc": 0.5}}, versions={"py\x1bthon": "3\x1b"})
    finished("b", 'data.path="x\x9by"', tasks={"cl\x1bick": {"auc": 0.5}}, versions={"py\x1bthon": "4\n"})
    text = format_diff(diff(), 120)
    assert [line for line in text.split("\n") if not line.isprintable()] == []
    assert r"cl\x1bick AUC" in text
    assert r'"x\x9by"' in text
    assert r"versions.py\x1bthon: 3\x1b -> 4\n" in text


@pytest.mark.parametrize(
    ("metric", "better", "worse"),
    [
        ("auc", 0.75, 0.5),
        ("gauc", 0.75, 0.5),
        ("ne", 0.5, 0.75),
        ("logloss", 0.5, 0.75),
        ("mse", 0.5, 0.75),
        ("rmse", 0.5, 0.75),
        ("mae", 0.5, 0.75),
        ("calibration", 0.875, 1.25),
        ("calibration", 1.125, 0.5),
    ],
)
def test_which_is_better(metric: str, better: float, worse: float) -> None:
    finished("a", tasks={"click": {metric: better}})
    finished("b", tasks={"click": {metric: worse}})
    assert diff().tasks["click"][metric].better == "a"
    reverse = compare_runs(read_record(RUNS / "b"), read_record(RUNS / "a"))
    assert reverse.tasks["click"][metric].better == "b"


def test_every_metric_of_the_tables_is_known_to_be_good_or_bad() -> None:
    assert [metric.key for metric in METRICS if metric.rank_key(0.5) is None] == ["samples"]


def test_damaged_files_are_said() -> None:
    finished("a")
    finished("b")
    (RUNS / "a/config.toml").write_text("nothing = 1\n")
    (RUNS / "b/metrics.json").write_text("{")
    found = diff()
    assert (found.configuration, found.verdict()) == (None, None)
    assert found.notes[0].startswith("a: the configurations are not compared: runs/a/config.toml: ")
    assert "b: damaged, and left out: metrics.json" in found.notes
    assert found.tasks["click"]["auc"].a == 0.75
    assert "variant unknown" in format_diff(found, 120)


def test_json() -> None:
    tasks = {"click": {"auc": 0.75, "auc_error_bound": 0.0}}
    finished("a", tasks=tasks)
    finished("b", "train.epochs=", "train.steps=16", tasks=tasks, versions={"python": "3.12.0"}, flops_per_sample=1000)
    assert json.loads(diff_json(diff())) == {
        "a": {"path": "runs/a", "status": "finished", "step": 16},
        "b": {"path": "runs/b", "status": "finished", "step": 16},
        "verdict": None,
        "configuration": [{"key": "train.epochs", "a": 1, "b": None}, {"key": "train.steps", "a": None, "b": 16}],
        "environment": [{"key": "versions.python", "a": "3.11.9", "b": "3.12.0"}],
        "split": "test",
        "tasks": {
            "click": {
                "auc": {"a": 0.75, "b": 0.75, "bound": 0.0, "better": None, "difference": 0.0, "within_bound": False}
            }
        },
        "sizes": {
            "dense_parameters": {"a": 1000.0, "b": 1000.0, "ratio": 1.0},
            "table_parameters": {"a": 200.0, "b": 200.0, "ratio": 1.0},
            "flops_per_sample": {"a": 2000.0, "b": 1000.0, "ratio": 0.5},
            "samples_per_second": {"a": 1024.0, "b": 1024.0, "ratio": 1.0},
        },
        "notes": [],
    }


def test_the_verb(capsys: pytest.CaptureFixture[str]) -> None:
    finished("a", valid={"tasks": {"click": {"auc": 0.25}}})
    finished("b", "seed=1")
    assert main(["diff", "a", "runs/b"]) == 0
    text = capsys.readouterr().out
    assert text == format_diff(diff(), 120) + "\n"
    assert "\n\nsame configuration but for the seed: the difference is noise of the seed\n\n" in text
    assert main(["diff", "a", "b", "--split", "valid", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tasks"]["click"]["auc"]["a"] == 0.25
    assert main(["diff", "a", "bb"]) == 2
    assert capsys.readouterr().err == (
        "ple-rec: bb: no such run; a run is named by its directory (config.toml, train.jsonl, ...) or by its name "
        f'under {Path.cwd()}/runs/. Fix: did you mean "b"? `ple-rec runs` lists them\n'
    )
