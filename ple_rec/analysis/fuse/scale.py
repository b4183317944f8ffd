"""The scale of a regression: as `--scale TASK=VALUE` gives it, and as its predictions need it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np

from ple_rec.analysis.fuse.rows import Floats
from ple_rec.config.base import TaskKind
from ple_rec.config.fusion import FusionConfig
from ple_rec.errors import UserError
from ple_rec.ranking.fusion import FULL, Factors

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
