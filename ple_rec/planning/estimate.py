"""Estimate of the time of a step from a plan. docs/planning.md has the formulas, their assumptions and an example."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from ple_rec.config.cluster import Cluster, assumed_figures
from ple_rec.config.plan import PlanFile, StepEstimate, StepPart, sequential_parts
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
    """Return the time of a step and of its parts, the range of the step, the rate, and the time of an epoch.

    on GPUs    step = max(host, lookup + communication + dense + gradients, loader)
    on CPUs    step = max(host + lookup + communication + dense + gradients, loader)

    The lookup and the communication are those of the rank whose tables take longest. The loader reads ahead, and a GPU
    computes while its host issues the next operators. `fastest_ms` and `slowest_ms` are the step with all assumed
    figures at the ends of their ranges.
    """
    parts = step_parts(plan, work)
    step, bound = _step_and_bound(plan.cluster, parts)
    ranges = assumed_figures(plan.cluster.hardware)
    fastest, slowest = (
        _step_and_bound(plan.cluster, step_parts(with_figures(plan, figures), work))[0]
        for figures in (
            {key: figure.fast for key, figure in ranges.items()},
            {key: figure.slow for key, figure in ranges.items()},
        )
    )
    rate = 1e3 * plan.batch_size_per_rank * plan.cluster.world_size / step
    return StepEstimate(
        **{f"{name}_ms": _rounded(value) for name, value in parts.items()},
        step_ms=_rounded(step),
        fastest_ms=_rounded(fastest),
        slowest_ms=_rounded(slowest),
        bound=bound,
        samples_per_second=_rounded(rate),
        epoch_samples=work.epoch_samples,
        epoch_seconds=_rounded(work.epoch_samples / rate),
    )


def step_parts(plan: PlanFile, work: DenseWork) -> dict[StepPart, float]:
    """Return the milliseconds of each part of a step.

    host          = host_ms_per_step + sharding types * host_ms_per_sharding_type (the latter with several ranks)
    communication = exchanges of the busiest rank + collectives * latency
    gradients     = all-reduce + latency: one all-reduce of all dense gradients, after the backward pass
    """
    cluster = plan.cluster
    hardware = cluster.hardware
    busiest = max(plan.costs, key=Costs.total)
    latency = cluster.latency_ms if cluster.world_size > 1 else 0.0
    return {
        "host": hardware.host_ms_per_step + plan.sharding_host_ms,
        "lookup": busiest.lookup_part_ms(),
        "communication": busiest.communication_part_ms() + plan.collectives * latency,
        "dense": dense_ms(cluster, work, plan.batch_size_per_rank),
        "gradients": all_reduce_ms(cluster, work.dense_parameters) + latency,
        "loader": 1e3 * plan.batch_size_per_rank / hardware.loader_rows_per_s,
    }


def with_figures(plan: PlanFile, figures: Mapping[str, float]) -> PlanFile:
    """Return the plan on other hardware, with the costs of its tables scaled by the efficiencies.

    Args:
        plan: Plan of the tables.
        figures: Figures of the hardware that change, by key.
    """
    before = plan.cluster.hardware
    after = before.model_copy(update=dict(figures))
    lookup = before.lookup_efficiency / after.lookup_efficiency
    exchange = before.exchange_efficiency / after.exchange_efficiency
    tables = tuple(
        table.model_copy(update={"costs_ms": table.costs_ms.scaled(lookup, exchange)}) for table in plan.tables
    )
    cluster = plan.cluster.model_copy(update={"hardware": after})
    return PlanFile.model_construct(**{**dict(plan), "cluster": cluster, "tables": tables})


def _step_and_bound(cluster: Cluster, parts: Mapping[StepPart, float]) -> tuple[float, StepPart]:
    """Return the milliseconds of a step and the part that bounds it.

    The host or the loader bounds the step if it takes longer than the parts that follow one another together;
    otherwise the longest of these parts does.
    """
    sequential = sequential_parts(cluster)
    total = sum(parts[name] for name in sequential)
    longest = max((name for name in parts if name not in sequential), key=lambda name: parts[name])
    if parts[longest] >= total:
        return parts[longest], longest
    return total, max(sequential, key=lambda name: parts[name])


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
    """Return the milliseconds of an all-reduce of the dense gradients, without its latency.

    (2 (L - 1) / L n / intra + 2 (H - 1) / H n / (L inter)) / efficiency

    The gradients are reduced in a ring inside each host of L ranks, and in a ring over the H hosts that uses all their
    network adapters. n is the number of bytes, 4 for each parameter; intra and inter are the bandwidths.
    """
    inside, between = all_reduce_bytes(cluster, parameters)
    hardware = cluster.hardware
    seconds = inside / hardware.intra_host_gb_per_s + between / hardware.inter_host_gb_per_s
    return seconds / (hardware.exchange_efficiency * 1e6)


def all_reduce_bytes(cluster: Cluster, parameters: int) -> tuple[float, float]:
    """Return the bytes that a rank sends in an all-reduce of dense gradients, inside its host and to other hosts."""
    ranks, hosts = cluster.ranks_per_host, cluster.hosts
    count = _GRADIENT_BYTES * parameters
    return 2 * (ranks - 1) / ranks * count, 2 * (hosts - 1) / hosts * count / ranks


def highest_rate(cluster: Cluster, work: DenseWork, batch_size_per_rank: int) -> float:
    """Return an upper bound of the samples a second of any plan.

    A step takes at least as long as the longest of its dense layers, its loader and its host.
    """
    hardware = cluster.hardware
    loader = 1e3 * batch_size_per_rank / hardware.loader_rows_per_s
    least_step_ms = max(dense_ms(cluster, work, batch_size_per_rank), loader, hardware.host_ms_per_step)
    return 1e3 * batch_size_per_rank * cluster.world_size / least_step_ms
