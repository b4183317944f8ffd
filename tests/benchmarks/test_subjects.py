"""Every benchmark at a small size; parts of the smoke test on GPUs that fail or hang stop no other."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from benchmarks.gpu import SmokeStage, main, run_stage, summarize_tests, summarize_training
from tests.conftest import REPOSITORY

SMALL = {
    "checkpoint": "--users 20000 --repeats 1",
    "dense": "--batch-size 256 --steps 1 --repeats 1",
    "loader": "--rows 20000 --repeats 1",
    "prep": "--rows 5000 --repeats 1",
    "requests": "--impressions 10 --batch-size 256 --steps 1 --repeats 1",
    "serve": "--users 20000 --items 2 --seconds .2 --repeats 1 --dense fp32",
    "tables": "--users 20000 --batch-size 256 --steps 1 --repeats 1",
    "train": "--users 20000 --batch-size 256 --steps 5 --repeats 1",
}


@pytest.mark.slow
@pytest.mark.parametrize("subject", SMALL)
def test_a_subject_measures_and_prints(subject: str) -> None:
    command = [sys.executable, "-W", "ignore", "-m", f"benchmarks.{subject}", *SMALL[subject].split()]
    done = subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, text=True)
    assert "machine:" in done.stdout
    assert "nan" not in done.stdout


@pytest.mark.parametrize("subject", SMALL)
def test_a_benchmark_has_a_make_target(subject: str) -> None:
    assert (REPOSITORY / "benchmarks" / f"{subject}.py").is_file()
    assert "bench-%:" in (REPOSITORY / "Makefile").read_text()


def test_without_a_gpu_the_smoke_test_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["--out", str(tmp_path / "out")]) == 2
    assert "torch sees no CUDA device" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_part_that_fails_or_hangs_says_so(tmp_path: Path) -> None:
    late = tmp_path / "late"
    child = f"import time, pathlib; time.sleep(1); pathlib.Path({str(late)!r}).touch()"
    hangs = f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {child!r}]); time.sleep(60)"
    good = SmokeStage("good", ("-c", "print('== 42 passed, 1 skipped ==')"), 30, summarize_tests)
    assert run_stage(good, tmp_path) == (False, "42 passed, 1 skipped")
    failed, why = run_stage(SmokeStage("bad", ("-c", "print('first'); raise SystemExit(3)"), 30), tmp_path)
    assert (failed, "exit code 3" in why) == (True, True)
    assert (tmp_path / "bad.log").read_text() == "first\n"
    failed, why = run_stage(SmokeStage("silent", ("-c", ""), 30, summarize_tests), tmp_path)
    assert (failed, "no test has passed" in why) == (True, True)
    failed, why = run_stage(SmokeStage("hangs", ("-c", hangs), 0.3), tmp_path)
    assert (failed, "not done after" in why) == (True, True)
    time.sleep(1.2)
    assert not late.exists()  # its child ended with it


def test_a_training_that_is_timed_needs_reports(tmp_path: Path) -> None:
    line = {"split": "train", "samples_per_second": 10.0, "data_wait": 0.25, "peak_bytes": 1 << 30}
    (tmp_path / "train.jsonl").write_text("\n".join([json.dumps(line)] * 2))
    with pytest.raises(ValueError, match="give it more --steps"):
        summarize_training(tmp_path)
