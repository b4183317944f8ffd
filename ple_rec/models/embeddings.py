"""Embedding tables of a dataset, as TorchRec's EmbeddingBagCollection, and their initialisation.

Shape suffixes: R rows of a (shard of a) table, D columns.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torchrec.modules.embedding_configs import DataType, EmbeddingBagConfig, PoolingType
from torchrec.modules.embedding_modules import EmbeddingBagCollection

from ple_rec.config.run import EmbeddingsConfig, Pooling
from ple_rec.config.schema import SparseFeature
from ple_rec.config.words import suggestion
from ple_rec.errors import UserError

_DTYPE = {"fp32": DataType.FP32, "fp16": DataType.FP16}


def table_configs(
    config: EmbeddingsConfig, features: Sequence[SparseFeature], rows: dict[str, int], *, filled: bool = True
) -> list[EmbeddingBagConfig]:
    """One TorchRec configuration per table that a feature reads, in the order in which features name them.

    Every table sums; `ple_rec.models.pooling` divides the bags of those that pool by mean.

    Args:
        config: Dims, types, exceptions.
        features: That are read.
        rows: Of every table of the dataset.
        filled: Whether TorchRec draws initial rows; not where `ple_rec.distributed` writes every row of every shard.

    Raises:
        UserError: `embeddings.tables` names a table that no feature reads.
    """
    names = list(dict.fromkeys(feature.table for feature in features))
    if unknown := sorted(set(config.tables) - set(names)):
        raise UserError(
            "embeddings.tables",
            f"no feature of this run reads table {', '.join(unknown)}",
            f"it names tables of the dataset; {suggestion(unknown[0], names) if names else 'there are none'}",
            "correct or remove the entry",
        )
    tables = []
    for name in names:
        own = config.tables.get(name)
        dim = own.dim if own is not None and own.dim is not None else config.dim
        tables.append(
            EmbeddingBagConfig(
                name=name,
                num_embeddings=rows[name],
                embedding_dim=dim,
                feature_names=[feature.name for feature in features if feature.table == name],
                pooling=PoolingType.SUM,
                data_type=_DTYPE[config.dtype],
                init_fn=None if filled else _leave,
            )
        )
    return tables


def _leave(shard_RD: torch.Tensor) -> torch.Tensor:
    """Initialise nothing: the rows are written once, when they have a place."""
    return shard_RD


def mean_bags(config: EmbeddingsConfig, features: Sequence[SparseFeature]) -> tuple[str, ...]:
    """The features whose sum is divided: bags of tables that pool by mean. One value is its own mean."""

    def pooling(table: str) -> Pooling:
        own = config.tables.get(table)
        return own.pooling if own is not None and own.pooling is not None else config.pooling

    return tuple(feature.name for feature in features if feature.bag and pooling(feature.table) == "mean")


def embedding_collection(
    config: EmbeddingsConfig, features: Sequence[SparseFeature], rows: dict[str, int], device: torch.device
) -> EmbeddingBagCollection | None:
    """The collection on `device` ("meta" for sharding), or None where there is no sparse feature."""
    if not features:
        return None  # TorchRec builds an empty collection under its model wrapper, and then fails
    tables = table_configs(config, features, rows, filled=device.type != "meta")
    return EmbeddingBagCollection(tables=tables, is_weighted=any(f.weights for f in features), device=device)
