"""The least time of a training step on GPUs: what each part moves or computes, over what the hardware gives.

It is a lower bound, no forecast: every peak is reached, kernels fuse what they can, launches take no time, and nobody
waits. Of a sample on one of W = H L ranks (H hosts of L GPUs) with B samples each, whose F features have n ids in all,
rows of d values of w bytes, and lie whole on one rank each, spread as evenly as F tables over W ranks can be:

    s = W ceil(F / W) / F          how much more than the mean the busiest rank has (1 on one rank)
    u_f = min(n_f, rows_f / (W B)) distinct rows of feature f that a sample adds to a step; the others are in cache

    read               1 row                                                                   loader
    copy               4 n + 4 F (lengths) + 4 (dense features) + 8 K (labels, spaces) + 8 (group) host link
    ids                s (4 n + 4 F)                                                           NVLink, network
    sort               s 2 ceil(log2(rows) / 8) (8 + 4) n    radix sort of (row, place)        HBM
    look-up            s (8 n + sum_f u_f d w + 4 F d)       ids, rows, pooled rows            HBM
    pooled rows        s p F d                               p bytes a value                   NVLink, network
    dense              3 f FLOPs                             forward f, backward 2 f           GEMM
    activations        6 a V     V values between products, a bytes each: forward write and read; backward the value
                                 again, its gradient written, and read by both products        HBM
    weights            12 P / B  P dense parameters: read forward and backward, gradient written HBM
    gradients          s p F d                               of pooled rows                    NVLink, network
    update             s (4 F d + sum_f u_f (2 d w + 2 state)) row-wise Adagrad: a sector of 32 bytes is its state  HBM
    dense optimizer    28 P / B  Adam: weight, gradient and two moments read, three of them written HBM
    all-reduce         2 (L - 1) / L 4 P / B; 2 (H - 1) / H 4 P / (L B)                        NVLink; network

Exchanges reach the (L - 1) / W other ranks of the host by NVLink and the (W - L) / W of other hosts by the network.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

from ple_rec.config.cluster import Cluster
from ple_rec.config.plan_table import WIDTH
from ple_rec.config.run import ExchangePrecision
from ple_rec.planning.estimate import all_reduce_bytes
from ple_rec.planning.workload import Bag, Workload
from ple_rec.text import aligned
from ple_rec.text.units import short_count

Resource = Literal["loader", "host link", "GEMM", "HBM", "NVLink", "network"]
RESOURCES: tuple[Resource, ...] = get_args(Resource)
LOADER: Resource = "loader"

_ID, _LENGTH, _FLOAT, _GROUP = 4, 4, 4, 8  # bytes in a batch
_KEY, _PLACE, _RADIX_BITS = 8, 4, 8  # of FBGEMM's sort
_SECTOR = 32  # bytes that a GPU's memory moves at least
_EXCHANGED: Mapping[ExchangePrecision, int] = {"fp32": 4, "fp16": 2, "bf16": 2, "int8": 1}
_ACTIVATION = {"fp32": 4, "bf16": 2}
_TOUCHED = 6  # times that a value between two products is moved
_WEIGHT_PASSES = 3
_OPTIMIZER_PASSES = {"adam": 7, "adamw": 7, "adagrad": 5, "sgd": 3}


class Row(NamedTuple):
    """A part: what a sample asks of a resource, in FLOPs (GEMM), rows (loader) or bytes (the others)."""

    part: str
    resource: Resource
    amount: float


@dataclass(frozen=True)
class Roofline:
    """The parts of a sample on a rank of a cluster.

    Args:
        rows: In the order of a step.
        cluster: With the peaks.
        peaks: Of a rank's resources, in a second.
        batch: B.
        precision: Of the dense layers.
    """

    rows: tuple[Row, ...]
    cluster: Cluster
    peaks: Mapping[Resource, float]
    batch: int
    precision: str

    def seconds(self, row: Row) -> float:
        """Of a sample, on a rank."""
        return row.amount / self.peaks[row.resource]

    def busy(self, resource: Resource) -> float:
        """Seconds that a sample keeps a resource busy."""
        return sum(self.seconds(row) for row in self.rows if row.resource == resource)

    def bound(self, *, loader: bool) -> Resource:
        """The resource that is busy longest.

        Args:
            loader: Whether reading counts.
        """
        return max((r for r in RESOURCES if loader or r != LOADER), key=self.busy)

    def overlapped(self, *, loader: bool) -> float:
        """Samples a second of the cluster where all resources work at once.

        Args:
            loader: Whether reading counts.
        """
        return self.cluster.world_size / self.busy(self.bound(loader=loader))

    def serial(self) -> float:
        """The same where each part waits for the one before; reading is ahead of the step, and does not count."""
        return self.cluster.world_size / sum(self.busy(r) for r in RESOURCES if r != LOADER)


def roofline(workload: Workload, cluster: Cluster, batch_size_per_rank: int) -> Roofline:
    """The roofline of a workload; equations at the head of this module.

    Args:
        workload: Of a sample.
        cluster: Of GPUs.
        batch_size_per_rank: B.

    Raises:
        ValueError: CPU hosts.
    """
    if not cluster.cuda:
        raise ValueError(f"{cluster.describe()}: a roofline is of GPUs")
    hardware = cluster.hardware
    fast = workload.work.precision == "bf16"
    peaks: dict[Resource, float] = {
        "loader": hardware.loader_rows_per_s,
        "host link": hardware.hbm_to_host_gb_per_s * 1e9,
        "GEMM": (hardware.bf16_tflops if fast else hardware.fp32_tflops) * 1e12,
        "HBM": hardware.hbm_gb_per_s * 1e9,
        "NVLink": hardware.intra_host_gb_per_s * 1e9,
        "network": hardware.inter_host_gb_per_s * 1e9,
    }
    rows = tuple(row for row in _rows(workload, cluster, batch_size_per_rank) if row.amount)
    return Roofline(rows, cluster, peaks, batch_size_per_rank, workload.work.precision)


def _rows(workload: Workload, cluster: Cluster, batch: int) -> Iterator[Row]:
    bags, work, world = workload.bags, workload.work, cluster.world_size
    features, ids = len(bags), sum(bag.ids for bag in bags)
    pooled = sum(bag.dim for bag in bags)
    most = world * math.ceil(features / world) / features if features else 1.0
    sent = _ID * ids + _LENGTH * features
    width = WIDTH[workload.embeddings.dtype]
    forward, backward = (_EXCHANGED[precision] for precision in workload.exchanged)

    def distinct(bag: Bag) -> float:
        return min(bag.ids, bag.rows / (world * batch))

    def exchange(part: str, count: float) -> Iterator[Row]:
        near = (cluster.ranks_per_host - 1) / world
        far = (world - cluster.ranks_per_host) / world
        yield Row(part, "NVLink", most * count * near)
        yield Row(part, "network", most * count * far)

    group = _GROUP if workload.grouped else 0
    yield Row("read", "loader", 1.0)
    yield Row("copy", "host link", sent + _FLOAT * workload.dense_features + 2 * _FLOAT * workload.tasks + group)
    yield from exchange("ids", sent)
    rows = sum(distinct(bag) * bag.dim for bag in bags) * width
    passes = math.ceil(math.log2(sum(bag.rows for bag in bags)) / _RADIX_BITS) if bags else 0
    yield Row("sort", "HBM", most * 2 * passes * (_KEY + _PLACE) * ids)
    yield Row("look-up", "HBM", most * (_KEY * ids + rows + _FLOAT * pooled))
    yield from exchange("pooled rows", forward * pooled)
    yield Row("dense", "GEMM", 3.0 * work.flops_per_sample)
    yield Row("activations", "HBM", _TOUCHED * _ACTIVATION[work.precision] * workload.values)
    yield Row("weights", "HBM", _WEIGHT_PASSES * _FLOAT * work.dense_parameters / batch)
    yield from exchange("gradients", backward * pooled)
    state = sum(distinct(bag) * _state(workload, bag) for bag in bags)
    yield Row("update", "HBM", most * (_FLOAT * pooled + 2 * rows + 2 * state))
    passes = _OPTIMIZER_PASSES[workload.dense_optimizer]
    yield Row("dense optimizer", "HBM", passes * _FLOAT * work.dense_parameters / batch)
    inside, between = all_reduce_bytes(cluster, work.dense_parameters)
    yield Row("all-reduce", "NVLink", inside / batch)
    yield Row("all-reduce", "network", between / batch)


def _state(workload: Workload, bag: Bag) -> int:
    """Bytes of the optimizer's state of a row, as the memory moves them."""
    per_row = {"rowwise_adagrad": _SECTOR, "sgd": 0, "adagrad": _FLOAT * bag.dim, "adam": 2 * _FLOAT * bag.dim}
    return per_row[workload.table_optimizer]


