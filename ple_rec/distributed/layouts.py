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
_NARROWEST = 4  # columns of a shard, of which FBGEMM wants a multiple


class TableSharder(EmbeddingBagCollectionSharder):
    """TorchRec's sharder with the layouts that keep one optimizer: table-wise, row-wise, table-row-wise.

    Row-wise works on CPU though the stock sharder does not offer it there. Data-parallel is left out: it moves small
    tables into the dense optimizer, so that mathematics and checkpoint keys would depend on the plan. Column-wise is
    left out unless asked for: with row-wise Adagrad each column shard keeps its own state, which is another optimizer.

    Args:
        asked_for: Sharding types beyond those.
        codecs: Of the exchanges (`qcomms.codecs_of`); the planner's cost model reads their widths.
        prefetched: Whether rows are fetched into caches while the step before computes.
    """

    def __init__(self, asked_for: set[str], codecs: dict[str, Any] | None = None, *, prefetched: bool = False) -> None:
        super().__init__({"prefetch_pipeline": True} if prefetched else None, qcomm_codecs_registry=codecs)
        self.asked_for = asked_for

    def sharding_types(self, compute_device_type: str) -> list[str]:
        """Sharding types that the planner may choose from."""
        types = [ShardingType.TABLE_WISE.value, ShardingType.ROW_WISE.value]
        if compute_device_type == "cuda":
            types.append(ShardingType.TABLE_ROW_WISE.value)
        return types + sorted(self.asked_for - set(types))


class Choice(NamedTuple):
    """How much the planner may choose from; each step costs it time.

    Args:
        wide: Whether a table that could lie on the ranks of one host may be split over all ranks, past `MANY_RANKS`.
        uvm: Whether tables may lie in the host's memory unasked.
    """

    wide: bool
    uvm: bool


def choices(cluster: Cluster) -> tuple[Choice, ...]:
    """What is tried one after the other, until a plan fits.

    Past 64 ranks the shards of a row-wise table are so many that they take the planner minutes, while a table on the
    ranks of one host exchanges as much with fewer: it is split over all only where a host has no room for it.
    """
    narrow = (Choice(wide=False, uvm=False),) if cluster.cuda and cluster.world_size > MANY_RANKS else ()
    wide = (Choice(wide=True, uvm=False), *((Choice(wide=True, uvm=True),) if cluster.cuda else ()))
    return (*narrow, *wide)


def shardings_of(
    config: EmbeddingsConfig, table: str, rows: int, cluster: Cluster, *, wide: bool = True
) -> tuple[Sharding, ...]:
    """Shardings of one table: the forced one, or the usual ones without those that leave a rank without a row.

    Such a rank would take part in the table's exchanges for nothing, and FBGEMM's CPU kernels may read past their
    tables there, and then end the backward with "more than 2B rows".

    Raises:
        UserError: the user forces one that would, or that its `hosts` exclude.
    """
    own = config.tables.get(table, TableConfig())
    place = f"embeddings.tables.{table}.sharding"
    if own.sharding is not None:
        _check_forced(place, own, table, rows, cluster)
        return (own.sharding,)
    usual: tuple[Sharding, ...] = ("table_wise", "row_wise", *(("table_row_wise",) if cluster.cuda else ()))
    wanted = (config.sharding,) if config.sharding else usual
    if config.sharding == "row_wise" and own.hosts is not None:
        raise _hosts_of_row_wise(table, own.hosts, f"embeddings.tables.{table}.hosts")
    fitting = tuple(s for s in wanted if not _leaves_a_rank_out(s, rows, cluster))
    if own.hosts is not None or (not wide and "table_row_wise" in fitting):
        fitting = tuple(s for s in fitting if s != "row_wise")
    return fitting or ("table_wise",)


def kernels_of(config: EmbeddingsConfig, table: str, cluster: Cluster, *, uvm: bool) -> tuple[Kernel, ...]:
    """Kernels of one table: the forced one, or fused and, with `uvm`, those whose tables lie in the host's memory.

    Raises:
        UserError: a UVM kernel on a CPU.
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
    config: EmbeddingsConfig, table: str, rows: int, dim: int, ids: tuple[float, ...], cluster: Cluster, choice: Choice
) -> ParameterConstraints:
    """TorchRec's constraints for one table.

    Args:
        config: Of the run.
        table: Its name.
        rows: Of it.
        dim: Of it.
        ids: A sample's, of each feature that reads it.
        cluster: Planned for.
        choice: How much the planner may choose from.

    Raises:
        UserError: the configuration forces what cannot be.
    """
    own = config.tables.get(table)
    hosts = own.hosts if own is not None else None
    return ParameterConstraints(
        sharding_types=list(shardings_of(config, table, rows, cluster, wide=choice.wide)),
        compute_kernels=list(kernels_of(config, table, cluster, uvm=choice.uvm)),
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
        UserError: a table names one.
    """
    for name, own in config.tables.items():
        if beyond := [host for host in own.hosts or () if host >= cluster.hosts]:
            raise UserError(
                f"embeddings.tables.{name}.hosts",
                f"names host {beyond[0]}",
                f"the hosts of {cluster.describe()} are 0 to {cluster.hosts - 1}",
                "name hosts of the cluster, or remove the key",
            )


Watch = Callable[[int], None]  # told the number of proposals tried


class HostPartitioner(GreedyPerfPartitioner):
    """Places the shards of each table on the rank, or the host, that is least busy among those it may be on.

    Args:
        hosts: Hosts that a table is kept on, by name; others may be anywhere.
        ranks_per_host: L.
        watch: Told of every proposal that is tried.
    """

    def __init__(self, hosts: Mapping[str, Sequence[int]], ranks_per_host: int, watch: Watch | None = None) -> None:
        super().__init__()
        self._hosts, self._ranks_per_host, self._watch = hosts, ranks_per_host, watch
        self._tried = 0

    def partition(
        self, proposal: list[ShardingOption], storage_constraint: Topology, hbm_per_device: int | None = None
    ) -> list[ShardingOption]:
        """Give every shard of the proposal a rank; raises TorchRec's PlannerError where one fits nowhere."""
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
        some = [ordered for ordered in minheap_devices if self._allowed(sharding_option, ordered.device)]
        heapq.heapify(some)
        super()._device_partition(sharding_option, some, bulk_heapify_threshold)
        heapq.heapify(minheap_devices)  # the devices are shared, and some are busier now

    def _cohost_partition(
        self, sharding_option_group: ShardingOptionGroup, _host_level_devices: list[list[DeviceHardware]]
    ) -> None:
        (option,) = sharding_option_group.sharding_options
        hosts = _host_level_devices
        if option.name in self._hosts:
            hosts = [devices for devices in hosts if self._allowed(option, devices[0])]
        super()._cohost_partition(sharding_option_group, hosts)
