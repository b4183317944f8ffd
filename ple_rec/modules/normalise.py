"""Layer that normalises dense features. Its statistics are buffers, which are saved and exported with the model.

Shape suffixes: B batch, F dense features, G those of kind "quantile" (`quantile_G` has their indices), Q quantiles.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor, nn

KINDS = ("none", "standard", "log", "quantile")
# If the standard deviation is at most this share of the mean, it is a rounding error, and all values are equal.
_CONSTANT = 1e-12


@dataclass(frozen=True)
class DenseStatistics:
    """Statistics of one dense feature on the training split, for its normaliser.

    Args:
        kind: Kind of the normaliser, one of `KINDS`.
        mean: Mean of x, or for "log" of sign(x) log(1 + |x|).
        std: Standard deviation of the values of which `mean` is the mean; a constant feature has 0, and is normalised
            to 0.
        quantiles: Quantiles of x for "quantile", ascending.
    """

    kind: str
    mean: float = 0.0
    std: float = 1.0
    quantiles: Sequence[float] = field(default=())


def inverse_std(mean: float, std: float) -> float:
    """Return 1 / std, or 0 if all values are equal."""
    return 1.0 / std if std > _CONSTANT * abs(mean) else 0.0


class DenseNormaliser(nn.Module):
    """Normaliser of all dense features x, by the kind of each. A missing value (NaN) becomes 0.

    An infinite result becomes the largest finite number of its sign.

        none      x
        standard  (x - mean) / std
        log       (sign(x) log(1 + |x|) - mean) / std
        quantile  sqrt(2) erfinv(2 u - 1), u the piecewise-linear empirical CDF of x, clipped to [0.001, 0.999]

    Args:
        statistics: Statistics of each dense feature, in the order of the batch's columns.

    Raises:
        ValueError: A kind is unknown, or the quantiles of a feature descend or are fewer than two.
    """

    mean_F: Tensor
    scale_F: Tensor
    is_log_F: Tensor
    quantile_G: Tensor
    knots_GQ: Tensor
    levels_GQ: Tensor

    def __init__(self, statistics: Sequence[DenseStatistics]) -> None:
        super().__init__()
        for stat in statistics:
            if stat.kind not in KINDS:
                raise ValueError(f"normaliser {stat.kind!r}; known: {', '.join(KINDS)}")
            if stat.kind == "quantile" and len(stat.quantiles) < 2:
                raise ValueError(f"a quantile normaliser needs at least 2 quantiles, got {len(stat.quantiles)}")
            if any(not low <= high for low, high in pairwise(stat.quantiles)):
                raise ValueError(f"quantiles must ascend, got {', '.join(map(str, stat.quantiles))}")
        affine = [stat if stat.kind in ("standard", "log") else DenseStatistics("none") for stat in statistics]
        self.register_buffer("mean_F", torch.tensor([stat.mean for stat in affine], dtype=torch.float32))
        scales = [inverse_std(stat.mean, stat.std) for stat in affine]
        self.register_buffer("scale_F", torch.tensor(scales, dtype=torch.float32))
        self.register_buffer("is_log_F", torch.tensor([stat.kind == "log" for stat in affine], dtype=torch.bool))
        quantile_features = [f for f, stat in enumerate(statistics) if stat.kind == "quantile"]
        self.register_buffer("quantile_G", torch.tensor(quantile_features, dtype=torch.long), persistent=False)
        knots_GQ, levels_GQ = _knots([statistics[f].quantiles for f in quantile_features])
        self.register_buffer("knots_GQ", knots_GQ)
        self.register_buffer("levels_GQ", levels_GQ)

    def forward(self, dense_BF: Tensor) -> Tensor:
        """Return the normalised features (B, F).

        Their precision is that of the statistics: fp32 unless the module was converted.
        """
        dense_BF = dense_BF.to(self.mean_F.dtype)
        x_BF = torch.where(self.is_log_F, torch.sign(dense_BF) * torch.log1p(dense_BF.abs()), dense_BF)
        x_BF = (x_BF - self.mean_F) * self.scale_F
        if len(self.quantile_G):
            x_GB = dense_BF.index_select(1, self.quantile_G).T.contiguous()
            x_BF = x_BF.index_copy(1, self.quantile_G, _gaussian_rank_GB(x_GB, self.knots_GQ, self.levels_GQ).T)
        return torch.nan_to_num(x_BF, nan=0.0)


def _gaussian_rank_GB(x_GB: Tensor, knots_GQ: Tensor, levels_GQ: Tensor) -> Tensor:
    """Return the values of the normaliser "quantile": the quantiles of the normal distribution at the CDF of x."""
    # u is clipped to [edge, 1 - edge], and so the output to +-3.09.
    edge = 1e-3
    right_GB = torch.searchsorted(knots_GQ, x_GB).clamp(1, knots_GQ.shape[1] - 1)
    # Knots on both sides of x. Below, the same names are their levels.
    low_GB, high_GB = knots_GQ.gather(1, right_GB - 1), knots_GQ.gather(1, right_GB)
    # Equal knots have equal levels, so the width between them does not matter.
    width_GB = torch.where(low_GB < high_GB, high_GB - low_GB, 1.0)
    share_GB = ((x_GB - low_GB) / width_GB).clamp(0.0, 1.0)
    low_GB, high_GB = levels_GQ.gather(1, right_GB - 1), levels_GQ.gather(1, right_GB)
    u_GB = torch.lerp(low_GB, high_GB, share_GB).clamp(edge, 1 - edge)
    return torch.erfinv(2 * u_GB - 1) * 2**0.5


def _knots(quantiles: Sequence[Sequence[float]]) -> tuple[Tensor, Tensor]:
    """Return the knots of the empirical CDFs: the quantiles of every feature in fp32, and their levels u.

    The last knot is repeated until all features have the same number of knots. Equal quantiles all get the mean of
    their levels. They are not merged, so the shapes in a checkpoint depend on the number of quantiles and not on the
    data.
    """
    length = max(map(len, quantiles), default=2)
    knots, levels = torch.empty(len(quantiles), length), torch.empty(len(quantiles), length)
    for g, values in enumerate(quantiles):
        knots_Q = torch.tensor(values, dtype=torch.float32)
        first_Q = torch.searchsorted(knots_Q, knots_Q).double()
        last_Q = torch.searchsorted(knots_Q, knots_Q, right=True) - 1
        levels_Q = ((first_Q + last_Q) / 2 / (len(values) - 1)).float()
        knots[g] = torch.cat([knots_Q, knots_Q[-1:].expand(length - len(values))])
        levels[g] = torch.cat([levels_Q, levels_Q[-1:].expand(length - len(values))])
    return knots, levels
