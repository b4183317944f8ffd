"""Build the model of a run from its configuration, or compute sizes of that model without building it.

A model consists of embedding tables and dense layers. The dense layers are levels of experts (small networks that read
the output of the level before) and one tower for each task. A routing describes one level: its experts, and which
inputs they read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torchrec.modules.embedding_configs import EmbeddingBagConfig

from ple_rec.config.choices import UsedPrecision
from ple_rec.config.run import RunConfig
from ple_rec.data.columns import Selection
from ple_rec.distributed.planner import ModelSizes
from ple_rec.models.build import build_model
from ple_rec.models.embeddings import table_configs
from ple_rec.models.multitask import MultiTaskModel
from ple_rec.models.variants import VARIANTS
from ple_rec.training.checks import chosen_tasks, loss_names


def model_of(
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
        statistics: Statistics of the dense features, as in `stats.json`.
        device: Device of the dense layers.
        precision: Precision of the matrix products; None for `train.precision`, in which "auto" means fp32.

    Raises:
        UserError: A loss does not suit the kind of its task, or `embeddings.tables` names an unknown table.
        DataError: The statistics of a dense feature are missing.
    """
    tasks = chosen_tasks(config, selection)
    return build_model(
        config,
        tasks=[task.name for task in tasks],
        losses=loss_names(config, selection, tasks),
        sparse=selection.sparse,
        dense=selection.dense,
        table_rows=selection.table_rows,
        statistics=statistics,
        device=device,
        table_device=torch.device("meta"),
        precision=precision,
    )


def first_layer(config: RunConfig, selection: Selection) -> tuple[int, int]:
    """Return the shape of the weights of the first dense layer.

    These are the input width of the first level, and the summed output width of the first layers of its experts.

    Args:
        config: Configuration of the run.
        selection: Features and tasks that the run reads.

    Raises:
        UserError: The configuration's `embeddings.tables` names an unknown table.
    """
    routing = VARIANTS[config.model.variant](config.model, [task.name for task in chosen_tasks(config, selection)])[0]
    embedded = sum(table.embedding_dim * len(table.feature_names) for table in _tables(config, selection))
    return embedded + len(selection.dense), len(routing.experts) * routing.hidden[0]


def sizes_of(config: RunConfig, selection: Selection) -> ModelSizes:
    """Return the sizes that determine the memory of the model: its tables, and a lower bound for its dense weights.

    Args:
        config: Configuration of the run.
        selection: Features and tasks that the run reads.

    Raises:
        UserError: The configuration's `embeddings.tables` names an unknown table.
    """
    width, _ = first_layer(config, selection)
    names = [task.name for task in chosen_tasks(config, selection)]
    return ModelSizes(_tables(config, selection), least_dense_parameters(config, names, width))


def least_dense_parameters(config: RunConfig, tasks: Sequence[str], width: int) -> int:
    """Return a lower bound for the number of weights of the dense layers.

    The bound counts only the weights of experts and towers, which have nearly all weights. It assumes that each tower,
    and each expert after the first level, reads an input as wide as the output of one expert.

    Args:
        config: Configuration of the run.
        tasks: Names of the tasks of the run.
        width: Input width of the first level.
    """
    count = 0
    for routing in VARIANTS[config.model.variant](config.model, tasks):
        count += len(routing.experts) * _weights([width, *routing.hidden])
        width = routing.hidden[-1]
    return count + len(tasks) * _weights([width, *config.model.tower.hidden, 1])


def _weights(sizes: Sequence[int]) -> int:
    """Return the number of weights, without biases, of a stack of linear layers.

    Args:
        sizes: Width of the input, and of the output of each layer.
    """
    return sum(inputs * outputs for inputs, outputs in pairwise(sizes))


def _tables(config: RunConfig, selection: Selection) -> list[EmbeddingBagConfig]:
    """Return the configuration of each embedding table, without a function that fills it with random values."""
    return table_configs(config.embeddings, selection.sparse, selection.table_rows, initialise=False)
