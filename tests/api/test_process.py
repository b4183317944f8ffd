"""What a call does to the process that makes it: threads, torch, the working directory."""

from __future__ import annotations

import gc
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

import ple_rec
from ple_rec.api.torch_state import preserve_torch_state
from ple_rec.training.trained import open_trained_run
from tests.reports.without_charts import without_charts

pytestmark = pytest.mark.usefixtures("no_charts")


def test_one_call_at_a_time_and_models_beside_it(run: ple_rec.Run, model: ple_rec.Model) -> None:
    with preserve_torch_state():
        with ThreadPoolExecutor() as pool:
            for call in (
                run.predict,
                lambda: ple_rec.load_model(model.path),
                lambda: ple_rec.plan(run.config, device="cpu"),
            ):
                with pytest.raises(ple_rec.UserError, match="a call of ple_rec runs in another thread") as caught:
                    pool.submit(call).result(60)
                assert caught.value.fix == "wait for that call, or use another process"
            assert len(pool.submit(model.score, {"user_id": [7]}).result(60)) == 1
        assert len(ple_rec.load_model(model.path).score({"user_id": [7]})) == 1  # the thread that is inside goes on
    assert len(run.predict()) == run.dataset.rows["test"]


def test_one_thread_imports_torch_and_what_that_leaves_in_the_process_goes() -> None:
    script = """
import logging, sys, threading, ple_rec
from ple_rec.api.torch_state import preserve_torch_state
def mine(*error): ...
sys.excepthook = mine
logging.basicConfig(format="mine %(message)s")
before = logging.root.handlers[:]
errors = []
def call(begun=threading.Barrier(2)):
    begun.wait()
    try:
        with preserve_torch_state():
            assert logging.root.handlers == before
            import ple_rec.training.run as _
            logging.root.addHandler(logging.NullHandler())
    except ple_rec.UserError as error:
        errors.append(error.value)
threads = [threading.Thread(target=call) for _ in range(2)]
[each.start() for each in threads]
[each.join() for each in threads]
assert errors == ["a call of ple_rec runs in another thread"], errors
assert (sys.excepthook, logging.root.handlers) == (mine, before)
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_paths_hold_when_the_working_directory_changes(
    feed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = shutil.copytree(feed, tmp_path / "feed")  # The run's report is written.
    monkeypatch.chdir(own)
    run, dataset = ple_rec.load_run("run"), ple_rec.open_dataset("data")
    assert (run.path, dataset.path) == (own / "run", own / "data")
    assert repr(run).startswith("Run('run': finished)")
    assert repr(dataset).startswith("Dataset('data': ")
    page = run.report()
    monkeypatch.chdir(own / "raw")
    assert repr(run).startswith(f"Run({str(run.path)!r}: finished)")
    assert len(run.history) > 0
    assert dataset.read("test").num_rows == dataset.rows["test"]
    assert page._repr_html_()


def test_one_process_group_at_a_time(run: ple_rec.Run) -> None:
    with (
        open_trained_run(run.config, run.path, "best"),
        pytest.raises(ple_rec.UserError, match="has a process group of torch"),
    ):
        run.predict()
    assert len(run.predict()) == run.dataset.rows["test"]


def test_torch_is_as_it_was(run: ple_rec.Run, model: ple_rec.Model, tmp_path: Path) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    torch.manual_seed(9)
    expected = torch.get_rng_state()
    try:
        run.predict()
        ple_rec.plan(run.config, device="cpu")
        ple_rec.load_model(model.path)
        with without_charts():
            ple_rec.train(run.config, run_dir=tmp_path / "again", overrides={"train.steps": 1})
        assert torch.get_num_threads() == 2
        assert torch.equal(torch.get_rng_state(), expected)
    finally:
        torch.set_num_threads(before)


@pytest.mark.slow
def test_a_session_of_many_calls_keeps_nothing(here: Path) -> None:
    """Trainings one after the other, an error in between, models that come and go: threads, files and memory."""
    script = """
import gc, os, threading
import ple_rec
def state():
    gc.collect()
    pages = int(open("/proc/self/statm").read().split()[1]) * 4096 >> 20
    return pages, threading.active_count(), len(os.listdir("/proc/self/fd"))
seen = []
for i in range(6):
    overrides = {"embeddings.dim": 128, "runtime.threads": 2, "seed": i}
    run = ple_rec.train("tiny.toml", run_dir=f"runs/{i}", overrides=overrides)
    try:
        ple_rec.train("tiny.toml", run_dir=f"runs/{i}", overrides={"data.path": "nix"})
    except ple_rec.UserError:
        pass
    run.predict()
    model = run.export(f"models/{i}")
    model.score({"user": [1]})
    del run, model
    seen.append(state())
(early, *counts), (late, *others) = seen[1], seen[-1]
assert counts == others, seen
assert late < early + 40, seen
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=here, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_no_thread_is_left(model: ple_rec.Model) -> None:
    before = set(threading.enumerate())  # Those of models of earlier tests may end meanwhile.
    for _ in range(3):
        other = ple_rec.load_model(model.path)
        other.score({"user_id": list(range(300))})
        del other
    gc.collect()
    assert set(threading.enumerate()) - before == set()
