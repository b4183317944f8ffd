"""Work of one sample, in ids, values and FLOPs, from which `roofline.py` computes the least time of a step."""

from __future__ import annotations

from dataclasses import dataclass

from ple_rec.config.cluster import Cluster
from ple_rec.config.plan_table import TableOptimizer
from ple_rec.config.run import EmbeddingsConfig, ExchangePrecision, RunConfig
from ple_rec.distributed.planning_inputs import all_tables, is_unpooled
from ple_rec.models.multitask import MultiTaskModel
from ple_rec.modules.experts import Mlp
from ple_rec.modules.extraction import ExtractionLevel
from ple_rec.planning.estimate import DenseWork
from ple_rec.planning.plan_input import DatasetDescription, dense_work, meta_model
from ple_rec.training.checks import select_run_columns


@dataclass(frozen=True)
class FeatureLoad:
    """Sizes of a sparse feature and of its embedding table.

    Args:
        ids: Mean number of ids in a sample.
        dim: Number of values in a row of the table.
        rows: Number of rows of the table.
        unpooled: True if the row of each id is returned, as attention over histories needs, and not their sum.
    """

    ids: float
    dim: int
    rows: int
    unpooled: bool = False

    @property
    def values(self) -> float:
        """Mean number of values that a sample gets from the table for the feature."""
        return self.ids * self.dim if self.unpooled else self.dim


@dataclass(frozen=True)
class SampleWork:
    """Work of one sample.

    Args:
        features: Sparse features of the sample.
        embeddings: Configuration of the tables, with the types of their rows and of the exchanges.
        numbers: Number of dense features, and of numbers in the vectors.
        tasks: Number of tasks, K.
        groups: Number of group columns of a batch (for GAUC).
        values: Number of activations between the matrix products of the dense layers; see `values_per_sample`.
        work: FLOPs, parameters and precision of the dense layers.
        table_optimizer: Optimizer of the tables.
        dense_optimizer: Optimizer of the dense layers.
    """

    features: tuple[FeatureLoad, ...]
    embeddings: EmbeddingsConfig
    numbers: int
    tasks: int
    groups: int
    values: int
    work: DenseWork
    table_optimizer: TableOptimizer
    dense_optimizer: str

    @property
    def exchange_precisions(self) -> tuple[ExchangePrecision, ExchangePrecision]:
        """Precision of the rows, and of their gradients, on their way between ranks."""
        return self.embeddings.qcomms.forward_precision, self.embeddings.qcomms.backward_precision


def sample_work(config: RunConfig, described: DatasetDescription, cluster: Cluster) -> SampleWork:
    """Return the work of a sample of a run on GPUs.

    Args:
        config: Configuration of the run.
        described: Dataset of the run.
        cluster: Cluster of GPUs.

    Raises:
        UserError: Configuration and dataset do not fit each other.
    """
    model, selection = meta_model(config, described, cuda=True), select_run_columns(config, described)

    # Mean number of ids of a sample: that of the configuration, or else that of the dataset, or else 1.
    def ids(table: str, feature: str) -> float:
        table_config = config.embeddings.tables.get(table)
        return (table_config.ids_per_sample if table_config is not None else None) or described.ids_per_sample.get(
            feature, 1.0
        )

    return SampleWork(
        features=tuple(
            FeatureLoad(ids(table.name, feature), table.embedding_dim, table.num_embeddings, is_unpooled(table))
            for table in all_tables(model)
            for feature in table.feature_names
        ),
        embeddings=config.embeddings,
        numbers=len(selection.dense) + sum(vector.width for vector in selection.vectors),
        tasks=len(model.tasks),
        groups=sum(name is not None for name in (selection.group, selection.subgroup)),
        values=values_per_sample(model),
        work=dense_work(config, described, model, cluster),
        table_optimizer=config.table_optimizer.kind,
        dense_optimizer=config.dense_optimizer.kind,
    )


def values_per_sample(model: MultiTaskModel) -> int:
    """Return V, the number of values of a sample that one matrix product writes and another reads.

    V = D + sum over levels (E sum(hidden) + sum_o H_o + edges) + sum over towers (sum(hidden) + 1)

    D is the number of inputs. A level has E experts, each with hidden layers of the widths `hidden`, outputs of width
    H_o, and an edge for each weight that a gate computes; a tower ends in one value.
    """
    total: int = model.shared_columns.width
    for level in model.extraction.levels:
        assert isinstance(level, ExtractionLevel)
        routing = level.routing
        edges = sum(sum(row) for row in routing.edges_OE) if routing.mixing == "softmax" else 0
        total += len(routing.experts) * sum(routing.hidden) + sum(level.mixing.widths) + edges
    for tower in model.towers:
        assert isinstance(tower, Mlp)
        total += sum(tower.sizes[1:])
    return total
