"""A batch grouped by request has the scores and the gradients of the same batch without, whatever the requests are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as s
from torch import Tensor

from ple_rec.config.run import TaskConfig
from ple_rec.data.batch import Batch, Requests
from ple_rec.models.losses import LOSSES, StepLoss
from ple_rec.models.multitask import MultiTaskModel
from ple_rec.models.objective import loss_factors_K, objective
from ple_rec.modules.grouped import GroupedInputs, Inputs
from ple_rec.modules.normalise import DenseStatistics
from tests.models.samples import EVERY, dense_batch, every_variant

WIDTH = 9
SHARED = (0, 1, 4, 8)


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def _model(variant: str = "ple", shared: Sequence[int] = SHARED, activation: str = "relu") -> MultiTaskModel:
    config = every_variant((6, 4), (3,))[variant].model_copy(update={"activation": activation})
    torch.manual_seed(3)
    dense = [DenseStatistics("none")] * WIDTH
    return MultiTaskModel(config, ("a", "b"), None, dense, request_dense=shared).double()


def _requests(lengths: Sequence[int]) -> Requests:
    request_B = torch.tensor([i for i, length in enumerate(lengths) for _ in range(length)])
    return Requests(request_B, torch.tensor([0, *lengths]).cumsum(0)[:-1])


def _x_BD(requests: Requests, shared: Sequence[int] = SHARED) -> Tensor:
    """Random, and equal in the shared columns within a request."""
    generator = torch.Generator().manual_seed(7)
    x_BD = torch.randn(len(requests.request_B), WIDTH, generator=generator, dtype=torch.float64)
    of_requests = torch.randn(len(requests), WIDTH, generator=generator, dtype=torch.float64)
    x_BD[:, list(shared)] = of_requests[requests.request_B][:, list(shared)]
    return x_BD


def _step(model: MultiTaskModel, x: Inputs, block_rows: int, threads: int) -> dict[str, Tensor]:
    """Scores and gradients of a step: in blocks, or, with no thread, as autograd takes them whole."""
    generator = torch.Generator().manual_seed(5)
    labels_BK = torch.rand(len(x), 2, generator=generator, dtype=torch.float64).round()
    weights_BK = torch.rand(len(x), 2, generator=generator, dtype=torch.float64)
    counts_K, scheduled_K = weights_BK.sum(0), torch.tensor([1.0, 0.5], dtype=torch.float64)
    losses = [LOSSES["cross_entropy"](TaskConfig(name="a")), LOSSES["mse"](TaskConfig(name="b"))]
    loss = StepLoss(losses, labels_BK, weights_BK, lambda: loss_factors_K(model, counts_K, scheduled_K, 1))
    model.zero_grad()
    model.block_rows, model._blocks = block_rows, None
    if threads:
        torch.set_num_threads(threads)
        logits_BK, sums_K = model.blocks().train(x, loss)
    else:
        logits_BK, _ = model.logits(x)
        sums_K = loss.sums_K(logits_BK)
    objective(model, sums_K, counts_K, scheduled_K, 1).backward()
    found = {"logits": logits_BK.detach(), "sums": sums_K.detach()}
    return found | {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def _close(found: Tensor, expected: Tensor, what: str) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12, msg=what)


def _check(
    model: MultiTaskModel,
    lengths: Sequence[int],
    shared: Sequence[int] = SHARED,
    block_rows: int = 20,
    threads: int = 2,
) -> None:
    requests = _requests(lengths)
    whole_BD = _x_BD(requests, shared).requires_grad_()
    expected = _step(model, whole_BD, block_rows, 0)
    assert whole_BD.grad is not None
    # What a look-up of the first sample's ids alone leaves in the shared columns of the others must not count.
    bare_BD = whole_BD.detach().clone()
    others = [i for i in range(len(bare_BD)) if i not in requests.first_R]
    bare_BD[others, torch.tensor(list(shared))[:, None]] = 1e9
    bare_BD.requires_grad_()
    x = GroupedInputs.from_tensor(bare_BD, requests.request_B, requests.first_R, model.shared_columns)
    found = _step(model, x, block_rows, threads)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        _close(found[name], value, name)
    x_grad_BD = whole_BD.grad.clone()
    of_requests = torch.zeros(len(requests), WIDTH, dtype=torch.float64).index_add_(0, requests.request_B, x_grad_BD)
    for column in shared:
        x_grad_BD[:, column] = 0
        x_grad_BD[requests.first_R, column] = of_requests[:, column]
    assert bare_BD.grad is not None
    _close(bare_BD.grad, x_grad_BD, "x")


@pytest.mark.parametrize("variant", EVERY)
@pytest.mark.parametrize("threads", [0, 2])
def test_every_variant(variant: str, threads: int) -> None:
    _check(_model(variant), [3, 1, 70, 5, 5, 9, 40], threads=threads)


@settings(deadline=None, derandomize=True, max_examples=25)
@given(s.lists(s.integers(1, 30), min_size=1, max_size=12), s.integers(1, 40), s.integers(0, 3))
def test_any_requests_and_any_blocks(lengths: list[int], block_rows: int, threads: int) -> None:
    _check(_model(), lengths, block_rows=block_rows, threads=threads)


@pytest.mark.parametrize("shared", [(0,), (8,), tuple(range(5)), tuple(range(4, 9)), tuple(range(9))])
def test_any_columns(shared: tuple[int, ...]) -> None:
    _check(_model(shared=shared), [4, 4, 40, 7], shared)


@pytest.mark.parametrize("threads", [0, 2])
def test_an_activation_without_a_kernel_of_its_own(threads: int) -> None:
    _check(_model(activation="gelu"), [10, 20, 30], threads=threads)


def test_the_same_number_of_threads_gives_the_same_bits() -> None:
    requests, model = _requests([170, 2, 31, 400, 9]), _model().float()
    x_BD = _x_BD(requests).float()
    found = []
    for _ in range(5):
        leaf_BD = x_BD.clone().requires_grad_()
        step = _step(
            model, GroupedInputs.from_tensor(leaf_BD, requests.request_B, requests.first_R, model.shared_columns), 16, 3
        )
        assert leaf_BD.grad is not None
        found.append([leaf_BD.grad, *step.values()])
    assert all(torch.equal(a, b) for again in found[1:] for a, b in zip(found[0], again, strict=True))


def _batch(lengths: Sequence[int]) -> Batch:
    requests = _requests(lengths)
    plain = dense_batch(_x_BD(requests))
    return Batch(None, plain.dense_BF, plain.labels_BK, plain.in_space_BK, None, None, plain.rows, requests=requests)


@pytest.mark.parametrize(("lengths", "grouped"), [([1, 3, 1, 2, 1], False), ([100, 200, 4], True), ([2, 2, 2], True)])
def test_the_model_scores_requests_once_where_they_are_few(lengths: list[int], grouped: bool) -> None:
    model = _model().eval()
    batch = _batch(lengths)
    assert isinstance(model.grouped_inputs(batch), GroupedInputs) is grouped
    assert torch.equal(model.inputs(batch), batch.dense_BF)
    with torch.no_grad():
        logits_BK, gates = model(batch)
        expected_BK, expected = model.score(batch.dense_BF)
    for a, b in zip(chain([logits_BK], gates), chain([expected_BK], expected), strict=True):
        _close(a, b, "scores")


def test_dropout_of_inputs_draws_for_each_sample() -> None:
    config = every_variant((6, 4), ())["ple"].model_copy(update={"input_dropout": 0.5})
    model = MultiTaskModel(config, ("a", "b"), None, [DenseStatistics("none")] * WIDTH, request_dense=SHARED).double()
    batch = _batch([50, 60])
    torch.manual_seed(1)
    grouped_BK, _ = model(batch)
    torch.manual_seed(1)
    plain_BK, _ = model.score(batch.dense_BF)
    assert torch.equal(grouped_BK, plain_BK)


def test_bf16_is_that_of_the_whole_batch_within_its_rounding() -> None:
    config = every_variant((16, 8), (3,))["ple"]
    dense = [DenseStatistics("none")] * WIDTH
    models = []
    for precision in ("bf16", "fp32"):
        torch.manual_seed(3)
        models.append(MultiTaskModel(config, ("a", "b"), None, dense, precision, request_dense=SHARED).eval())
    requests = _requests([100, 28, 72])
    x_BD = _x_BD(requests).float()
    grouped = GroupedInputs.from_tensor(x_BD, requests.request_B, requests.first_R, models[0].shared_columns)
    with torch.no_grad():
        logits_BK, exact_BK = models[0].score(grouped)[0], models[1].score(x_BD)[0]
    assert 0 < float((logits_BK - exact_BK).abs().max()) < 0.03 * float(exact_BK.abs().max())
