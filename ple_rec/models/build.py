"""A run's model from its configuration and its dataset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ple_rec.config.run import RunConfig
from ple_rec.config.schema import DenseFeature, SparseFeature
from ple_rec.errors import DataError
from ple_rec.models.embeddings import embedding_collection
from ple_rec.models.multitask import MultiTaskModel
from ple_rec.modules.normalise import DenseStatistics


def build_model(
    config: RunConfig,
    *,
    tasks: Sequence[str],
    sparse: Sequence[SparseFeature],
    dense: Sequence[DenseFeature],
    table_rows: dict[str, int],
    statistics: Mapping[str, Any],
    device: torch.device,
    table_device: torch.device,
) -> MultiTaskModel:
    """The unsharded model, its dense layers initialised from the seed.

    Args:
        config: The run.
        tasks: Task names, the order of the logits.
        sparse: Sparse features, the order of a batch's keys.
        dense: Dense features, the order of a batch's columns.
        table_rows: Rows of every table of the dataset.
        statistics: `stats.json`'s columns.
        device: Of the dense layers.
        table_device: "meta" where the tables are to be sharded.

    Raises:
        UserError: `embeddings.tables` names an unknown table.
        DataError: statistics of a dense feature are missing.
    """
    torch.manual_seed(config.seed)
    model = MultiTaskModel(
        config.model,
        tasks,
        embedding_collection(config.embeddings, sparse, table_rows, table_device),
        [_dense_statistics(feature, statistics) for feature in dense],
        config.train.precision,
    )
    for module in (model.normalise, model.extraction, model.towers):
        module.to(device)
    return model


def _dense_statistics(feature: DenseFeature, statistics: Mapping[str, Any]) -> DenseStatistics:
    try:
        train = statistics[feature.name]["train"]
        if feature.normaliser == "log":
            return DenseStatistics("log", train["log_mean"], train["log_std"])
        if feature.normaliser == "quantile":
            return DenseStatistics("quantile", quantiles=train["quantiles"])
        return DenseStatistics(feature.normaliser, train["mean"], train["std"])
    except KeyError as error:
        raise DataError(
            "stats.json",
            f"no {error} for dense feature {feature.name!r}",
            f"its normaliser {feature.normaliser!r} needs the statistics of the training split",
            "prepare the dataset again with `ple-rec prep`",
        ) from error
