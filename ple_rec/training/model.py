"""Build the model of a run from its configuration, or compute sizes of that model without building it.

A model consists of embedding tables and dense layers. The dense layers are levels of experts and one tower for each
task. An expert is a small network. On the first level, it reads the input of the dense layers: the pooled embeddings,
the dense features, the projected vectors and the attended histories. On the other levels, it reads an output of the
level before. A `Routing` describes one level: its experts, their layer sizes, and what they read; a function of
`VARIANTS` returns the routings of all levels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torchrec.modules.embedding_configs import BaseEmbeddingConfig

from ple_rec.config.choices import UsedPrecision
from ple_rec.config.model import HISTORY_HIDDEN, VECTOR_DIM
from ple_rec.config.run import RunConfig
from ple_rec.data.columns import Selection
from ple_rec.distributed.planner import ModelSizes
from ple_rec.models.build import build_model
from ple_rec.models.embeddings import table_configs, unpooled_tables
from ple_rec.models.multitask import MultiTaskModel
from ple_rec.models.variants import VARIANTS
from ple_rec.training.checks import chosen_tasks, loss_names


def build_unsharded_model(
    config: RunConfig,
    selection: Selection,
    statistics: Mapping[str, Any],
    device: torch.device,
    precision: UsedPrecision | None = None,
) -> MultiTaskModel:
    """Build the unsharded model of a run, with its tables on the meta device, where they need no memory.

    Args:
        config: Configuration of the run.
        selection: Features and tasks that the run reads.
        statistics: Statistics of each column in `stats.json`, by name.
        device: Device of the dense layers.
        precision: Precision of the matrix products; None for `train.precision`, in which "auto" means fp32.

    Raises:
        UserError: A loss does not suit the kind of its task, a task has a reserved name, or `embeddings.tables` names
            an unknown table.
        DataError: The statistics of a dense feature are missing.
    """
    tasks = chosen_tasks(config, selection)
    return build_model(
        config,
        tasks=[task.name for task in tasks],
        losses=loss_names(config, selection, tasks),
        sparse=selection.sparse,
        dense=selection.dense,
        vectors=selection.vectors,
        histories=selection.histories,
        table_rows=selection.table_rows,
        statistics=statistics,
        device=device,
        table_device=torch.device("meta"),
        precision=precision,
    )


def first_layer_shape(config: RunConfig, selection: Selection) -> tuple[int, int]:
    """Return the input width and the output width of the first dense layer.

    All experts of the first level read the same input, so their first layers are computed as one layer.

    Args:
        config: Configuration of the run.
        selection: Features and tasks that the run reads.

    Raises:
        UserError: `embeddings.tables` names an unknown table, or a task has a reserved name.
    """
    routing = VARIANTS[config.model.variant](config.model, [task.name for task in chosen_tasks(config, selection)])[0]
    embedded = sum(table.embedding_dim * len(table.feature_names) for table in run_tables(config, selection))
    projected = len(selection.vectors) * (config.model.vector_dim or VECTOR_DIM)
    return embedded + len(selection.dense) + projected, len(routing.experts) * routing.hidden[0]


def model_sizes(config: RunConfig, selection: Selection) -> ModelSizes:
    """Return the sizes that determine the memory of the model: its tables, and a lower bound for its dense weights.

    Args:
        config: Configuration of the run.
        selection: Features and tasks that the run reads.

    Raises:
        UserError: `embeddings.tables` names an unknown table, or a task has a reserved name.
    """
    width, _ = first_layer_shape(config, selection)
    names = [task.name for task in chosen_tasks(config, selection)]
    dense = min_dense_parameters(config, names, width) + _min_attention_parameters(config, selection)
    return ModelSizes(run_tables(config, selection), dense)


def min_dense_parameters(config: RunConfig, tasks: Sequence[str], width: int) -> int:
    """Return a lower bound for the number of weights of the dense layers.

    The bound counts only the weights of experts and towers, which have nearly all weights. It assumes that each tower,
    and each expert after the first level, reads an input as wide as the output of one expert.

    Args:
        config: Configuration of the run.
        tasks: Names of the tasks of the run.
        width: Input width of the first level.

    Raises:
        UserError: A task has a reserved name.
    """
    count = 0
    for routing in VARIANTS[config.model.variant](config.model, tasks):
        count += len(routing.experts) * _count_weights([width, *routing.hidden])
        width = routing.hidden[-1]
    return count + len(tasks) * _count_weights([width, *config.model.tower.hidden, 1])


def _min_attention_parameters(config: RunConfig, selection: Selection) -> int:
    """Return the number of weights, without biases, of the attention over the run's histories."""
    if config.model.history != "din":
        return 0
    dims, count = {table.name: table.embedding_dim for table in run_tables(config, selection)}, 0
    for history in selection.histories:
        *item_dims, age_dim = (dims[column.table] for column in history.columns())
        count += _count_weights([3 * sum(item_dims) + age_dim, *(config.model.history_hidden or HISTORY_HIDDEN), 1])
    return count


def _count_weights(sizes: Sequence[int]) -> int:
    """Return the number of weights, without biases, of a stack of linear layers.

    Args:
        sizes: Width of the input, and of the output of each layer.
    """
    return sum(inputs * outputs for inputs, outputs in pairwise(sizes))


def run_tables(config: RunConfig, selection: Selection) -> Sequence[BaseEmbeddingConfig]:
    """Return the configuration of each embedding table that a run reads.

    Args:
        config: Configuration of the run.
        selection: Features that the run reads.

    Raises:
        UserError: `embeddings.tables` names an unknown table.
    """
    unpooled = unpooled_tables(config.model, selection.histories)
    return table_configs(config.embeddings, selection.sparse, selection.table_rows, initialise=False, unpooled=unpooled)
