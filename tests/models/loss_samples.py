"""Samples of four tasks with unlike spaces, in fp64, and Eq. 9 over them one sample at a time."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ple_rec.config.run import TaskConfig
from ple_rec.models.losses import LOSSES

DELTA = 0.7
NAMES = ("cross_entropy", "mse", "cross_entropy", "huber")
TASKS = tuple(
    TaskConfig(name=f"t{k}", loss=name, huber_delta=DELTA if name == "huber" else None)  # type: ignore[arg-type]
    for k, name in enumerate(NAMES)
)
OURS = tuple(LOSSES[name](task) for name, task in zip(NAMES, TASKS, strict=True))
K = len(NAMES)


def samples(batch: int = 40, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Logits, labels, spaces and sample weights; spaces of quite different sizes."""
    generator = torch.Generator().manual_seed(seed)
    logits_BK = 3 * torch.randn(batch, K, dtype=torch.float64, generator=generator)
    labels_BK = torch.rand(batch, K, dtype=torch.float64, generator=generator)
    labels_BK[:, [0, 2]] = labels_BK[:, [0, 2]].round()
    share_K = torch.tensor([1.0, 0.6, 0.2, 0.5], dtype=torch.float64)
    in_space_BK = (torch.rand(batch, K, dtype=torch.float64, generator=generator) < share_K).double()
    weight_B = torch.rand(batch, dtype=torch.float64, generator=generator) * 2
    weight_B[3] = 0
    return logits_BK, labels_BK, in_space_BK, weight_B


def literal(
    logits_BK: Tensor, labels_BK: Tensor, in_space_BK: Tensor, weight_B: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """sum_i s_i d_ik loss_k(i), sum_i s_i d_ik, and the slope of the first in every logit, sample by sample."""
    sums, counts = [0.0] * K, [0.0] * K
    slopes = [[0.0] * K for _ in logits_BK]
    for k, name in enumerate(NAMES):
        for i in range(len(logits_BK)):
            weight = float(in_space_BK[i, k]) * (1.0 if weight_B is None else float(weight_B[i]))
            if weight == 0:
                continue
            value, slope = _loss(name, float(logits_BK[i, k]), float(labels_BK[i, k]))
            sums[k] += weight * value
            counts[k] += weight
            slopes[i][k] = weight * slope
    return tuple(torch.tensor(part, dtype=torch.float64) for part in (sums, counts, slopes))  # type: ignore[return-value]


def _loss(name: str, z: float, y: float) -> tuple[float, float]:
    if name == "cross_entropy":
        p = 1 / (1 + math.exp(-z))
        return -y * math.log(p) - (1 - y) * math.log(1 - p), p - y
    error = z - y
    if name == "mse":
        return error**2, 2 * error
    if abs(error) <= DELTA:
        return error**2 / 2, error
    return DELTA * (abs(error) - DELTA / 2), math.copysign(DELTA, error)
