"""A job that is asked to stop saves its last step, on all ranks alike, and goes on to the bits of one that was not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist
from torch import Tensor

from ple_rec.checkpoint.inspect import find_damages
from ple_rec.checkpoint.manifest import read_manifest
from ple_rec.data.batch import Batch
from ple_rec.errors import DivergedError, PreemptedError
from ple_rec.runs.directory import RunDirectory
from ple_rec.storage import write_checked
from ple_rec.training import loop, validation
from ple_rec.training.context import build_context
from ple_rec.training.evaluate import evaluate
from ple_rec.training.non_finite_guard import NonFiniteGuard
from ple_rec.training.step import train_step
from tests.training.small import on_ranks, ranks_of, records, small_config, whole_state, write_small

State = dict[str, Tensor]


def _config(data: Path, **checkpoint: Any) -> Any:
    train = {"batch_size": 24, "steps": 12, "report_every": 2, "evaluate_every": 50}
    model = {"dropout": 0.2}
    config = small_config(data, {"train": train, "checkpoint": {"every": 4} | checkpoint})
    return config.model_copy(update={"model": config.model.model_copy(update=model)})


def _run(
    rank: int,
    world_size: int,
    config: Any,
    run_dir: Path,
    resume: bool,
    kill: tuple[int, signal.Signals] | None,
    kill_at_batch: int | None = None,
) -> tuple[str, State]:
    """Train; rank 1 gets a signal in a step, or at a batch of its first evaluation. Return message and state."""
    if rank == 0:
        run_dir.mkdir(parents=True, exist_ok=True)
    dist.barrier()
    job = build_context(config, ranks_of(rank, world_size))
    step = train_step

    def with_signal(*args: Any, **kwargs: Any) -> Any:
        if kill is not None and rank == 1 and args[3] == kill[0]:
            os.kill(os.getpid(), kill[1])
        return step(*args, **kwargs)

    def batches_with_signal(model: Any, batches: Iterable[Batch], *args: Any, **kwargs: Any) -> Any:
        def slow() -> Iterator[Batch]:
            for i, batch in enumerate(batches):
                assert kill_at_batch is None or i <= kill_at_batch + 1, "the evaluation goes on after the signal"
                if i == kill_at_batch and rank == 1:
                    os.kill(os.getpid(), signal.SIGTERM)
                yield batch

        return evaluate(model, slow(), *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "train_step", with_signal)
        patch.setattr(validation, "evaluate", batches_with_signal)
        try:
            loop.train_steps(job, RunDirectory(run_dir, run_dir), resume=resume)
        except PreemptedError as error:
            assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL
            return str(error), {}
    return "", whole_state(job)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("preemption")
    write_small(folder / "data")
    return folder


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGUSR1, marks=pytest.mark.slow)])
def test_a_signal_to_one_rank_stops_all_and_costs_no_bit(number: signal.Signals, folder: Path) -> None:
    config, run_dir = _config(folder / "data"), folder / number.name
    whole = on_ranks(_run, 2, config, folder / f"whole-{number.name}", False, None)
    stopped = on_ranks(_run, 2, config, run_dir, False, (5, number))
    said = f"{run_dir}: asked to stop at step 7 of 12; step-7 is saved. Fix: run it again with --resume"
    assert [text for text, _ in stopped] == [said, said]
    assert (run_dir / "checkpoints" / "latest").read_text() == "step-7\n"
    # What the steps since the last report add up to is in the checkpoint, too: the same log as of one that went on.
    assert read_manifest(run_dir / "checkpoints" / "step-7").written_by["unreported_steps"] == 1
    resumed = on_ranks(_run, 2, config, run_dir, True, None)
    assert records(run_dir) == records(folder / f"whole-{number.name}")
    for (text, found), (_, expected) in zip(resumed, whole, strict=True):
        assert text == ""
        assert found.keys() == expected.keys()
        assert [key for key in found if not found[key].equal(expected[key])] == []


def test_a_signal_in_an_evaluation_leaves_it_and_saves(folder: Path) -> None:
    """The evaluation has 5 batches; the checkpoint says that it is to be made again."""
    train = {"batch_size": 24, "steps": 9, "report_every": 2, "evaluate_every": 5, "best_metric": "click.ne"}
    changes = {"train": train, "early_stopping": {"patience": 9}}
    config, whole_dir, run_dir = small_config(folder / "data", changes), folder / "whole", folder / "in-evaluation"
    whole = on_ranks(_run, 2, config, whole_dir, False, None)
    message = f"{run_dir}: asked to stop at step 5 of 9; step-5 is saved. Fix: run it again with --resume"
    assert [text for text, _ in on_ranks(_run, 2, config, run_dir, False, None, 1)] == [message] * 2
    saved = run_dir / "checkpoints" / "step-5"
    assert read_manifest(saved).written_by["evaluation_pending"] is True
    assert [record["split"] for record in records(run_dir) if record["step"] == 5] == ["train"]
    # Asked to stop in the evaluation that is made again: the checkpoint stands.
    assert [text for text, _ in on_ranks(_run, 2, config, run_dir, True, None, 0)] == [message] * 2
    resumed = on_ranks(_run, 2, config, run_dir, True, None)
    assert records(run_dir) == records(whole_dir)
    for name in ("best", "latest"):
        assert (run_dir / "checkpoints" / name).read_text() == (whole_dir / "checkpoints" / name).read_text()
    for (_, state), (_, expected) in zip(resumed, whole, strict=True):
        assert [key for key in expected if not state[key].equal(expected[key])] == []


def _spoil(path: Path) -> None:
    """Change a byte of a checkpoint's tensors."""
    file = next(path.glob("*.distcp"))
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def test_a_damaged_checkpoint_of_the_same_step_is_written_anew(folder: Path) -> None:
    """The run goes on from step 8, and is asked to stop at step 10, of which a damaged checkpoint is `latest`."""
    config, run_dir = _config(folder / "data"), folder / "spoilt"
    on_ranks(_run, 2, config, run_dir, False, (8, signal.SIGTERM))
    _spoil(run_dir / "checkpoints" / "step-10")
    (text, _), _ = on_ranks(_run, 2, config, run_dir, True, (8, signal.SIGTERM))
    assert text == f"{run_dir}: asked to stop at step 10 of 12; step-10 is saved. Fix: run it again with --resume"
    assert find_damages(run_dir / "checkpoints" / "step-10") == []


