"""Values of options of `ple-rec fuse`: `--length FEATURE[:F]`, `--scale TASK=VALUE`, `--value NAME=TASK*FEATURE`.

A fusion computes one score for each row, the product of its predictions and of f(length), each raised to an exponent.
`--length` names the length of the video and its transform f. `--scale` gives the value by which the prediction of a
regression is divided before it is clipped to 1. `--value` defines a further label for metrics, such as watch time.

Shape suffixes: N rows, K factors of the score.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ple_rec.analysis.fuse.rows import Floats, FusibleRun
from ple_rec.config.base import Split, TaskKind
from ple_rec.config.fusion import (
    FusionConfig,
    IdentityTransform,
    LengthConfig,
    LogTransform,
    PowerTransform,
    QuantilesTransform,
    Transform,
)
from ple_rec.data import side_columns
from ple_rec.data.dataset import DatasetDirectory
from ple_rec.errors import UserError
from ple_rec.ranking.fusion import FULL_FACTOR, Factors

# Transforms f that `--length` can name.
KINDS = ("identity", "log", "power", "quantiles")
# The transform `power` clips lengths to these quantiles.
_POWER_QUANTILES = (0.01, 0.99)


def parse_length_feature(text: str) -> str:
    """Return FEATURE of `--length FEATURE[:F]`.

    Raises:
        UserError: F is not the name of a transform.
    """
    feature, _, kind = text.partition(":")
    if kind and kind not in KINDS:
        rule = f"f is {', '.join(KINDS)}"
        raise UserError(
            "--length", f'got f "{kind}"', rule, "use one; a file of --fusion may have any of docs/ranking.md"
        )
    return feature


def fit_length(text: str, length_N: Floats, missing: float) -> LengthConfig:
    """Return the length factor of a fusion, with exponent 1 and a transform whose parameters are fitted to the lengths.

    Args:
        text: Value FEATURE[:F] of the option, which `parse_length_feature` has accepted; F is `log` if it is left out.
        length_N: Lengths in the rows of the search, NaN if missing.
        missing: Length for rows without one.

    Raises:
        UserError: The transform cannot be fitted to the lengths.
    """
    feature, _, kind = text.partition(":")
    known_N = length_N[np.isfinite(length_N)]
    low, high = (float(end) for end in np.quantile(known_N, _POWER_QUANTILES)) if len(known_N) else (0.0, 0.0)
    transform: Transform
    if kind in ("", "log"):
        transform = LogTransform(kind="log")
    elif kind == "identity":
        transform = IdentityTransform(kind="identity")
    elif low >= high or (kind == "power" and low <= 0):
        rule = "power needs different lengths above 0, and quantiles needs different lengths"
        raise UserError("--length", f"{feature} is {low:g} to {high:g}", rule, "use log, or another feature")
    elif kind == "power":
        transform = PowerTransform(kind="power", power=1.0, low=low, high=high)
    else:
        edges = np.unique(np.quantile(known_N, np.arange(1, 10) / 10)).tolist()
        values = tuple((i + 1) / (len(edges) + 1) for i in range(len(edges) + 1))
        transform = QuantilesTransform(kind="quantiles", edges=tuple(edges), values=values)
    return LengthConfig(feature=feature, transform=transform, missing=missing)


# The proposed scale is this quantile of the predictions, so that this share of the rows is not clipped.
_SCALE_QUANTILE = 0.95


def parse_scales(texts: Sequence[str], regressions: Sequence[str]) -> dict[str, float]:
    """Return scales by task; if a task is given twice, the later scale counts.

    Args:
        texts: Values of `--scale`, each TASK=VALUE.
        regressions: Names of the regression tasks in the fusion.

    Raises:
        UserError: A text is no scale, or its task is none of the regressions.
    """
    scales = {}
    for text in texts:
        name, _, number = text.partition("=")
        try:
            value = float(number)
        except ValueError:
            value = 0.0
        if not 0 < value < np.inf:
            rule = "a scale is TASK=VALUE, a number above 0 in the label's unit"
            raise UserError("--scale", f'got "{text}"', rule, "for example --scale watch_seconds=600")
        if name not in regressions:
            rule = f"only a regression in the fusion has a scale: {', '.join(regressions) or 'there is none'}"
            raise UserError("--scale", f'got "{name}"', rule, "name one of them" if regressions else "leave it out")
        scales[name] = value
    return scales


def with_scales(fusion: FusionConfig, scales: Mapping[str, float]) -> FusionConfig:
    """Return the fusion with other scales of some of its tasks."""
    changed = {name: fusion.tasks[name].model_copy(update={"scale": value}) for name, value in scales.items()}
    return fusion.model_copy(update={"tasks": {**fusion.tasks, **changed}})


def needed_scales(
    fusion: FusionConfig,
    kinds: Mapping[str, TaskKind],
    predictions: Mapping[str, Floats],
    factors: Factors,
    searched: Collection[str],
) -> dict[str, float]:
    """Return a greater scale for each searched regression whose factor is at its upper bound in half of the rows.

    Such a factor hardly orders the rows. A regression is left out if the scale would not be greater than now.

    Args:
        fusion: Fusion with the scales and links of the factors.
        kinds: Kind of each task.
        predictions: Predictions (N,) of the regressions, by task.
        factors: Factors of the same rows.
        searched: Names of the factors with an exponent that need not be 0.
    """
    scales = {}
    for name, task in fusion.tasks.items():
        log_N = factors.log_NK[:, factors.names.index(name)]
        if name in searched and kinds[name] == "regression" and np.median(log_N) >= np.log(FULL_FACTOR):
            scale = float(f"{np.quantile(predictions[name], _SCALE_QUANTILE):.3g}")
            if scale > (task.scale or 1.0):
                scales[name] = scale
    return scales


_VALUE_PATTERN = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=([A-Za-z_][A-Za-z0-9_]*)\*(\w+)")


@dataclass(frozen=True)
class RowValue:
    """Label for metrics that is the product of a task's label and a feature, such as watch time.

    Args:
        name: Name of the label, used in names of metrics like the name of a task.
        task: Name of a task of the run.
        feature: Dense feature of the run. A missing value counts as the median of the training split.
    """

    name: str
    task: str
    feature: str

    @classmethod
    def parse(cls, text: str, tasks: Collection[str], dense: Collection[str]) -> RowValue:
        """Return the value that `NAME=TASK*FEATURE` describes.

        Args:
            text: Text of this form.
            tasks: Names of the run's tasks.
            dense: Names of the run's dense features.

        Raises:
            UserError: The text has another form, names no task or feature of the run, or NAME is a task of the run.
        """
        match = _VALUE_PATTERN.fullmatch(text)
        if match is None:
            rule = "it is NAME=TASK*FEATURE"
            raise UserError("--value", f'got "{text}"', rule, "for example watch_time=vcr*video_seconds")
        name, task, feature = match.groups()
        if name in tasks:
            raise UserError("--value", f'got "{text}"', f"{name} is a task of the run", "give it another name")
        if task not in tasks:
            raise UserError("--value", f'got "{text}"', f"the tasks are {', '.join(tasks)}", "name one of them")
        if feature not in dense:
            known = f"the dense features are {', '.join(dense)}" if dense else "the run reads no dense feature"
            raise UserError("--value", f'got "{text}"', known, "name one of them")
        return cls(name, task, feature)

    @classmethod
    def parse_all(cls, texts: Sequence[str], tasks: Collection[str], dense: Collection[str]) -> list[RowValue]:
        """Return the values that several texts describe, each of the form `NAME=TASK*FEATURE`.

        Args:
            texts: Values of the option.
            tasks: Names of the run's tasks.
            dense: Names of the run's dense features.

        Raises:
            UserError: `parse` refuses a text, or two values have one name.
        """
        values = [cls.parse(text, tasks, dense) for text in dict.fromkeys(texts)]
        names = [value.name for value in values]
        if duplicates := [name for name in names if names.count(name) > 1]:
            rule = "each value has a name of its own, by which metrics refer to it"
            raise UserError("--value", f"two values are named {duplicates[0]}", rule, "rename one")
        return values

    def read_feature(self, run: FusibleRun, split: Split) -> Floats:
        """Return the feature of every row of a split, (N,), with the median in place of a missing value.

        Raises:
            UserError: The feature has no median in `stats.json`.
            DataError: The dataset is damaged.
        """
        feature_N = side_columns.numbers(DatasetDirectory(run.config.data.path), split, self.feature, "--value")
        missing_N = np.isnan(feature_N)
        if missing_N.any():
            feature_N = np.where(missing_N, run.median(self.feature), feature_N)
        return feature_N


def with_row_values(labels: Mapping[str, Floats], features: Mapping[RowValue, Floats]) -> dict[str, Floats]:
    """Return the labels by task, and with them the products of `--value` by their names, each of shape (N,).

    Args:
        labels: Labels (N,) by task.
        features: Feature (N,) of each product.
    """
    return {**labels, **{value.name: labels[value.task] * feature_N for value, feature_N in features.items()}}
