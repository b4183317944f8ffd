"""The table of `ple-rec runs` in the width of a terminal, whatever the names, and what it costs."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import Any

import pytest

from ple_rec.errors import UserError
from ple_rec.runs import record as run_record
from ple_rec.runs.find import find_run
from ple_rec.runs.listing import Listing, format_runs, list_runs
from ple_rec.runs.record import RunRecord
from ple_rec.text.plain import json_text, wrap_text
from tests.runs.written_runs import NOW, final_metrics, train_record, valid_record
from tests.runs.written_runs import write_run as write

RUNS = Path("runs")
CLICK = {"auc": 0.75, "gauc": 0.625, "ne": 0.5, "logloss": 0.25, "calibration": 1.0, "samples": 64}


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def record(name: str, tasks: dict[str, dict[str, Any]], **changes: Any) -> RunRecord:
    values: dict[str, Any] = {
        "status": "finished",
        "config": {"model": {"variant": "ple"}},
        "metrics": {"steps": 16, "test": {"tasks": tasks}},
        "train": {},
        "valid": {},
        "changed": NOW - 60,
        "damaged": (),
    }
    return RunRecord(RUNS / name, **(values | changes))


def table(*runs: RunRecord, width: int = 120, **how: Any) -> list[str]:
    return format_runs(Listing(RUNS, runs, "test", how.pop("sort", "age"), NOW, **how), width).split("\n")


def test_a_name_never_reaches_the_terminal_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    name = "a\x1b[2Jb\nc\x9bd\N{RIGHT-TO-LEFT OVERRIDE}e\udcff"
    odd = record(
        name,
        {f"{name}task": {"auc": 0.5}},
        status=f"\x1b{name}",
        config={"model": {"variant": name}},
        damaged=(f"\x07{name}",),
    )
    lines = table(odd, width=400)
    assert [line for line in lines if not line.isprintable()] == []
    assert lines[0] == r"test" + lines[0][4:]
    assert lines[2].startswith(r"a\x1b[2Jb\nc\x9bd\u202ee\udcff  ")
    assert len(lines) == 4
    assert lines[3].startswith(r"damaged, and left out: a\x1b[2Jb\nc\x9bd\u202ee\udcff/\x07a\x1b[2Jb\nc")
    (note,) = table(width=120, text="\x1b\n")
    assert note == r'no run in runs contains "\x1b\n"'


def test_neither_does_one_in_a_refusal() -> None:
    write(RUNS / "a\x1b[2Jb", metrics=final_metrics({"cl\x1bick": {"auc": 0.5}}))
    with pytest.raises(UserError) as caught:
        list_runs("runs", sort="click.auc", now=NOW)
    assert r'did you mean "cl\x1bick.auc"? (known: run, ' in str(caught.value)
    with pytest.raises(UserError) as caught:
        find_run("a\x1b[2Jbb")
    assert str(caught.value).startswith(r"a\x1b[2Jbb: no such run; ")
    assert r'did you mean "a\x1b[2Jb"? ' in str(caught.value)
    with pytest.raises(UserError, match=r"^\\n: no such directory; "):
        list_runs("\n", now=NOW)


@pytest.mark.parametrize("width", [24, 40, 60, 80, 120, 200])
def test_no_line_is_longer_than_the_terminal(width: int) -> None:
    long = "sweep/" + "learning-rate-" * 20 + "seed-7"
    tasks = {f"{'purchase_after_a_click_' * 4}{i}": CLICK for i in range(12)}
    runs = [
        record("short", tasks),
        record(long, tasks, damaged=("metrics.json", "train.jsonl")),
        record(f"x{long}", tasks, damaged=("config.toml",) * 20, config={"model": {"variant": "v" * 200}}),
        record("going", {}, metrics={}, valid={"step": 7, "tasks": tasks}, train={"step": 10**300}),
    ]
    lines = table(*runs, width=width, unreadable=tuple(RUNS / f"closed-{i}" / ("y" * 90) for i in range(30)))
    assert max(map(len, lines)) <= width
    assert lines[1].split()[0] == "run"
    head, dots, tail = lines[3].split()[0].partition("...")
    assert dots
    assert long.startswith(head)
    assert long.endswith(tail)
    assert " and 22 more" in " ".join(" ".join(lines).split())


def test_names_that_fit_stay_whole() -> None:
    name = "sweep/learning-rate-3/seed-7"
    lines = table(record(name, {"click": CLICK}), width=60)
    assert lines[2].startswith(f"{name}  ")
    assert table(record(name, {"click": CLICK}), width=40)[2].startswith("sweep/lea...3/seed-7  ")


def test_a_run_whose_name_ends_with_the_mark_is_not_taken_for_unfinished() -> None:
    lines = table(record("a*", {"click": {"auc": 0.5}}, config={"model": {"variant": "ple*"}}))
    assert lines[2].split()[:4] == ["a*", "finished", "ple*", "16"]
    assert len(lines) == 3


def test_text_and_lines() -> None:
    assert wrap_text("one two-three four five six", 24) == "one two-three four five\n  six"
    assert max(map(len, wrap_text("x" * 100, 30).split("\n"))) == 30
    deep: list[Any] = []
    for _ in range(5000):
        deep = [deep]
    assert "".join(json_text(deep).split()) == "[" * 16 + "null" + "]" * 16
    assert json_text({"a": [float("nan"), 2**1024 - 1]}) == f'{{\n "a": [\n  null,\n  {2**1024 - 1}\n ]\n}}'


def test_unfinished_runs_follow_those_with_final_metrics() -> None:
    for name, auc, age in (("good", 0.75, 3), ("poor", 0.5, 4)):
        write(RUNS / name, metrics=final_metrics({"click": {"auc": auc, "ne": 1 - auc}}), age=age)
    best, other = ({"click": {"auc": auc, "ne": 1 - auc}} for auc in (0.9375, 0.875))
    write(RUNS / "going", log=[train_record(), valid_record(8, other)], age=1)
    write(RUNS / "better", log=[train_record(), valid_record(8, best)], age=2)
    write(RUNS / "none", age=0.5)
    for sort in ("click.auc", "click.ne"):
        listing = list_runs("runs", sort=sort, now=NOW)
        assert [run.path.name for run in listing.runs] == ["good", "poor", "better", "going", "none"]


def test_the_key_is_checked_before_the_filter() -> None:
    write(RUNS / "a", metrics=final_metrics({"click": {"auc": 0.5}}))
    with pytest.raises(UserError, match=r'^--sort: unknown key "click.acu"; did you mean "click.auc"\? '):
        list_runs("runs", text="zzz", sort="click.acu", now=NOW)
    nothing = list_runs("runs", text="zzz", sort="click.auc", now=NOW)
    assert format_runs(nothing, 120) == 'no run in runs contains "zzz"'
    (RUNS / "a" / "config.toml").unlink()
    assert format_runs(list_runs("runs", sort="click.auc", now=NOW), 120) == "no runs in runs"


def test_300_runs_of_20_tasks_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed, numbers = count(), run_record._numbers
    monkeypatch.setattr(run_record, "_numbers", lambda tasks: (next(parsed), numbers(tasks))[1])
    tasks = {f"task_{i}": CLICK for i in range(20)}
    runs = [record(f"run-{i}", tasks) for i in range(300)]
    assert len(table(*runs, sort="task_3.auc")) > 300
    assert next(parsed) == 300 * 2  # each of two splits once
