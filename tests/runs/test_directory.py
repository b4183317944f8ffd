"""Run directories in an object store: trained, resumed, read and refused like those on a disk.

pytest -m slow tests/runs/test_directory.py     the same over Ceph's gateway; as root, on Debian
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import ple_rec
from ple_rec.checkpoint import files
from ple_rec.checkpoint.manifest import Manifest
from ple_rec.cli import main
from ple_rec.config.load import load_config
from ple_rec.config.run import RunConfig
from ple_rec.errors import UserError
from ple_rec.runs import checkpoints, directory
from ple_rec.runs.checkpoints import prepare_directory
from ple_rec.runs.directory import hold_run
from ple_rec.runs.find import find_runs
from ple_rec.runs.state import decide_action, inspect_directory
from ple_rec.storage import Remote, StoreError, location, make_directory, names_in, write_text
from ple_rec.storage.handler import FsspecHandler
from ple_rec.storage.lease import read_holder
from ple_rec.storage.store import objects_at
from ple_rec.training.run import train
from tests.tiny import write_tiny
from tests.training.small import TIMES, on_ranks

TRAIN = ("train", "--config", "tiny.toml", "--set", "checkpoint.every=4")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with a tiny dataset and configuration."""
    write_tiny(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _remote(address: str) -> Remote:
    where = location(address)
    assert isinstance(where, Remote)
    return where


def _without_times(metrics: dict[str, object]) -> dict[str, object]:
    return {key: value for key, value in metrics.items() if key not in TIMES}


def _log(text: str) -> list[dict[str, object]]:
    return [_without_times(json.loads(line)) for line in text.splitlines()]


@pytest.mark.usefixtures("no_charts")
def test_a_run_in_a_store_is_the_run_on_a_disk(here: Path, address: str, capfd: pytest.CaptureFixture[str]) -> None:
    run = _remote(address) / "runs" / "a"
    assert main([*TRAIN]) == 0
    capfd.readouterr()
    assert main([*TRAIN, "--run-dir", str(run)]) == 0
    said = capfd.readouterr().out
    assert f"-> {run}\n" in said
    assert f"report: {run}/report.html" in said
    assert "/tmp/" not in said

    assert {"checkpoints", "config.toml", "metrics.json", "plan.json", "report.html", "train.jsonl"} < set(
        names_in(run)
    )
    disk = here / "runs" / "tiny"
    metrics = [json.loads(text) for text in ((disk / "metrics.json").read_text(), (run / "metrics.json").read_text())]
    assert metrics[0]["test"]["tasks"] == metrics[1]["test"]["tasks"]
    assert _log((run / "train.jsonl").read_text()) == _log((disk / "train.jsonl").read_text())
    assert (run / "plan.json").read_bytes() == (disk / "plan.json").read_bytes()

    for verb in (
        ["evaluate", str(run)],
        ["runs", str(run.parent)],
        ["runs", address],
        ["diff", str(run), "tiny"],
        ["report", str(run)],
        ["checkpoint", "list", str(run)],
        ["checkpoint", "verify", str(run)],
    ):
        assert main(verb) == 0, (verb, capfd.readouterr().err)
        assert "/tmp/ple_rec" not in capfd.readouterr().out
    assert main(["runs", str(run.parent), "--json"]) == 0
    (listed,) = json.loads(capfd.readouterr().out)
    assert (listed["run"], listed["status"]) == ("a", "finished")

    # What is there is not replaced unasked, goes on where asked, and is where another run starts from.
    assert main([*TRAIN, "--run-dir", str(run)]) == 2
    assert capfd.readouterr().err.startswith(f"ple-rec: {run}: ")
    assert main(["train", "--run-dir", str(run), "--resume", "--set", "train.epochs=2"]) == 0
    assert json.loads((run / "metrics.json").read_text())["steps"] == 32
    assert main([*TRAIN, "--run-dir", f"{address}/b", "--init-from", f"{run}:latest"]) == 0
    assert json.loads(((location(address) / "b") / "init_from.json").read_text())["run"] == str(run)
    assert main([*TRAIN, "--run-dir", str(run), "--overwrite"]) == 0
    assert json.loads((run / "metrics.json").read_text())["steps"] == 16
    assert read_holder(run) is not None


def _train(_rank: int, _world_size: int, config: RunConfig, run: str) -> None:
    train(config, location(run))


@pytest.mark.usefixtures("here")
def test_several_ranks_train_in_a_store(address: str) -> None:
    on_ranks(_train, 2, load_config(RunConfig, "tiny.toml"), f"{address}/two", init=False)
    run = ple_rec.load_run(f"{address}/two")
    assert (run.status, run.metrics["steps"], run.metrics["world_size"]) == ("finished", 16, 2)


@pytest.mark.slow
@pytest.mark.usefixtures("here")
def test_ranks_that_the_api_starts_train_in_a_store(address: str) -> None:
    run = ple_rec.train("tiny.toml", run_dir=f"{address}/two", ranks=2)
    assert (run.status, run.metrics["steps"]) == ("finished", 16)


def _start(here: Path, argv: list[str]) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "ple_rec", *argv]
    return subprocess.Popen(command, cwd=here, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def _wait_for(file: Remote, process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 120
    while not file.is_file():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end
        time.sleep(0.1)


@pytest.mark.usefixtures("no_charts")
def test_a_killed_run_is_gone_on_with_once_its_lease_has_ended(
    here: Path, address: str, capfd: pytest.CaptureFixture[str]
) -> None:
    run, whole = _remote(f"{address}/run"), _remote(f"{address}/whole")
    long = ["train", "--config", "tiny.toml"]
    for setting in ("train.epochs=24", "train.evaluate_every=96", "checkpoint.every=96"):
        long += ["--set", setting]
    assert main([*long, "--run-dir", str(whole)]) == 0
    process = _start(here, [*long, "--run-dir", str(run)])
    _wait_for(run / "checkpoints" / "latest", process)
    capfd.readouterr()
    holder = read_holder(run)
    assert holder is not None
    if process.poll() is None and holder.is_live:  # it still trains: a second process is refused, and told by whom
        refused = main([*long, "--run-dir", str(run), "--resume"])
        if process.poll() is None:
            assert refused == 2
            assert f"ple-rec: {run}: in use by process {process.pid} on " in capfd.readouterr().err
    process.send_signal(signal.SIGKILL)
    process.communicate()
    write_text(run / ".lease" / "lease.json", json.dumps({"holder": holder.name, "token": ""}))  # as 20 s later
    assert main([*long, "--run-dir", str(run), "--auto-resume"]) == 0
    metrics = [json.loads((one / "metrics.json").read_text()) for one in (run, whole)]
    assert metrics[0]["test"]["tasks"] == metrics[1]["test"]["tasks"]


@pytest.mark.usefixtures("no_charts")
@pytest.mark.parametrize("store", [True, False])
def test_a_run_that_ends_before_its_first_checkpoint_counts_begins_anew(
    store: bool, here: Path, address: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    train = [*TRAIN, "--run-dir", f"{address}/run" if store else "runs/run"]

    def fails(self: Manifest) -> str:
        raise OSError("away")

    with monkeypatch.context() as patch:
        patch.setattr(Manifest, "to_json", fails)
        assert main(train) == 2
    assert "cannot be written (away)" in capfd.readouterr().err
    assert main([*train, "--auto-resume"]) == 0, capfd.readouterr().err


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("store", [True, False])
def test_a_run_that_is_being_replaced_is_never_gone_on_with(
    store: bool, here: Path, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, run = load_config(RunConfig, "tiny.toml"), location(f"{address}/run") if store else here / "run"
    for name in ("metrics.json", "config.toml", "checkpoints/step-4/manifest.json", "checkpoints/step-4/shard"):
        make_directory((run / name).parent)
        write_text(run / name, "{}")

    def killed(*_: object) -> None:
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "remove_checkpoint", killed)
        with pytest.raises(ZeroDivisionError), hold_run(run, run / "checkpoints") as held:
            prepare_directory(config, held, resuming=False)
    assert not (run / "metrics.json").is_file()
    state = inspect_directory(config, run)
    assert (state.holds_run, state.is_lost, state.steps) == (False, False, [])
    assert decide_action(state, config, resume="auto", overwrite=False) == "begin"
    with hold_run(run, run / "checkpoints") as held:
        prepare_directory(config, held, resuming=False)
    assert names_in(run) == [".lease" if store else ".lock"]


def test_a_store_that_goes_away_in_a_save_is_named_once(
    here: Path, address: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def gone(*_: object) -> None:
        raise OSError("gone for good")

    def goes(*_: object) -> None:
        monkeypatch.setattr(FsspecHandler, "filesystem", gone)
        raise OSError("goes away")

    monkeypatch.setattr(files, "atomic_write", goes)
    assert main([*TRAIN, "--run-dir", f"{address}/run"]) == 2
    said = capfd.readouterr().err
    assert said.count("ple-rec: ") == 1
    assert f"ple-rec: {address}/run/checkpoints/step-4: cannot be written (" in said
    assert "goes away); a checkpoint needs room and permission" in said


def test_the_first_error_is_heard(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run = _remote(f"{address}/run")

    def fails(*_: object, **__: object) -> str:
        raise StoreError.of(str(run), OSError("away"))

    with pytest.raises(ZeroDivisionError), monkeypatch.context() as patch, hold_run(run, run / "checkpoints") as held:  # noqa: PT012
        (held.folder / "train.jsonl").write_text("newer")
        patch.setattr(directory, "write_checked", fails)
        raise ZeroDivisionError
    assert not (run / "train.jsonl").is_file()


def test_files_that_grow_are_in_the_store_at_the_end(address: str) -> None:
    run = _remote(f"{address}/run")
    write_text(run / "train.jsonl", "one")
    write_text(run / "tensorboard" / "events.1", "one")
    with hold_run(run, run / "checkpoints") as held:
        with (held.folder / "train.jsonl").open("a") as log:
            log.write("two")
        assert (run / "train.jsonl").read_text() == "one\n"
        held.push()
        assert (run / "train.jsonl").read_text() == "one\ntwo"
        (held.folder / "tensorboard" / "events.2").write_text("two")
    assert (run / "tensorboard" / "events.2").read_text() == "two"
    assert not held.folder.exists()


def test_a_folder_that_is_gone_here_is_an_error_and_no_order_to_remove(address: str) -> None:
    run = _remote(f"{address}/run")
    write_text(run / "train.jsonl", "one")
    with pytest.raises(UserError, match="cannot be read"), hold_run(run, run / "checkpoints") as held:
        shutil.rmtree(held.folder)
    assert (run / "train.jsonl").read_text() == "one\n"


def test_folders_of_killed_processes_are_removed(address: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PLE_REC_CACHE", str(tmp_path))
    (tmp_path / "runs" / "tmp-killed").mkdir(parents=True)
    run = _remote(f"{address}/run")
    with hold_run(run, run / "checkpoints"), hold_run(_remote(f"{address}/other"), run / "checkpoints2"):
        assert len([path for path in (tmp_path / "runs").iterdir() if path.is_dir()]) == 2


def test_a_place_of_checkpoints_is_held_whatever_the_run_directories_are_called(address: str, tmp_path: Path) -> None:
    """As of two containers, whose disks are apart and whose paths are alike."""
    place = _remote(f"{address}/checkpoints")
    with hold_run(tmp_path / "one" / "run", place) as held:
        with (
            pytest.raises(UserError, match=f"^{place}: in use by process "),
            hold_run(tmp_path / "two" / "run", place),
        ):
            pass
        held.check()
    with hold_run(tmp_path / "two" / "run", place):
        pass


@pytest.mark.slow
@pytest.mark.usefixtures("no_charts")
def test_a_process_that_was_stopped_changes_nothing_of_a_run_that_another_has_taken(
    here: Path, address: str, capfd: pytest.CaptureFixture[str]
) -> None:
    run = _remote(f"{address}/run")
    long = ["train", "--config", "tiny.toml", "--run-dir", str(run)]
    for setting in ("train.epochs=60", "train.evaluate_every=96", "checkpoint.every=96"):
        long += ["--set", setting]
    process = _start(here, long)
    _wait_for(run / "checkpoints" / "latest", process)
    process.send_signal(signal.SIGSTOP)
    end = time.monotonic() + 60
    while (holder := read_holder(run)) is not None and holder.is_live:
        assert time.monotonic() < end
        time.sleep(0.5)
    assert main([*long, "--auto-resume"]) == 0, capfd.readouterr().err
    before = {found.name: found.tag for found in objects_at(run)}
    process.send_signal(signal.SIGCONT)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 2, said
    # A request that was under way when it was stopped may have failed before the lease was asked for.
    assert f"ple-rec: {run}: in use by process " in said or "cannot be written (" in said
    assert {found.name: found.tag for found in objects_at(run)} == before


def test_a_checkpoint_is_no_run(address: str) -> None:
    for name in ("config.toml", "plan.json", "manifest.json"):
        write_text(_remote(address) / "apart" / "step-4" / name, "")
    assert find_runs(location(address)) == []


@pytest.mark.slow
@pytest.mark.usefixtures("no_charts")
def test_a_comparison_in_a_store_keeps_what_has_finished(
    here: Path, address: str, capfd: pytest.CaptureFixture[str]
) -> None:
    (here / "both.toml").write_text(
        'name = "both"\nseeds = 1\nmatch = "none"\n[variants.single_task]\nbase = "tiny.toml"\n'
        "overrides = ['model.variant=\"single_task\"', 'model.bottom=[4]']\n[variants.ple]\nbase = \"tiny.toml\"\n"
    )
    compare = ["compare", "--config", "both.toml", "--runs", f"{address}/compare", "--jobs", "1"]
    assert main(compare) == 0, capfd.readouterr().err
    assert f"report: {address}/compare/both/compare.html" in capfd.readouterr().out
    both = _remote(f"{address}/compare/both")
    assert {"single_task", "ple", "compare.json", "compare.toml", "compare.html"} <= set(names_in(both))
    assert "checkpoints" not in names_in(both / "ple" / "seed-0")
    results = (both / "compare.json").read_bytes()
    assert main(compare) == 0  # as on another host: nothing is left to train
    assert "run 1 of" not in capfd.readouterr().out
    assert json.loads((both / "compare.json").read_bytes()) == json.loads(results)
    assert main(["runs", str(both)]) == 0
    assert main([*compare, "--share", "0/2"]) == 2
    assert "ple-rec: --share --runs: got s3://" in capfd.readouterr().err
