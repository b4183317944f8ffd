"""Blocks of rows in threads: the same loss, gradients and scores as the whole batch at once, and no chance in them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor

from ple_rec.config.base import Config
from ple_rec.config.model import ModelConfig
from ple_rec.config.run import TaskConfig
from ple_rec.models.cpu.blocks import Blocks
from ple_rec.models.losses import LOSSES, StepLoss, loss_weights_BK
from ple_rec.models.multitask import MultiTaskModel
from ple_rec.models.objective import loss_factors_K, objective
from ple_rec.models.variants import VARIANTS
from ple_rec.models.weighting import WEIGHTINGS
from ple_rec.modules.normalise import DenseStatistics

TASKS = ("a", "b", "c")
LOSS_NAMES = ("cross_entropy", "mse", "cross_entropy")
WIDTH = 11
SIZES: dict[str, dict[str, Any]] = {
    **{name: {"bottom": [8, 6]} for name in ("hard_sharing", "single_task", "customized")},
    "asymmetric": {"bottom": [8, 6], "donors": {"b": ["a"]}},
    "mmoe": {"experts": 3, "expert_hidden": [8, 6]},
    "cgc": {"task_experts": 2, "shared_experts": 1, "expert_hidden": [8, 6]},
    "cross_stitch": {"levels": [{"expert_hidden": [8]}, {"expert_hidden": [6]}]},
    "sluice": {"levels": [{"expert_hidden": [8]}, {"expert_hidden": [8]}], "subspaces": 2, "orthogonality": 0.1},
    "ml_mmoe": {"levels": [{"experts": 2, "expert_hidden": [8]}, {"experts": 3, "expert_hidden": [6]}]},
    "ple": {"levels": [{"task_experts": 1, "shared_experts": 2, "expert_hidden": [8, 6]}] * 2},
}


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def _model(
    variant: str = "ple", precision: str = "fp32", weighting: str = "schedule", **changes: Any
) -> MultiTaskModel:
    adapter: TypeAdapter[Config] = TypeAdapter(ModelConfig)
    config: Any = adapter.validate_python(
        {"variant": variant, "tower": {"hidden": [5]}, "activation": "relu", **SIZES[variant], **changes},
        strict=False,
    )
    torch.manual_seed(3)
    dense = [DenseStatistics("none")] * WIDTH
    return MultiTaskModel(config, TASKS, None, dense, precision, (), WEIGHTINGS[weighting](LOSS_NAMES))


def _step(model: MultiTaskModel, rows: int, threads: int = 0, block_rows: int = 100) -> dict[str, Tensor]:
    """Losses and gradients of a step over random rows: in blocks, or with no thread as autograd takes them whole."""
    generator = torch.Generator().manual_seed(7)
    dtype = next(model.parameters()).dtype
    x_BD = torch.randn(rows, WIDTH, generator=generator, dtype=dtype).requires_grad_()
    labels_BK = torch.rand(rows, 3, generator=generator, dtype=dtype).round()
    in_space_BK = (torch.rand(rows, 3, generator=generator) < 0.7).to(dtype)
    weights_BK = loss_weights_BK(in_space_BK, torch.rand(rows, generator=generator).to(dtype))
    counts_K, scheduled_K = weights_BK.sum(0), torch.tensor([1.0, 0.5, 2.0], dtype=dtype)
    losses = [LOSSES[name](TaskConfig(name=task)) for task, name in zip(TASKS, LOSS_NAMES, strict=True)]
    loss = StepLoss(losses, labels_BK, weights_BK, lambda: loss_factors_K(model, counts_K, scheduled_K, 2))
    model.zero_grad()
    if threads:
        logits_BK, sums_K = Blocks(model, block_rows, threads).train(x_BD, loss)
    else:
        logits_BK, _ = model.logits(x_BD)
        sums_K = loss.sums_K(logits_BK)
    objective(model, sums_K, counts_K, scheduled_K, 2).backward()
    assert x_BD.grad is not None
    found = {"logits": logits_BK.detach(), "sums": sums_K.detach(), "x": x_BD.grad}
    return found | {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("variant", VARIANTS)
def test_blocks_give_the_losses_and_gradients_of_the_whole_batch(variant: str) -> None:
    model = _model(variant).double()
    expected, found = _step(model, 333), _step(model, 333, threads=2, block_rows=50)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-10, atol=1e-12, msg=name)


@pytest.mark.parametrize("rows", [1, 2, 3, 99, 100, 101, 400])
def test_every_row_is_in_one_block(rows: int) -> None:
    model = _model().double()
    expected = _step(model, rows)
    for threads in (1, 2, 3):
        found = _step(model, rows, threads=threads)
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=1e-10, atol=1e-12, msg=name)


def test_a_learned_weighting_and_an_activation_without_a_kernel_of_its_own() -> None:
    model = _model(weighting="uncertainty", activation="gelu").double()
    with torch.no_grad():
        model.weighting.log_variance_K.copy_(torch.tensor([0.3, -0.2, 0.1]))  # type: ignore[operator]
    expected, found = _step(model, 250), _step(model, 250, threads=2)
    assert "weighting.log_variance_K" in expected
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-10, atol=1e-12, msg=name)


def test_bf16_is_that_of_the_whole_batch_within_its_rounding() -> None:
    model = _model(precision="bf16")
    expected, found = _step(model, 256), _step(model, 256, threads=2)
    for name, value in expected.items():
        assert found[name].dtype == torch.float32
        assert float((found[name] - value).norm()) < 0.05 * float(value.norm()), name
    exact = _step(_model(), 256)
    assert float((found["x"] - exact["x"]).abs().max()) > 0  # it did run in another precision


@pytest.mark.parametrize(
    ("variant", "precision", "activation"),
    [("ple", "fp32", "relu"), ("ml_mmoe", "bf16", "relu"), ("ple", "bf16", "gelu")],
)
def test_the_same_number_of_threads_gives_the_same_bits(variant: str, precision: str, activation: str) -> None:
    model = _model(variant, precision, activation=activation)
    first = _step(model, 777, threads=4, block_rows=64)
    for _ in range(10):
        again = _step(model, 777, threads=4, block_rows=64)
        assert all(torch.equal(again[name], value) for name, value in first.items())


def test_scores_without_gradients_are_those_of_the_whole_batch() -> None:
    model = _model().eval()
    x_BD = torch.randn(300, WIDTH)
    with torch.no_grad():
        expected_BK, expected_gates = model.logits(x_BD)
    torch.set_num_threads(2)
    found_BK, gates = Blocks(model, 64, 2).score(x_BD)
    torch.testing.assert_close(found_BK, expected_BK)
    for found, expected in zip(gates, expected_gates, strict=True):
        torch.testing.assert_close(found, expected)
    assert torch.get_num_threads() == 2  # the threads of the blocks have one each, and this one keeps its own


def test_threads_see_what_the_optimizer_and_a_checkpoint_do() -> None:
    model = _model()
    blocks = Blocks(model, 64, 2)
    x_BD = torch.randn(200, WIDTH)
    for change in ("add", "load", "replace"):
        with torch.no_grad():
            if change == "add":
                for parameter in model.parameters():
                    parameter.add_(0.01)
            elif change == "load":
                model.load_state_dict({key: 0.5 * value for key, value in model.state_dict().items()})
            else:
                for parameter in model.parameters():
                    parameter.data = parameter.data * 1.5
            expected_BK, _ = model.logits(x_BD)
        torch.testing.assert_close(blocks.score(x_BD)[0], expected_BK)


def test_dropout_is_drawn_in_one_order_without_blocks() -> None:
    model = _model(dropout=0.5)
    x_BD = torch.randn(600, WIDTH)
    assert not model._runs_in_blocks(x_BD)
    model.eval()
    assert model._runs_in_blocks(x_BD)
    assert not model._runs_in_blocks(x_BD[:10])


@pytest.mark.parametrize("dropouts", [{"dropout": 0.5}, {"input_dropout": 0.5}])
def test_an_evaluation_draws_nothing(dropouts: dict[str, Any]) -> None:
    model = _model(**dropouts)
    blocks = Blocks(model, 64, 2)
    x_BD = torch.randn(200, WIDTH)
    model.eval()
    assert torch.equal(blocks.score(x_BD)[0], blocks.score(x_BD)[0])
    model.train()
    assert not torch.equal(model.logits(x_BD)[0], model.logits(x_BD)[0])


def test_an_error_in_a_block_is_raised() -> None:
    model = _model()

    def broken(logit_B: Tensor, label_B: Tensor) -> Tensor:
        raise ValueError("of the loss")

    loss = StepLoss([broken] * 3, torch.zeros(200, 3), torch.ones(200, 3), lambda: torch.ones(3))
    blocks = Blocks(model, 64, 2)
    with pytest.raises(ValueError, match="of the loss"):
        blocks.train(torch.randn(200, WIDTH), loss)
