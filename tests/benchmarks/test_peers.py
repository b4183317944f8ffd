"""benchmarks/peers: contenders that answer, fail and end; who fits in memory; ratios; the usual layers."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook

from benchmarks.peers.child import Contender
from benchmarks.peers.prepare import workload
from benchmarks.peers.race import ContenderResult, RacePlan, RateSeries, group_by_memory, race
from benchmarks.peers.report import not_measured_lines, ratio_lines, ratios, result_record, short_number, table
from benchmarks.peers.run import main
from benchmarks.peers.usual import UsualPLE, build_contender
from benchmarks.peers.workload import TrainingRows, Workload
from benchmarks.reference import REPORT_EVERY, TrainRun, is_running
from ple_rec.config.load import load_config
from ple_rec.config.run import RunConfig
from tests.tiny import write_tiny

ROOT = Path(__file__).resolve().parents[2]
FAKE = """
import os, sys
from pathlib import Path
from benchmarks.peers.protocol import ReadyContender, TurnResult, serve

def turn(steps):
    print("a library prints this")
    with Path(sys.argv[1]).with_name("turns").open("a") as file:
        file.write(f"{sys.argv[2]} {steps}\\n")
    if sys.argv[2] == "failing":
        raise ValueError("no more")
    if sys.argv[2] == "ending":
        os._exit(7)
    return TurnResult(steps * 8, steps * {"quick": 1.0, "slow": 4.0}[sys.argv[2]])

sys.exit(serve(lambda: ReadyContender({"step": turn}, (), lambda: 1 << 30)))
"""

RUN = """
import json, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
with open(sys.argv[1], "w") as log:
    for step in range(5, 5_000, 5):
        time.sleep(0.02)
        log.write(json.dumps({"step": step, "seconds": step / 4}) + "\\n")
        log.flush()
