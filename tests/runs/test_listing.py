"""`ple-rec runs`: what it finds, what it says of each run, its order, its width, and what it leaves alone."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ple_rec.cli import main
from ple_rec.errors import UserError
from ple_rec.runs.find import find_run, find_runs, is_run
from ple_rec.runs.layout import hold_lock
from ple_rec.runs.listing import format_runs, list_runs, runs_json
from ple_rec.runs.record import is_locked, read_record
from tests.runs.written_runs import NOW, TASKS, final_metrics, touch, train_record, valid_record, write_checkpoint
from tests.runs.written_runs import write_run as write
from tests.tiny import environment

RUNS = Path("runs")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def held() -> Iterator[Any]:
    """Holds the lock of a run, as its training process does."""
    open_files = []

    def hold(path: Path) -> None:
        lock = (path / ".lock").open("a+")
        open_files.append(lock)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)

    yield hold
    for file in open_files:
        file.close()


def table(directory: str = "runs", width: int = 120, **how: Any) -> str:
    return format_runs(list_runs(directory, now=NOW, **how), width)


def names(**how: Any) -> list[str]:
    listing = list_runs("runs", now=NOW, **how)
    return [listing.name(run) for run in listing.runs]


def refused(*argv: str, **how: Any) -> str:
    with pytest.raises(UserError) as caught:
        list_runs(*argv, now=NOW, **how)
    assert caught.value.exit_code == 2
    return str(caught.value)


def some_runs(held: Any) -> None:
    """One of each status."""
    write(RUNS / "done", metrics=final_metrics(), log=[train_record(16), valid_record(16)], age=7200)
    write(RUNS / "repeat/tiny/seed-1", log=[train_record(), valid_record()], age=300)
    held(write(RUNS / "going", "model.variant=mmoe", "model.experts=2", log=[train_record(4)], age=2))
    write(RUNS / "refused", age=3 * 86400)


def test_a_line_for_every_status(held: Any) -> None:
    some_runs(held)
    assert table() == (
        "test                                                         click    watch\n"
        "run                 status           variant  step    age      AUC     RMSE  samples/s  best\n"
        "going               running          mmoe     4/16    2 s        -        -         32     -\n"
        "repeat/tiny/seed-1  interrupted      ple      8/16  5 min  *0.7500  *0.5000         32     -\n"
        "done                finished         ple        16    2 h   0.7500   0.5000     1.02 k    16\n"
        "refused             failed to start  ple         -    3 d        -        -          -     -\n"
        "* last validation record of a run without final metrics on test"
    )


def test_columns_that_do_not_fit_are_left_out_and_named(held: Any) -> None:
    some_runs(held)
    assert table(width=92) == table()
    assert table(width=60).splitlines()[1:] == [
        "run                 status           variant  step    age",
        "going               running          mmoe     4/16    2 s",
        "repeat/tiny/seed-1  interrupted      ple      8/16  5 min",
        "done                finished         ple        16    2 h",
        "refused             failed to start  ple         -    3 d",
        "left out, beyond 60 characters: click.auc, watch.rmse,",
        "  samples/s, best; --json has all",
    ]
    assert "\nrun           status\n" in table(width=1)  # which run it is, and whether it goes, always shows
    assert "\nrun                 status              RMSE  step\n" in table(width=50, sort="watch.rmse")


def test_two_tasks_fit_120_columns_and_ten_do_not() -> None:
    values = TASKS["click"] | {"gauc": 0.625}
    two = {"income": values, "never_married": values}
    write(RUNS / "repeat/census-single-task/seed-10", "model={variant='single_task'}", metrics=final_metrics(two))
    lines = table().splitlines()
    assert lines[0].split() == ["test", "income", "never_married"]  # a name for the columns of a task
    assert " ".join(lines[1].split()) == "run status variant step age AUC GAUC AUC GAUC samples/s"
    assert max(map(len, lines)) <= 120
    write(RUNS / "ten", metrics=final_metrics({f"task_number_{i}": values for i in range(10)}))
    *lines, note, more = table().splitlines()
    assert max(map(len, [*lines, note, more])) <= 120
    assert lines[0].split() == ["test", "income", "never_married"]
    named = ", ".join(f"task_number_{i}.{metric}" for i in range(4) for metric in ("auc", "gauc"))
    assert f"{note} {more.strip()}" == f"left out, beyond 120 characters: {named} and 13 more; --json has all"


def test_gauc_stands_where_it_is_recorded() -> None:
    write(RUNS / "a", metrics=final_metrics({"click": {"auc": 0.75, "gauc": 0.625}}), age=1)
    write(RUNS / "b", metrics=final_metrics({"click": {"auc": 0.75}}), age=2)
    lines = [line.split() for line in table().splitlines()]
    assert lines[0] == ["test", "click"]
    assert lines[1][5:7] == ["AUC", "GAUC"]
    assert [line[6:8] for line in lines[2:]] == [["0.7500", "0.6250"], ["0.7500", "-"]]  # an age is two words


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("age", ["c", "a", "b", "d"]),
        ("run", ["a", "b", "c", "d"]),
        ("click.auc", ["b", "c", "a", "d"]),  # the best first, without one last
        ("click.ne", ["c", "b", "a", "d"]),
        ("click.calibration", ["a", "b", "c", "d"]),  # nearest to 1
        ("samples/s", ["b", "c", "a", "d"]),
        ("status", ["d", "c", "a", "b"]),  # by the alphabet, the newest first among equals
    ],
)
def test_order(key: str, expected: list[str]) -> None:
    for name, age, auc, ne, calibration, speed in (
        ("a", 2, 0.5, 0.5, 1.01, 10.0),
        ("b", 3, 0.875, 0.25, 0.96, 40.0),
        ("c", 1, 0.75, 0.125, 1.3, 20.0),
    ):
        tasks = {"click": {"auc": auc, "ne": ne, "calibration": calibration}}
        write(RUNS / name, metrics=final_metrics(tasks, samples_per_second=speed), age=age)
    write(RUNS / "d", age=4)
    assert names(sort=key) == expected


def test_an_unknown_key_is_refused_with_what_may_have_been_meant() -> None:
    write(RUNS / "a", metrics=final_metrics())
    assert refused("runs", sort="click.acu") == (
        '--sort: unknown key "click.acu"; did you mean "click.auc"? (known: run, status, variant, step, age, '
        "click.auc, watch.rmse, samples/s, best). Fix: use one of these, or TASK.METRIC of any recorded metric"
    )
    assert 'did you mean "click.logloss"? (known: run, ' in refused("runs", sort="click.loglos")


def test_filter_reads_name_variant_and_status(held: Any) -> None:
    some_runs(held)
    assert names(text="TINY/seed") == ["repeat/tiny/seed-1"]
    assert names(text="mmoe") == ["going"]
    assert names(text="finished") == ["done"]
    assert table(text="nothing") == 'no run in runs contains "nothing"'


def test_the_split_is_chosen() -> None:
    metrics = final_metrics({"click": {"auc": 0.75}}, valid={"tasks": {"click": {"auc": 0.875}}})
    write(RUNS / "a", metrics=metrics)
    assert [table(split=split).splitlines()[-1].split()[6] for split in ("test", "valid")] == ["0.7500", "0.8750"]
    assert table(split="valid").startswith("valid ")


def test_damaged_files_are_named_in_one_footnote() -> None:
    write(RUNS / "a", metrics=final_metrics(), log=[train_record(16), valid_record(16)], age=1)
    (RUNS / "a/metrics.json").write_text("{")
    write(RUNS / "b", metrics=final_metrics(), age=2)
    (RUNS / "b/config.toml").write_bytes(b"\xff")
    write(RUNS / "c", age=3)
    (RUNS / "c/train.jsonl").write_text("nonsense\n")
    for age, name in enumerate("abc", 1):
        touch(RUNS / name, age)
    *lines, note = table().splitlines()
    assert note == "damaged, and left out: a/metrics.json, b/config.toml, c/train.jsonl"
    assert [line.split()[0] for line in lines[2:5]] == ["a", "b", "c"]
    assert "*0.7500" in lines[2]
    assert "finished" in lines[3]


def test_the_last_line_of_a_run_that_was_killed_is_no_damage() -> None:
    write(RUNS / "a", log=[train_record(4), valid_record(4)])
    with (RUNS / "a/train.jsonl").open("a") as log:
        log.write('{"split": "train", "step": 8, "ta')
    run = read_record(RUNS / "a")
    assert (run.step, run.total_steps, run.damaged) == (4, 16, ())
    with (RUNS / "a/train.jsonl").open("a") as log:
        log.write("\n")
    assert read_record(RUNS / "a").damaged == ("train.jsonl",)


def test_a_finished_run_that_went_on_and_was_stopped_has_no_final_metrics() -> None:
    write(RUNS / "a", metrics=final_metrics(), log=[train_record(16), valid_record(16), train_record(20, total=32)])
    write_checkpoint(RUNS / "a", 16)
    run = read_record(RUNS / "a")
    assert (run.status, run.step, run.total_steps, run.best_step) == ("interrupted", 20, 32, 16)
    assert (run.tasks("test"), run.last_validation["click"]["auc"]) == ({}, 0.75)


def test_configured_steps_are_the_total() -> None:
    write(RUNS / "a", "train.epochs=", "train.steps=40", log=[train_record(4)])
    assert read_record(RUNS / "a").total_steps == 40


def test_what_is_no_number_is_absent() -> None:
    write(
        RUNS / "a",
        metrics=final_metrics({"click": {"auc": float("nan"), "ne": None, "samples": 3, "exact": False, "note": "x"}}),
    )
    assert read_record(RUNS / "a").tasks("test") == {"click": {"auc": None, "ne": None, "samples": 3}}


def test_json_has_every_metric(held: Any) -> None:
    some_runs(held)
    going, unfinished, done, refused = json.loads(runs_json(list_runs("runs", now=NOW)))
    assert done == {
        "run": "done",
        "path": "runs/done",
        "name": "tiny",
        "variant": "ple",
        "seed": 0,
        "status": "finished",
        "step": 16,
        "total_steps": 16,
        "best_step": 16,
        "samples_per_second": 1024.0,
        "changed": "2027-01-15T06:00:00+00:00",
        "splits": {"valid": TASKS, "test": TASKS},
        "last_validation": TASKS,
        "damaged": [],
    }
    assert (unfinished["splits"], unfinished["last_validation"]) == ({}, TASKS)
    assert (going["status"], going["last_validation"]) == ("running", {})
    assert (refused["status"], refused["step"], refused["total_steps"]) == ("failed to start", None, None)
    assert json.loads(runs_json(list_runs("runs", now=NOW, text="nothing"))) == []


def test_what_is_no_run_is_not_listed(here: Path) -> None:
    write(RUNS / "a" / "b" / "c" / "d", metrics=final_metrics())
    write(RUNS / "1/2/3/4/too-deep", metrics=final_metrics())
    write(RUNS / ".hidden", metrics=final_metrics())
    write(RUNS / "a/b/c/d/inside", metrics=final_metrics())
    write(here / "elsewhere" / "linked", metrics=final_metrics())
    (RUNS / "linked").symlink_to(here / "elsewhere" / "linked")
    (RUNS / "loop").symlink_to(here)
    (RUNS / "config-alone").mkdir()
    (RUNS / "config-alone" / "config.toml").touch()
    (RUNS / "released").mkdir()
    (RUNS / "released" / ".lock").touch()
    (RUNS / "file").touch()
    assert find_runs(RUNS) == [RUNS / "a/b/c/d", RUNS / "linked"]
    assert not is_run(RUNS / "nix")


def test_a_run_that_has_only_its_lock_yet(held: Any) -> None:
    (RUNS / "new").mkdir(parents=True)
    held(RUNS / "new")
    assert table().splitlines()[2].split()[:3] == ["new", "running", "-"]


def test_asking_for_the_lock_leaves_it_free_and_a_held_one_held(held: Any) -> None:
    run = write(RUNS / "a")
    before = (run / ".lock").stat()
    assert not is_locked(run)
    with hold_lock(run):  # could not be claimed if it were still held
        assert is_locked(run)
        assert is_locked(run)
        with pytest.raises(UserError, match="in use by process"), hold_lock(run):
            pass
    assert not is_locked(run)
    assert (run / ".lock").stat().st_ino == before.st_ino
    (run / ".lock").unlink()
    assert not is_locked(run)
    assert not (run / ".lock").exists()


def test_the_directory_is_a_path_a_name_or_a_run() -> None:
    write(RUNS / "repeat/tiny/seed-0", metrics=final_metrics())
    for directory, name in (
        ("runs/repeat", "tiny/seed-0"),
        ("repeat", "tiny/seed-0"),
        ("runs/repeat/tiny/seed-0", "seed-0"),
        ("repeat/tiny/seed-0", "seed-0"),
    ):
        listing = list_runs(directory, now=NOW)
        assert [listing.name(run) for run in listing.runs] == [name]
    assert table("repeat/tiny").splitlines()[2].startswith("seed-0 ")
    fix = "it is searched for runs. Fix: name a folder with runs in it, or a run by its path or its name under runs/"
    assert refused("nix") == f"nix: no such directory; {fix}"
    Path("file").touch()
    assert refused("file") == f"file: is a file; {fix}"


def test_a_run_by_path_or_name() -> None:
    write(RUNS / "census", metrics=final_metrics())
    (RUNS / "empty").mkdir()
    assert find_run("census") == find_run("runs/census") == RUNS / "census"

    def said(text: str) -> str:
        with pytest.raises(UserError) as caught:
            find_run(text)
        return str(caught.value)

    searched = f"{Path.cwd()}/runs/"
    rule = f"a run is named by its directory (config.toml, train.jsonl, ...) or by its name under {searched}. Fix:"
    assert said("runs/cenus") == f'runs/cenus: no such run; {rule} did you mean "census"? `ple-rec runs` lists them'
    assert said("empty") == f"empty: a directory without a run; {rule} `ple-rec runs` lists them"
    assert said("runs/census/config.toml") == f"runs/census/config.toml: a file; {rule} `ple-rec runs` lists them"
    fix = "it is a recipe that was not trained here: ple-rec train --config census-ple"
    assert (
        said("census-ple") == said("runs/census-ple").removeprefix("runs/") == f"census-ple: no such run; {rule} {fix}"
    )
    shutil.rmtree(RUNS)
    fix = "no run is there; give the directory of one, or call it from the folder that holds runs/"
    assert said("mine") == f"mine: no such run; {rule} {fix}"


def test_the_verb(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    assert main(["runs"]) == 2
    assert capsys.readouterr().err.startswith("ple-rec: runs: no such directory; it is searched for runs. Fix: ")
    RUNS.mkdir()
    assert main(["runs"]) == 0
    assert capsys.readouterr().out == "no runs in runs\n"
    write(RUNS / "a", metrics=final_metrics({"click": {"auc": 0.75}}))
    write(RUNS / "b", metrics=final_metrics({"click": {"auc": 0.875}}), age=120)
    assert main(["runs", "--sort", "click.auc"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["test", "run", "b", "a"]
    assert main(["runs", "runs", "--json", "--filter", "a", "--split", "valid"]) == 0
    assert [run["run"] for run in json.loads(capsys.readouterr().out)] == ["a"]
    assert main(["runs", "--sort", "click.au"]) == 2
    assert capsys.readouterr().err.startswith('ple-rec: --sort: unknown key "click.au"; did you mean "click.auc"? ')


def test_fifty_runs_as_a_process_and_without_torch(repository: Path, here: Path) -> None:
    template = write(RUNS / "run-0", metrics=final_metrics(), log=[train_record(16), valid_record(16)])
    for i in range(1, 50):
        shutil.copytree(template, RUNS / f"run-{i}")
    code = "import sys; from ple_rec.cli import main; main(sys.argv[1:]); print({'torch', 'numpy'} & set(sys.modules))"
    command = [sys.executable, "-c", code, "runs"]
    variables = environment(repository)
    variables.pop("COLUMNS", None)
    done = subprocess.run(command, capture_output=True, text=True, env=variables, cwd=here, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == 2 + 50 + 1
    assert done.stdout.endswith("set()\n")


def test_a_reader_that_has_seen_enough_is_no_error(repository: Path, here: Path) -> None:
    write(RUNS / "a", metrics=final_metrics())
    read, written = os.pipe()
    os.close(read)
    with os.fdopen(written, "w") as out:
        command = [sys.executable, "-m", "ple_rec", "runs"]
        done = subprocess.run(
            command, stdout=out, stderr=subprocess.PIPE, text=True, env=environment(repository), cwd=here, check=False
        )
    assert (done.returncode, done.stderr) == (0, "")
