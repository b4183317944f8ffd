"""Layouts that the planner may choose for a table, and the partitioner that puts shards on ranks."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.planner import ParameterConstraints
from torchrec.distributed.planner.partitioners import GreedyPerfPartitioner, OrderedDeviceHardware, ShardingOptionGroup
from torchrec.distributed.planner.types import DeviceHardware, ShardingOption, Topology
from torchrec.distributed.types import CacheParams, ShardingType

from ple_rec.config.cluster import Cluster
from ple_rec.config.plan_table import Kernel, Sharding
from ple_rec.config.run import EmbeddingsConfig, TableConfig
from ple_rec.errors import UserError

UVM: tuple[Kernel, ...] = ("fused_uvm", "fused_uvm_caching")
MANY_RANKS = 64
# FBGEMM needs a multiple of this number of columns in a shard.
_NARROWEST = 4


class TableSharder(EmbeddingBagCollectionSharder):
    """TorchRec's sharder with the layouts under which the optimizer does not depend on the plan.

    These layouts are table-wise, row-wise and table-row-wise. Row-wise works on CPUs though the stock sharder does not
    offer it there. Data-parallel would move small tables into the dense optimizer, so that mathematics and checkpoint
    keys would depend on the plan. Column-wise needs a request: with row-wise Adagrad each column shard has a state of
    its own, which is another optimizer.

    Args:
        more_types: Sharding types to allow beside the usual ones.
        codecs: Codecs of the exchanges (`qcomms.codecs_of`); the planner's cost model reads their widths.
        prefetched: True if rows are fetched into caches while the previous step computes.
    """

    def __init__(self, more_types: set[str], codecs: dict[str, Any] | None = None, *, prefetched: bool = False) -> None:
        super().__init__({"prefetch_pipeline": True} if prefetched else None, qcomm_codecs_registry=codecs)
        self._more_types = more_types

    def sharding_types(self, compute_device_type: str) -> list[str]:
        """Return the sharding types that the planner may choose from."""
        types = [ShardingType.TABLE_WISE.value, ShardingType.ROW_WISE.value]
        if compute_device_type == "cuda":
            types.append(ShardingType.TABLE_ROW_WISE.value)
        return types + sorted(self._more_types - set(types))


class SearchSpace(NamedTuple):
    """Layouts that the planner may try beside the usual ones. A larger space costs it more time.

    Args:
        wide: True if a table that could lie on one host may be split over more than `MANY_RANKS` ranks.
        uvm: True if the planner may put tables into the host's memory.
    """

    wide: bool
    uvm: bool


def search_spaces(cluster: Cluster) -> tuple[SearchSpace, ...]:
    """Return the search spaces to try in turn until a plan fits.

    On more than 64 ranks a row-wise table has so many shards that the planner takes minutes. The same table on the
    ranks of one host exchanges as much with fewer shards, so it is split over all ranks only if no host has room.
    """
    narrow = (SearchSpace(wide=False, uvm=False),) if cluster.cuda and cluster.world_size > MANY_RANKS else ()
    wide = (SearchSpace(wide=True, uvm=False), *((SearchSpace(wide=True, uvm=True),) if cluster.cuda else ()))
    return (*narrow, *wide)


def shardings_of(
    config: EmbeddingsConfig, table: str, rows: int, cluster: Cluster, *, wide: bool = True
) -> tuple[Sharding, ...]:
    """Return the sharding that the user forces, or the usual ones that leave no rank without a row.

    A rank without a row would take part in the table's exchanges for nothing. FBGEMM's CPU kernels may read past their
    tables on such a rank, and then end the backward pass with "more than 2B rows".

    Raises:
        UserError: The forced sharding leaves a rank without a row, or contradicts the table's `hosts`.
    """
    own = config.tables.get(table, TableConfig())
    place = f"embeddings.tables.{table}.sharding"
    if own.sharding is not None:
        _check_forced(place, own, table, rows, cluster)
        return (own.sharding,)
    usual: tuple[Sharding, ...] = ("table_wise", "row_wise", *(("table_row_wise",) if cluster.cuda else ()))
    candidates = (config.sharding,) if config.sharding else usual
    if config.sharding == "row_wise" and own.hosts is not None:
        raise _hosts_of_row_wise(table, own.hosts, f"embeddings.tables.{table}.hosts")
    fitting = tuple(s for s in candidates if not _leaves_a_rank_out(s, rows, cluster))
    if own.hosts is not None or (not wide and "table_row_wise" in fitting):
        fitting = tuple(s for s in fitting if s != "row_wise")
    return fitting or ("table_wise",)


def kernels_of(config: EmbeddingsConfig, table: str, cluster: Cluster, *, uvm: bool) -> tuple[Kernel, ...]:
    """Return the kernel that the user forces, or the fused one and, if `uvm` is true, those of the host's memory.

    Raises:
        UserError: A UVM kernel is forced on CPU hosts.
    """
    own = config.tables.get(table, TableConfig())
    forced = own.kernel or config.kernel
    if forced in UVM and not cluster.cuda:
        raise UserError(
            f"embeddings.tables.{table}.kernel" if own.kernel else "embeddings.kernel",
            f'got "{forced}" on CPU hosts',
            "UVM kernels let a GPU read its host's memory; without a GPU a table lies there anyway",
            'remove it, or set "fused"',
        )
    return (forced,) if forced else ("fused", *(UVM if uvm else ()))


def constraints_of(
    config: EmbeddingsConfig,
    table: str,
    rows: int,
    dim: int,
    ids: tuple[float, ...],
    cluster: Cluster,
    space: SearchSpace,
) -> ParameterConstraints:
    """Return TorchRec's constraints for one table.

    Args:
        config: Configuration of the run's embeddings.
        table: Name of the table.
        rows: Number of rows of the table.
        dim: Number of columns of the table.
        ids: Mean number of ids that a sample has, for each feature that reads the table.
        cluster: Cluster that is planned for.
        space: Layouts that the planner may try.

    Raises:
        UserError: The configuration forces a layout that cannot be.
    """
    own = config.tables.get(table)
    hosts = own.hosts if own is not None else None
    return ParameterConstraints(
        sharding_types=list(shardings_of(config, table, rows, cluster, wide=space.wide)),
        compute_kernels=list(kernels_of(config, table, cluster, uvm=space.uvm)),
        min_partition=_column_width(dim, cluster.ranks_per_host * len(hosts) if hosts else cluster.world_size),
        pooling_factors=list(ids),
        cache_params=CacheParams(load_factor=config.cache_load_factor) if cluster.cuda else None,
    )


def _column_width(dim: int, ranks: int) -> int:
    """Return the columns of a column-wise shard: the narrowest that needs no more shards than there are ranks."""
    return min((dim // shards for shards in range(1, ranks + 1) if dim % (_NARROWEST * shards) == 0), default=dim)


def _leaves_a_rank_out(sharding: Sharding, rows: int, cluster: Cluster) -> bool:
    over = {"row_wise": cluster.world_size, "table_row_wise": cluster.ranks_per_host}.get(sharding, 1)
    return -(-rows // over) * (over - 1) >= rows


def _check_forced(place: str, own: TableConfig, table: str, rows: int, cluster: Cluster) -> None:
    assert own.sharding is not None
    if own.sharding == "row_wise" and own.hosts is not None:
        raise _hosts_of_row_wise(table, own.hosts, place)
    if _leaves_a_rank_out(own.sharding, rows, cluster):
        over = cluster.world_size if own.sharding == "row_wise" else cluster.ranks_per_host
        raise UserError(
            place,
            f"got {own.sharding} for {rows} row(s) on {over} ranks",
            f"shards of {-(-rows // over)} row(s) leave the last rank without one, which FBGEMM's CPU kernels do not "
            "survive and GPUs pay for in every exchange",
            "leave the choice to the planner, or set table_wise",
        )


def _hosts_of_row_wise(table: str, hosts: tuple[int, ...], place: str) -> UserError:
    return UserError(
        place,
        f"got row_wise with hosts = {list(hosts)}",
        "a row-wise table has a shard on every rank of every host",
        f"remove embeddings.tables.{table}.hosts, or set table_row_wise or table_wise for it",
    )


def check_hosts(config: EmbeddingsConfig, cluster: Cluster) -> None:
    """Refuse `hosts` that the cluster does not have.

    Raises:
        UserError: The `hosts` of a table name a host beyond the last one.
    """
    for name, own in config.tables.items():
        if beyond := [host for host in own.hosts or () if host >= cluster.hosts]:
            raise UserError(
                f"embeddings.tables.{name}.hosts",
                f"names host {beyond[0]}",
                f"the hosts of {cluster.describe()} are 0 to {cluster.hosts - 1}",
                "name hosts of the cluster, or remove the key",
            )


# A function that is called with the number of proposals that the planner has tried.
Watch = Callable[[int], None]


class HostPartitioner(GreedyPerfPartitioner):
    """Partitioner that puts a shard on the least busy rank, or host, among those that its table allows.

    Args:
        hosts: Hosts that a table may be on, by table name; a table without an entry may be on any host.
        ranks_per_host: Ranks of a host, L.
        watch: Function that is called with the number of proposals so far, at each of them.
    """

    def __init__(self, hosts: Mapping[str, Sequence[int]], ranks_per_host: int, watch: Watch | None = None) -> None:
        super().__init__()
        self._hosts, self._ranks_per_host, self._watch = hosts, ranks_per_host, watch
        self._tried = 0

    def partition(
        self, proposal: list[ShardingOption], storage_constraint: Topology, hbm_per_device: int | None = None
    ) -> list[ShardingOption]:
        """Give every shard of the proposal a rank; raise TorchRec's PlannerError if one fits nowhere."""
        self._tried += 1
        if self._watch is not None:
            self._watch(self._tried)
        return super().partition(proposal, storage_constraint, hbm_per_device)

    def _allowed(self, option: ShardingOption, device: DeviceHardware) -> bool:
        return device.rank // self._ranks_per_host in self._hosts[option.name]

    def _device_partition(
        self,
        sharding_option: ShardingOption,
        minheap_devices: list[OrderedDeviceHardware],
        bulk_heapify_threshold: float = 0.25,
    ) -> None:
        if sharding_option.name not in self._hosts:
            super()._device_partition(sharding_option, minheap_devices, bulk_heapify_threshold)
            return
        allowed = [ordered for ordered in minheap_devices if self._allowed(sharding_option, ordered.device)]
        heapq.heapify(allowed)
        super()._device_partition(sharding_option, allowed, bulk_heapify_threshold)
        # Both heaps share their devices, of which some are busier now.
        heapq.heapify(minheap_devices)

    def _cohost_partition(
        self, sharding_option_group: ShardingOptionGroup, _host_level_devices: list[list[DeviceHardware]]
    ) -> None:
        (option,) = sharding_option_group.sharding_options
        hosts = _host_level_devices
        if option.name in self._hosts:
            hosts = [devices for devices in hosts if self._allowed(option, devices[0])]
        super()._cohost_partition(sharding_option_group, hosts)