def test_a_save_that_would_take_too_long_is_not_begun(folder: Path) -> None:
    config, run_dir = _config(folder / "data", grace_seconds=1e-6), folder / "late"
    texts = [text for text, _ in on_ranks(_run, 2, config, run_dir, False, (5, signal.SIGTERM))]
    assert texts[0] == texts[1]
    assert texts[0].startswith(f"{run_dir}: asked to stop at step 7 of 12, too late to save it: a save took ")
    assert texts[0].endswith("; step-4 is saved. Fix: run it again with --resume")
    assert (run_dir / "checkpoints" / "latest").read_text() == "step-4\n"
    early = on_ranks(_run, 2, config, folder / "early", False, (1, signal.SIGTERM))
    assert early[0][0].endswith("asked to stop at step 3 of 12; step-3 is saved. Fix: run it again with --resume")


def _run_that_diverges(rank: int, world_size: int, config: Any, run_dir: Path) -> str:
    """The gradients of rank 1 overflow in the last step before the stop, and its weights stay finite."""
    note = NonFiniteGuard.record

    def bad(self: NonFiniteGuard, step: int, sums_K: Tensor, gradient_norm: Tensor) -> None:
        note(self, step, sums_K, gradient_norm / (0 if (rank, step) == (1, 7) else 1))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(NonFiniteGuard, "record", bad)
        with pytest.raises(DivergedError) as caught:
            _run(rank, world_size, config, run_dir, False, (5, signal.SIGTERM))
    return str(caught.value)


def test_a_last_step_that_is_not_finite_is_not_saved(folder: Path) -> None:
    run_dir = folder / "diverges"
    for text in on_ranks(_run_that_diverges, 2, _config(folder / "data"), run_dir):
        assert text.startswith("step 7: the dense gradients are not finite; training stops, ")
    assert (run_dir / "checkpoints" / "latest").read_text() == "step-4\n"


def test_the_same_signal_at_once_is_the_same_wish() -> None:
    """Slurm signals the ranks, and the agent, which does so too."""
    code = """
import os, signal, time
from ple_rec.training import preemption
preemption._REPEAT_SECONDS = 0.2
with preemption.Preemption(30) as heard:
    for _ in range(3):
        os.kill(os.getpid(), signal.SIGTERM)
    print(heard.signal.name, round(heard.seconds_left()), flush=True)
    time.sleep(0.3)
    os.kill(os.getpid(), signal.SIGTERM)
    print("still there")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("SIGTERM 30\n", -signal.SIGTERM)


def _run_whose_save_fails(rank: int, world_size: int, config: Any, run_dir: Path) -> str:
    """The save of step 4, in the background, breaks off; the signal comes in step 6."""
    written = 0

    def breaks(file: Path, content: bytes, check: Callable[[], None]) -> None:
        nonlocal written
        written += file.name == "manifest.json"
        if file.name == "manifest.json" and written == 1:
            raise OSError("the store is away")
        write_checked(file, content, check)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ple_rec.checkpoint.store.write_checked", breaks)
        return _run(rank, world_size, config, run_dir, False, (5, signal.SIGTERM))[0]


def test_a_save_that_failed_before_does_not_cost_the_last_one(folder: Path) -> None:
    config, run_dir = _config(folder / "data", asynchronous=True), folder / "failed"
    texts = on_ranks(_run_whose_save_fails, 2, config, run_dir)
    assert texts[0] == texts[1]
    assert texts[0].startswith(f"{run_dir}: asked to stop at step 7 of 12; step-7 is saved. ")
    assert not (run_dir / "checkpoints" / "step-4").exists()
