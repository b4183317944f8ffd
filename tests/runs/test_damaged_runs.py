"""What no run should leave behind, and disks and people do: one such directory never hides the other runs."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ple_rec.cli import main
from ple_rec.errors import UserError
from ple_rec.runs.diff import compare_runs, diff_json, format_diff
from ple_rec.runs.find import find_run, find_runs
from ple_rec.runs.listing import format_runs, list_runs, runs_json
from ple_rec.runs.record import read_record
from tests.runs.written_runs import NOW, final_metrics, touch, train_record, valid_record
from tests.runs.written_runs import write_run as write

RUNS = Path("runs")
DEEP = "[" * 100_000
NESTED = "[" * 300 + "]" * 300  # can be read, but neither copied nor printed by recursion without care
NO_STAT = "x" * 300  # a link to such a name fails as an unreadable directory does, for root too


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def no_constant(word: str) -> Any:
    raise ValueError(f"{word} is not JSON")


def strict(text: str) -> Any:
    """Of JSON without the NaN and Infinity that Python adds to it."""
    return json.loads(text, parse_constant=no_constant)


def test_links_that_lead_nowhere() -> None:
    write(RUNS / "a", metrics=final_metrics())
    (RUNS / "loop").symlink_to("loop")
    (RUNS / "gone").symlink_to("nothing")
    (RUNS / "far").symlink_to(NO_STAT)
    assert find_runs(RUNS) == [RUNS / "a"]
    assert [run.path.name for run in list_runs("runs", now=NOW).runs] == ["a"]


def test_a_folder_that_cannot_be_read_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    write(RUNS / "a", metrics=final_metrics())
    (RUNS / "closed").mkdir()
    scan = os.scandir

    def scandir(folder: Path) -> Any:
        if folder.name == "closed":
            raise PermissionError(13, "Permission denied", str(folder))
        return scan(folder)

    monkeypatch.setattr(os, "scandir", scandir)
    assert find_runs(RUNS) == [RUNS / "a"]
    lines = format_runs(list_runs("runs", now=NOW), 120).splitlines()
    assert (len(lines), lines[-1]) == (4, "not readable, and left out: runs/closed")
    assert format_runs(list_runs("runs/closed", now=NOW), 120) == (
        "no runs in runs/closed\nnot readable, and left out: runs/closed"
    )


def test_a_name_that_no_file_can_have() -> None:
    with pytest.raises(UserError, match=r"^x{300}: no such directory; it is searched for runs. Fix: "):
        list_runs(NO_STAT, now=NOW)
    with pytest.raises(UserError, match=r"^x{300}: no such run; a run is named by its directory "):
        find_run(NO_STAT)


def files_that_cannot_be_asked_about(run: Path) -> None:
    for name in ("metrics.json", "train.jsonl", "config.toml"):
        (run / name).unlink()
        (run / name).symlink_to(NO_STAT)
    (run / "checkpoints").mkdir()
    for name in ("best", "latest"):
        (run / "checkpoints" / name).symlink_to(NO_STAT)


def deep_metrics(run: Path) -> None:
    (run / "metrics.json").write_text(DEEP)


def deep_log(run: Path) -> None:
    (run / "train.jsonl").write_text('{"split": "train", "x": ' + DEEP + "\n")


def deep_config(run: Path) -> None:
    (run / "config.toml").write_text("seed = " + DEEP)


def nested_values(run: Path) -> None:
    text = json.dumps(final_metrics({"click": {"auc": 0.5, "odd": "NESTED"}}, dataset_fingerprint="NESTED"))
    (run / "metrics.json").write_text(text.replace('"NESTED"', NESTED))


def best_of_no_step(run: Path) -> None:
    (run / "metrics.json").unlink()
    (run / "checkpoints").mkdir()
    (run / "checkpoints" / "best").write_text("step-\N{SUPERSCRIPT TWO}")


def best_of_many_digits(run: Path) -> None:
    (run / "metrics.json").unlink()
    (run / "checkpoints").mkdir()
    (run / "checkpoints" / "best").write_text("step-" + "1" * 5000)


def no_end_of_time(run: Path) -> None:
    (run / "metrics.json").unlink()
    record = train_record() | {"total_steps": float("inf"), "eta_seconds": 1e300, "samples_per_second": 1e308}
    (run / "train.jsonl").write_text(json.dumps(record) + "\n")


def split_of_another_type(run: Path) -> None:
    (run / "metrics.json").unlink()
    (run / "train.jsonl").write_text(json.dumps(train_record()) + '\n{"split": ["train"], "step": 3}\n')


def seed_that_is_a_date(run: Path) -> None:
    config = run / "config.toml"
    config.write_text(config.read_text().replace("seed = 0\n", "seed = 2020-01-01\n"))


def seed_of_many_digits(run: Path) -> None:
    config = run / "config.toml"
    config.write_text(config.read_text().replace("seed = 0\n", f"seed = 0x{'f' * 5000}\n"))


def metrics_of_many_digits(run: Path) -> None:
    (run / "metrics.json").write_text(json.dumps(final_metrics()).replace("1024.0", "1" * 5000))


def numbers_that_are_none(run: Path) -> None:
    tasks = {"click": {"auc": float("nan"), "ne": float("inf"), "mse": 10**400, "curve": [float("nan"), -1e999]}}
    changes: dict[str, Any] = {
        "samples_per_second": float("inf"),
        "versions": {"python": float("nan")},
        "world_size": float("inf"),
    }
    (run / "metrics.json").write_text(json.dumps(final_metrics(tasks, **changes)))
    (run / "train.jsonl").write_text(json.dumps(valid_record(16, tasks)) + "\n")


def extreme_numbers(run: Path) -> None:
    changes: dict[str, Any] = {"samples_per_second": 5e-324, "parameters": {"dense": 1e308}, "flops_per_sample": 5e-324}
    (run / "metrics.json").write_text(json.dumps(final_metrics({"click": {"auc": -1.7e308}}, **changes)))


SPOILED: list[Callable[[Path], None]] = [
    files_that_cannot_be_asked_about,
    deep_metrics,
    deep_log,
    deep_config,
    nested_values,
    best_of_no_step,
    best_of_many_digits,
    no_end_of_time,
    split_of_another_type,
    seed_that_is_a_date,
    seed_of_many_digits,
    metrics_of_many_digits,
    numbers_that_are_none,
    extreme_numbers,
]


@pytest.mark.parametrize("spoil", SPOILED, ids=lambda spoil: spoil.__name__)
def test_a_damaged_run_is_listed_and_compared(spoil: Callable[[Path], None]) -> None:
    write(RUNS / "good", metrics=final_metrics({"click": {"auc": 1.7e308}}))
    spoil(write(RUNS / "odd", metrics=final_metrics()))
    listing = list_runs("runs", now=NOW)
    assert {listing.name(run) for run in listing.runs} == {"good", "odd"}
    assert "\ngood " in format_runs(listing, 120)
    assert max(map(len, format_runs(listing, 120).splitlines())) <= 120
    listed = {run["run"]: run for run in strict(runs_json(listing))}
    assert listed["good"]["splits"]["test"] == {"click": {"auc": 1.7e308}}
    good, odd = (read_record(RUNS / name) for name in ("good", "odd"))
    for diff in (compare_runs(good, odd), compare_runs(odd, good)):
        assert format_diff(diff, 120).startswith("a  runs/")
        assert strict(diff_json(diff))["a"]["path"] == str(diff.runs[0].path)


@pytest.mark.parametrize(
    ("spoil", "damaged"),
    [
        (files_that_cannot_be_asked_about, ["config.toml", "metrics.json", "train.jsonl"]),
        (deep_metrics, ["metrics.json"]),
        (deep_log, ["train.jsonl"]),
        (deep_config, ["config.toml"]),
        (metrics_of_many_digits, ["metrics.json"]),
        (numbers_that_are_none, []),
    ],
)
def test_which_files_are_damaged(spoil: Callable[[Path], None], damaged: list[str]) -> None:
    spoil(write(RUNS / "odd", metrics=final_metrics()))
    if not (RUNS / "odd/config.toml").is_symlink():
        assert list(read_record(RUNS / "odd").damaged) == damaged
    assert strict(runs_json(list_runs("runs", now=NOW)))[0]["damaged"] == damaged


def test_what_json_cannot_say_is_null_or_text() -> None:
    numbers_that_are_none(write(RUNS / "a", metrics=final_metrics()))
    seed_that_is_a_date(RUNS / "a")
    touch(RUNS / "a", 60)
    (run,) = strict(runs_json(list_runs("runs", now=NOW)))
    none = {"auc": None, "ne": None, "mse": None, "curve": [None, None]}
    assert (run["splits"]["test"], run["last_validation"]) == ({"click": none}, {"click": none})
    assert (run["seed"], run["samples_per_second"]) == ("2020-01-01", None)
    seed_of_many_digits(write(RUNS / "b"))
    touch(RUNS / "b", 120)
    assert [run["seed"] for run in strict(runs_json(list_runs("runs", now=NOW)))] == ["2020-01-01", None]


def test_an_environment_is_words_and_numbers() -> None:
    write(RUNS / "a", metrics=final_metrics())
    nested_values(write(RUNS / "b"))
    assert compare_runs(read_record(RUNS / "a"), read_record(RUNS / "b")).environment == []


def test_no_best_step_and_no_total() -> None:
    best_of_no_step(write(RUNS / "a", metrics=final_metrics()))
    no_end_of_time(write(RUNS / "b", metrics=final_metrics()))
    assert (read_record(RUNS / "a").best_step, read_record(RUNS / "b").total_steps) == (None, None)


def test_a_difference_beyond_every_float_is_none() -> None:
    write(RUNS / "a", metrics=final_metrics({"click": {"auc": 1.7e308}}, flops_per_sample=5e-324))
    extreme_numbers(write(RUNS / "b"))
    diff = compare_runs(read_record(RUNS / "a"), read_record(RUNS / "b"))
    assert diff.tasks["click"]["auc"].difference is None
    content = strict(diff_json(diff))
    assert content["sizes"]["dense_parameters"]["ratio"] == 1e305
    back = strict(diff_json(compare_runs(read_record(RUNS / "b"), read_record(RUNS / "a"))))
    assert back["sizes"]["samples_per_second"]["ratio"] is None


def test_the_verbs(capsys: pytest.CaptureFixture[str]) -> None:
    write(RUNS / "a", metrics=final_metrics())
    numbers_that_are_none(write(RUNS / "b", metrics=final_metrics()))
    (RUNS / "loop").symlink_to("loop")
    assert main(["runs", "--json"]) == 0
    assert len(strict(capsys.readouterr().out)) == 2
    assert main(["diff", "a", "b", "--json"]) == 0
    assert strict(capsys.readouterr().out)["tasks"]["click"]["auc"]["b"] is None
