"""Comparisons really trained, by real workers: planted transfer is found; what fails leaves a hole, which is mended."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ple_rec.analysis.compare import compare as module
from ple_rec.analysis.compare.compare import run_comparison
from ple_rec.analysis.compare.matrix import Matrix, build_matrix
from ple_rec.analysis.compare.runs import list_runs
from ple_rec.analysis.compare.workers import Worker, Workers
from ple_rec.cli import main
from ple_rec.data.batch import Batch
from ple_rec.data.loader import Loader
from ple_rec.distributed.process_group import process_group
from ple_rec.errors import UserError
from ple_rec.reports.compare.page import report_comparison
from ple_rec.runs.directory import RunDirectory
from ple_rec.training.context import build_context
from ple_rec.training.loop import train_steps
from tests.analysis.compare.planted import (
    FACTORS,
    HARD,
    LEFT_RIGHT,
    PLE,
    STEPS,
    alike,
    apart,
    planted,
    write_comparison,
    write_planted,
)
from tests.analysis.compare.tuning.tuners import Real
from tests.messages import logged
from tests.reports.without_charts import without_charts
from tests.tiny import children, environment

SECONDS = 300
KILLED = Path("ple/seed-1")  # the last run of the matrix, so that no process is started anew after it
APART = Path("runs/apart")
# A worker but for report.html of its runs, which takes longer than their training.
WITHOUT_REPORTS = """
from ple_rec.cli import comparison_worker
from ple_rec.reports.run import page
from tests.messages import logged
page.write_report = lambda run_dir: run_dir
comparison_worker.main()
"""


@dataclass(frozen=True)
class Trained:
    """What was said and left.

    Args:
        folder: The working directory.
        code: Exit code of the first call.
        errors: What it wrote to standard error.
        first: compare.json after it.
        page: compare.html after it.
        said: Of the second call.
        second: compare.json after it.
        times: When the metrics of runs were written, as the second call found them, and as it left them.
        alike: compare.json of the other comparison.
    """

    folder: Path
    code: int
    errors: str
    first: dict[str, Any]
    page: str
    said: list[str]
    second: dict[str, Any]
    times: tuple[dict[str, int], dict[str, int]]
    alike: dict[str, Any]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Trained:
    """`apart` from the command line with two workers, one killed in its last run; again, and `alike`, in one worker."""
    folder = tmp_path_factory.mktemp("planted")
    write_planted(folder)
    write_comparison(apart(), folder)
    python = [sys.executable, "-P", "-W", "ignore"]
    process = subprocess.Popen(
        [*python, "-m", "ple_rec", "compare", "--config", "apart.toml", "--jobs", "2", "--runs", "runs"],
        cwd=folder,
        env=environment(repository),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            _kill(process, folder / APART / KILLED)
            _, errors = process.communicate(timeout=SECONDS)
        finally:
            process.kill()
    file, page = folder / APART / "compare.json", folder / APART / "compare.html"
    first, told = json.loads(file.read_text()), page.read_text()
    before = _times(folder)
    said: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("PYTHONPATH", str(repository))
        with Workers([Worker([*python, "-c", WITHOUT_REPORTS])]) as workers:
            patch.setattr(module, "Workers", lambda *_: nullcontext(workers))  # which import torch once
            # Figures take seconds.
            patch.setattr("ple_rec.reports.compare.page.write_page", lambda _, root: root / "compare.html")
            with logged(said.append):
                run_comparison(
                    apart(),
                    folder,
                    (),
                    RunDirectory(APART, APART),
                    report=report_comparison,
                    jobs=1,
                    trained_variants=["hard_sharing", "ple"],
                )
            second, after = json.loads(file.read_text()), _times(folder)
            run_comparison(
                alike(),
                folder,
                (),
                RunDirectory(Path("runs/alike"), Path("runs/alike")),
                report=report_comparison,
                jobs=1,
            )
    other = json.loads((folder / "runs/alike/compare.json").read_text())
    return Trained(folder, process.returncode, errors, first, told, said, second, (before, after), other)


def _kill(comparison: subprocess.Popen[str], run: Path) -> None:
    """Kill the worker that trains a run, in the middle: a checkpoint is there."""
    end = time.monotonic() + SECONDS
    log, checkpoints = run.with_name(f"{run.name}.log"), run / "checkpoints"
    while not any(checkpoints.glob("step-*/manifest.json")):
        assert comparison.poll() is None, "it has ended"
        assert time.monotonic() < end, f"no checkpoint of {run}"
        time.sleep(0.01)
    (worker,) = (child for child in children(comparison.pid) if Path(f"/proc/{child}/fd/1").readlink() == log)
    os.kill(worker, signal.SIGKILL)


def _times(folder: Path) -> dict[str, int]:
    found = (folder / APART).glob("*/seed-*/metrics.json")
    return {str(file.parent.relative_to(folder / APART)): file.stat().st_mtime_ns for file in found}


@pytest.mark.slow
def test_the_verdict_finds_negative_transfer_and_clears_own_experts(trained: Trained) -> None:
    for results in (trained.first, trained.second):
        hard = results["verdict"]["variants"]["hard_sharing"]
        assert hard["tasks"]["right"] == "worse"
        assert "right" in hard["negative_transfer"]
        gain = results["variants"]["hard_sharing"]["tasks"]["right"]["gain"]
        assert gain["seed_interval"][1] < -0.2
        assert gain["row_interval"][1] < -0.2
    ple = trained.second["verdict"]["variants"]["ple"]
    assert (ple["negative_transfer"], ple["seesaw"]) == ([], False)
    assert min(trained.second["variants"]["ple"]["tasks"]["right"]["values"].values()) > 0.9
    assert any(
        sentence.startswith("hard_sharing shows negative transfer against single_task: worse on right, better on none")
        for sentence in trained.second["verdict"]["sentences"]
    )


@pytest.mark.slow
def test_the_verdict_finds_positive_transfer_though_labels_are_opposite(trained: Trained) -> None:
    hard = trained.alike["verdict"]["variants"]["hard_sharing"]
    assert hard["tasks"]["poor"] == "better"
    assert hard["verdict"] in ("some", "better")
    gain = trained.alike["variants"]["hard_sharing"]["tasks"]["poor"]["gain"]
    assert min(gain["seed_interval"][0], gain["row_interval"][0]) > 0.02


@pytest.mark.slow
def test_what_failed_is_a_hole_and_the_others_went_on(trained: Trained) -> None:
    assert trained.code == 5
    assert "failed: diverges seed 0, diverges seed 1, ple seed 1; the other runs are kept" in trained.errors
    variants = trained.first["variants"]
    assert variants["ple"]["seeds"] == [0]
    assert variants["ple"]["failed"]["1"].startswith("killed by SIGKILL")
    assert variants["diverges"]["tasks"] == {}
    assert all("not finite" in why for why in variants["diverges"]["failed"].values())
    assert [variants[name]["seeds"] for name in ("single_task", "hard_sharing")] == [[0, 1], [0, 1]]
    assert trained.first["missing"] == 0
    assert "diverges, seed 0, failed: " in trained.page
    assert "ple, seed 1, failed: killed by SIGKILL" in trained.page


@pytest.mark.slow
def test_a_second_call_goes_on_with_what_is_missing_alone(trained: Trained) -> None:
    before, after = trained.times
    assert after.keys() - before.keys() == {str(KILLED)}
    assert before.items() <= after.items()
    assert any("5 finished, 1 to train here" in line for line in trained.said)
    assert trained.second["variants"]["ple"]["failed"] == {}
    log = (trained.folder / APART / "ple/seed-1.log").read_text()
    assert "goes on from" in log
    assert json.loads((trained.folder / APART / KILLED / "metrics.json").read_text())["steps"] == STEPS


@pytest.mark.slow
def test_runs_of_another_configuration_are_refused_before_anything_is_trained(
    trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(trained.folder)
    before = sorted(path for path in APART.rglob("*"))
    more = apart().model_copy(update={"seeds": 3})  # some of its runs are not there
    with pytest.raises(UserError, match=r"single_task/seed-0: holds a finished run .*embeddings.dim was 4, is 8"):
        run_comparison(
            more, trained.folder, ["embeddings.dim=8"], RunDirectory(APART, APART), report=report_comparison, jobs=1
        )
    assert sorted(path for path in APART.rglob("*")) == before


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the dataset of `left` and `right` alone, for runs in this process."""
    folder = tmp_path_factory.mktemp("here")
    write_planted(folder, features=FACTORS)
    return folder


