"""CPU threads of a run: the user's word, kept by a run that goes on elsewhere."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed import run as torchrun

from ple_rec.cli import main
from ple_rec.runtime import host
from ple_rec.runtime.host import default_threads
from tests.tiny import write_tiny

pytestmark = pytest.mark.usefixtures("no_charts")


@pytest.mark.parametrize(("said", "expected"), [("3", 3), ("3,1", 3), ("", 4), ("0", 4), ("many", 4), (None, 4)])
def test_the_users_word_is_omp_num_threads(said: str | None, expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "usable_cores", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if said is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", said)
    assert default_threads(2) == expected


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Working directory with a dataset and a configuration that leaves the threads open."""
    before = torch.get_num_threads()
    write_tiny(tmp_path)
    config = tmp_path / "tiny.toml"
    config.write_text("\n".join(line for line in config.read_text().splitlines() if "threads" not in line) + "\n")
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    torch.set_num_threads(before)


def threads_of(step: str) -> int:
    found: int = json.loads(Path("runs/tiny/checkpoints", step, "manifest.json").read_text())["written_by"]["threads"]
    return found


def test_a_run_keeps_its_threads_unless_the_user_says_otherwise(
    here: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert main(["train", "--config", "tiny.toml", "--set", "train.epochs=", "--set", "train.steps=4"]) == 0
    assert "2 thread(s) each" in capfd.readouterr().out
    assert threads_of("step-4") == 2
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    resume = ["train", "--config", "tiny.toml", "--resume", "--set", "train.epochs=", "--set"]
    assert main([*resume, "train.steps=6"]) == 0
    said = capfd.readouterr().out
    assert (
        "2 thread(s) a rank, as at the start of the run (the default here is 1; set runtime.threads to use it" in said
    )
    assert threads_of("step-6") == torch.get_num_threads() == 2
    assert main([*resume, "train.steps=8", "--set", "runtime.threads=1"]) == 0
    assert threads_of("step-8") == torch.get_num_threads() == 1


@pytest.mark.parametrize(("said", "expected"), [("3", "3"), (None, "5")])
def test_torchrun_gives_its_ranks_the_same(
    said: str | None, expected: str, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of torchrun's own OMP_NUM_THREADS=1 nothing is left."""
    monkeypatch.delenv("OMP_NUM_THREADS")
    if said is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", said)
    monkeypatch.setattr("ple_rec.runtime.host.usable_cores", lambda: 10)
    given = []

    def start(args: Any) -> None:
        torchrun.config_from_args(args)  # sets the variable for its ranks where it is not set
        given.append(os.environ["OMP_NUM_THREADS"])

    monkeypatch.setattr(torchrun, "run", start)
    assert main(["train", "--config", "tiny.toml", "--ranks", "2"]) == 0
    assert given == [expected]


@pytest.mark.slow
def test_ranks_that_are_started_here_take_them_too(
    here: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Of torchrun's own OMP_NUM_THREADS=1 nothing is left."""
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert main(["train", "--config", "tiny.toml", "--ranks", "2"]) == 0
    assert "2 rank(s) on cpu, 3 thread(s) each" in capfd.readouterr().out
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr("ple_rec.runtime.host.usable_cores", lambda: 10)
    assert main(["train", "--config", "tiny.toml", "--ranks", "2", "--overwrite"]) == 0
    assert "2 rank(s) on cpu, 5 thread(s) each" in capfd.readouterr().out
