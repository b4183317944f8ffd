"""Up to three changes that make a plan fit, each tried, the cheapest first.

Cheap is what costs neither accuracy nor hardware: a constraint that is dropped, a cached kernel. Then come fp16 tables,
smaller batches and dims, more of the hosts' memory, larger GPUs and more hosts, each as little as is enough.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from ple_rec.config.cluster import PRESETS, Cluster, Device
from ple_rec.config.load import with_values
from ple_rec.config.plan import Plan
from ple_rec.config.run import EmbeddingsConfig, RunConfig
from ple_rec.config.words import either
from ple_rec.distributed.planner import is_hopeless
from ple_rec.errors import UserError
from ple_rec.planning.plan_input import Described, plan_run, request_of
from ple_rec.planning.smallest import smallest_hosts
from ple_rec.planning.text import rate_text
from ple_rec.text.units import short_bytes
from ple_rec.training.checks import select
from ple_rec.training.model import sizes_of

logger = logging.getLogger(__name__)

_WANTED = 3
_NARROWEST = 4
_LARGEST_HOST_GIB = 8192.0
_LARGER_GPUS: tuple[Device, ...] = ("a100-80", "h200", "b200")  # by memory


@dataclass(frozen=True)
class WayOut:
    """A change that was planned with and fits.

    Args:
        change: What to change, as the user would write it.
        price: What it costs.
        plan: The plan with it.
    """

    change: str
    price: str
    plan: Plan

    def describe(self) -> str:
        """Return the change, what it leaves of memory and rate, and its price in a line."""
        most = max(memory.hbm if self.plan.cluster.cuda else memory.host for memory in self.plan.memory)
        allowed = self.plan.allowed_hbm if self.plan.cluster.cuda else self.plan.allowed_host
        room = f"{short_bytes(most)} of {short_bytes(allowed)} on the fullest rank"
        return f"{self.change}: {room}, {rate_text(self.plan)}; {self.price}"


def suggestions(
    config: RunConfig,
    described: Described,
    cluster: Cluster,
    watch: Callable[[int], None] | None = None,
) -> list[WayOut]:
    """Changes that make the run fit, the cheapest first; three, or all that were found.

    Args:
        config: Of the run that does not fit.
        described: Its dataset.
        cluster: On which it does not fit.
        watch: Told of every proposal that the planner tries.
    """
    return list(islice(_Search(config, described, cluster, watch).found(), _WANTED))


@dataclass(frozen=True)
class _Search:
    config: RunConfig
    described: Described
    cluster: Cluster
    watch: Callable[[int], None] | None

    def found(self) -> Iterator[WayOut]:
        """Every way out, one after the other."""
        embeddings, hardware = self.config.embeddings, self.cluster.hardware
        freed = _forced(embeddings)
        if freed:
            yield from self._first([(freed, self.cluster)], "the planner chooses freely")
        if self.cluster.cuda and embeddings.kernel != "fused_uvm_caching":
            cached = freed | {"embeddings.kernel": "fused_uvm_caching"}
            yield from self._first([(cached, self.cluster)], "rows come from the hosts' memory through a cache: slower")
        if embeddings.dtype == "fp32":
            half = {"embeddings.dtype": "fp16"}
            yield from self._first([(half, self.cluster)], "half the bytes, values rounded to 11 bits")
        batches = [({f"train.{key}": size}, self.cluster) for key, size in _smaller_batches(self.config, self.cluster)]
        yield from self._first(batches, "more steps an epoch: tune the learning rates anew")
        dims = [(_with_dim(embeddings, dim), self.cluster) for dim in _smaller(embeddings.dim)]
        yield from self._first(dims, "a smaller model: compare its metrics")
        yield from self._first(
            [self._on("host_memory_gib", size) for size in _larger(hardware.host_memory_gib)], "hosts with more memory"
        )
        larger = [gpu for gpu in _LARGER_GPUS if self.cluster.cuda and hardware.hbm_gib < PRESETS[gpu].hbm_gib]
        gpus = [self._on("hbm_gib", PRESETS[gpu].hbm_gib) for gpu in larger]
        yield from self._first(gpus, f"GPUs with more memory: {either(larger)}")
        try:
            more = smallest_hosts(self.config, self.described, self.cluster, None, self.watch)
        except UserError:  # the configuration names hosts, or forces what fewer or more of them do not allow
            more = None
        if more is not None:
            hosts = more.cluster.hosts
            price = "more hosts" if hosts > self.cluster.hosts else "fewer hosts, whose batches are smaller in all"
            yield WayOut(f"--hosts {hosts}", price, more)

    def _on(self, key: str, value: float) -> tuple[dict[str, Any], Cluster]:
        """A change of the hosts, as `[topology]` has it."""
        hardware = self.cluster.hardware.model_copy(update={key: value})
        return {f"topology.{key}": value}, self.cluster.model_copy(update={"hardware": hardware})

    def _first(self, candidates: Sequence[tuple[dict[str, Any], Cluster]], price: str) -> Iterator[WayOut]:
        """The first candidate that fits, if any."""
        for values, cluster in candidates:
            change = " ".join(f"--set {key}={'' if value is None else value}" for key, value in values.items())
            try:
                config = with_values(self.config, values)
                if self._is_hopeless(config, cluster):
                    continue
                logger.info(f"trying {change}")
                plan = plan_run(config, self.described, cluster, self.watch)
            except UserError:  # it does not fit, or cannot be had together with the rest
                continue
            yield WayOut(change, price, plan)
            return

    def _is_hopeless(self, config: RunConfig, cluster: Cluster) -> bool:
        """Return True if nothing can fit, by the sizes of tables and dense layers alone, which takes no search."""
        sizes = sizes_of(config, select(config, self.described))
        return is_hopeless(sizes, request_of(config, self.described, cluster))


def _forced(embeddings: EmbeddingsConfig) -> dict[str, Any]:
    """Every constraint of the configuration, to be taken back."""
    keys = [key for key in ("sharding", "kernel") if getattr(embeddings, key) is not None]
    keys += [
        f"tables.{name}.{key}"
        for name, own in embeddings.tables.items()
        for key in ("sharding", "kernel", "hosts")
        if getattr(own, key) is not None
    ]
    return {f"embeddings.{key}": None for key in keys}


def _with_dim(embeddings: EmbeddingsConfig, dim: int) -> dict[str, Any]:
    own = {name: table.dim for name, table in embeddings.tables.items() if table.dim is not None}
    return {"embeddings.dim": dim} | {f"embeddings.tables.{name}.dim": min(d, dim) for name, d in own.items()}


def _smaller_batches(config: RunConfig, cluster: Cluster) -> Iterator[tuple[str, int]]:
    """The key of the configuration and its value, halved; those that training would refuse are left out."""
    key = "batch_size_per_rank" if config.train.batch_size is None else "batch_size"
    least = 1 if config.train.batch_size is None else cluster.world_size
    ranks = cluster.world_size if config.train.batch_size is None else 1
    size = getattr(config.train, key)
    while (size := size // 2) >= least:
        if ranks * size % config.data.virtual_shards == 0:
            yield key, size


def _smaller(dim: int) -> Iterator[int]:
    while dim > _NARROWEST:
        dim = max(_NARROWEST, dim // 2 // _NARROWEST * _NARROWEST)
        yield dim


def _larger(memory_gib: float) -> Iterator[float]:
    while memory_gib < _LARGEST_HOST_GIB:
        memory_gib *= 2
        yield memory_gib


def describe_ways(found: Sequence[WayOut]) -> str:
    """For the terminal."""
    if not found:
        return "nothing that was tried makes it fit: UVM kernels, fp16, smaller batches and dims, larger and more hosts"
    head = f"{len(found)} way{'s' if len(found) > 1 else ''} out, each planned with, the cheapest first:"
    return "\n".join([head, *(f"  {i}. {way.describe()}" for i, way in enumerate(found, 1))])
