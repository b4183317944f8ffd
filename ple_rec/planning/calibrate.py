"""Figures of a cluster's hardware from measurements: `ple-rec plan --calibration FILE`.

A time over batch sizes is taken as a line, a + b B for B samples of a rank, through the smallest and the largest size
that was measured. a is the intercept, b the slope in milliseconds a sample. "Fixed part" is the part of a step that
does not depend on the samples: on CPUs the intercept; on GPUs the time in which the host issues the smallest step, or
that of its kernels if they take longer. With F forward FLOPs of a sample, and the peak of the precision that was
measured:

    lookup_efficiency          slope of the tables by the cost model, at the full bandwidth / slope as measured
    dense_efficiency           3 F / (peak (slope of the step - slope of the tables))
    host_ms_per_step           fixed part of a step of one rank
    exchange_efficiency        bytes a second of all-to-alls / intra_host_gb_per_s
    intra_host_latency_us      time of the smallest all-to-all
    host_ms_per_sharding_type  fixed part of a step of several ranks - host_ms_per_step - six latencies on CPUs; on GPUs
                               no latency is subtracted, since the host does not wait for the collectives
    loader_rows_per_s          as measured
    hbm_to_host_gb_per_s       bytes a second of the largest copy
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from ple_rec.config.calibration import Calibration, ExchangeTimes, StepTime, TablesTime
from ple_rec.config.cluster import Cluster, Hardware, TopologyConfig
from ple_rec.config.run import EmbeddingsConfig, TableOptimizerConfig
from ple_rec.config.schema import SparseFeature
from ple_rec.distributed.optimizers import attach_table_optimizer
from ple_rec.distributed.planner import make_plan
from ple_rec.distributed.planning_inputs import PlanningInputs
from ple_rec.models.embeddings import embedding_collection

# FLOPs of a step over those of a forward pass.
_PASSES = 3.0
# A step of several ranks with one sharding type has five collectives of the tables and the all-reduce of the dense
# gradients. Each of them takes one latency.
_COLLECTIVES = 6


def calibrated(
    cluster: Cluster, calibration: Calibration, place: str, topology: TopologyConfig | None = None
) -> Cluster:
    """Return a cluster in which measured figures replace those of the preset.

    Args:
        cluster: Cluster of the device that was measured.
        calibration: Measurements of a host.
        place: Description of the file of the measurements.
        topology: `[topology]` of the configuration, whose figures stay as they are; None if it has none.
    """
    hardware = cluster.hardware
    of_user = {} if topology is None else topology.model_dump(exclude_none=True)
    figures = {key: value for key, value in measured_figures(calibration, hardware).items() if key not in of_user}
    changed = {"hardware": hardware.model_copy(update=figures), "calibration": f"{place} ({calibration.describe()})"}
    return cluster.model_copy(update=changed)


def measured_figures(calibration: Calibration, hardware: Hardware) -> dict[str, float]:
    """Return the figures that follow from measurements, by key of `[topology]`.

    A figure is left out if noise hides it, because a measured time does not grow with the samples.

    Args:
        calibration: Measurements of a host.
        hardware: Hardware with the peaks and bandwidths to which the efficiencies refer.
    """
    steps, tables = calibration.steps, calibration.tables
    step_slope = _slope({step.samples: step.device_ms or step.ms for step in steps})
    table_slope = _slope({each.samples: each.forward_ms + each.backward_ms for each in tables})
    figures = {"loader_rows_per_s": calibration.loader_rows_per_s, "host_ms_per_step": _host_ms(steps, step_slope)}
    if table_slope > 0:
        figures["lookup_efficiency"] = min(1.0, _modelled_slope(tables[-1], hardware) / table_slope)
    dense_slope = step_slope - max(0.0, table_slope)
    if dense_slope > 0:
        peak = hardware.bf16_tflops if calibration.precision == "bf16" else hardware.fp32_tflops
        flops = _PASSES * calibration.flops_per_sample
        figures["dense_efficiency"] = min(1.0, flops / (1e9 * peak * dense_slope))
    if calibration.exchanges is not None:
        figures |= _exchange_figures(calibration.exchanges, hardware, figures["host_ms_per_step"])
    if calibration.copies:
        largest = max(calibration.copies, key=lambda copy: copy.bytes)
        figures["hbm_to_host_gb_per_s"] = largest.bytes / largest.ms / 1e6
    return {key: float(f"{value:.4g}") for key, value in figures.items()}


def _slope(ms_by_samples: Mapping[int, float]) -> float:
    """Return milliseconds a sample between the smallest and the largest number of samples."""
    least, most = min(ms_by_samples), max(ms_by_samples)
    return (ms_by_samples[most] - ms_by_samples[least]) / (most - least)


def _host_ms(steps: Sequence[StepTime], slope: float) -> float:
    """Return the fixed part of a step, as the docstring of this module defines it."""
    smallest = min(steps, key=lambda step: step.samples)
    if smallest.device_ms is None:
        return max(0.0, smallest.ms - slope * smallest.samples)
    return max(smallest.host_ms, smallest.device_ms)


def _exchange_figures(exchanges: ExchangeTimes, hardware: Hardware, host_ms: float) -> dict[str, float]:
    """Return the figures of exchanges inside a host."""
    by_bytes = sorted(exchanges.all_to_all, key=lambda each: each.bytes)
    small, large = by_bytes[0], by_bytes[-1]
    figures = {"intra_host_latency_us": 1e3 * small.ms}
    if large.ms > small.ms:
        gb_per_s = (large.bytes - small.bytes) / (large.ms - small.ms) / 1e6
        figures["exchange_efficiency"] = min(1.0, gb_per_s / hardware.intra_host_gb_per_s)
    step_slope = _slope({step.samples: step.device_ms or step.ms for step in exchanges.steps})
    added_ms = _host_ms(exchanges.steps, step_slope) - host_ms
    # On a GPU the host does not wait for the collectives.
    latencies_ms = 0.0 if exchanges.steps[0].device_ms is not None else _COLLECTIVES * small.ms
    return figures | {"host_ms_per_sharding_type": max(0.0, added_ms - latencies_ms)}


def _modelled_slope(tables: TablesTime, hardware: Hardware) -> float:
    """Return the milliseconds a sample of look-up and update by the cost model, at the full bandwidth of the memory."""
    # The model's time does not depend on the number of rows, and tables of one row fit in any memory.
    rows = {f"t{index}": 1 for index in range(tables.tables)}
    embeddings = EmbeddingsConfig(dim=tables.dim, sharding="table_wise", kernel="fused")
    features = [SparseFeature(name=name, table=name) for name in rows]
    collection = embedding_collection(embeddings, features, rows, torch.device("meta"))
    assert collection is not None
    module = nn.ModuleDict({"embeddings": collection})
    full = hardware.model_copy(update={"lookup_efficiency": 1.0})
    cluster = Cluster(hosts=1, ranks_per_host=1, hardware=full)
    # The cost model counts the same time for each optimizer, so the simplest one stands for that of the run.
    attach_table_optimizer(module, TableOptimizerConfig(kind="sgd"), torch.device("cuda" if cluster.cuda else "cpu"))
    ids = dict.fromkeys(rows, tables.ids / tables.tables)
    plan = make_plan(module, PlanningInputs(embeddings, "sgd", cluster, tables.samples, ids))
    return plan.costs[0].lookup_part_ms() / tables.samples
