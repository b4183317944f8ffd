"""The time of a step from a plan. docs/planning.md has the formulas, their assumptions and an example."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ple_rec.config.cluster import Cluster
from ple_rec.config.plan import BUSY, Estimate, Part, Plan
from ple_rec.config.plan_table import Costs

_BACKWARD = 2.0  # FLOPs of the backward over those of the forward
_GRADIENT_BYTES = 4
_DIGITS = 6  # of every figure: two plans that mean the same read the same


@dataclass(frozen=True)
class Work:
    """What the dense part of a run asks of a rank.

    Args:
        flops_per_sample: Forward, two a multiply-add.
        dense_parameters: Trained values outside the tables.
        precision: Of the matrix products.
        epoch_samples: Samples of the training split.
    """

    flops_per_sample: int
    dense_parameters: int
    precision: Literal["fp32", "bf16"]
    epoch_samples: int


def estimate(plan: Plan, work: Work) -> Estimate:
    """A step's parts in milliseconds, and what follows.

    step = max(lookup + communication + dense + gradients, loader), of the rank whose tables take longest
    """
    cluster = plan.cluster
    busiest = max(plan.costs, key=Costs.total)
    dense = dense_ms(cluster, work, plan.batch_size_per_rank)
    overlap = dense * _BACKWARD / (1 + _BACKWARD)
    parts: dict[Part, float] = {
        "lookup": busiest.lookup_ms(),
        "communication": busiest.communication_ms(),
        "dense": dense,
        "gradients": max(0.0, all_reduce_ms(cluster, work.dense_parameters) - overlap),
        "loader": 1e3 * plan.batch_size_per_rank / cluster.hardware.loader_rows_per_s,
    }
    busy = sum(parts[name] for name in BUSY)
    step = max(busy, parts["loader"])
    bound: Part = "loader" if parts["loader"] >= busy else max(BUSY, key=lambda name: parts[name])
    rate = 1e3 * plan.batch_size_per_rank * cluster.world_size / step
    return Estimate(
        **{f"{name}_ms": _short(value) for name, value in parts.items()},
        step_ms=_short(step),
        bound=bound,
        samples_per_second=_short(rate),
        epoch_samples=work.epoch_samples,
        epoch_seconds=_short(work.epoch_samples / rate),
    )


def _short(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")


def dense_ms(cluster: Cluster, work: Work, batch_size_per_rank: int) -> float:
    """3 F B / (efficiency * peak): forward and backward of the dense layers, F FLOPs a sample."""
    hardware = cluster.hardware
    peak = hardware.bf16_tflops if work.precision == "bf16" else hardware.fp32_tflops
    if not cluster.cuda:
        peak /= cluster.ranks_per_host
    flops = (1 + _BACKWARD) * work.flops_per_sample * batch_size_per_rank
    return 1e3 * flops / (hardware.dense_efficiency * peak * 1e12)


def all_reduce_ms(cluster: Cluster, parameters: int) -> float:
    """A ring inside each host, and one over the hosts on all their network adapters, of 4 bytes a parameter.

    2 (L - 1) / L n / intra + 2 (H - 1) / H n / (L inter)
    """
    inside, between = all_reduce_bytes(cluster, parameters)
    hardware = cluster.hardware
    return inside / (hardware.intra_host_gb_per_s * 1e6) + between / (hardware.inter_host_gb_per_s * 1e6)


def all_reduce_bytes(cluster: Cluster, parameters: int) -> tuple[float, float]:
    """What a rank sends for the all-reduce of `all_reduce_ms`: inside its host, and to other hosts."""
    ranks, hosts = cluster.ranks_per_host, cluster.hosts
    count = _GRADIENT_BYTES * parameters
    return 2 * (ranks - 1) / ranks * count, 2 * (hosts - 1) / hosts * count / ranks


def highest_rate(cluster: Cluster, work: Work, batch_size_per_rank: int) -> float:
    """Samples a second that no plan can exceed: those of the dense layers, or of the loader, alone."""
    loader = 1e3 * batch_size_per_rank / cluster.hardware.loader_rows_per_s
    slowest = max(dense_ms(cluster, work, batch_size_per_rank), loader)
    return 1e3 * batch_size_per_rank * cluster.world_size / slowest
