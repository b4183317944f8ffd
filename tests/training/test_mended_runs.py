"""A run that is stopped, or loses a file, at a bad moment: it ends with its results, or says what is missing."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ple_rec.checkpoint.files import CheckpointReader, _ChecksumStream
from ple_rec.checkpoint.inspect import find_damages
from ple_rec.cli import main
from ple_rec.runs import directory
from ple_rec.runs.layout import hold_lock
from ple_rec.training import loop, validation
from ple_rec.training import run as run_module
from ple_rec.training.evaluate import evaluate
from ple_rec.training.step import train_step
from tests.tiny import write_tiny

pytestmark = pytest.mark.usefixtures("no_charts")

TRAIN = ["train", "--config", "tiny.toml"]
SHORT = ["--set", "train.epochs=", "--set", "train.steps=6", "--set", "train.evaluate_every=2"]
KEPT = ["--set", "checkpoint.keep=9"]
RUN = Path("runs/tiny")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory with a finished run of six steps whose first evaluation, at step 2, was the best."""
    folder = tmp_path_factory.mktemp("trained")
    write_tiny(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        _let_evaluations_worsen(patch)
        assert main([*TRAIN, *SHORT, *KEPT]) == 0
    return folder


@pytest.fixture
def here(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    folder = shutil.copytree(trained, tmp_path / "here")
    monkeypatch.chdir(folder)
    _let_evaluations_worsen(monkeypatch)
    before = signal.signal(signal.SIGUSR1, lambda *_: None)  # one that nobody hears does not end the tests
    yield folder
    signal.signal(signal.SIGUSR1, before)


def _let_evaluations_worsen(patch: pytest.MonkeyPatch) -> None:
    scores = itertools.count(-1, -1)
    patch.setattr(validation, "checkpoint_score", lambda *_: float(next(scores)))


def _spoil(path: Path) -> None:
    """Change a byte of a checkpoint's tensors."""
    file = next(path.glob("*.distcp"))
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def _best() -> str:
    return (RUN / "checkpoints" / "best").read_text().strip()


@pytest.mark.parametrize(("how", "steps"), [("damaged", 6), ("gone", 10), ("unreadable", 6)])
def test_a_best_checkpoint_that_is_bad_is_replaced(
    how: str, steps: int, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Though no later evaluation is as good as its own, and also where no step is left."""
    assert _best() == "step-2"
    (RUN / "metrics.json").unlink()  # as of a run that was stopped
    if how == "damaged":
        _spoil(RUN / "checkpoints" / "step-2")
    elif how == "gone":
        shutil.rmtree(RUN / "checkpoints" / "step-2")
    else:
        (RUN / "checkpoints" / "best").write_text("nonsense")
    capsys.readouterr()
    assert main([*TRAIN, *SHORT, *KEPT, "--resume", "--set", f"train.steps={steps}"]) == 0
    said = capsys.readouterr().out
    assert f"the best checkpoint{', step-2, is damaged: ' if how == 'damaged' else ' is missing'}" in said
    assert "; step-6 counts as the best until the next evaluation\n" in said
    expected = 6 if steps == 6 else 8
    assert _best() == f"step-{expected}"
    assert json.loads((RUN / "metrics.json").read_text())["best_step"] == expected
    assert find_damages(RUN / "checkpoints" / _best()) == []


def test_a_best_checkpoint_that_is_whole_stays(here: Path) -> None:
    (RUN / "metrics.json").unlink()
    assert main([*TRAIN, *SHORT, *KEPT, "--resume", "--set", "train.steps=8"]) == 0
    assert _best() == "step-2"


def test_a_signal_in_the_last_evaluation_is_heard(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (RUN / "metrics.json").unlink()

    def with_signal(*args: Any, **kwargs: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return evaluate(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(run_module, "evaluate", with_signal)
        assert main([*TRAIN, *SHORT, *KEPT, "--auto-resume"]) == 75
    assert capsys.readouterr().err == (
        f"ple-rec: {RUN}: a stop signal interrupted the last evaluation; training is done and saved. Fix: run it again "
        "with --resume to evaluate it\n"
    )
    assert not (RUN / "metrics.json").exists()
    assert main([*TRAIN, *SHORT, *KEPT, "--auto-resume"]) == 0
    assert (RUN / "metrics.json").is_file()


def test_results_without_their_report_are_made_again(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(run_dir: Path) -> Path:
        assert (run_dir / "metrics.json").is_file()
        raise KeyboardInterrupt

    longer = [*TRAIN, *SHORT, *KEPT, "--set", "train.steps=8", "--auto-resume"]
    with monkeypatch.context() as patch:
        patch.setattr(run_module, "_write_report", interrupted)
        assert main(longer) == 130
    assert not (RUN / "report.html").exists()  # that of the six steps is no more
    assert main(longer) == 0
    assert "nothing is left to do" not in capsys.readouterr().out
    assert (RUN / "report.html").is_file()
    assert main(longer) == 0
    assert "nothing is left to do" in capsys.readouterr().out


@pytest.mark.parametrize(("flags", "code"), [([], 2), (["--auto-resume"], 0)])
def test_a_run_that_ends_between_the_look_and_the_lock_is_kept(
    flags: list[str], code: int, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    RUN.rename(here / "trained")

    @contextmanager
    def late(path: Path, *, wait: float = 0.0) -> Iterator[None]:
        (here / "trained").rename(path)  # by another process
        with hold_lock(path, wait=wait):
            yield

    monkeypatch.setattr(directory, "hold_lock", late)
    capsys.readouterr()
    assert main([*TRAIN, *SHORT, *KEPT, *flags]) == code
    said = capsys.readouterr()
    assert "runs/tiny: already holds a run; " in said.err if code else "nothing is left to do" in said.out
    assert (RUN / "metrics.json").is_file()
    assert _best() == "step-2"


def test_the_time_that_is_left_counts_the_steps_of_this_process(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The report after a stop in the middle of its steps is of some steps that another process has done."""
    step, longer = train_step, [*TRAIN, "--set", "train.epochs=", "--set", "train.steps=16", "--run-dir", "runs/b"]
    longer += ["--set", "train.report_every=8"]

    def slow(*args: Any, **kwargs: Any) -> Any:
        if args[3] == 5:
            os.kill(os.getpid(), signal.SIGUSR1)
        time.sleep(0.03)
        return step(*args, **kwargs)

    monkeypatch.setattr(loop, "train_step", slow)
    assert main(longer) == 75
    assert main([*longer, "--resume"]) == 0
    record = json.loads((here / "runs" / "b" / "train.jsonl").read_text().splitlines()[0])
    assert (record["step"], record["steps"]) == (8, 8)
    assert record["eta_seconds"] >= 8 * 0.03


def test_the_largest_seed_trains(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    short, largest = [*TRAIN, *SHORT, "--run-dir", "runs/b"], (1 << 63) - 1
    assert main([*short, "--set", f"seed={largest}"]) == 0
    assert main(["evaluate", "runs/b"]) == 0
    capsys.readouterr()
    for beyond in (largest + 1, 1 << 64, -1):
        assert main([*short, "--overwrite", "--set", f"seed={beyond}"]) == 2
        assert f"seed: got {beyond}; must be >= 0 and < 9223372036854775808\n" in capsys.readouterr().err


def test_a_run_is_replaced_by_its_own_plan(here: Path) -> None:
    assert main([*TRAIN, *SHORT, "--overwrite", "--plan", str(RUN / "plan.json"), "--set", "seed=5"]) == 0
    assert "seed = 5" in (RUN / "config.toml").read_text()


def test_a_run_stays_where_what_is_to_replace_it_cannot_start(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in RUN.rglob("*") if path.is_file() and path.name != ".lock"}
    parent = shutil.copytree(RUN, here / "runs" / "parent")
    _spoil(parent / "checkpoints" / "step-2")
    replace = [*TRAIN, *SHORT, "--overwrite", "--init-from", "parent"]
    assert main(replace) == 3
    assert f"ple-rec: {parent.relative_to(here)}/checkpoints/step-2/" in capsys.readouterr().err

    def broken(*_: object) -> None:
        raise RuntimeError("no such plan")

    monkeypatch.setattr(run_module, "build_context", broken)
    with pytest.raises(RuntimeError, match="no such plan"):
        main([*TRAIN, *SHORT, "--overwrite"])
    assert {path: path.read_bytes() for path in before} == before


def test_an_interrupt_in_a_save_or_a_load_ends_as_one_elsewhere(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(CheckpointReader, "read_data", interrupted)
        assert main(["evaluate", "tiny"]) == 130
    assert capsys.readouterr().err == "ple-rec: interrupted\n"
    with monkeypatch.context() as patch:
        patch.setattr(_ChecksumStream, "write", interrupted)
        assert main([*TRAIN, *SHORT, *KEPT, "--resume", "--set", "train.steps=8"]) == 130
    how = "ple-rec: runs/tiny: step-6 is saved; go on with: ple-rec train --run-dir runs/tiny --resume\n"
    assert capsys.readouterr().err == f"{how}ple-rec: interrupted\n"
    assert main([*TRAIN, *SHORT, *KEPT, "--resume", "--set", "train.steps=8"]) == 0
    assert find_damages(RUN / "checkpoints" / "step-8") == []


def test_fewer_steps_than_are_done_are_said(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*TRAIN, *SHORT, *KEPT, "--resume", "--set", "train.steps=5"]) == 0
    assert "6 steps are done, more than the 5 of this configuration: none is left\n" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["metrics.json", "train.jsonl", "init_from.json"])
def test_nesting_without_end_is_damage(name: str, here: Path) -> None:
    if name == "train.jsonl":
        (RUN / "metrics.json").unlink()  # else it is not read
    (RUN / name).write_text("[" * 100_000)
    assert main([*TRAIN, *SHORT, *KEPT, "--auto-resume"]) == (3 if name == "init_from.json" else 0)


def test_steps_that_are_no_number_are_no_results(here: Path) -> None:
    metrics = json.loads((RUN / "metrics.json").read_text())
    (RUN / "metrics.json").write_text(json.dumps(metrics | {"steps": "6"}))
    assert main([*TRAIN, *SHORT, *KEPT, "--auto-resume"]) == 0
    assert json.loads((RUN / "metrics.json").read_text())["steps"] == 6


def test_a_log_that_is_no_file_is_refused(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (RUN / "train.jsonl").unlink()
    (RUN / "train.jsonl").mkdir()
    assert main([*TRAIN, *SHORT, *KEPT, "--resume"]) == 2
    assert f"ple-rec: {RUN}/train.jsonl: cannot be written (Is a directory); " in capsys.readouterr().err