def test_negative_transfer_is_found_by_a_run_in_this_process(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setattr(module, "Worker", lambda **_: Real())
    monkeypatch.setattr("ple_rec.reports.compare.page.write_page", lambda _, root: root / "compare.html")
    compare = planted("apart", [LEFT_RIGHT], {"hard_sharing": HARD}, seeds=1)
    write_comparison(compare, folder)
    with without_charts():
        assert main(["compare", "--config", "apart.toml", "--jobs", "1", "--runs", "runs"]) == 0
    hard = json.loads((APART / "compare.json").read_text())["verdict"]["variants"]["hard_sharing"]
    assert hard["tasks"]["right"] == "worse"
    assert "right" in hard["negative_transfer"]


@pytest.fixture
def matrix(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Matrix:
    monkeypatch.chdir(folder)
    dropping = (*PLE, "model.dropout=0.5")  # it draws random numbers between the batches
    return build_matrix(planted("order", [LEFT_RIGHT], {"hard_sharing": HARD, "ple": dropping}, seeds=2), folder)


def test_runs_of_a_seed_see_the_same_samples_in_the_same_order(matrix: Matrix, monkeypatch: pytest.MonkeyPatch) -> None:
    """By what training took from its loader, over two epochs and a bit."""
    seen: list[str] = []
    epoch = Loader.epoch

    def watched(loader: Loader, *args: Any, **how: Any) -> Iterator[Batch]:
        for batch in epoch(loader, *args, **how):
            if loader.shuffle:  # the training split
                seen.append(hashlib.sha256(batch.dense_BF.numpy().tobytes()).hexdigest())
            yield batch

    monkeypatch.setattr(Loader, "epoch", watched)
    orders: dict[int, list[list[str]]] = {}
    for run in list_runs(matrix, Path("runs")):
        seen.clear()
        config = run.config.model_copy(
            update={"train": run.config.train.model_copy(update={"steps": 65, "evaluate_every": 65})}
        )
        run.directory.mkdir(parents=True)
        with process_group(config.runtime) as ranks:
            train_steps(build_context(config, ranks), RunDirectory(run.directory, run.directory), resume=False)
        orders.setdefault(run.seed, []).append(list(seen))
    for first, *others in orders.values():
        assert len(set(first)) == 65
        assert others == [first, first]
    assert not set(orders[0][0]) & set(orders[1][0])
