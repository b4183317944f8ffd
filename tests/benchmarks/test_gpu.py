"""`make gpu-smoke`: stages that fail, hang or end their process stop no other, and the page has what was measured."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from benchmarks.gpu import __main__ as smoke
from benchmarks.gpu import kernels, start, waits
from benchmarks.gpu.device_tests import gpu_test_files
from benchmarks.gpu.loop import DEFAULT_MODE, open_training, run_overrides, step_mode
from benchmarks.gpu.page import StageResult
from benchmarks.gpu.run import SmokeClock, SmokeRun
from benchmarks.gpu.stage import STAGES, TOTAL_SECONDS, Deadline, SmokeStage, StageLines, StageSettings
from benchmarks.gpu.trace import summarize_trace
from benchmarks.gpu.worker import StageFailedError, StageWorker
from ple_rec.errors import UserError
from tests.project_files import REPOSITORY
from tests.tiny import write_tiny


def _stage(name: str, seconds: float = 60.0) -> SmokeStage:
    return SmokeStage(name, seconds, f"tests.benchmarks.gpu_stages:{name}")


def _settings(out: Path, device: str = "cpu") -> StageSettings:
    return StageSettings("cuda" if device == "cuda" else "cpu", out / "data", out, batch_size=64, steps=4)


def _read(lines: StageLines) -> tuple[list[str], str]:
    """Lines and summary of a stage."""
    read = []
    while True:
        try:
            read.append(next(lines))
        except StopIteration as end:
            return read, end.value


class Smoke(NamedTuple):
    """Results of stages in their order, and the folder of the page."""

    results: list[StageResult]
    out: Path

    def result(self, name: str) -> StageResult:
        return next(result for result in self.results if result.stage.name == name)


@pytest.fixture(scope="module")
def failing(tmp_path_factory: pytest.TempPathFactory) -> Smoke:
    """Stages that fail between others that do not."""
    out = tmp_path_factory.mktemp("smoke")
    with closing(SmokeRun(_settings(out), TOTAL_SECONDS)) as run:
        for name in ("good", "good", "raising", "refusing", "ending", "not_there", "good"):
            run.run(_stage(name))
    return Smoke(run.results, out)


def test_a_stage_that_fails_stops_no_other(failing: Smoke) -> None:
    outcomes = [result.outcome for result in failing.results]
    assert outcomes == ["ok", "ok", "FAILED", "FAILED", "FAILED", "FAILED", "ok"]
    assert [result.is_refusal for result in failing.results] == [False, False, False, True, False, False, False]


def test_stages_share_a_process_until_one_fails(failing: Smoke) -> None:
    first, second, third = [result.lines[0] for result in failing.results if result.stage.name == "good"]
    assert first == second != third


def test_a_failure_has_its_reason_and_what_came_before(failing: Smoke) -> None:
    raising, refusing, ending = (failing.result(name) for name in ("raising", "refusing", "ending"))
    assert (raising.summary, raising.lines) == ("KeyError: 'no such kernel'", ["- before the error"])
    assert any("gpu_stages.py" in line for line in raising.log_lines)
    assert refusing.summary == str(UserError("place", "value", "rule", "fix"))
    assert (ending.summary, ending.lines) == ("its process has ended with exit code 3", ["- before the end"])
    assert failing.result("not_there").summary.startswith("AttributeError: module 'tests.benchmarks.gpu_stages' has no")


def test_the_page_has_a_row_and_a_section_for_each_stage(failing: Smoke) -> None:
    page = (failing.out / "page.md").read_text()
    assert r"| good | ok | 0 | a \| b |" in page
    assert page.count("\n## ") == len(failing.results)
    section = page.split("## raising")[1].split("## refusing")[0]
    assert section.index("- before the error") < section.index("FAILED: KeyError") < section.index("Traceback")


def test_a_stage_that_hangs_is_ended_with_its_children(tmp_path: Path) -> None:
    with closing(StageWorker(tmp_path / "log.txt")) as worker:
        list(worker.run(_stage("good"), _settings(tmp_path), 60))
        with pytest.raises(StageFailedError, match=r"^not done after 1 s$") as raised:
            list(worker.run(_stage("hanging"), _settings(tmp_path), 1))
    assert any("gpu_stages.py" in line and "hanging" in line for line in raised.value.log_lines)  # its stack
    time.sleep(2)
    assert not (tmp_path / "late").exists()


def test_a_process_that_was_killed_between_two_stages_is_replaced(tmp_path: Path) -> None:
    with closing(StageWorker(tmp_path / "log.txt")) as worker:
        line, _ = worker.run(_stage("good"), _settings(tmp_path), 60)
        process = int(line.text.split()[-1])
        os.kill(process, signal.SIGKILL)
        os.waitid(os.P_PID, process, os.WEXITED | os.WNOWAIT)
        line, end = worker.run(_stage("good"), _settings(tmp_path), 60)
    assert (int(line.text.split()[-1]) != process, end.kind) == (True, "end")


def test_a_stage_may_use_what_others_have_left() -> None:
    clock = SmokeClock(TOTAL_SECONDS / 10)
    limits = []
    for share, spent in ((100, 4), (50, 12), (200, 60), (250, 1)):
        limits.append(clock.limit(_stage("good", share)))
        clock.spend(spent)
    assert limits == [10, 11, 20, 0]  # the third has its share, since the second has taken too much


def test_no_stage_starts_when_the_time_is_over(tmp_path: Path) -> None:
    with closing(SmokeRun(_settings(tmp_path), 0)) as run:
        assert run.run(_stage("good")).outcome == "left out"
    assert "| good | left out | 0 | no time left of 0 s |" in (tmp_path / "page.md").read_text()


@pytest.mark.parametrize(("names", "code"), [(("refusing", "good"), 2), (("good", "raising"), 5), (("good",), 0)])
def test_exit_code(
    names: tuple[str, ...],
    code: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "_SUCCESS").touch()
    monkeypatch.setattr(smoke, "STAGES", tuple(map(_stage, names)))
    assert smoke.main(["--device", "cpu", "--data", str(tmp_path), "--out", str(tmp_path / "out")]) == code
    assert ("place: value" in capsys.readouterr().err) == (code == 2)
    assert ("| good |" in (tmp_path / "out" / "page.md").read_text()) == (code != 2)


def test_a_folder_of_other_files_is_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    data.mkdir()
    (data / "clicks.csv").touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(smoke, "STAGES", (_stage("good"),))
        assert smoke.main(["--device", "cpu", "--data", str(data), "--out", str(out), "--rows", "12000"]) == 2
    said = capfd.readouterr().err
    assert f"ple-rec: {data}: exists and is not a dataset directory" in said
    assert f"\n--data {data}: `ple-rec prep` has ended with exit code 2" in said


def test_a_text_of_no_stage_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        smoke.main(["--only", "nothing", "--out", str(tmp_path / "out")])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert all(stage.name in said for stage in STAGES)
    assert not (tmp_path / "out").exists()


def test_a_machine_without_a_gpu_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="--device cuda: "):
        _read(start.import_libraries(_settings(tmp_path, "cuda"), Deadline(60)))


def test_the_kernels_of_a_cpu_compute_what_torch_computes(tmp_path: Path) -> None:
    lines, summary = _read(kernels.compare_optimizers(_settings(tmp_path), Deadline(60)))
    assert summary == "6 kernels compute what torch computes on the CPU"
    assert sum(line.startswith(("| rowwise_adagrad", "| adagrad", "| sgd")) for line in lines) == 6


def test_a_kernel_that_computes_something_else_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    updates = kernels._updates

    def wrong_updates() -> dict[str, Callable[[Tensor, Tensor], None]]:
        return updates() | {"sgd": lambda rows_RD, gradient_RD: rows_RD.sub_(0.051 * gradient_RD)}

    monkeypatch.setattr(kernels, "_updates", wrong_updates)
    with pytest.raises(RuntimeError, match=r"^sgd, fp32, host: ValueError: errors [^;]*(; sgd, fp16[^;]*)?$"):
        _read(kernels.compare_optimizers(_settings(tmp_path), Deadline(60)))


def test_waits_are_counted_by_the_code_that_led_to_them(tmp_path: Path) -> None:
    scope: dict[str, Any] = {}
    exec(compile("def train_step(read):\n    read()\n", "/somewhere/ple_rec/training/step.py", "exec"), scope)
    counter, value = waits.WaitCounter(), torch.tensor(1.0)
    with counter.counting(), waits._warnings_of_waits(_settings(tmp_path)):
        for _ in range(3):
            scope["train_step"](value.item)
        value.item()
        value + 1
    inside = ("train_step (ple_rec/training/step.py:2)",)
    assert counter.counts == {inside: 3, ("code of other packages",): 1}


def _event(kind: str, name: str, start: float, duration: float) -> dict[str, Any]:
    return {"ph": "X", "cat": kind, "name": name, "ts": start, "dur": duration}


def test_a_trace_has_launches_busy_share_and_gaps() -> None:
    events = [
        {"ph": "M", "name": "process_name"},
        _event("cuda_runtime", "cudaLaunchKernel", 0, 5),
        _event("cuda_driver", "cuLaunchKernelEx", 5, 5),
        _event("cuda_runtime", "cudaStreamSynchronize", 10, 40),
        _event("cuda_runtime", "cudaEventRecord", 10, 1),
        _event("kernel", "gemm", 100, 50),
        _event("kernel", "gemm on a second stream", 120, 40),  # 10 us beyond the first
        _event("gpu_memcpy", "Memcpy HtoD", 165, 5),  # a gap too short to count
        _event("kernel", "gemm", 200, 100),  # after a gap of 30 us
        _event("cpu_op", "aten::mm", 0, 500),
    ]
    trace = summarize_trace(events, "cuda")
    assert (trace.launches, trace.work, trace.window, trace.busy) == (2, 4, 200, 165)
    assert trace.gaps == [(30, "gemm")]
    assert trace.kernels == {"gemm": (150.0, 2), "gemm on a second stream": (40.0, 1), "Memcpy HtoD": (5.0, 1)}
    assert trace.waits == {"cudaStreamSynchronize": (40.0, 1)}
    with pytest.raises(ValueError, match="no work of the device"):
        summarize_trace(events[:5], "cuda")


def test_all_files_with_tests_for_gpus_are_run() -> None:
    files = set(gpu_test_files())
    assert {"tests/data/test_loader.py", "tests/training/test_gpu.py", "tests/inference/test_devices.py"} <= files
    assert len(files) < 20


def test_steps_are_called_compiled_only_if_they_are(tmp_path: Path) -> None:
    write_tiny(tmp_path)
    settings = _settings(tmp_path)
    overrides = run_overrides(settings, 16, "train.batch_size=")
    with open_training(settings, str(tmp_path / "tiny.toml"), overrides) as context:
        assert step_mode(context) == "eager"
    with_overlap = replace(context, pipeline="sparse_dist")
    assert step_mode(with_overlap) == "eager, sparse_dist"
    assert step_mode(replace(with_overlap, eager_reason=None)) == DEFAULT_MODE
    assert step_mode(replace(context, eager_reason=None)) == "compiled"


@pytest.mark.slow
def test_the_whole_is_rehearsed_on_a_cpu(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.gpu", "--device", "cpu", "--out", str(tmp_path)]
    command += ["--rows", "20000", "--batch-size", "64", "--steps", "8", "--seconds", "1200"]
    done = subprocess.run(command, cwd=REPOSITORY, env=os.environ, capture_output=True, text=True, check=False)
    page = (tmp_path / "page.md").read_text()
    assert done.returncode == 0, page
    assert done.stdout == page
    for stage in STAGES:
        assert f"| {stage.name} | ok |" in page
    assert (tmp_path / "calibration.json").exists()
    assert "nan" not in page
    for name in ("waits of the host", "rates by batch size"):
        section = page.split(f"\n## {name}\n")[1].split("\n## ")[0]
        assert "compiled" not in "".join(line for line in section.splitlines() if "no time left" not in line)
