"""Normalisation of dense features, as a layer: its statistics are buffers, saved and exported with the model.

Shape suffixes: B batch, F dense features, Q quantiles.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

KINDS = ("none", "standard", "log", "quantile")
_EDGE = 1e-3  # the quantile transform clips u to [_EDGE, 1 - _EDGE], that is the output to +-3.09


@dataclass(frozen=True)
class DenseStatistics:
    """What one dense feature's normaliser needs, from the training split.

    Args:
        kind: One of `KINDS`.
        mean: Of x, or of sign(x) log(1 + |x|) where kind is "log".
        std: Likewise; 0 for a constant feature, which then becomes 0.
        quantiles: Ascending; needed by "quantile" alone.
    """

    kind: str
    mean: float = 0.0
    std: float = 1.0
    quantiles: Sequence[float] = field(default=())


class DenseNormaliser(nn.Module):
    """Raw dense features -> normalised ones; a missing value (NaN) becomes 0.

        none      x
        standard  (x - mean) / std
        log       (sign(x) log(1 + |x|) - mean) / std
        quantile  sqrt(2) erfinv(2 u - 1), u the piecewise-linear empirical CDF, clipped

    Args:
        statistics: One per dense feature, in the order of the batch's columns.

    Raises:
        ValueError: on an unknown kind, or "quantile" with fewer than two quantiles.
    """

    mean_F: Tensor
    scale_F: Tensor
    is_log_F: Tensor

    def __init__(self, statistics: Sequence[DenseStatistics]) -> None:
        super().__init__()
        for stat in statistics:
            if stat.kind not in KINDS:
                raise ValueError(f"normaliser {stat.kind!r}; known: {', '.join(KINDS)}")
            if stat.kind == "quantile" and len(stat.quantiles) < 2:
                raise ValueError(f"a quantile normaliser needs at least 2 quantiles, got {len(stat.quantiles)}")
        affine = [stat if stat.kind in ("standard", "log") else DenseStatistics("none") for stat in statistics]
        self.register_buffer("mean_F", torch.tensor([stat.mean for stat in affine], dtype=torch.float32))
        scales = [1.0 / stat.std if stat.std > 0 else 0.0 for stat in affine]
        self.register_buffer("scale_F", torch.tensor(scales, dtype=torch.float32))
        self.register_buffer("is_log_F", torch.tensor([stat.kind == "log" for stat in affine], dtype=torch.bool))
        self.by_quantile = [f for f, stat in enumerate(statistics) if stat.kind == "quantile"]
        for f in self.by_quantile:
            knots = torch.tensor(statistics[f].quantiles, dtype=torch.float64)
            values, first, counts = _unique_knots(knots)
            # A value that spans several quantiles stands at the middle of its span.
            middle = (first + (counts - 1) / 2) / (len(knots) - 1)
            self.register_buffer(f"knots_{f}", values.float())
            self.register_buffer(f"levels_{f}", middle.float())

    def forward(self, dense_BF: Tensor) -> Tensor:
        """(B, F) raw -> (B, F) normalised, fp32."""
        x_BF = torch.where(self.is_log_F, torch.sign(dense_BF) * torch.log1p(dense_BF.abs()), dense_BF)
        x_BF = (x_BF - self.mean_F) * self.scale_F
        if self.by_quantile:
            columns = list(x_BF.unbind(1))
            for f in self.by_quantile:
                columns[f] = self._gaussian_rank(dense_BF[:, f], f)
            x_BF = torch.stack(columns, dim=1)
        return torch.nan_to_num(x_BF, nan=0.0)

    def _gaussian_rank(self, x_B: Tensor, f: int) -> Tensor:
        knots: Tensor = getattr(self, f"knots_{f}")
        levels: Tensor = getattr(self, f"levels_{f}")
        if len(knots) == 1:
            return x_B * 0.0
        right_B = torch.searchsorted(knots, x_B.contiguous()).clamp(1, len(knots) - 1)
        low_B, high_B = knots[right_B - 1], knots[right_B]
        share_B = ((x_B - low_B) / (high_B - low_B)).clamp(0.0, 1.0)
        u_B = torch.lerp(levels[right_B - 1], levels[right_B], share_B).clamp(_EDGE, 1 - _EDGE)
        return torch.erfinv(2 * u_B - 1) * 2**0.5


def _unique_knots(knots_Q: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Distinct values of ascending knots, the index at which each starts, and how often it occurs."""
    values, counts = torch.unique_consecutive(knots_Q, return_counts=True)
    return values, counts.cumsum(0) - counts, counts
