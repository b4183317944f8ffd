"""Inputs of the planner of embedding tables, and the tables of a model that is to be planned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn
from torchrec.modules.embedding_configs import BaseEmbeddingConfig, DataType, EmbeddingConfig
from torchrec.modules.embedding_modules import EmbeddingBagCollection, EmbeddingCollection

from ple_rec.config.cluster import Cluster
from ple_rec.config.plan_table import Dtype, TableOptimizer
from ple_rec.config.run import EmbeddingsConfig


@dataclass(frozen=True)
class PlanningInputs:
    """All inputs of the planner but the model.

    Args:
        embeddings: Section `embeddings` of the configuration, which may constrain the layouts of the tables.
        optimizer: Optimizer of the tables.
        cluster: Cluster for which the plan is made: its hosts, ranks and memory.
        batch_size_per_rank: Number of samples that a rank trains on in one step, B.
        ids_per_sample: Mean number of ids in a sample, by feature name; it is 1 for a feature that is not listed.
        frozen_bytes: Bytes of the frozen tables of vectors, which each rank reads into host memory.
    """

    embeddings: EmbeddingsConfig
    optimizer: TableOptimizer
    cluster: Cluster
    batch_size_per_rank: int
    ids_per_sample: Mapping[str, float]
    frozen_bytes: int = 0

    def mean_ids(self, table: BaseEmbeddingConfig) -> tuple[float, ...]:
        """Return the mean number of ids in a sample for each feature that reads the table.

        A number in the configuration of the table takes precedence over `ids_per_sample`.
        """
        table_config = self.embeddings.tables.get(table.name)
        configured = table_config.ids_per_sample if table_config is not None else None
        return tuple(configured or self.ids_per_sample.get(name, 1.0) or 1.0 for name in table.feature_names)


def embedding_collections(module: nn.Module) -> dict[str, EmbeddingBagCollection | EmbeddingCollection]:
    """Return the unsharded embedding collections in `module`, of pooled and of unpooled tables, by dotted name."""
    kinds = (EmbeddingBagCollection, EmbeddingCollection)
    return {name: m for name, m in module.named_modules() if isinstance(m, kinds)}


def collection_tables(collection: EmbeddingBagCollection | EmbeddingCollection) -> list[BaseEmbeddingConfig]:
    """Return the configurations of the tables of a collection."""
    bags = isinstance(collection, EmbeddingBagCollection)
    return [*(collection.embedding_bag_configs() if bags else collection.embedding_configs())]


def all_tables(module: nn.Module) -> list[BaseEmbeddingConfig]:
    """Return the configurations of the tables of all unsharded embedding collections in `module`."""
    return [table for collection in embedding_collections(module).values() for table in collection_tables(collection)]


def is_unpooled(table: BaseEmbeddingConfig) -> bool:
    """Return True for a table of an `EmbeddingCollection`, which returns the row of each id."""
    return isinstance(table, EmbeddingConfig)


def dtype_of(table: BaseEmbeddingConfig) -> Dtype:
    """Return the type of a table's values."""
    return "fp16" if table.data_type == DataType.FP16 else "fp32"
