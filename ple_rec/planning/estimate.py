"""Estimate of the time of a step from a plan. docs/planning.md has the formulas, their assumptions and an example."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ple_rec.config.cluster import Cluster
from ple_rec.config.plan import SEQUENTIAL_PARTS, PlanFile, StepEstimate, StepPart
from ple_rec.config.plan_table import Costs

# The backward pass has this many times the FLOPs of the forward pass.
_BACKWARD = 2.0
# Bytes of the gradient of a dense parameter.
_GRADIENT_BYTES = 4
# All numbers are rounded to this many significant digits, so that equal plans have equal files.
_DIGITS = 6


@dataclass(frozen=True)
class DenseWork:
    """Work of the dense layers (all but the embedding tables) for a sample, and the number of samples of an epoch.

    Args:
        flops_per_sample: FLOPs of the forward pass of a sample; a multiply-add counts as two.
        dense_parameters: Number of trained values outside the tables.
        precision: Precision of the matrix products.
        epoch_samples: Number of samples of the training split.
    """

    flops_per_sample: int
    dense_parameters: int
    precision: Literal["fp32", "bf16"]
    epoch_samples: int


def estimate_step(plan: PlanFile, work: DenseWork) -> StepEstimate:
    """Return the time of a step and of its parts, the rate, and the time of an epoch.

    step = max(lookup + communication + dense + gradients, loader)

    The lookup and the communication are those of the rank whose tables take longest. The all-reduce of the gradients
    overlaps the backward pass, so only the part that takes longer than this pass counts. The loader reads ahead.
    """
    cluster = plan.cluster
    busiest = max(plan.costs, key=Costs.total)
    dense = dense_ms(cluster, work, plan.batch_size_per_rank)
    overlap = dense * _BACKWARD / (1 + _BACKWARD)
    parts: dict[StepPart, float] = {
        "lookup": busiest.lookup_part_ms(),
        "communication": busiest.communication_part_ms(),
        "dense": dense,
        "gradients": max(0.0, all_reduce_ms(cluster, work.dense_parameters) - overlap),
        "loader": 1e3 * plan.batch_size_per_rank / cluster.hardware.loader_rows_per_s,
    }
    sequential = sum(parts[name] for name in SEQUENTIAL_PARTS)
    step = max(sequential, parts["loader"])
    bound: StepPart = "loader" if parts["loader"] >= sequential else max(SEQUENTIAL_PARTS, key=lambda name: parts[name])
    rate = 1e3 * plan.batch_size_per_rank * cluster.world_size / step
    return StepEstimate(
        **{f"{name}_ms": _rounded(value) for name, value in parts.items()},
        step_ms=_rounded(step),
        bound=bound,
        samples_per_second=_rounded(rate),
        epoch_samples=work.epoch_samples,
        epoch_seconds=_rounded(work.epoch_samples / rate),
    )


def _rounded(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")


def dense_ms(cluster: Cluster, work: DenseWork, batch_size_per_rank: int) -> float:
    """Return the milliseconds of the dense layers' forward and backward pass: 3 F B / (efficiency * peak).

    F is the number of forward FLOPs of a sample, B the number of samples of a rank. The ranks of a host without GPUs
    share its peak.
    """
    hardware = cluster.hardware
    peak = hardware.bf16_tflops if work.precision == "bf16" else hardware.fp32_tflops
    if not cluster.cuda:
        peak /= cluster.ranks_per_host
    flops = (1 + _BACKWARD) * work.flops_per_sample * batch_size_per_rank
    return 1e3 * flops / (hardware.dense_efficiency * peak * 1e12)


def all_reduce_ms(cluster: Cluster, parameters: int) -> float:
    """Return the milliseconds of an all-reduce of the dense gradients.

    2 (L - 1) / L n / intra + 2 (H - 1) / H n / (L inter)

    The gradients are reduced in a ring inside each host of L ranks, and in a ring over the H hosts that uses all their
    network adapters. n is the number of bytes, 4 for each parameter; intra and inter are the bandwidths.
    """
    inside, between = all_reduce_bytes(cluster, parameters)
    hardware = cluster.hardware
    return inside / (hardware.intra_host_gb_per_s * 1e6) + between / (hardware.inter_host_gb_per_s * 1e6)


def all_reduce_bytes(cluster: Cluster, parameters: int) -> tuple[float, float]:
    """Return the bytes that a rank sends in an all-reduce of dense gradients, inside its host and to other hosts."""
    ranks, hosts = cluster.ranks_per_host, cluster.hosts
    count = _GRADIENT_BYTES * parameters
    return 2 * (ranks - 1) / ranks * count, 2 * (hosts - 1) / hosts * count / ranks


def highest_rate(cluster: Cluster, work: DenseWork, batch_size_per_rank: int) -> float:
    """Return samples a second that no plan can exceed: the lower one of the rates of dense layers and loader alone."""
    loader = 1e3 * batch_size_per_rank / cluster.hardware.loader_rows_per_s
    slowest = max(dense_ms(cluster, work, batch_size_per_rank), loader)
    return 1e3 * batch_size_per_rank * cluster.world_size / slowest
