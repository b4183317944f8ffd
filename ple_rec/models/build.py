"""A run's model from its configuration and its dataset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ple_rec.config.choices import UsedPrecision
from ple_rec.config.run import RunConfig
from ple_rec.config.schema import DenseFeature, SparseFeature
from ple_rec.errors import DataError
from ple_rec.models.embeddings import embedding_collection, mean_bags
from ple_rec.models.multitask import MultiTaskModel
from ple_rec.models.weighting import WEIGHTINGS
from ple_rec.modules.normalise import DenseStatistics

_STATISTICS: dict[str, tuple[str, ...]] = {
    "none": (),
    "standard": ("mean", "std"),
    "log": ("log_mean", "log_std"),
    "quantile": ("quantiles",),
}
_QUANTILES = 1001  # Prep writes as many, so the quantiles of a checkpoint fit in their place.


def build_model(
    config: RunConfig,
    *,
    tasks: Sequence[str],
    losses: Sequence[str],
    sparse: Sequence[SparseFeature],
    dense: Sequence[DenseFeature],
    table_rows: dict[str, int],
    statistics: Mapping[str, Any],
    device: torch.device,
    table_device: torch.device,
    precision: UsedPrecision | None = None,
) -> MultiTaskModel:
    """The unsharded model, its dense layers initialised from the seed.

    Args:
        config: The run.
        tasks: Task names, the order of the logits.
        losses: Name of each task's loss.
        sparse: Sparse features, the order of a batch's keys.
        dense: Dense features, the order of a batch's columns.
        table_rows: Rows of every table of the dataset.
        statistics: `stats.json`'s columns.
        device: Of the dense layers.
        table_device: "meta" where the tables are to be sharded.
        precision: Of the matrix products; None: as configured, fp32 for `auto`.

    Raises:
        UserError: `embeddings.tables` names an unknown table, or a task has a name that is taken.
        DataError: statistics of a dense feature are missing.
    """
    embeddings = embedding_collection(config.embeddings, sparse, table_rows, table_device)
    normalisers = [_dense_statistics(feature, statistics) for feature in dense]
    torch.manual_seed(config.seed)  # after the tables, which draw random numbers unless they are on the meta device
    means = mean_bags(config.embeddings, sparse)
    weighting = WEIGHTINGS[config.train.loss_weighting](losses)
    used = precision or config.train.precision
    shared = config.data.request_features
    places = [i for i, feature in enumerate(dense) if feature.name in shared]
    model = MultiTaskModel(config.model, tasks, embeddings, normalisers, used, means, weighting, shared, places)
    for module in (model.normalise, model.extraction, model.towers, model.weighting):
        module.to(device)
    return model


def check_values(dense: Sequence[DenseFeature], statistics: Mapping[str, Any]) -> None:
    """Refuse dense features whose normaliser has no value of the training split to begin with.

    Only a run with random weights needs some: any other model takes the statistics of its checkpoint.

    Args:
        dense: Dense features of the run.
        statistics: `stats.json`'s columns.

    Raises:
        DataError: a feature has none, or statistics are missing.
    """
    for feature in dense:
        if None in _figures(feature, statistics):
            raise DataError(
                "stats.json",
                f"dense feature {feature.name!r} has no value in the training split",
                f"its normaliser {feature.normaliser!r} needs some",
                f'add "{feature.name}" to data.drop',
            )


def _dense_statistics(feature: DenseFeature, statistics: Mapping[str, Any]) -> DenseStatistics:
    """Return the statistics of a feature, constant ones where the training split has no value of it."""
    figures = _figures(feature, statistics)
    if None in figures:
        return DenseStatistics(feature.normaliser, std=0.0, quantiles=(0.0,) * _QUANTILES)
    if feature.normaliser == "quantile":
        return DenseStatistics("quantile", quantiles=figures[0])
    return DenseStatistics(feature.normaliser, *figures)


def _figures(feature: DenseFeature, statistics: Mapping[str, Any]) -> list[Any]:
    """Return the figures that the normaliser of a feature needs; they are None if there was no value."""
    names = _STATISTICS[feature.normaliser]
    train = statistics.get(feature.name, {}).get("train", {}) if names else {}
    if missing := [f"columns.{feature.name}.train.{name}" for name in names if name not in train]:
        raise DataError(
            "stats.json",
            f"no {', '.join(missing)}",
            f"normaliser {feature.normaliser!r} of dense feature {feature.name!r} needs it",
            "write it there, of the training split, or prepare the dataset again",
        )
    return [train[name] for name in names]
