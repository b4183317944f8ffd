"""Run directories in an object store: trained, resumed, read and refused like those on a disk.

pytest -m slow tests/training/test_mirror.py     the same over Ceph's gateway; as root, on Debian
"""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import ple_rec
from ple_rec.analysis.find_runs import find_runs
from ple_rec.checkpoint import files
from ple_rec.checkpoint.manifest import Manifest
from ple_rec.cli import main
from ple_rec.config.load import load_config
from ple_rec.config.run import RunConfig
from ple_rec.errors import UserError
from ple_rec.storage import Remote, location, names_in, write_text
from ple_rec.storage import lease as leases
from ple_rec.storage.handler import FsspecHandler
from ple_rec.storage.lease import Holder, Lease, newest_holder
from ple_rec.training import claim, mirror
from ple_rec.training.claim import take_over
from ple_rec.training.mirror import hold_run, local_run, push_all
from ple_rec.training.run_dir import LEASE
from tests.tiny import write_tiny
from tests.training.small import TIMES

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
    assert newest_holder(run / LEASE) is not None


@pytest.mark.usefixtures("no_charts")
@pytest.mark.usefixtures("here")
def test_several_ranks_train_in_a_store(address: str) -> None:
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
    holder = newest_holder(run / LEASE)
    assert holder is not None
    if process.poll() is None and holder.is_live:  # it still trains: a second process is refused, and told by whom
        refused = main([*long, "--run-dir", str(run), "--resume"])
        if process.poll() is None:
            assert refused == 2
            assert f"ple-rec: {run}: in use by process {process.pid} on " in capfd.readouterr().err
    process.send_signal(signal.SIGKILL)
    process.communicate()
    ended = json.dumps({"holder": holder.name, "until": time.time()})  # as 20 s later, which the test need not wait for
    write_text(run / LEASE / f"{holder.number}.json", ended)
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
        patch.setattr(Manifest, "text", fails)
        assert main(train) == 2
    assert "cannot be written (away)" in capfd.readouterr().err
    assert main([*train, "--auto-resume"]) == 0, capfd.readouterr().err


@pytest.mark.usefixtures("here")
def test_results_are_gone_before_their_checkpoints_are(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run = _remote(f"{address}/run")
    config, path = load_config(RunConfig, "tiny.toml"), local_run(run)
    for name in ("metrics.json", "checkpoints/step-4/manifest.json"):
        write_text(run / name, "{}")

    def killed(_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(claim, "remove_tree", killed)
    with hold_run(path, 0.0):
        with pytest.raises(ZeroDivisionError):
            take_over(config, path, resuming=False)
        assert not (run / "metrics.json").is_file()


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


def test_the_first_error_is_heard_and_what_cannot_be_put_there_is_given_up(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = _remote(f"{address}/run")
    write_text(run / "config.toml", "old")
    path = local_run(run)

    def fails(*_: object) -> None:
        raise OSError("away")

    with pytest.raises(ZeroDivisionError), monkeypatch.context() as patch, hold_run(path, 0.0):  # noqa: PT012
        (path / "config.toml").write_text("newer")
        patch.setattr(mirror, "write_bytes", fails)
        patch.setattr(leases, "write_text", fails)
        raise ZeroDivisionError
    push_all()  # as of a later call of the same process
    assert (run / "config.toml").read_text() == "old\n"


def test_a_disk_that_is_full_here_leaves_the_store_as_it_was(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run = _remote(f"{address}/run")
    write_text(run / "config.toml", "whole")

    def full(file: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(UserError, match="No space left on device"):
            local_run(run)
    push_all()
    assert (run / "config.toml").read_text() == "whole\n"


def test_a_checkpoint_is_no_run(address: str) -> None:
    for name in ("config.toml", "plan.json", "manifest.json"):
        write_text(_remote(address) / "apart" / "step-4" / name, "")
    assert find_runs(local_run(location(address))) == []


def test_a_lease_is_read_while_it_is_renewed(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "SECONDS", 0.2)
    prefix = _remote(f"{address}/.lease")
    lease = Lease.acquire(prefix, "one")
    assert isinstance(lease, Lease)
    for _ in range(60):
        assert lease.other_holder() is None
        assert newest_holder(prefix) is not None
    lease.give_back()


def test_a_lease_has_one_holder_and_ends(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "SECONDS", 2.0)
    prefix = _remote(f"{address}/.lease")
    first = Lease.acquire(prefix, "one")
    assert isinstance(first, Lease)
    held = Lease.acquire(prefix, "two")
    assert isinstance(held, Holder)
    assert (held.name, held.is_live) == ("one", True)
    time.sleep(3)  # it is renewed
    assert isinstance(Lease.acquire(prefix, "two"), Holder)
    first._done.set()  # as of a process that was killed
    second = Lease.acquire(prefix, "two", wait=10)
    assert isinstance(second, Lease)
    other = first.other_holder()
    assert other is not None
    assert other.name == "two"
    first.give_back()  # which is no more its own
    assert second.other_holder() is None
    second.give_back()
    third = Lease.acquire(prefix, "three")
    assert isinstance(third, Lease)
    third.give_back()
    assert names_in(prefix) == ["3.json"]


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