"""


def work_in(folder: Path) -> Workload:
    return Workload(
        dataset="", rows=str(folder / "rows.npz"), folder=str(folder), threads=1, batch_size=8, precision="fp32",
        tables={"user": 50, "video": 20}, dense=["plays"], tasks={"a": "binary", "b": "regression"}, dim=4, levels=2,
        task_experts=2, shared_experts=1, expert_hidden=[8, 4], tower_hidden=[4], learning_rate=0.01,
        table_learning_rate=0.05,
    )  # fmt: skip


def rows(count: int) -> TrainingRows:
    draw = np.random.default_rng(0)
    ids_SN = np.stack([draw.integers(0, 50, count), draw.integers(0, 20, count)]).astype(np.int32)
    labels_KN = (ids_SN % 2).astype(np.float32)
    return TrainingRows(ids_SN, draw.normal(size=(1, count)).astype(np.float32), labels_KN, np.ones_like(labels_KN))


def fake(folder: Path, name: str) -> Contender:
    (folder / "fake.py").write_text(FAKE)
    return Contender(name, name.title(), (sys.executable, str(folder / "fake.py")), 1, extra_arguments=(name,))


def test_contenders_take_turns_and_one_that_fails_ends_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    contenders = [fake(tmp_path, name) for name in ("quick", "failing", "slow", "ending")]
    contenders.append(Contender("huge", "Huge", (), 1e12))
    told: list[str] = []
    results = race(contenders, work_in(tmp_path), RacePlan(2, steps=3, seconds=8.0), ROOT, told.append)
    quick, failing, slow, ending, huge = results
    assert (quick.series[0].rates, quick.peak_bytes) == ([8.0, 8.0], 1 << 30)
    assert slow.series[0].rates == [2.0, 2.0]
    assert (failing.failed, ending.failed, huge.failed) == (True, True, False)
    assert "ValueError: no more" in failing.reason
    assert "its process ended with 7" in ending.reason
    assert huge.reason.startswith("needs about")
    # Each turn has three steps where they fit, and then one before them that does not count.
    turns = (tmp_path / "turns").read_text().splitlines()
    assert turns[-6:] == ["quick 1", "quick 3", "slow 2"] * 2
    assert told[-1] == "  turn 2 of 2, samples/s: quick 8; slow 2"


def test_our_run_stands_still_between_its_turns(tmp_path: Path) -> None:
    log = tmp_path / "train.jsonl"
    train = TrainRun([sys.executable, "-c", RUN, str(log)], log, batch_size=10)
    first = train.run_turn(12)
    assert first[:2] == (3 * REPORT_EVERY * 10, 3 * REPORT_EVERY / 4)
    assert (first.peak_bytes or 0) > 8 << 20
    lines = log.read_text()
    time.sleep(0.2)
    assert log.read_text() == lines
    assert train.run_turn(5)[:2] == (REPORT_EVERY * 10, REPORT_EVERY / 4)
    processes = train.processes()
    assert len(processes) == 2
    train.close()
    assert not any(is_running(process) for process in processes)


def test_our_run_that_ends_is_told(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="ended with 3"):
        TrainRun([sys.executable, "-c", "raise SystemExit(3)"], tmp_path / "train.jsonl", 1)


def test_the_workload_has_the_sizes_and_rows_of_a_configuration(tmp_path: Path) -> None:
    write_tiny(tmp_path)
    config = load_config(RunConfig, tmp_path / "tiny.toml", [f"data.path={tmp_path / 'data'}"])
    work = workload(config, tmp_path, threads=1)
    path = tmp_path / "workload.json"
    work.write(path)
    assert Workload.read(path) == work
    assert (work.batch_size, work.dim, work.levels, work.expert_hidden) == (16, 4, 1, [4])
    assert work.precision == config.train.precision
    assert list(work.tasks.values()) == ["binary", "binary"]
    read = TrainingRows.read(work.rows)
    assert read.ids_SN.shape == (len(work.tables), 256)
    assert np.array_equal(read.labels_KN[0], read.ids_SN[0] % 2)
    assert np.allclose(read.dense_FN.mean(1), 0, atol=1e-5)


def test_as_many_are_in_memory_as_fit() -> None:
    assert group_by_memory([3, 3, 3], 10) == ([[0, 1, 2]], [])
    assert group_by_memory([3, 7, 20, 2], 10) == ([[0], [1, 3]], [2])


def result(name: str, *rates: float, ours: bool = False, library: bool = False) -> ContenderResult:
    series = [RateSeries("step", [rate / 2, rate, rate * 2], 10) for rate in rates]
    return ContenderResult(Contender(name, name.title(), (), 1, ours=ours, library=library), series)


def test_ratios_are_over_the_better_way_of_the_best_peer() -> None:
    raced = {
        5_000_000: [result("ours", 90.0, ours=True), result("usual", 60.0), result("lib", 20.0, 30.0, library=True)],
        100_000: [result("ours", 100.0, ours=True), result("usual", 50.0), result("lib", 80.0, 10.0, library=True)],
        46_926_000: [result("ours", 95.0, ours=True), result("lib", library=True)],
    }
    raced[46_926_000][1].reason = "needs about 20.0 GiB"
    values = ratios(raced)
    assert values == {
        "ratio_100k": 1.25, "ratio_100k_libraries": 1.25, "ratio_5m": 1.5, "ratio_5m_libraries": 3.0,
    }  # fmt: skip
    assert ratio_lines(values).splitlines()[-1] == "ratio_5m_libraries=3.00"
    assert not_measured_lines(raced) == ["46.9m users, Lib: not measured, needs about 20.0 GiB"]
    lines = table(raced).splitlines()
    assert [line.split("  ")[0] for line in lines[1:]] == ["Ours", "Usual", "Lib, step"]
    assert "90 (45 - 180)" in lines[1]
    assert (
        json.loads(json.dumps(result_record(raced, values, {})))["users"]["100000"]["ours"]["modes"]["step"]["max"]
        == 200
    )
    assert [short_number(users) for users in (500, 1_500, 46_926_000)] == ["500", "1.5k", "46.9m"]


def test_rows_come_back_in_batches(tmp_path: Path) -> None:
    written = rows(20)
    written.write(tmp_path / "rows.npz")
    read = TrainingRows.read(tmp_path / "rows.npz")
    first, second = read.batches(8)
    assert np.array_equal(np.concatenate([first.ids_SN, second.ids_SN], axis=1), written.first(16).ids_SN)


def test_the_usual_layers_train_at_our_sizes(tmp_path: Path) -> None:
    work = work_in(tmp_path)
    rows(64).write(tmp_path / "rows.npz")
    ready = build_contender(work)
    assert ready.turns["step"](2).samples == 16
    width = 2 * work.dim + 1
    linear = lambda a, b: (a + 1) * b  # noqa: E731
    expert = lambda first: linear(first, 8) + linear(8, 4)  # noqa: E731
    level = lambda first: 5 * expert(first) + 2 * linear(first, 3)  # noqa: E731
    expected = level(width) + linear(width, 5) + level(4) + 2 * (linear(4, 4) + linear(4, 1))
    assert sum(p.numel() for p in UsualPLE(width, work).parameters()) == expected


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_the_usual_layers_multiply_in_the_precision_of_the_workload(
    tmp_path: Path, precision: str, dtype: torch.dtype
) -> None:
    rows(64).write(tmp_path / "rows.npz")
    ready = build_contender(replace(work_in(tmp_path), precision=precision))
    products: set[torch.dtype] = set()
    outputs: set[torch.dtype] = set()

    def note(module: nn.Module, _: object, output: torch.Tensor) -> None:
        if isinstance(module, nn.Linear):
            products.add(output.dtype)
        if isinstance(module, UsualPLE):
            outputs.add(output.dtype)

    with register_module_forward_hook(note):
        ready.turns["step"](1)
    assert products == {dtype}
    assert outputs == {torch.float32}  # of which the loss is computed


def test_without_the_peers_environment_it_says_how_to_make_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("benchmarks.peers.run.PEERS_PYTHON", ROOT / "nowhere" / "python")
    assert main(["--users", "100000"]) == 2
    assert "nowhere/python: not there" in capsys.readouterr().err
