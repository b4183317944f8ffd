"""Embedding tables of a dataset as TorchRec's EmbeddingBagCollection, with sum or mean pooling, or EmbeddingCollection.

    sum       x = sum_i w_i r_i                        r_i the rows of the bag, w_i their weights (1 without weights)
    mean      x = sum_i w_i r_i / sum_i w_i            without weights: sum_i r_i / n

A bag is the list of ids of one feature of one sample. A mean is 0 if sum_i w_i = 0, for example for an empty bag.
TorchRec gets every table with sum pooling, and the model divides the sums itself. In TorchRec's own mean pooling,
the place of the division depends on how a table is sharded, so a plan with several kinds of sharding would divide
twice.

Attention over histories (`model.history = "din"`) needs each row of a list, not their sum. The tables that a history
reads are in an EmbeddingCollection then, which does not pool, and all features that read these tables are looked up
there. These tables are called unpooled; `sequence_collection` makes their collection, which is `sequences` of the model
and in the keys of its state. Some features that read them are no columns of histories. The collection returns the rows
of these features one by one, too, and `MultiTaskModel` sums them by `sum_rows`.

Shape suffixes: B batch (with padding), F features in the order of the batch's keys, D pooled columns of all features
(in `shard_RD`, of a table), R rows of a shard of a table, H columns of one feature, V ids of one feature in all
samples, 1 a single column.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torchrec.modules.embedding_configs import DataType, EmbeddingBagConfig, EmbeddingConfig, PoolingType
from torchrec.modules.embedding_modules import EmbeddingBagCollection, EmbeddingCollection
from torchrec.sparse.jagged_tensor import JaggedTensor, KeyedJaggedTensor

from ple_rec.config.model import ModelConfig
from ple_rec.config.run import EmbeddingsConfig, Pooling
from ple_rec.config.schema import HistoryFeature, SparseFeature
from ple_rec.config.words import suggestion
from ple_rec.errors import UserError


def bag_totals(sparse: KeyedJaggedTensor) -> Tensor:
    """Return sum_i w_i of each bag, in fp32, or the number of its ids if there are no weights.

    Args:
        sparse: Ids of this rank's samples, with weights if there are any.

    Returns:
        totals_FB, without a gradient and with 0 for padding rows.
    """
    weights = sparse.weights_or_none()
    if weights is None:
        totals: Tensor = sparse.lengths().float()
    else:
        # `sparse[feature]` would wait for the device, to know how many ids a feature has.
        totals = torch.segment_reduce(weights.detach().float(), "sum", offsets=sparse.offsets(), unsafe=True)
    return totals.view(len(sparse.keys()), sparse.stride())


class ColumnOrder:
    """Permutation of the columns of pooled rows from the order of a sharding plan into that of the model's features.

    `KeyedTensor.regroup` computes the same, but it builds its index tensors and copies them to the device at each call.

    Args:
        current: Names of the features in the order of a plan.
        widths: Number of columns of each feature, by name, in the order of the model.
        device: Device of the pooled rows.
    """

    def __init__(self, current: Sequence[str], widths: Mapping[str, int], device: torch.device) -> None:
        self.current = list(current)
        names = list(widths)

        def index(numbers: Iterable[int]) -> Tensor:
            return torch.tensor(list(numbers), dtype=torch.int64, device=device)

        self._arguments = (
            index(accumulate((widths[name] for name in current), initial=0)),
            index(self.current.index(name) for name in names),
            index(accumulate(widths.values(), initial=0)),
            index(names.index(name) for name in current),
        )

    def permute(self, pooled_BD: Tensor) -> Tensor:
        """Return the columns in the order of the model's features."""
        permuted_BD: Tensor = torch.ops.fbgemm.permute_pooled_embs_auto_grad(pooled_BD, *self._arguments)
        return permuted_BD


