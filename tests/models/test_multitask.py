"""The whole model on unsharded tables, and the order of its inputs whatever a plan does to the tables."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor, KeyedTensor

from ple_rec.config.model import CgcConfig
from ple_rec.config.run import EmbeddingsConfig, TableConfig, TableOptimizerConfig
from ple_rec.config.schema import SparseFeature
from ple_rec.data.batch import Batch
from ple_rec.distributed.optimizers import attach_table_optimizer
from ple_rec.distributed.process_group import Ranks
from ple_rec.models.embeddings import embedding_collection
from ple_rec.models.multitask import MultiTaskModel
from ple_rec.modules.normalise import DenseStatistics
from tests.models.samples import sparse_batch
from tests.rank_processes import run_ranks
from tests.training.small import plan_and_shard

CPU = torch.device("cpu")
FEATURES = tuple(SparseFeature(name=f"f{i}", table=f"t{i % 3}", bag=True) for i in range(4))
ROWS = {"t0": 6, "t1": 5, "t2": 7}
BAGS = {"f0": [[1, 2], []], "f1": [[3], [4, 4]], "f2": [[6], [0]], "f3": [[5], [2, 1, 0]]}
CONFIG = CgcConfig(variant="cgc", expert_hidden=(6,))
DENSE_BF = torch.tensor([[1.5, float("nan")], [-2.0, 7.0]])
STATISTICS = [DenseStatistics("none"), DenseStatistics("standard", 3.0, 2.0)]


def _model(
    embeddings: EmbeddingsConfig | None = None, *, dense: bool = False, precision: str = "fp32", device: str = "cpu"
) -> MultiTaskModel:
    tables = None
    if embeddings is not None:
        torch.manual_seed(1)
        tables = embedding_collection(embeddings, FEATURES, ROWS, torch.device(device))
    torch.manual_seed(0)
    return MultiTaskModel(CONFIG, ("a", "b"), tables, STATISTICS if dense else [], precision)


def _expected(model: MultiTaskModel) -> Tensor:
    """The pooled rows of BAGS in the order of the tables, by hand."""
    assert model.embeddings is not None
    tables = {name: bag.weight.detach().float() for name, bag in model.embeddings.embedding_bags.items()}
    order = [("f0", "t0"), ("f3", "t0"), ("f1", "t1"), ("f2", "t2")]
    return torch.cat([torch.stack([tables[t][bag].sum(0) for bag in BAGS[f]]) for f, t in order], dim=1)


def test_sparse_only() -> None:
    model = _model(EmbeddingsConfig(dim=4, tables={"t1": TableConfig(dim=8)}))
    batch = sparse_batch(BAGS)
    torch.testing.assert_close(model.inputs(batch), _expected(model))
    assert model.inputs(batch).shape == (2, 4 + 4 + 8 + 4)
    assert model(batch)[0].shape == (2, 2)


def test_dense_only() -> None:
    batch = replace(sparse_batch(BAGS), sparse=None, dense_BF=DENSE_BF)
    model = _model(dense=True)
    assert model.inputs(batch).tolist() == [[1.5, 0.0], [-2.0, 2.0]]
    assert model(batch)[0].shape == (2, 2)


def test_both_stand_side_by_side_and_train() -> None:
    model = _model(EmbeddingsConfig(dim=4), dense=True)
    batch = replace(sparse_batch(BAGS), dense_BF=DENSE_BF)
    expected_BD = torch.cat([_expected(model), torch.tensor([[1.5, 0.0], [-2.0, 2.0]])], dim=1)
    torch.testing.assert_close(model.inputs(batch), expected_BD)
    logits_BK, gates = model(batch)
    outputs, _ = model.extraction(expected_BD)
    towers = [tower(y_BH) for tower, y_BH in zip(model.towers, outputs, strict=True)]
    torch.testing.assert_close(logits_BK, torch.cat(towers, dim=1))
    assert [a_BOE.shape for a_BOE in gates] == [(2, 2, 3)]
    logits_BK.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_fp16_tables_feed_an_fp32_network() -> None:
    model = _model(EmbeddingsConfig(dim=4, dtype="fp16"))
    x_BD = model.inputs(sparse_batch(BAGS))
    assert x_BD.dtype == torch.float32
    torch.testing.assert_close(x_BD, _expected(model), rtol=2e-3, atol=1e-3)


def test_bf16_runs_the_products_only() -> None:
    model, plain = (_model(EmbeddingsConfig(dim=4), dense=True, precision=p) for p in ("bf16", "fp32"))
    batch = replace(sparse_batch(BAGS), dense_BF=DENSE_BF)
    logits_BK, (a_BOE,) = model(batch)
    assert logits_BK.dtype == a_BOE.dtype == torch.float32
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    expected_BK, _ = plain(batch)
    assert not torch.equal(logits_BK, expected_BK)
    torch.testing.assert_close(logits_BK, expected_BK, rtol=0.05, atol=0.02)


class _InPlanOrder(nn.Module):
    """A collection whose features stand in another order, as a sharded one's do."""

    def __init__(self, collection: Any, order: list[str]) -> None:
        super().__init__()
        self.collection, self.order = collection, order

    def forward(self, sparse: KeyedJaggedTensor) -> KeyedTensor:
        pooled = self.collection(sparse).to_dict()
        return KeyedTensor.from_tensor_list(self.order, [pooled[name] for name in self.order])


@pytest.mark.parametrize("order", [["f2", "f0", "f1", "f3"], ["f0", "f3", "f1", "f2"]])
def test_a_plan_does_not_move_the_inputs(order: list[str]) -> None:
    model = _model(EmbeddingsConfig(dim=4, tables={"t1": TableConfig(dim=8)}))
    expected_BK = model(sparse_batch(BAGS))[0]
    model.embeddings = _InPlanOrder(model.embeddings, order)
    logits_BK = model(sparse_batch(BAGS))[0]
    torch.testing.assert_close(logits_BK, expected_BK, rtol=1e-6, atol=1e-7)
    logits_BK.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def _sharded_logits(
    rank: int, world_size: int, configs: list[EmbeddingsConfig], batch: Batch
) -> list[tuple[Tensor, list[str]]]:
    results = []
    for config in configs:
        model = _model(config, device="meta")
        attach_table_optimizer(model, TableOptimizerConfig(kind="sgd"), CPU)
        ranks = Ranks(rank, world_size, world_size, CPU, 1)
        sharded, _ = plan_and_shard(model, config, ranks, len(DENSE_BF), 3, "sgd")
        assert model.embeddings is not None
        order = list(model.embeddings(batch.sparse).keys())
        results.append((sharded(batch)[0].detach(), order))
    return results


def test_two_real_plans_give_the_same_logits() -> None:
    row_wise = EmbeddingsConfig(dim=4, sharding="row_wise")
    mixed = EmbeddingsConfig(dim=4, sharding="table_wise", tables={"t1": TableConfig(sharding="row_wise")})
    ((first, second),) = run_ranks(_sharded_logits, 1, [row_wise, mixed], sparse_batch(BAGS))
    assert (first[1], second[1]) == (["f0", "f3", "f1", "f2"], ["f0", "f3", "f2", "f1"])  # or it would show nothing
    torch.testing.assert_close(first[0], second[0], rtol=1e-6, atol=1e-7)
