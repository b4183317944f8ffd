"""Every benchmark at a small size."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.project_files import REPOSITORY

SMALL = {
    "checkpoint": "--users 20000 --repeats 1",
    "daily": "--days 2 --seeds 1 --users 100 --rows 800 --videos 20 --batch-size 64",
    "delta": "--rows 20000 --changed .1 --repeats 1",
    "dense": "--batch-size 256 --steps 1 --repeats 1",
    "history_prep": "--rows 5000 --repeats 1",
    "history_train": "--rows 4000 --batch-size 64 --steps 5 --repeats 1 --threads 1",
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