def divide_bags(
    summed_BD: Tensor, widths: Mapping[str, int], sparse: KeyedJaggedTensor, mean_features: Collection[str]
) -> Tensor:
    """Replace the sums of some features by means.

    Args:
        summed_BD: Sums sum_i w_i r_i of all features side by side.
        widths: Number of columns of each feature, by name, in the order of `summed_BD`.
        sparse: Ids of this rank's samples, whose rows were summed, with weights if there are any.
        mean_features: Names of the features that are averaged.

    Returns:
        x_BD. If the divisor of a bag is 0, the bag's columns of x, and their gradient, are 0.
    """
    if not mean_features:
        return summed_BD
    totals = dict(zip(sparse.keys(), bag_totals(sparse), strict=True))
    blocks = zip(widths, summed_BD.split(list(widths.values()), dim=1), strict=True)
    return torch.cat(
        [quotient(block, totals[name][:, None]) if name in mean_features else block for name, block in blocks], dim=1
    )


def quotient(summed_BH: Tensor, total_B1: Tensor) -> Tensor:
    """Return the mean of each bag from its sum and its total weight; 0 if the total is 0."""
    is_zero_B1 = total_B1 == 0
    return (summed_BH / total_B1.masked_fill(is_zero_B1, 1)).masked_fill(is_zero_B1, 0)


_DTYPE = {"fp32": DataType.FP32, "fp16": DataType.FP16}


def table_configs(
    config: EmbeddingsConfig,
    features: Sequence[SparseFeature],
    rows: dict[str, int],
    *,
    initialise: bool = True,
    unpooled: Collection[str] = (),
) -> list[EmbeddingBagConfig | EmbeddingConfig]:
    """Return TorchRec's configuration of each table that a feature reads, in the order of the features.

    Every table pools by sum, except those that are not pooled; `divide_bags` turns the sums into means if the table is
    to pool by mean.

    Args:
        config: Type of all tables, and their dimension and pooling, with exceptions for single tables.
        features: Features that the model reads.
        rows: Number of rows of every table of the dataset, by name.
        initialise: True if TorchRec draws the initial rows, False if `ple_rec.distributed` writes them after sharding.
        unpooled: Names of the tables that are not pooled, from `unpooled_tables`; they get an `EmbeddingConfig`.

    Raises:
        UserError: `embeddings.tables` names a table that no feature reads.
    """
    names = list(dict.fromkeys(feature.table for feature in features))
    if unknown := sorted(set(config.tables) - set(names)):
        raise UserError(
            "embeddings.tables",
            f"no feature of this run reads table {', '.join(unknown)}",
            f"it names tables that the run reads; {suggestion(unknown[0], names) if names else 'there are none'}",
            "correct or remove the entry",
        )
    tables: list[EmbeddingBagConfig | EmbeddingConfig] = []
    for name in names:
        table_config = config.tables.get(name)
        dim = table_config.dim if table_config is not None and table_config.dim is not None else config.dim
        keys: dict[str, Any] = {
            "name": name,
            "num_embeddings": rows[name],
            "embedding_dim": dim,
            "feature_names": [feature.name for feature in features if feature.table == name],
            "data_type": _DTYPE[config.dtype],
            "init_fn": None if initialise else _leave_rows,
        }
        tables.append(
            EmbeddingConfig(**keys) if name in unpooled else EmbeddingBagConfig(pooling=PoolingType.SUM, **keys)
        )
    return tables


def weight_key(table: str, *, unpooled: bool) -> str:
    """Return the key of a table's rows in the state of a model.

    Args:
        table: Name of the table.
        unpooled: True if the table is not pooled, see `unpooled_tables`.
    """
    return f"sequences.embeddings.{table}.weight" if unpooled else f"embeddings.embedding_bags.{table}.weight"


def _leave_rows(shard_RD: torch.Tensor) -> torch.Tensor:
    """Leave the rows of a shard as they are, since `ple_rec.distributed` writes them after sharding."""
    return shard_RD


def mean_pooled_features(
    config: EmbeddingsConfig, features: Sequence[SparseFeature], histories: Sequence[HistoryFeature] = ()
) -> tuple[str, ...]:
    """Return the names of the features that are averaged: bags of tables that pool by mean, and columns of histories.

    A feature with a single id per sample needs no division. A history is averaged whatever its tables pool by, since
    the sum would depend on the number of its events.

    Args:
        config: Pooling of all tables, with exceptions for single tables.
        features: Sparse features that the model reads, and the columns of its histories.
        histories: Histories that the model reads.
    """
    columns = {column.name for history in histories for column in history.columns()}

    def pooling(table: str) -> Pooling:
        table_config = config.tables.get(table)
        return table_config.pooling if table_config is not None and table_config.pooling is not None else config.pooling

    return tuple(
        feature.name
        for feature in features
        if feature.bag and (feature.name in columns or pooling(feature.table) == "mean")
    )


