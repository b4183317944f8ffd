"""`FusionConfig`: the formula that fuses the predictions for a video into one score (Eq. 1 of the PLE paper).

`ple-rec fuse` saves it as `fusion.toml`. Eq. 1: score = prod_k p_k^w_k * f(video length)^v, where p_k is the prediction
of task k.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field, model_validator

from ple_rec.config.base import Config, Name, PositiveFloat

Link = Literal["clip", "sigmoid"]


class IdentityTransform(Config):
    """f(x) = x."""

    kind: Literal["identity"]


class LogTransform(Config):
    """f(x) = log(1 + x / unit)."""

    kind: Literal["log"]
    unit: PositiveFloat = Field(1.0, description="value of x at which f is log 2, in the unit of x, e.g. seconds")


class SigmoidTransform(Config):
    """f(x) = 1 / (1 + exp(-(x - center) / width))."""

    kind: Literal["sigmoid"]
    center: float = Field(description="x at which f is 1/2")
    width: PositiveFloat = Field(description="f is .27 at center - width and .73 at center + width")


class PowerTransform(Config):
    """f(x) = clip(x, low, high)^power."""

    kind: Literal["power"]
    power: float = Field(description="exponent of x")
    low: PositiveFloat = Field(description="least x; a smaller one counts as this")
    high: PositiveFloat = Field(description="greatest x; a larger one counts as this")

    @model_validator(mode="after")
    def _ordered(self) -> PowerTransform:
        if self.low >= self.high:
            raise ValueError(f"low = {self.low} is not below high = {self.high}; give the range in which x counts")
        return self


class QuantilesTransform(Config):
    """f(x) = values[number of edges that are at most x]: a constant for each range of lengths."""

    kind: Literal["quantiles"]
    edges: Annotated[tuple[float, ...], Field(min_length=1)] = Field(description="ascending lengths between ranges")
    values: Annotated[tuple[PositiveFloat, ...], Field(min_length=2)] = Field(
        description="value of each range, one more than edges"
    )

    @model_validator(mode="after")
    def _fit(self) -> QuantilesTransform:
        if any(a >= b for a, b in pairwise(self.edges)):
            raise ValueError(f"edges = {list(self.edges)} do not ascend; sort them and drop equal ones")
        if len(self.values) != len(self.edges) + 1:
            raise ValueError(
                f"{len(self.values)} values for {len(self.edges)} edges; give {len(self.edges) + 1}, one for each range"
            )
        return self


Transform = Annotated[
    IdentityTransform | LogTransform | SigmoidTransform | PowerTransform | QuantilesTransform,
    Field(discriminator="kind"),
]


class LengthConfig(Config):
    """Factor of the score by the video's length: f(length)^exponent."""

    feature: Name = Field(description="dense feature of the dataset that holds the length, before normalisation")
    transform: Transform = Field(description="f, a function of the length")
    missing: float = Field(
        description="length of a video whose length is missing; `ple-rec fuse` writes the median of train"
    )
    exponent: float = Field(1.0, description="v, exponent of f; 0 leaves the length out")


class PlattConfig(Config):
    """Platt scaling: p' = sigmoid(slope logit(p) + intercept)."""

    kind: Literal["platt"]
    slope: PositiveFloat
    intercept: float


class IsotonicConfig(Config):
    """Isotonic calibration: p' is piecewise linear in p through the points (scores, values), and constant outside."""

    kind: Literal["isotonic"]
    scores: Annotated[tuple[float, ...], Field(min_length=1)] = Field(description="ascending p of the points")
    values: Annotated[tuple[float, ...], Field(min_length=1)] = Field(description="p' of the points, never falling")

    @model_validator(mode="after")
    def _fit(self) -> IsotonicConfig:
        if len(self.scores) != len(self.values):
            raise ValueError(f"{len(self.values)} values for {len(self.scores)} scores; give one for each")
        if any(a >= b for a, b in pairwise(self.scores)) or any(a > b for a, b in pairwise(self.values)):
            raise ValueError("scores must ascend and values never fall; fit them with `ple-rec fuse`")
        return self


class NegativeSamplingConfig(Config):
    """Correction for a model that was trained on a share `kept` of the negatives: p' = p / (p + (1 - p) / kept)."""

    kind: Literal["negative_sampling"]
    kept: Annotated[float, Field(gt=0, le=1)] = Field(description="share of the negatives in the training data")


Calibration = Annotated[PlattConfig | IsotonicConfig | NegativeSamplingConfig, Field(discriminator="kind")]


class TaskFusionConfig(Config):
    """Factor of the score by task k: p_k^exponent, with p_k in (0, 1] after scale, link and calibration."""

    exponent: float = Field(1.0, description="w_k; negative if more is worse, 0 leaves the task out")
    link: Link | None = Field(
        None,
        description="function from the prediction of a regression to a p_k in (0, 1]: clip, the default, or sigmoid",
    )
    scale: PositiveFloat | None = Field(
        None,
        description="scale of a regression in the label's unit: the link gets prediction / scale; default 1",
    )
    calibration: Calibration | None = Field(
        None, description="correction of p_k before the exponent; binary tasks only"
    )


class FusionConfig(Config):
    """score = prod_k p_k^w_k * f(video length)^v (Eq. 1)."""

    tasks: Annotated[dict[Name, TaskFusionConfig], Field(min_length=1)] = Field(
        description="factor of each task in the score, by name"
    )
    length: LengthConfig | None = Field(None, description="factor of the video's length in the score; default: none")
