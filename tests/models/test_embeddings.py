"""Tables: their configurations, and bags against sums by hand on an unsharded collection."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import Tensor
from torchrec.modules.embedding_configs import DataType, PoolingType

from ple_rec.config.run import EmbeddingsConfig, TableConfig
from ple_rec.config.schema import SparseFeature
from ple_rec.errors import UserError
from ple_rec.models.embeddings import embedding_collection, mean_pooled_features, table_configs
from tests.models.samples import sparse_batch

CPU = torch.device("cpu")
FEATURES = (
    SparseFeature(name="user", table="users"),
    SparseFeature(name="liked", table="videos", bag=True, weights="liked_seconds"),
    SparseFeature(name="video", table="videos"),
)
ROWS = {"users": 5, "videos": 7, "unread": 3}


def _pooled(config: EmbeddingsConfig, bags: dict[str, Any], weights: dict[str, Any] | None) -> tuple[Any, Any]:
    features = [f if weights else f.model_copy(update={"weights": None}) for f in FEATURES]
    collection = embedding_collection(config, features, ROWS, CPU)
    assert collection is not None
    return collection, collection(sparse_batch(bags, weights).sparse)


def _table(collection: Any, name: str) -> Tensor:
    table: Tensor = collection.embedding_bags[name].weight.detach()
    return table


def test_a_table_has_the_features_that_read_it_and_its_own_settings() -> None:
    config = EmbeddingsConfig(dim=8, dtype="fp16", tables={"videos": TableConfig(dim=12, pooling="mean")})
    users, videos = table_configs(config, FEATURES, ROWS)
    assert (users.name, users.num_embeddings, users.embedding_dim) == ("users", 5, 8)
    assert (users.feature_names, users.pooling, users.data_type) == (["user"], PoolingType.SUM, DataType.FP16)
    assert (videos.name, videos.num_embeddings, videos.embedding_dim) == ("videos", 7, 12)
    assert (videos.feature_names, videos.pooling) == (["liked", "video"], PoolingType.SUM)


@pytest.mark.parametrize(
    ("features", "known"),
    [(FEATURES, "known: users, videos"), ((), "there are none")],
)
def test_an_unknown_table_is_refused(features: tuple[SparseFeature, ...], known: str) -> None:
    tables = {"vidoes": TableConfig(dim=8), "unread": TableConfig(), "users": TableConfig()}
    config = EmbeddingsConfig(tables=tables if features else {"vidoes": TableConfig()})
    message = (
        f"embeddings.tables: no feature of this run reads table {'unread, vidoes' if features else 'vidoes'}; "
        f"it names tables that the run reads; {known}. Fix: correct or remove the entry"
    )
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        table_configs(config, features, ROWS)


def test_without_sparse_features_there_is_no_collection() -> None:
    assert embedding_collection(EmbeddingsConfig(), (), ROWS, CPU) is None


def test_weighted_bags_are_weighted_sums() -> None:
    bags = {"user": [[1], [4]], "liked": [[3, 6, 3], []], "video": [[6], [0]]}
    collection, pooled = _pooled(EmbeddingsConfig(dim=4), bags, {"liked": [[0.5, 2.0, -1.0], []]})
    users, videos = _table(collection, "users"), _table(collection, "videos")
    torch.testing.assert_close(pooled["user"], users[[1, 4]])
    torch.testing.assert_close(pooled["video"], videos[[6, 0]])
    torch.testing.assert_close(pooled["liked"], torch.stack([2 * videos[6] - 0.5 * videos[3], torch.zeros(4)]))


def test_two_features_of_one_table_train_the_same_rows() -> None:
    bags = {"user": [[1]], "liked": [[3, 6]], "video": [[6]]}
    collection, pooled = _pooled(EmbeddingsConfig(dim=4), bags, None)
    (pooled["liked"].sum() + 10 * pooled["video"].sum()).backward()
    gradient = collection.embedding_bags["videos"].weight.grad
    assert gradient.sum(1).tolist() == [0, 0, 0, 4 * 1.0, 0, 0, 4 * 11.0]


@pytest.mark.parametrize(
    ("pooling", "own", "expected"),
    [
        ("sum", {}, ()),
        ("mean", {}, ("liked", "seen")),
        ("sum", {"videos": TableConfig(pooling="mean")}, ("liked",)),
        ("mean", {"videos": TableConfig(pooling="sum"), "users": TableConfig(dim=8)}, ("seen",)),
    ],
)
def test_only_bags_of_tables_that_pool_by_mean_are_divided(pooling: Any, own: Any, expected: tuple[str, ...]) -> None:
    features = (*FEATURES, SparseFeature(name="seen", table="users", bag=True))
    assert mean_pooled_features(EmbeddingsConfig(pooling=pooling, tables=own), features) == expected


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_dims_are_per_table_and_every_table_sums(dtype: Any) -> None:
    config = EmbeddingsConfig(dim=4, dtype=dtype, tables={"videos": TableConfig(dim=8, pooling="mean")})
    bags = {"user": [[1, 2], [4]], "liked": [[3, 6, 3], []], "video": [[6], [0]]}
    collection, pooled = _pooled(config, bags, None)
    stored = {table.dtype for table in collection.parameters()}
    assert stored == {torch.float16 if dtype == "fp16" else torch.float32}
    users, videos = _table(collection, "users").float(), _table(collection, "videos").float()
    close: dict[str, Any] = {"rtol": 2e-3, "atol": 1e-3} if dtype == "fp16" else {"rtol": 1e-6, "atol": 1e-7}
    torch.testing.assert_close(pooled["user"][0].float(), users[1] + users[2], **close)
    torch.testing.assert_close(pooled["liked"][0].float(), 2 * videos[3] + videos[6], **close)
    assert not pooled["liked"][1].any()
    assert pooled.values().shape == (2, 4 + 8 + 8)
