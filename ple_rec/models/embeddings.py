"""Embedding tables of a dataset as TorchRec's EmbeddingBagCollection: initialisation, and sum or mean pooling.

    sum       x = sum_i w_i r_i                        r_i the rows of the bag, w_i their weights (1 without weights)
    mean      x = sum_i w_i r_i / sum_i w_i            without weights: sum_i r_i / n

A mean is 0 where sum_i w_i = 0, so it is 0 for an empty bag. TorchRec always sums, and the model divides: its own
divisor depends on how a table is sharded, and a plan of several shardings would divide twice.

Shape suffixes: B batch (with padding), F features in the order of the batch's keys, D pooled columns of every feature,
R rows of a table or of its shard, H columns of one feature.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor
from torchrec.modules.embedding_configs import DataType, EmbeddingBagConfig, PoolingType
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from ple_rec.config.run import EmbeddingsConfig, Pooling
from ple_rec.config.schema import SparseFeature
from ple_rec.config.words import suggestion
from ple_rec.errors import UserError


def bag_totals(sparse: KeyedJaggedTensor) -> Tensor:
    """Return sum_i w_i of each bag, in fp32; the number of its ids if there are no weights.

    Args:
        sparse: The ids of this rank's samples.

    Returns:
        totals_FB. A padding row's are 0. No gradient.
    """
    weights = sparse.weights_or_none()
    if weights is None:
        totals: Tensor = sparse.lengths().float()
    else:  # Not sparse[feature]: it asks the device how many ids a feature has.
        totals = torch.segment_reduce(weights.detach().float(), "sum", offsets=sparse.offsets(), unsafe=True)
    return totals.view(len(sparse.keys()), sparse.stride())


def divide_bags(
    summed_BD: Tensor, widths: Mapping[str, int], sparse: KeyedJaggedTensor, mean_bags: Collection[str]
) -> Tensor:
    """Return pooled columns in which the sums of some features are divided into means.

    Args:
        summed_BD: sum_i w_i r_i of every feature side by side.
        widths: Columns of every feature by name, in the order of `summed_BD`, which need not be that of the keys.
        sparse: What was summed, before any rank saw the ids of another.
        mean_bags: The features to divide.

    Returns:
        x_BD. Where a divisor is 0, x and its gradient are 0.
    """
    if not mean_bags:
        return summed_BD
    totals = dict(zip(sparse.keys(), bag_totals(sparse), strict=True))
    blocks = zip(widths, summed_BD.split(list(widths.values()), dim=1), strict=True)
    return torch.cat(
        [quotient(block, totals[name][:, None]) if name in mean_bags else block for name, block in blocks], dim=1
    )


def quotient(summed_BH: Tensor, total_B1: Tensor) -> Tensor:
    """Return the mean of each bag from its sum and its total; 0 where the total is 0."""
    none_B1 = total_B1 == 0
    return (summed_BH / total_B1.masked_fill(none_B1, 1)).masked_fill(none_B1, 0)


_DTYPE = {"fp32": DataType.FP32, "fp16": DataType.FP16}


def table_configs(
    config: EmbeddingsConfig, features: Sequence[SparseFeature], rows: dict[str, int], *, filled: bool = True
) -> list[EmbeddingBagConfig]:
    """One TorchRec configuration per table that a feature reads, in the order in which features name them.

    Every table sums; `ple_rec.models.embeddings` divides the bags of those that pool by mean.

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
