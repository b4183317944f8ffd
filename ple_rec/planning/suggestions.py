"""Up to three changes that make a run fit its hosts, the cheapest first. Each was planned, so it is known to fit.

Changes that cost neither accuracy nor hardware come first: dropping all constraints on the placement of tables, and a
cached kernel. They are followed by fp16 tables, smaller batches and dims, more host memory, larger GPUs and another
number of hosts. Each change is the smallest of its kind that is enough.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from ple_rec.config.cluster import PRESETS, Cluster, Device
from ple_rec.config.load import with_values
from ple_rec.config.plan import PlanFile
from ple_rec.config.run import EmbeddingsConfig, RunConfig
from ple_rec.config.words import join_or
from ple_rec.distributed.planner import is_hopeless
from ple_rec.errors import UserError
from ple_rec.planning.plan_input import DatasetDescription, plan_run, planning_inputs
from ple_rec.planning.smallest import plan_fewest_hosts
from ple_rec.planning.text import rate_text
from ple_rec.text.units import short_bytes
from ple_rec.training.checks import select_run_columns
from ple_rec.training.model import model_sizes

logger = logging.getLogger(__name__)

_MAX_SUGGESTIONS = 3
# Dims are multiples of this number, which is also the least dim that is tried.
_MIN_DIM = 4
# The memory of a host is doubled only while it is below this.
_LARGEST_HOST_GIB = 8192.0
# GPUs in the order of their memory.
_LARGER_GPUS: tuple[Device, ...] = ("a100-80", "h200", "b200")


@dataclass(frozen=True)
class Suggestion:
    """Change with which the run fits.

    Args:
        change: Command line options of the change, such as "--set embeddings.dtype=fp16".
        price: Disadvantage of the change.
        plan: Plan of the run with the change.
    """

    change: str
    price: str
    plan: PlanFile

    def describe(self) -> str:
        """Return a line with the change, the memory and rate of its plan, and its price."""
        most = max(memory.hbm if self.plan.cluster.cuda else memory.host for memory in self.plan.memory)
        allowed = self.plan.allowed_hbm if self.plan.cluster.cuda else self.plan.allowed_host
        memory_text = f"{short_bytes(most)} of {short_bytes(allowed)} on the fullest rank"
        return f"{self.change}: {memory_text}, {rate_text(self.plan)}; {self.price}"


def suggestions(
    config: RunConfig,
    described: DatasetDescription,
    cluster: Cluster,
    watch: Callable[[int], None] | None = None,
) -> list[Suggestion]:
    """Return up to three changes that make a run fit, the cheapest first.

    Args:
        config: Configuration of the run that does not fit.
        described: Dataset of the run.
        cluster: Cluster on which it does not fit.
        watch: Function, if any, that is called with the number of proposals that the planner has tried.
    """
    return list(islice(_Search(config, described, cluster, watch).suggestions(), _MAX_SUGGESTIONS))


@dataclass(frozen=True)
class _Search:
    """Search for changes, with the arguments of the function `suggestions`."""

    config: RunConfig
    described: DatasetDescription
    cluster: Cluster
    watch: Callable[[int], None] | None

    def suggestions(self) -> Iterator[Suggestion]:
        """Yield the smallest change of every kind with which the run fits, the cheapest kind first."""
        embeddings, hardware = self.config.embeddings, self.cluster.hardware
        no_constraints = _without_constraints(embeddings)
        if no_constraints:
            yield from self._first_fitting([(no_constraints, self.cluster)], "the planner chooses freely")
        if self.cluster.cuda and embeddings.kernel != "fused_uvm_caching":
            cached = no_constraints | {"embeddings.kernel": "fused_uvm_caching"}
            yield from self._first_fitting(
                [(cached, self.cluster)], "rows come from the hosts' memory through a cache: slower"
            )
        if embeddings.dtype == "fp32":
            half = {"embeddings.dtype": "fp16"}
            yield from self._first_fitting([(half, self.cluster)], "half the bytes, values rounded to 11 bits")
        batches = [({f"train.{key}": size}, self.cluster) for key, size in _smaller_batches(self.config, self.cluster)]
        yield from self._first_fitting(batches, "more steps an epoch: tune the learning rates anew")
        dims = [(_with_dim(embeddings, dim), self.cluster) for dim in _smaller_dims(embeddings.dim)]
        yield from self._first_fitting(dims, "a smaller model: compare its metrics")
        yield from self._first_fitting(
            [self._with_hardware("host_memory_gib", size) for size in _larger_memories(hardware.host_memory_gib)],
            "hosts with more memory",
        )
        larger = [gpu for gpu in _LARGER_GPUS if self.cluster.cuda and hardware.hbm_gib < PRESETS[gpu].hbm_gib]
        gpus = [self._with_hardware("hbm_gib", PRESETS[gpu].hbm_gib) for gpu in larger]
        yield from self._first_fitting(gpus, f"GPUs with more memory: {join_or(larger)}")
        try:
            more = plan_fewest_hosts(self.config, self.described, self.cluster, None, self.watch)
        # The configuration may name hosts, or force a layout that another number of hosts does not allow.
        except UserError:
            more = None
        if more is not None:
            hosts = more.cluster.hosts
            price = "more hosts" if hosts > self.cluster.hosts else "fewer hosts, whose batches are smaller in all"
            yield Suggestion(f"--hosts {hosts}", price, more)

    def _with_hardware(self, key: str, value: float) -> tuple[dict[str, Any], Cluster]:
        """Return a candidate with another value of a key in `[topology]`."""
        hardware = self.cluster.hardware.model_copy(update={key: value})
        return {f"topology.{key}": value}, self.cluster.model_copy(update={"hardware": hardware})

    def _first_fitting(self, candidates: Sequence[tuple[dict[str, Any], Cluster]], price: str) -> Iterator[Suggestion]:
        """Yield the first candidate that fits, if any. A candidate is changed configuration values and a cluster."""
        for values, cluster in candidates:
            change = " ".join(f"--set {key}={'' if value is None else value}" for key, value in values.items())
            try:
                config = with_values(self.config, values)
                if self._is_hopeless(config, cluster):
                    continue
                logger.info(f"trying {change}")
                plan = plan_run(config, self.described, cluster, self.watch)
            # The change does not fit, or contradicts the rest of the configuration.
            except UserError:
                continue
            yield Suggestion(change, price, plan)
            return

    def _is_hopeless(self, config: RunConfig, cluster: Cluster) -> bool:
        """Return True if the sizes of tables and dense layers rule out every plan, which takes no search."""
        sizes = model_sizes(config, select_run_columns(config, self.described))
        return is_hopeless(sizes, planning_inputs(config, self.described, cluster))


def _without_constraints(embeddings: EmbeddingsConfig) -> dict[str, Any]:
    """Return every constraint of the configuration with the value None, which removes it."""
    keys = [key for key in ("sharding", "kernel") if getattr(embeddings, key) is not None]
    keys += [
        f"tables.{name}.{key}"
        for name, own in embeddings.tables.items()
        for key in ("sharding", "kernel", "hosts")
        if getattr(own, key) is not None
    ]
    return {f"embeddings.{key}": None for key in keys}


def _with_dim(embeddings: EmbeddingsConfig, dim: int) -> dict[str, Any]:
    """Return changed values of the configuration that limit the dim of every table."""
    own = {name: table.dim for name, table in embeddings.tables.items() if table.dim is not None}
    return {"embeddings.dim": dim} | {f"embeddings.tables.{name}.dim": min(d, dim) for name, d in own.items()}


def _smaller_batches(config: RunConfig, cluster: Cluster) -> Iterator[tuple[str, int]]:
    """Yield the key of the batch size with smaller and smaller values, each of which training would accept."""
    key = "batch_size_per_rank" if config.train.batch_size is None else "batch_size"
    least = 1 if config.train.batch_size is None else cluster.world_size
    ranks = cluster.world_size if config.train.batch_size is None else 1
    size = getattr(config.train, key)
    while (size := size // 2) >= least:
        if ranks * size % config.data.virtual_shards == 0:
            yield key, size


def _smaller_dims(dim: int) -> Iterator[int]:
    while dim > _MIN_DIM:
        dim = max(_MIN_DIM, dim // 2 // _MIN_DIM * _MIN_DIM)
        yield dim


def _larger_memories(memory_gib: float) -> Iterator[float]:
    while memory_gib < _LARGEST_HOST_GIB:
        memory_gib *= 2
        yield memory_gib


def describe_suggestions(changes: Sequence[Suggestion]) -> str:
    """Return the suggestions as a numbered list."""
    if not changes:
        return "nothing that was tried makes it fit: UVM kernels, fp16, smaller batches and dims, larger and more hosts"
    head = f"{len(changes)} change{'s' if len(changes) > 1 else ''} with which it fits, the cheapest first:"
    return "\n".join([head, *(f"  {i}. {change.describe()}" for i, change in enumerate(changes, 1))])
