"""A run's model from what it reads of a dataset."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ple_rec.config.run import RunConfig
from ple_rec.data.columns import Selection
from ple_rec.models.build import build_model
from ple_rec.models.multitask import MultiTaskModel
from ple_rec.train.checks import chosen_tasks, losses_of


def model_of(
    config: RunConfig, selection: Selection, statistics: Mapping[str, Any], device: torch.device
) -> MultiTaskModel:
    """The unsharded model, its tables on the meta device.

    Args:
        config: The run.
        selection: What it reads.
        statistics: Of the dense features, as `stats.json` has them.
        device: Of the dense layers.

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
    )
