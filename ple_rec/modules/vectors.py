"""Layer that normalises vectors, such as embeddings of the content, and projects each to a few columns of the input x.

    y_v = P_v n(v) + b_v

n is the normaliser of the feature, whose statistics are buffers; P_v and b_v are trained, for each feature.

Shape suffixes: B batch, W numbers and D columns of all features, w numbers and d columns of one feature.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ple_rec.modules.normalise import inverse_std


@dataclass(frozen=True)
class VectorStatistics:
    """Normaliser of one vector feature.

    Args:
        kind: Kind of the normaliser: "none", "unit" or "standard".
        width: Number of components of a vector.
        mean: Mean of each component, for "standard"; empty for the other kinds, and if no vector is known.
        std: Standard deviation of each component. A constant component has 0, and is normalised to 0.
    """

    kind: str
    width: int
    mean: Sequence[float] = ()
    std: Sequence[float] = ()


class VectorInputs(nn.Module):
    """Layer that returns the normalised and projected vectors of all features, side by side.

    A missing vector (NaN) becomes 0 before it is multiplied by P.

        none      v
        unit      v / |v|, and 0 for a vector of zeros
        standard  (v - mean) / std

    Args:
        statistics: Normaliser of each vector feature, in the order of the batch's columns.
        dim: Width d of each projection.
    """

    mean_W: Tensor
    scale_W: Tensor

    def __init__(self, statistics: Sequence[VectorStatistics], dim: int) -> None:
        super().__init__()
        self.kinds, self.dim = [stat.kind for stat in statistics], dim
        self.widths = [stat.width for stat in statistics]
        means, scales = list[float](), list[float]()
        for stat in statistics:
            means += stat.mean or [0.0] * stat.width
            pairs = zip(stat.mean, stat.std, strict=True)
            scales += [inverse_std(mean, std) for mean, std in pairs] or [1.0] * stat.width
        self.register_buffer("mean_W", torch.tensor(means, dtype=torch.float32))
        self.register_buffer("scale_W", torch.tensor(scales, dtype=torch.float32))
        self.projections = nn.ModuleList(nn.Linear(width, dim) for width in self.widths)

    def forward(self, vectors_BW: Tensor) -> Tensor:
        """Return the columns of all features (B, D)."""
        parts_Bw = vectors_BW.split(self.widths, dim=1)
        return torch.cat([self.project(i, part_Bw) for i, part_Bw in enumerate(parts_Bw)], dim=1)

    def project(self, i: int, vectors_Bw: Tensor) -> Tensor:
        """Return the columns of feature i (B, d).

        The precision is that of the weights: fp32, since autocast is not used here.
        """
        begin = sum(self.widths[:i])
        columns = slice(begin, begin + self.widths[i])
        x_Bw = (vectors_Bw.to(self.mean_W.dtype) - self.mean_W[columns]) * self.scale_W[columns]
        if self.kinds[i] == "unit":
            x_Bw = nn.functional.normalize(x_Bw, dim=1)
        y_Bd: Tensor = self.projections[i](torch.nan_to_num(x_Bw, nan=0.0))
        return y_Bd

    def flops_per_sample(self) -> int:
        """Return the forward FLOPs of the matrix products for one sample, two per multiply-add."""
        return 2 * self.dim * sum(self.widths)
