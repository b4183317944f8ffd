"""A run's model from what it reads of a dataset."""

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
from ple_rec.training.checks import chosen_tasks, losses_of


def model_of(
    config: RunConfig,
    selection: Selection,
    statistics: Mapping[str, Any],
    device: torch.device,
    precision: UsedPrecision | None = None,
) -> MultiTaskModel:
    """The unsharded model, its tables on the meta device.

    Args:
        config: The run.
        selection: What it reads.
        statistics: Of the dense features, as `stats.json` has them.
        device: Of the dense layers.
        precision: Of the matrix products; None: as configured, fp32 for `auto`.

    Raises:
        UserError: a loss that is not for its task, or an unknown table in `embeddings.tables`.
        DataError: statistics of a dense feature are missing.
    """
    tasks = chosen_tasks(config, selection)
    return build_model(
        config,
        tasks=[task.name for task in tasks],
        losses=losses_of(config, selection, tasks),
        sparse=selection.sparse,
        dense=selection.dense,
        table_rows=selection.table_rows,
        statistics=statistics,
        device=device,
        table_device=torch.device("meta"),
        precision=precision,
    )


def first_layer(config: RunConfig, selection: Selection) -> tuple[int, int]:
    """Return the width of x, and the width of the first layers of all experts side by side.

    Args:
        config: Configuration of the run.
        selection: Features and tasks that the run reads.

    Raises:
        UserError: `embeddings.tables` names an unknown table.
    """
    routing = VARIANTS[config.model.variant](config.model, [task.name for task in chosen_tasks(config, selection)])[0]
    embedded = sum(table.embedding_dim * len(table.feature_names) for table in _tables(config, selection))
    return embedded + len(selection.dense), len(routing.experts) * routing.hidden[0]


def sizes_of(config: RunConfig, selection: Selection) -> ModelSizes:
    """Return what the model takes of memory, without building it.

    Args:
        config: Configuration of the run.
        selection: Features and tasks that the run reads.

    Raises:
        UserError: `embeddings.tables` names an unknown table.
    """
    width, _ = first_layer(config, selection)
    names = [task.name for task in chosen_tasks(config, selection)]
    return ModelSizes(_tables(config, selection), least_dense_parameters(config, names, width))


def least_dense_parameters(config: RunConfig, tasks: Sequence[str], width: int) -> int:
    """Return how many weights the dense layers have at least, without building them.

    The weights of experts and towers are counted, which are nearly all of them. A tower reads the output of one expert
    at least.

    Args:
        config: Configuration of the run.
        tasks: Names of its tasks.
        width: Width of x.
    """
    count = 0
    for routing in VARIANTS[config.model.variant](config.model, tasks):
        count += len(routing.experts) * _weights([width, *routing.hidden])
        width = routing.hidden[-1]
    return count + len(tasks) * _weights([width, *config.model.tower.hidden, 1])


def _weights(sizes: Sequence[int]) -> int:
    """Return the number of weights of the layers between these sizes."""
    return sum(inputs * outputs for inputs, outputs in pairwise(sizes))


def _tables(config: RunConfig, selection: Selection) -> list[EmbeddingBagConfig]:
    return table_configs(config.embeddings, selection.sparse, selection.table_rows, filled=False)
