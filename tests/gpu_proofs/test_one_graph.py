"""The dense part of a training step is one graph for torch.compile, which computes what the operators compute."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

from ple_rec.config.run import TaskConfig
from ple_rec.models.losses import LOSSES, StepLoss
from ple_rec.models.multitask import MultiTaskModel
from ple_rec.models.objective import objective
from ple_rec.models.variants import VARIANTS
from ple_rec.training import context as context_module
from tests.gpu_proofs.device_path import device_path
from tests.models.samples import EVERY, every_variant, fp32_model
from tests.training.small import on_ranks, records, small_config, train_small, whole_state, write_small

ROWS, WIDTH = 16, 5
TASKS = {"a": "cross_entropy", "b": "huber"}
FP32 = [pytest.param(name, "fp32", id=f"{name}, fp32") for name in VARIANTS]
BF16 = [pytest.param(name, "bf16", id=f"{name}, bf16", marks=pytest.mark.slow) for name in EVERY]
OPTIONS = [
    pytest.param(name, "fp32", id=f"{name}, fp32", marks=pytest.mark.slow) for name in EVERY if name not in VARIANTS
]


def _model(variant: str, precision: str, dropout: float = 0.0) -> MultiTaskModel:
    config = every_variant((6, 4), (3,))[variant]
    towers = config.tower.model_copy(update={"dropout": dropout})
    config = config.model_copy(update={"dropout": dropout, "input_dropout": dropout, "tower": towers})
    return fp32_model(config, tuple(TASKS), WIDTH, precision=precision)


def _step(model: MultiTaskModel, seed: int, rows: int = ROWS) -> list[Tensor]:
    """Logits, loss sums and all gradients of a step, between which an evaluation runs."""
    generator = torch.Generator().manual_seed(seed)
    x_BD = torch.randn(rows, WIDTH, generator=generator).requires_grad_()
    labels_BK = torch.rand(rows, len(TASKS), generator=generator).round()
    weights_BK = torch.rand(rows, len(TASKS), generator=generator)
    weights_BK[seed::3] = 0.0  # padding
    labels_BK[seed::3] = torch.nan
    losses = [LOSSES[loss](TaskConfig(name=name)) for name, loss in TASKS.items()]
    model.zero_grad()
    with torch.no_grad():
        model.eval().score(x_BD)
    torch.manual_seed(seed)
    logits_BK, sums_K = model.train().train_score(x_BD, StepLoss(losses, labels_BK, weights_BK, lambda: sums_K))
    # The weights of the losses change from step to step.
    objective(model, sums_K, weights_BK.sum(0), torch.tensor([1.0, 0.5**seed]), 2).backward()
    gradients = [p.grad for p in [x_BD, *model.parameters()] if p.grad is not None]
    assert len(gradients) == 1 + len(list(model.parameters()))
    return [logits_BK, sums_K.detach(), *gradients]


@pytest.fixture(autouse=True)
def _no_compiled_code() -> None:
    torch._dynamo.reset()


@pytest.mark.parametrize(("variant", "precision"), [*FP32, *OPTIONS, *BF16])
def test_one_graph_computes_the_bits_of_the_operators(variant: str, precision: str) -> None:
    eager, compiled = _model(variant, precision), _model(variant, precision)
    backend = CompileCounterWithBackend("aot_eager")
    compiled.compile_training(backend)
    assert list(compiled.state_dict()) == list(eager.state_dict())
    with device_path():
        for seed in range(3):
            for value, expected in zip(_step(compiled, seed), _step(eager, seed), strict=True):
                assert torch.equal(value, expected)
    assert backend.frame_count == 1


def test_dropout_is_part_of_the_graph() -> None:
    backend = CompileCounterWithBackend("aot_eager")
    compiled = _model("mmoe", "bf16", dropout=0.5)
    compiled.compile_training(backend)
    with device_path():
        first, again, other = (_step(compiled, seed) for seed in (1, 1, 2))
    assert all(torch.equal(value, expected) for value, expected in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])
    assert backend.frame_count == 1


def test_a_run_never_falls_back_to_operators() -> None:
    """A graph holds for one number of rows. Batches of other sizes compile again, up to a limit, which is an error."""
    compiled = _model("hard_sharing", "fp32")
    compiled.compile_training("eager")
    with device_path(), torch._dynamo.config.patch(recompile_limit=1):
        _step(compiled, 0, rows=8)
        with pytest.raises(torch._dynamo.exc.FailOnRecompileLimitHit):
            _step(compiled, 0, rows=9)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="the compiler of torch.compile for CPUs needs g++")
@pytest.mark.parametrize("variant", ["ple", "sluice"])
def test_a_compiler_computes_nearly_the_same(variant: str) -> None:
    eager, compiled = _model(variant, "fp32"), _model(variant, "fp32")
    compiled.compile_training()
    with device_path():
        for value, expected in zip(_step(compiled, 0), _step(eager, 0), strict=True):
            torch.testing.assert_close(value, expected)


def _train(rank: int, world_size: int, data: Path, folder: Path) -> dict[str, Any]:
    """Final state of an eager run, and that of a compiled one with its number of compilations."""
    train = {
        "steps": 11,
        "report_every": 3,
        "evaluate_every": 4,
        "loss_weighting": "uncertainty",
        "weight_schedule": "epoch",
    }
    config = small_config(
        data,
        {
            "train": train,
            "schedule": {"warmup_steps": 4, "decay": "cosine"},
            "tasks": [{"name": "click", "decay": 0.9}, {"name": "watch", "decay": 0.8}],
        },
    )
    backend, compile_training = CompileCounterWithBackend("aot_eager"), MultiTaskModel.compile_training
    with device_path():
        eager = whole_state(train_small(rank, world_size, config, folder / "eager"))
        with (
            mock.patch.object(context_module, "eager_reason", return_value=None),
            mock.patch.object(MultiTaskModel, "compile_training", lambda model: compile_training(model, backend)),
        ):
            compiled = whole_state(train_small(rank, world_size, config, folder / "compiled"))
    return {"eager": eager, "compiled": compiled, "compilations": backend.frame_count}


def test_a_run_of_two_epochs_compiles_once(tmp_path: Path) -> None:
    """Evaluations, checkpoints, last batches of epochs, learning rates and loss weights do not compile again."""
    (result,) = on_ranks(_train, 1, write_small(tmp_path / "data"), tmp_path)
    assert result["compilations"] == 1
    assert result["eager"].keys() == result["compiled"].keys()
    assert all(torch.equal(value, result["compiled"][name]) for name, value in result["eager"].items())
    assert records(tmp_path / "eager") == records(tmp_path / "compiled")
