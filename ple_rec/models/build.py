"""Construction of a run's unsharded model from its configuration and the features of its dataset.

`build_model` returns it for training and planning (`ple_rec.training.model`) and for exported models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ple_rec.config.choices import UsedPrecision
from ple_rec.config.run import RunConfig
from ple_rec.config.schema import DenseFeature, HistoryFeature, SparseFeature, VectorFeature
from ple_rec.errors import DataError
from ple_rec.models.embeddings import (
    embedding_collection,
    mean_pooled_features,
    sequence_collection,
    unpooled_tables,
)
from ple_rec.models.multitask import MultiTaskModel
from ple_rec.models.weighting import WEIGHTINGS
from ple_rec.modules.normalise import DenseStatistics
from ple_rec.modules.vectors import VectorStatistics

# Names in `stats.json` of the statistics that each normaliser needs.
_STATISTICS_BY_NORMALISER: dict[str, tuple[str, ...]] = {
    "none": (),
    "unit": (),
    "standard": ("mean", "std"),
    "log": ("log_mean", "log_std"),
    "quantile": ("quantiles",),
}
# Number of quantiles that `ple-rec prep` writes. A feature without values gets as many, so that the shapes of the
# buffers, which a checkpoint must match, do not depend on the data.
_QUANTILE_COUNT = 1001


def build_model(
    config: RunConfig,
    *,
    tasks: Sequence[str],
    losses: Sequence[str],
    sparse: Sequence[SparseFeature],
    dense: Sequence[DenseFeature],
    table_rows: dict[str, int],
    statistics: Mapping[str, Any],
    vectors: Sequence[VectorFeature] = (),
    histories: Sequence[HistoryFeature] = (),
    device: torch.device,
    table_device: torch.device,
    precision: UsedPrecision | None = None,
) -> MultiTaskModel:
    """Return the unsharded model of a run, with dense layers initialised from the run's seed.

    Args:
        config: Configuration of the run.
        tasks: Names of the tasks, in the order of the logits.
        losses: Name of each task's loss.
        sparse: Sparse features and the columns of histories, in the order of a batch's keys.
        dense: Dense features, in the order of a batch's columns.
        table_rows: Number of rows of every table of the dataset, by name.
        statistics: Statistics of each column in `stats.json`, by name.
        vectors: Vector features, in the order of a batch's columns.
        histories: Histories, with the items that the model reads.
        device: Device of the dense layers.
        table_device: Device of the tables, or "meta" if they are to be sharded.
        precision: Precision of the matrix products; None for `train.precision`, in which "auto" means fp32.

    Raises:
        UserError: `embeddings.tables` names an unknown table, the tables of histories differ in their dimension, or a
            task has a reserved name.
        DataError: Statistics of a dense feature or of a vector feature are missing.
    """
    unpooled = unpooled_tables(config.model, histories)
    embeddings = embedding_collection(config.embeddings, sparse, table_rows, table_device, unpooled)
    sequences = sequence_collection(config.embeddings, sparse, table_rows, table_device, unpooled)
    normalisers = [_dense_statistics(feature, statistics) for feature in dense]
    vector_normalisers = [_vector_statistics(feature, statistics) for feature in vectors]
    # The seed is set after the tables are built, because they draw random numbers unless they are on the meta device.
    torch.manual_seed(config.seed)
    mean_features = mean_pooled_features(config.embeddings, sparse, histories)
    weighting = WEIGHTINGS[config.train.loss_weighting](losses)
    matmul_precision = precision or config.train.precision
    request_features = _with_history_columns(config.data.request_features, histories)
    request_dense = [i for i, feature in enumerate(dense) if feature.name in request_features]
    model = MultiTaskModel(
        config.model,
        tasks,
        embeddings,
        normalisers,
        matmul_precision,
        mean_features,
        weighting,
        request_features,
        request_dense,
        vector_normalisers,
        [i for i, feature in enumerate(vectors) if feature.name in request_features],
        sequences,
        histories if unpooled else (),
    )
    for name, module in model.named_children():
        if name not in ("embeddings", "sequences"):
            module.to(device)
    return model


def _with_history_columns(request_features: Sequence[str], histories: Sequence[HistoryFeature]) -> tuple[str, ...]:
    """Return the names of shared features and of the columns of shared histories."""
    shared = (history for history in histories if history.name in request_features)
    return (*request_features, *(column.name for history in shared for column in history.columns()))


def check_dense_values(dense: Sequence[DenseFeature], statistics: Mapping[str, Any]) -> None:
    """Check that every dense feature that is normalised has at least one value in the training split.

    Only a run that starts with random weights needs this check; other runs take the statistics of their checkpoint.

    Args:
        dense: Dense features of the run.
        statistics: Statistics of each column in `stats.json`, by name.

    Raises:
        DataError: A feature has no value, or statistics are missing.
    """
    for feature in dense:
        if None in _read_statistics(feature, statistics):
            raise DataError(
                "stats.json",
                f"dense feature {feature.name!r} has no value in the training split",
                f"its normaliser {feature.normaliser!r} needs at least one value",
                f'add "{feature.name}" to data.drop',
            )


def _dense_statistics(feature: DenseFeature, statistics: Mapping[str, Any]) -> DenseStatistics:
    """Return the statistics of a feature, or those of a constant feature if the training split has no value of it."""
    values = _read_statistics(feature, statistics)
    if None in values:
        return DenseStatistics(feature.normaliser, std=0.0, quantiles=(0.0,) * _QUANTILE_COUNT)
    if feature.normaliser == "quantile":
        return DenseStatistics("quantile", quantiles=values[0])
    return DenseStatistics(feature.normaliser, *values)


def _vector_statistics(feature: VectorFeature, statistics: Mapping[str, Any]) -> VectorStatistics:
    """Return the normaliser of a vector feature; without any vector, it leaves vectors as they are.

    Raises:
        DataError: `stats.json` lacks a statistic, or has another number of values than a vector.
    """
    mean, std = _read_statistics(feature, statistics) or (None, None)
    for name, values in {"mean": mean, "std": std}.items():
        if values is not None and len(values) != feature.width:
            raise DataError(
                "stats.json",
                f"{len(values)} values of columns.{feature.name}.train.{name}",
                f"vectors of {feature.name!r} have {feature.width} numbers",
                "prepare the dataset again",
            )
    return VectorStatistics(feature.normaliser, feature.width, mean or (), std or ())


def _read_statistics(feature: DenseFeature | VectorFeature, statistics: Mapping[str, Any]) -> list[Any]:
    """Return the statistics that the normaliser of a feature needs; they are None if the feature has no value.

    Raises:
        DataError: `stats.json` lacks one of the statistics.
    """
    names = _STATISTICS_BY_NORMALISER[feature.normaliser]
    kind = "dense" if isinstance(feature, DenseFeature) else "vector"
    train = statistics.get(feature.name, {}).get("train", {}) if names else {}
    if missing := [f"columns.{feature.name}.train.{name}" for name in names if name not in train]:
        raise DataError(
            "stats.json",
            f"no {', '.join(missing)}",
            f"normaliser {feature.normaliser!r} of {kind} feature {feature.name!r} needs it",
            "add the statistic of the training split to stats.json, or prepare the dataset again",
        )
    return [train[name] for name in names]