def unpooled_tables(config: ModelConfig, histories: Sequence[HistoryFeature]) -> frozenset[str]:
    """Return the names of the tables that are not pooled: those that a history reads, if the model has attention.

    Args:
        config: Configuration of the model.
        histories: Histories that the model reads.
    """
    if config.history != "din":
        return frozenset()
    return frozenset(column.table for history in histories for column in history.columns())


def embedding_collection(
    config: EmbeddingsConfig,
    features: Sequence[SparseFeature],
    rows: dict[str, int],
    device: torch.device,
    unpooled: Collection[str] = (),
) -> EmbeddingBagCollection | None:
    """Return the pooled tables on `device` ("meta" if they are to be sharded), or None if there are none.

    Args:
        config: Configuration of the tables.
        features: Sparse features of the model, and columns of its histories.
        rows: Number of rows of every table of the dataset, by name.
        device: Device of the tables.
        unpooled: Names of the tables of `sequence_collection`, which this collection does not have.
    """
    tables = table_configs(config, features, rows, initialise=device.type != "meta", unpooled=unpooled)
    pooled = [table for table in tables if isinstance(table, EmbeddingBagConfig)]
    # `DistributedModelParallel` fails on a collection without tables.
    if not pooled:
        return None
    is_weighted = any(feature.weights for feature in features if feature.table not in unpooled)
    return EmbeddingBagCollection(tables=pooled, is_weighted=is_weighted, device=device)


def sequence_collection(
    config: EmbeddingsConfig,
    features: Sequence[SparseFeature],
    rows: dict[str, int],
    device: torch.device,
    unpooled: Collection[str],
) -> EmbeddingCollection | None:
    """Return the tables whose rows are not pooled on `device`, or None if there are none.

    Args:
        config: Configuration of the tables.
        features: Sparse features of the model, and columns of its histories.
        rows: Number of rows of every table of the dataset, by name.
        device: Device of the tables, "meta" if they are to be sharded.
        unpooled: Names of the tables, from `unpooled_tables`.

    Raises:
        UserError: The tables have different dimensions.
    """
    configs = table_configs(config, features, rows, initialise=device.type != "meta", unpooled=unpooled)
    tables = [table for table in configs if isinstance(table, EmbeddingConfig)]
    for table in tables:
        # TorchRec's EmbeddingCollection has one dimension.
        if table.embedding_dim != tables[0].embedding_dim:
            raise UserError(
                f"embeddings.tables.{table.name}.dim",
                f"got {table.embedding_dim}, while table {tables[0].name} has {tables[0].embedding_dim}",
                'with model.history = "din", all tables that a history reads have one dimension',
                f"give {', '.join(each.name for each in tables)} the same dim",
            )
    return EmbeddingCollection(tables=tables, device=device) if tables else None


def single_rows(rows: JaggedTensor) -> Tensor:
    """Return the row of each sample (B, H) of a single-valued feature; 0 for a sample without an id."""
    row_B1H: Tensor = torch.ops.fbgemm.jagged_to_padded_dense(rows.values(), [rows.offsets()], [1])
    return row_B1H.squeeze(1)


def sum_rows(rows: JaggedTensor, ids: JaggedTensor) -> Tensor:
    """Return the sum of each sample's rows (B, H); 0 for a sample without ids.

    Args:
        rows: Rows of the table, in the order of the ids.
        ids: Ids of the feature, with weights if there are any, by which the rows are multiplied.
    """
    values_VH = rows.values()
    numbers_V = torch.arange(len(values_VH), device=values_VH.device)
    return F.embedding_bag(
        numbers_V,
        values_VH,
        rows.offsets(),
        mode="sum",
        per_sample_weights=ids.weights_or_none(),
        include_last_offset=True,
    )
