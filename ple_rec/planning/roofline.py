"""Least time of a training step on GPUs: the work of each part divided by the peak of the hardware.

It is a lower bound and not a forecast: every peak is reached, kernels fuse as much as they can, launches take no time,
and no rank waits. The table below has the work of one sample: the part of a step, its bytes (if not said otherwise),
and the resource that moves them. There are W = H L ranks (H hosts of L GPUs) with B samples each. F sparse features
have n ids in all, and rows of d values of w bytes. K tasks have a label and a sample-space flag each. Each table lies
on one rank, and the tables are spread over the ranks as evenly as F tables can be.

    s = W ceil(F / W) / F          tables of the busiest rank divided by the mean of all ranks (1 without tables)
    u_f = min(n_f, rows_f / (W B)) distinct rows of feature f that a sample adds to a step; the others are in cache

    read               1 row                                                                   loader
    copy               4 n + 4 F (lengths) + 4 (dense features) + 8 K (labels, flags) + 8 (group)  host link
    ids                s (4 n + 4 F)                                                           NVLink, network
    sort               s 2 ceil(log2(rows) / 8) (8 + 4) n    radix sort of (row, place)        HBM
    look-up            s (8 n + sum_f u_f d w + 4 F d)       ids, rows, pooled rows            HBM
    pooled rows        s p F d                               p bytes a value                   NVLink, network
    dense              3 G FLOPs                             forward G, backward 2 G           GEMM
    activations        6 a V     V values between products, a bytes each: forward write and read; backward the value
                                 again, its gradient written, and read by both products        HBM
    weights            12 P / B  P dense parameters: read forward and backward, gradient written HBM
    gradients          s p F d                               of pooled rows                    NVLink, network
    update             s (4 F d + sum_f u_f (2 d w + 2 state)) row-wise Adagrad: a sector of 32 bytes is its state  HBM
    dense optimizer    28 P / B  Adam: weight, gradient and two moments read, three of them written HBM
    all-reduce         2 (L - 1) / L 4 P / B; 2 (H - 1) / H 4 P / (L B)                        NVLink; network

A feature of an unpooled table, which attention over histories reads, has n_f returned rows instead of one pooled row:
n_f d values instead of d. `state` has the bytes of the optimizer's state of a row, and `rows` is the number of rows of
all tables. Exchanges send (L - 1) / W of their bytes to the other ranks of the host by NVLink, and (W - L) / W to other
hosts by the network.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

from ple_rec.config.cluster import Cluster
from ple_rec.config.plan_table import BYTES_PER_VALUE
from ple_rec.config.run import ExchangePrecision
from ple_rec.planning.estimate import all_reduce_bytes
from ple_rec.planning.workload import FeatureLoad, SampleWork
from ple_rec.text import align_columns
from ple_rec.text.units import short_count

Resource = Literal["loader", "host link", "GEMM", "HBM", "NVLink", "network"]
RESOURCES: tuple[Resource, ...] = get_args(Resource)
LOADER: Resource = "loader"

# Bytes of an id, of the length of a bag, of a number and of a group id.
_ID, _LENGTH, _FLOAT, _GROUP = 4, 4, 4, 8
# FBGEMM sorts the ids of a batch: bytes of a key, bytes of its place, and bits that a pass of the radix sort handles.
_KEY, _PLACE, _RADIX_BITS = 8, 4, 8
# Least number of bytes that the memory of a GPU moves at a time.
_SECTOR = 32
# Bytes of a value that ranks exchange, by its precision.
_EXCHANGE_BYTES: Mapping[ExchangePrecision, int] = {"fp32": 4, "fp16": 2, "bf16": 2, "int8": 1}
# Bytes of an activation.
_ACTIVATION = {"fp32": 4, "bf16": 2}
# Numbers of values that HBM moves in a step for an activation, for a dense parameter in the two passes (forward and
# backward), and for a dense parameter in the optimizer's update.
_ACTIVATION_PASSES = 6
_WEIGHT_PASSES = 3
_OPTIMIZER_PASSES = {"adam": 7, "adamw": 7, "adagrad": 5, "sgd": 3}


class Demand(NamedTuple):
    """Use of a resource by a part of the step, for each sample: FLOPs (GEMM), rows (loader) or bytes (all others)."""

    part: str
    resource: Resource
    amount: float


@dataclass(frozen=True)
class Roofline:
    """Demands of a sample on the resources of the busiest rank, and the rates that follow.

    Args:
        demands: Demands of all parts, in the order of a step.
        cluster: Cluster of the ranks.
        peaks: Peak of each resource of a rank: FLOPs, rows or bytes a second.
        batch: Number of samples of a rank and step, B.
        precision: Precision of the dense layers.
    """

    demands: tuple[Demand, ...]
    cluster: Cluster
    peaks: Mapping[Resource, float]
    batch: int
    precision: str

    def seconds(self, demand: Demand) -> float:
        """Return the seconds that a demand takes at the peak of its resource."""
        return demand.amount / self.peaks[demand.resource]

    def busy_seconds(self, resource: Resource) -> float:
        """Return the seconds that a sample keeps a resource busy."""
        return sum(self.seconds(demand) for demand in self.demands if demand.resource == resource)

    def bound(self, *, loader: bool) -> Resource:
        """Return the resource that is busy longest.

        Args:
            loader: True to count the loader among the resources.
        """
        return max((r for r in RESOURCES if loader or r != LOADER), key=self.busy_seconds)

    def overlapped_rate(self, *, loader: bool) -> float:
        """Return the samples a second of the cluster if all resources work at the same time.

        Args:
            loader: True to count the loader among the resources.
        """
        return self.cluster.world_size / self.busy_seconds(self.bound(loader=loader))

    def serial_rate(self) -> float:
        """Return the samples a second if each part waits for the one before.

        The loader does not count, since it reads ahead of the step.
        """
        return self.cluster.world_size / sum(self.busy_seconds(r) for r in RESOURCES if r != LOADER)


def roofline(workload: SampleWork, cluster: Cluster, batch_size_per_rank: int) -> Roofline:
    """Return the roofline of a workload by the equations at the head of this module.

    Args:
        workload: Work of a sample.
        cluster: Cluster of GPUs.
        batch_size_per_rank: Number of samples of a rank and step, B.

    Raises:
        ValueError: The hosts have no GPUs.
    """
    if not cluster.cuda:
        raise ValueError(f"{cluster.describe()}: a roofline is of GPUs")
    hardware = cluster.hardware
    is_bf16 = workload.work.precision == "bf16"
    peaks: dict[Resource, float] = {
        "loader": hardware.loader_rows_per_s,
        "host link": hardware.hbm_to_host_gb_per_s * 1e9,
        "GEMM": (hardware.bf16_tflops if is_bf16 else hardware.fp32_tflops) * 1e12,
        "HBM": hardware.hbm_gb_per_s * 1e9,
        "NVLink": hardware.intra_host_gb_per_s * 1e9,
        "network": hardware.inter_host_gb_per_s * 1e9,
    }
    demands = tuple(demand for demand in _demands(workload, cluster, batch_size_per_rank) if demand.amount)
    return Roofline(demands, cluster, peaks, batch_size_per_rank, workload.work.precision)


def _demands(workload: SampleWork, cluster: Cluster, batch: int) -> Iterator[Demand]:
    """Yield the demands of the table at the head of this module; an amount may be 0."""
    features, work, world = workload.features, workload.work, cluster.world_size
    count, ids = len(features), sum(feature.ids for feature in features)
    returned = sum(feature.values for feature in features)
    imbalance = world * math.ceil(count / world) / count if count else 1.0
    sparse_bytes = _ID * ids + _LENGTH * count
    width = BYTES_PER_VALUE[workload.embeddings.dtype]
    forward, backward = (_EXCHANGE_BYTES[precision] for precision in workload.exchange_precisions)

    def distinct(feature: FeatureLoad) -> float:
        return min(feature.ids, feature.rows / (world * batch))

    def exchange(part: str, amount: float) -> Iterator[Demand]:
        same_host = (cluster.ranks_per_host - 1) / world
        other_hosts = (world - cluster.ranks_per_host) / world
        yield Demand(part, "NVLink", imbalance * amount * same_host)
        yield Demand(part, "network", imbalance * amount * other_hosts)

    group = _GROUP * workload.groups
    yield Demand("read", "loader", 1.0)
    yield Demand("copy", "host link", sparse_bytes + _FLOAT * workload.numbers + 2 * _FLOAT * workload.tasks + group)
    yield from exchange("ids", sparse_bytes)
    row_bytes = sum(distinct(feature) * feature.dim for feature in features) * width
    sort_passes = math.ceil(math.log2(sum(feature.rows for feature in features)) / _RADIX_BITS) if features else 0
    yield Demand("sort", "HBM", imbalance * 2 * sort_passes * (_KEY + _PLACE) * ids)
    yield Demand("look-up", "HBM", imbalance * (_KEY * ids + row_bytes + _FLOAT * returned))
    yield from exchange("pooled rows", forward * returned)
    yield Demand("dense", "GEMM", 3.0 * work.flops_per_sample)
    yield Demand("activations", "HBM", _ACTIVATION_PASSES * _ACTIVATION[work.precision] * workload.values)
    yield Demand("weights", "HBM", _WEIGHT_PASSES * _FLOAT * work.dense_parameters / batch)
    yield from exchange("gradients", backward * returned)
    state_bytes = sum(distinct(feature) * _state_bytes(workload, feature) for feature in features)
    yield Demand("update", "HBM", imbalance * (_FLOAT * returned + 2 * row_bytes + 2 * state_bytes))
    moved_values = _OPTIMIZER_PASSES[workload.dense_optimizer]
    yield Demand("dense optimizer", "HBM", moved_values * _FLOAT * work.dense_parameters / batch)
    inside, between = all_reduce_bytes(cluster, work.dense_parameters)
    yield Demand("all-reduce", "NVLink", inside / batch)
    yield Demand("all-reduce", "network", between / batch)


def _state_bytes(workload: SampleWork, feature: FeatureLoad) -> int:
    """Return the bytes that the memory moves to read or write the optimizer's state of a row."""
    values = _FLOAT * feature.dim
    return {"rowwise_adagrad": _SECTOR, "sgd": 0, "adagrad": values, "adam": 2 * values}[workload.table_optimizer]


