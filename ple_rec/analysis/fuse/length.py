"""What `--length FEATURE[:F]` asks for: f of the video's length, with ranges and parts of the lengths there are."""

from __future__ import annotations

import numpy as np

from ple_rec.analysis.fuse.rows import Floats
from ple_rec.config.fusion import IdentityConfig, LengthConfig, LogConfig, PowerConfig, QuantilesConfig, Transform
from ple_rec.errors import UserError

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
