"""Values of options of `ple-rec fuse`: `--length FEATURE[:F]`, `--scale TASK=VALUE`, `--value NAME=TASK*FEATURE`."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ple_rec.analysis.fuse.rows import Floats, Fusible
from ple_rec.config.base import Split, TaskKind
from ple_rec.config.fusion import (
    FusionConfig,
    IdentityConfig,
    LengthConfig,
    LogConfig,
    PowerConfig,
    QuantilesConfig,
    Transform,
)
from ple_rec.data import side_columns
from ple_rec.data.dataset import Dataset
from ple_rec.errors import UserError
from ple_rec.ranking.fusion import FULL, Factors

KINDS = ("identity", "log", "power", "quantiles")
_ENDS = (0.01, 0.99)  # quantiles between which `power` counts


def feature_of(text: str) -> str:
    """The feature that is asked for.

    Raises:
        UserError: an f that there is not.
    """
    feature, _, kind = text.partition(":")
    if kind and kind not in KINDS:
        rule = f"f is {', '.join(KINDS)}"
        raise UserError(
            "--length", f'got f "{kind}"', rule, "use one; a file of --fusion may have any of docs/ranking.md"
        )
    return feature


def length_of(text: str, length_N: Floats, missing: float) -> LengthConfig:
    """f, with exponent 1.

    Args:
        text: FEATURE[:F], as `feature_of` has accepted it.
        length_N: Of the rows of the search.
        missing: What a missing length counts as.

    Raises:
        UserError: lengths that f can do nothing with.
    """
    feature, _, kind = text.partition(":")
    known_N = length_N[np.isfinite(length_N)]
    low, high = (float(end) for end in np.quantile(known_N, _ENDS)) if len(known_N) else (0.0, 0.0)
    transform: Transform
    if kind in ("", "log"):
        transform = LogConfig(kind="log")
    elif kind == "identity":
        transform = IdentityConfig(kind="identity")
    elif low >= high or (kind == "power" and low <= 0):
        rule = "power needs lengths above 0 that differ, quantiles lengths that differ"
        raise UserError("--length", f"{feature} is {low:g} to {high:g}", rule, "use log, or another feature")
    elif kind == "power":
        transform = PowerConfig(kind="power", power=1.0, low=low, high=high)
    else:
        edges = np.unique(np.quantile(known_N, np.arange(1, 10) / 10)).tolist()
        values = tuple((i + 1) / (len(edges) + 1) for i in range(len(edges) + 1))
        transform = QuantilesConfig(kind="quantiles", edges=tuple(edges), values=values)
    return LengthConfig(feature=feature, transform=transform, missing=missing)


_HIGH = 0.95  # quantile of the predictions that is a scale: so many rows stay below the bound of `clip`


def scales_of(texts: Sequence[str], regressions: Sequence[str]) -> dict[str, float]:
    """Read scales, by task; of two for one task the later one holds.

    Args:
        texts: TASK=VALUE each.
        regressions: Regressions that are fused.

    Raises:
        UserError: a text that is no scale, or names no regression that is fused.
    """
    found = {}
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
            rule = f"a scale is of a regression that is fused: {', '.join(regressions) or 'there is none'}"
            raise UserError("--scale", f'got "{name}"', rule, "name one of them" if regressions else "leave it out")
        found[name] = value
    return found


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
    """Return a scale for each regression that is at its upper bound in most rows, where a greater scale changes that.

    Args:
        fusion: Scales and links of the factors.
        kinds: Kinds of the tasks.
        predictions: Predictions of the regressions, by task.
        factors: Factors of the same rows.
        searched: Names of the factors that are looked at.
    """
    found = {}
    for name, task in fusion.tasks.items():
        log_N = factors.log_NK[:, factors.names.index(name)]
        if name in searched and kinds[name] == "regression" and np.median(log_N) >= np.log(FULL):
            scale = float(f"{np.quantile(predictions[name], _HIGH):.3g}")
            if scale > (task.scale or 1.0):
                found[name] = scale
    return found


_TEXT = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=([A-Za-z_][A-Za-z0-9_]*)\*(\w+)")


@dataclass(frozen=True)
class Valued:
    """What a row is worth: a task's label times a feature.

    Args:
        name: By which metrics call it, as they call tasks.
        task: Of the run.
        feature: Dense feature of the run; one that is missing counts as the median of train.
    """

    name: str
    task: str
    feature: str

    @classmethod
    def parse(cls, text: str, tasks: Collection[str], dense: Collection[str]) -> Valued:
        """Read one.

        Raises:
            UserError: it is none, or names no task or feature of the run, or takes the name of a task.
        """
        found = _TEXT.fullmatch(text)
        if found is None:
            rule = "it is NAME=TASK*FEATURE"
            raise UserError("--value", f'got "{text}"', rule, "for example watch_time=vcr*video_seconds")
        name, task, feature = found.groups()
        if name in tasks:
            raise UserError("--value", f'got "{text}"', f"{name} is a task of the run", "give it another name")
        if task not in tasks:
            raise UserError("--value", f'got "{text}"', f"the tasks are {', '.join(tasks)}", "name one of them")
        if feature not in dense:
            known = f"the dense features are {', '.join(dense)}" if dense else "the run reads no dense feature"
            raise UserError("--value", f'got "{text}"', known, "name one of them")
        return cls(name, task, feature)

    @classmethod
    def parse_all(cls, texts: Sequence[str], tasks: Collection[str], dense: Collection[str]) -> list[Valued]:
        """Read several.

        Raises:
            UserError: as of `parse`, or two of one name.
        """
        found = [cls.parse(text, tasks, dense) for text in dict.fromkeys(texts)]
        names = [valued.name for valued in found]
        if twice := [name for name in names if names.count(name) > 1]:
            raise UserError("--value", f"two of the name {twice[0]}", "metrics tell them by it", "rename one")
        return found

    def factor(self, run: Fusible, split: Split) -> Floats:
        """The feature of every row of a split.

        Raises:
            UserError: the feature has no median in `stats.json`.
            DataError: a damaged dataset.
        """
        factor_N = side_columns.numbers(Dataset(run.config.data.path), split, self.feature, "--value")
        missing_N = np.isnan(factor_N)
        if missing_N.any():
            factor_N = np.where(missing_N, run.median(self.feature), factor_N)
        return factor_N


def with_values(labels: Mapping[str, Floats], factors: Mapping[Valued, Floats]) -> dict[str, Floats]:
    """Labels by task and, beside them, what `--value` names, (N,) each."""
    return {**labels, **{valued.name: labels[valued.task] * factor_N for valued, factor_N in factors.items()}}