_UNITS = {"loader": "row", "GEMM": "FLOP"}


def format_roofline(roof: Roofline) -> str:
    """Return a table of the demands, the time of each resource, and the rates that follow."""
    lines = [["part", "a sample", "resource", "ns"]]
    lines += [[d.part, _amount_text(d), d.resource, f"{1e9 * roof.seconds(d):.2f}"] for d in roof.demands]
    busy = "  ".join(f"{name} {1e9 * roof.busy_seconds(name):.1f}" for name in RESOURCES if roof.busy_seconds(name))
    with_loader, without_loader = roof.overlapped_rate(loader=True), roof.overlapped_rate(loader=False)
    return "\n".join(
        [
            f"roofline, {roof.precision}: the busiest rank at its peaks, tables in HBM, nothing waits",
            *align_columns(lines, left_columns=(0, 2)),
            f"  ns: {busy}",
            f"GPUs: at most {short_count(without_loader)} samples/s (bound by {roof.bound(loader=False)}), "
            f"{short_count(roof.serial_rate())} with one part after another; "
            f"with the loader {short_count(with_loader)} (bound by {roof.bound(loader=True)})",
        ]
    )


def _amount_text(demand: Demand) -> str:
    """Return the amount with its unit: `264 B`, `12.3 MFLOP`, `1 row`."""
    text, unit = short_count(demand.amount), _UNITS.get(demand.resource, "B")
    return f"{text}{unit}" if text[-1].isalpha() else f"{text} {unit}"