_UNITS = {"loader": "row", "GEMM": "FLOP"}


def format_roofline(found: Roofline) -> str:
    """Parts, resources, and the rates that follow."""
    lines = [["part", "a sample", "resource", "ns"]]
    lines += [[row.part, _amount(row), row.resource, f"{1e9 * found.seconds(row):.2f}"] for row in found.rows]
    busy = "  ".join(f"{name} {1e9 * found.busy(name):.1f}" for name in RESOURCES if found.busy(name))
    best, ahead = found.overlapped(loader=True), found.overlapped(loader=False)
    return "\n".join(
        [
            f"roofline, {found.precision}: the busiest rank at its peaks, tables in HBM, nothing waits",
            *aligned(lines, left=(0, 2)),
            f"  ns: {busy}",
            f"GPUs: at most {short_count(ahead)} samples/s (bound by {found.bound(loader=False)}), "
            f"{short_count(found.serial())} with one part after another; with the loader {short_count(best)} (bound by "
            f"{found.bound(loader=True)})",
        ]
    )


def _amount(row: Row) -> str:
    """What a sample asks for: `264 B`, `12.3 MFLOP`, `1 row`."""
    text, unit = short_count(row.amount), _UNITS.get(row.resource, "B")
    return f"{text}{unit}" if text[-1].isalpha() else f"{text} {unit}"
