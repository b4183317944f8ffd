"""A model from its configuration and its dataset's statistics."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

from data_prep.stats.dense import QUANTILES
from ple_rec.config.model import MmoeConfig
from ple_rec.config.run import DataConfig, EmbeddingsConfig, RunConfig, TrainConfig
from ple_rec.config.schema import DenseFeature, Normaliser, SparseFeature
from ple_rec.errors import DataError
from ple_rec.models.build import build_model, check_dense_values
from ple_rec.models.multitask import MultiTaskModel

CPU, META = torch.device("cpu"), torch.device("meta")
SPARSE = (SparseFeature(name="user", table="users"),)
FULL = {"mean": 2.0, "std": 4.0, "log_mean": 1.0, "log_std": 0.5, "quantiles": [0.0, 1.0, 9.0]}


def _build(
    dense: tuple[DenseFeature, ...] = (),
    statistics: dict[str, Any] | None = None,
    *,
    seed: int = 0,
    tables: Any = CPU,
    sparse: tuple[SparseFeature, ...] = SPARSE,
    pooling: Any = "sum",
) -> MultiTaskModel:
    config = RunConfig(
        name="run",
        seed=seed,
        data=DataConfig(path="dataset"),
        embeddings=EmbeddingsConfig(dim=4, pooling=pooling),
        model=MmoeConfig(variant="mmoe", experts=2, expert_hidden=(3,)),
        train=TrainConfig(batch_size=8, steps=1),
    )
    return build_model(
        config,
        tasks=["a", "b"],
        losses=["cross_entropy", "mse"],
        sparse=sparse,
        dense=dense,
        table_rows={"users": 9},
        statistics={name: {"train": figures} for name, figures in (statistics or {}).items()},
        device=CPU,
        table_device=tables,
    )


def _dense_weights(model: MultiTaskModel) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for part in (model.extraction, model.towers) for p in part.parameters()])


def test_dense_layers_follow_from_the_seed_wherever_the_tables_are() -> None:
    weights = _dense_weights(_build())
    assert torch.equal(weights, _dense_weights(_build()))
    assert torch.equal(weights, _dense_weights(_build(tables=META)))
    assert not torch.equal(weights, _dense_weights(_build(seed=1)))


def test_tables_may_wait_on_the_meta_device() -> None:
    model = _build(tables=META)
    assert {p.device.type for p in model.embeddings.parameters()} == {"meta"}  # type: ignore[union-attr]
    assert {p.device.type for part in (model.extraction, model.towers) for p in part.parameters()} == {"cpu"}


def test_mean_pooling_divides_bags_and_costs_single_values_nothing() -> None:
    bag = SparseFeature(name="friends", table="users", bag=True)
    built = {pooling: _build(sparse=(*SPARSE, bag), pooling=pooling).mean_features for pooling in ("sum", "mean")}
    assert built == {"sum": set(), "mean": {"friends"}}
    assert _build(pooling="mean").mean_features == set()


def test_each_feature_gets_the_figures_of_its_normaliser() -> None:
    kinds: tuple[Normaliser, ...] = ("none", "standard", "log", "quantile")
    dense = tuple(DenseFeature(name=kind, normaliser=kind) for kind in kinds)
    x_BF = torch.tensor([[6.0, 6.0, 6.0, 1.0]])
    statistics: dict[str, Any] = {str(kind): FULL for kind in kinds if kind != "none"}
    values = _build(dense, statistics).normalise(x_BF)[0].tolist()
    assert values == pytest.approx([6.0, 1.0, (torch.tensor(7.0).log().item() - 1) / 0.5, 0.0], abs=1e-6)


@pytest.mark.parametrize(
    ("normaliser", "statistics", "missing"),
    [
        ("standard", {}, "columns.age.train.mean, columns.age.train.std"),
        ("standard", {"age": {"mean": 1.0}}, "columns.age.train.std"),
        ("log", {"age": {"log_std": 1.0, "mean": 1.0, "std": 1.0}}, "columns.age.train.log_mean"),
        ("quantile", {"age": {"mean": 1.0, "std": 1.0}}, "columns.age.train.quantiles"),
    ],
)
def test_missing_statistics_are_named(normaliser: Any, statistics: dict[str, Any], missing: str) -> None:
    message = (
        f"stats.json: no {missing}; normaliser '{normaliser}' of dense feature 'age' needs it. "
        "Fix: add the statistic of the training split to stats.json, or prepare the dataset again"
    )
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        _build((DenseFeature(name="age", normaliser=normaliser),), statistics)


@pytest.mark.parametrize("normaliser", ["standard", "log", "quantile"])
def test_a_feature_without_any_value_needs_statistics_from_elsewhere(normaliser: Any) -> None:
    dense, without = (DenseFeature(name="age", normaliser=normaliser),), dict.fromkeys(FULL)
    message = (
        "stats.json: dense feature 'age' has no value in the training split; "
        f"its normaliser '{normaliser}' needs at least one value. Fix: add \"age\" to data.drop"
    )
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        check_dense_values(dense, {"age": {"train": without}})
    check_dense_values(dense, {"age": {"train": FULL}})
    model, other = _build(dense, {"age": without}), _build(dense, {"age": FULL | {"quantiles": [*range(QUANTILES)]}})
    model.load_state_dict(other.state_dict())
    x_BF = torch.tensor([[3.0]])
    assert torch.equal(model.normalise(x_BF), other.normalise(x_BF))
