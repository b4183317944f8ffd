"""Means of bags on unsharded tables: values and gradients by hand, divisors of 0, what is left as it is."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from ple_rec.config.model import CgcConfig
from ple_rec.config.run import EmbeddingsConfig, TableConfig
from ple_rec.config.schema import SparseFeature
from ple_rec.models.embeddings import bag_totals, divide_bags, embedding_collection, mean_pooled_features
from ple_rec.models.multitask import MultiTaskModel
from tests.models.samples import pooled_by_hand, sparse_batch

FEATURES = (
    SparseFeature(name="video", table="videos"),
    SparseFeature(name="user", table="users"),
    SparseFeature(name="friends", table="users", bag=True),
    SparseFeature(name="liked", table="videos", bag=True, weights="seconds"),
)
COLUMNS = {"video": "videos", "liked": "videos", "user": "users", "friends": "users"}  # the keys are in another order
ROWS = {"videos": 7, "users": 5}
BAGS = {
    "video": [[6], [0], [3], []],
    "user": [[1], [4], [1], []],
    "friends": [[0, 3, 3], [], [2], []],
    "liked": [[3, 6, 3], [1, 2, 5], [], []],
}
WEIGHTS = {"liked": [[0.5, 2.0, -1.0], [0.75, -1.0, 0.25], [], []]}  # those of the second bag sum to 0


def _model(config: EmbeddingsConfig, *, weighted: bool) -> MultiTaskModel:
    features = FEATURES if weighted else [f.model_copy(update={"weights": None}) for f in FEATURES]
    torch.manual_seed(0)
    collection = embedding_collection(config, features, ROWS, torch.device("cpu"))
    means = mean_pooled_features(config, features)
    return MultiTaskModel(CgcConfig(variant="cgc", expert_hidden=(2,)), ("k",), collection, [], mean_features=means)


def _by_hand(tables: dict[str, Tensor], means: set[str], *, weighted: bool) -> Tensor:
    weights = WEIGHTS if weighted else {}
    return torch.cat(
        [pooled_by_hand(tables[t], BAGS[f], weights.get(f), mean=f in means) for f, t in COLUMNS.items()], dim=1
    )


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(
    ("config", "means"),
    [
        (EmbeddingsConfig(dim=4, pooling="mean"), {"friends", "liked"}),
        (EmbeddingsConfig(dim=4, pooling="mean", tables={"users": TableConfig(dim=8, pooling="sum")}), {"liked"}),
        (EmbeddingsConfig(dim=4, tables={"users": TableConfig(dim=8, pooling="mean")}), {"friends"}),
        (EmbeddingsConfig(dim=4), set()),
    ],
)
def test_values_and_gradients_are_those_by_hand(config: EmbeddingsConfig, means: set[str], weighted: bool) -> None:
    model = _model(config, weighted=weighted)
    assert model.embeddings is not None
    stored = [model.embeddings.embedding_bags[table].weight for table in ROWS]
    tables = {table: weight.detach().clone().requires_grad_() for table, weight in zip(ROWS, stored, strict=True)}
    x_BD = model.inputs(sparse_batch(BAGS, WEIGHTS if weighted else None))
    expected_BD = _by_hand(tables, means, weighted=weighted)
    torch.testing.assert_close(x_BD, expected_BD, rtol=1e-5, atol=1e-6)
    factor_BD = torch.linspace(-1, 2, x_BD.numel()).view_as(x_BD)
    found = torch.autograd.grad((factor_BD * x_BD).sum(), stored)
    expected = torch.autograd.grad((factor_BD * expected_BD).sum(), list(tables.values()))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_a_divisor_of_zero_gives_zero_and_no_gradient() -> None:
    sparse = sparse_batch({"f": [[1, 2], [3, 4], []]}, {"f": [[0.5, 0.5], [1.5, -1.5], []]}).sparse
    assert sparse is not None
    summed_BD = torch.tensor([[2.0], [3.0], [0.0]], requires_grad=True)
    x_BD = divide_bags(summed_BD, {"f": 1}, sparse, {"f"})
    (gradient_BD,) = torch.autograd.grad(x_BD.sum(), summed_BD)
    assert (x_BD.tolist(), gradient_BD.tolist()) == ([[2.0], [0.0], [0.0]], [[1.0], [0.0], [0.0]])


@pytest.mark.parametrize("weighted", [False, True])
def test_totals_are_counts_without_weights_and_their_sums_with(weighted: bool) -> None:
    sparse = sparse_batch(BAGS, WEIGHTS if weighted else None).sparse
    assert sparse is not None
    liked = [1.5, 0.0, 0.0, 0.0] if weighted else [3.0, 3.0, 0.0, 0.0]
    assert bag_totals(sparse).tolist() == [[1, 1, 1, 0], [1, 1, 1, 0], [3, 0, 1, 0], liked]
    assert not bag_totals(sparse).requires_grad


@pytest.mark.parametrize("weights", [None, {"f": [[], []]}])
def test_a_batch_without_any_id_is_zero(weights: Any) -> None:
    sparse = sparse_batch({"f": [[], []]}, weights).sparse
    assert sparse is not None
    assert divide_bags(torch.zeros(2, 4), {"f": 4}, sparse, {"f"}).tolist() == [[0.0] * 4] * 2


@pytest.mark.parametrize("weighted", [False, True])
def test_what_sums_is_unchanged_bit_for_bit(weighted: bool) -> None:
    batch = sparse_batch(BAGS, WEIGHTS if weighted else None)
    configs = (
        EmbeddingsConfig(dim=4),
        EmbeddingsConfig(dim=4, pooling="mean"),
        EmbeddingsConfig(dim=4, tables={"videos": TableConfig(pooling="mean")}),
    )
    sums, means, one = (_model(config, weighted=weighted) for config in configs)
    assert sums.embeddings is not None
    x_BD = sums.inputs(batch)
    assert torch.equal(x_BD, sums.embeddings(batch.sparse).values())
    single = [0, 1, 2, 3, 8, 9, 10, 11]
    assert torch.equal(means.inputs(batch)[:, single], x_BD[:, single])
    assert torch.equal(one.inputs(batch)[:, 8:], x_BD[:, 8:])
    assert not torch.equal(one.inputs(batch)[:, 4:8], x_BD[:, 4:8])  # or it would show nothing


def test_without_mean_bags_nothing_is_computed() -> None:
    sparse = sparse_batch(BAGS).sparse
    assert sparse is not None
    summed_BD = torch.ones(4, 16)
    assert divide_bags(summed_BD, dict.fromkeys(COLUMNS, 4), sparse, ()) is summed_BD


def test_fp16_tables_are_divided_too() -> None:
    model = _model(EmbeddingsConfig(dim=4, dtype="fp16", pooling="mean"), weighted=False)  # torch has no weighted fp16
    assert model.embeddings is not None
    tables = {table: model.embeddings.embedding_bags[table].weight.detach().float() for table in ROWS}
    x_BD = model.inputs(sparse_batch(BAGS))
    assert x_BD.dtype == torch.float32
    torch.testing.assert_close(x_BD, _by_hand(tables, {"friends", "liked"}, weighted=False), rtol=2e-3, atol=2e-3)


@pytest.mark.gpu
@pytest.mark.parametrize("weighted", [False, True])
def test_on_a_gpu_without_a_sync(weighted: bool) -> None:
    sparse = sparse_batch(BAGS, WEIGHTS if weighted else None).sparse
    assert sparse is not None
    summed_BD = torch.linspace(-1, 1, 64).view(4, 16)
    widths = dict.fromkeys(COLUMNS, 4)
    on_gpu = sparse.to(torch.device("cuda")), summed_BD.cuda()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        x_BD = divide_bags(on_gpu[1], widths, on_gpu[0], {"friends", "liked"})
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close(x_BD.cpu(), divide_bags(summed_BD, widths, sparse, {"friends", "liked"}))
