"""What a run asks of a rank for each sample, in ids, values and FLOPs: the roofline before any hardware."""

from __future__ import annotations

from dataclasses import dataclass

from ple_rec.config.cluster import Cluster
from ple_rec.config.plan_table import TableOptimizer
from ple_rec.config.run import EmbeddingsConfig, ExchangePrecision, RunConfig
from ple_rec.models.multitask import MultiTaskModel
from ple_rec.modules.experts import Mlp
from ple_rec.modules.extraction import ExtractionLevel
from ple_rec.planning.estimate import Work
from ple_rec.planning.plan_input import Described, meta_model, work_of
from ple_rec.training.checks import select


@dataclass(frozen=True)
class Bag:
    """A sparse feature.

    Args:
        ids: Mean number of a sample.
        dim: Values of a row.
        rows: Of its table.
    """

    ids: float
    dim: int
    rows: int


@dataclass(frozen=True)
class Workload:
    """What one sample asks for.

    Args:
        bags: Its sparse features.
        embeddings: Type of the rows and of what is exchanged.
        dense_features: Their number.
        tasks: K.
        grouped: Whether a batch has a group column (for GAUC).
        values: That stand between the matrix products of the dense layers; see `values_per_sample`.
        work: FLOPs and parameters of the dense layers.
        table_optimizer: Of the tables.
        dense_optimizer: Of the dense layers.
    """

    bags: tuple[Bag, ...]
    embeddings: EmbeddingsConfig
    dense_features: int
    tasks: int
    grouped: bool
    values: int
    work: Work
    table_optimizer: TableOptimizer
    dense_optimizer: str

    @property
    def exchanged(self) -> tuple[ExchangePrecision, ExchangePrecision]:
        """Precision of the pooled rows and of their gradients between ranks."""
        return self.embeddings.qcomms.forward_precision, self.embeddings.qcomms.backward_precision


def workload_of(config: RunConfig, described: Described, cluster: Cluster) -> Workload:
    """The workload of a run on GPUs.

    Args:
        config: The run.
        described: Its dataset.
        cluster: Of GPUs.

    Raises:
        UserError: configuration and dataset do not fit each other.
    """
    model, selection = meta_model(config, described, cuda=True), select(config, described)
    tables = [] if model.embeddings is None else model.embeddings.embedding_bag_configs()

    def ids(table: str, feature: str) -> float:
        own = config.embeddings.tables.get(table)
        return (own.ids_per_sample if own is not None else None) or described.ids_per_sample.get(feature, 1.0)

    return Workload(
        bags=tuple(
            Bag(ids(table.name, feature), table.embedding_dim, table.num_embeddings)
            for table in tables
            for feature in table.feature_names
        ),
        embeddings=config.embeddings,
        dense_features=len(selection.dense),
        tasks=len(model.tasks),
        grouped=selection.group is not None,
        values=values_per_sample(model),
        work=work_of(config, described, model, cluster),
        table_optimizer=config.table_optimizer.kind,
        dense_optimizer=config.dense_optimizer.kind,
    )


def values_per_sample(model: MultiTaskModel) -> int:
    """V, the values of a sample that one matrix product writes and another reads.

    V = D + sum over levels (E sum(hidden) + sum_o H_o + edges) + sum over towers (sum(hidden) + 1)

    D inputs; E experts with all their layers; outputs of width H_o; edges: weights A_oe that a gate makes.
    """
    total: int = sum(model.columns.values()) + model.normalise.mean_F.numel()
    for level in model.extraction.levels:
        assert isinstance(level, ExtractionLevel)
        routing = level.routing
        edges = sum(sum(row) for row in routing.edges_OE) if routing.mixing == "softmax" else 0
        total += len(routing.experts) * sum(routing.hidden) + sum(level.mixing.widths) + edges
    for tower in model.towers:
        assert isinstance(tower, Mlp)
        total += sum(tower.sizes[1:])
    return total
