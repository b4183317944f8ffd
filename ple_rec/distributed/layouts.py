"""Layouts that the planner may choose for each embedding table, and the partitioner that puts shards on ranks.

A layout is a sharding (how a table is cut into shards) and a kernel (in which memory the weights of the table lie). The
planner (`planner.py`) passes `table_constraints` and `HostPartitioner` to TorchRec's planner; `table_sharders` are used
both there and to shard the model. The rows of an unpooled table are returned one by one, not summed; TorchRec has no
table-row-wise sharding for it.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from torchrec.distributed.embedding import EmbeddingCollectionSharder
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.planner import ParameterConstraints
from torchrec.distributed.planner.partitioners import GreedyPerfPartitioner, OrderedDeviceHardware, ShardingOptionGroup
from torchrec.distributed.planner.types import DeviceHardware, ShardingOption, Topology
from torchrec.distributed.types import CacheParams, ModuleSharder, ShardingType

from ple_rec.config.cluster import Cluster
from ple_rec.config.plan_table import Kernel, Sharding
from ple_rec.config.run import EmbeddingsConfig, TableConfig
from ple_rec.errors import UserError

# Kernels whose tables lie in host memory, where the GPU reads them (CUDA's unified virtual memory).
UVM: tuple[Kernel, ...] = ("fused_uvm", "fused_uvm_caching")
# On more ranks than this, the first search space of GPUs excludes row-wise sharding, see `search_spaces`.
MANY_RANKS = 64
# FBGEMM needs a multiple of this number of columns in a shard.
_COLUMN_MULTIPLE = 4


class TableSharder(EmbeddingBagCollectionSharder):
    """TorchRec's sharder, by default restricted to sharding types for which training computes the same under all plans.

    These types are table-wise, row-wise and, on GPUs, table-row-wise. TorchRec's own sharder does not offer row-wise on
    CPUs. Two types are not offered by default:

    - Data-parallel would move small tables into the dense optimizer, so the update rule and the checkpoint keys would
      depend on the plan.
    - Column-wise gives other updates with row-wise Adagrad, since each column shard has its own state. Only a user who
      accepts that results then depend on the plan allows it, by `extra_types`.

    Args:
        extra_types: Sharding types to allow in addition.
        codecs: Codecs of the exchanges (`qcomms.qcomm_codecs`); the planner's cost model reads their widths.
        prefetched: True if the rows of the next step are fetched into the GPU's caches during the current step.
    """

    def __init__(
        self, extra_types: set[str], codecs: dict[str, Any] | None = None, *, prefetched: bool = False
    ) -> None:
        super().__init__({"prefetch_pipeline": True} if prefetched else None, qcomm_codecs_registry=codecs)
        self._extra_types = extra_types

    def sharding_types(self, compute_device_type: str) -> list[str]:
        """Return the sharding types that the planner may choose from."""
        types = [ShardingType.TABLE_WISE.value, ShardingType.ROW_WISE.value]
        if compute_device_type == "cuda":
            types.append(ShardingType.TABLE_ROW_WISE.value)
        return types + sorted(self._extra_types - set(types))


class UnpooledTableSharder(EmbeddingCollectionSharder):
    """TorchRec's sharder of unpooled tables, restricted as `TableSharder` is. It has no table-row-wise sharding.

    Args:
        extra_types: Sharding types to allow in addition; only column-wise has an effect on unpooled tables.
        codecs: Codecs of the exchanges (`qcomms.qcomm_codecs`); the planner's cost model reads their widths.
        prefetched: True if the rows of the next step are fetched into the GPU's caches during the current step.
    """

    def __init__(
        self, extra_types: set[str], codecs: dict[str, Any] | None = None, *, prefetched: bool = False
    ) -> None:
        super().__init__({"prefetch_pipeline": True} if prefetched else None, qcomm_codecs_registry=codecs)
        self._extra_types = extra_types

    def sharding_types(self, compute_device_type: str) -> list[str]:
        """Return the sharding types that the planner may choose from."""
        types = [ShardingType.TABLE_WISE.value, ShardingType.ROW_WISE.value]
        return types + sorted(self._extra_types & {ShardingType.COLUMN_WISE.value})


def table_sharders(
    extra_types: set[str], codecs: dict[str, Any] | None = None, *, prefetched: bool = False
) -> list[ModuleSharder[Any]]:
    """Return the sharders of pooled and of unpooled tables, see `TableSharder`."""
    return [sharder(extra_types, codecs, prefetched=prefetched) for sharder in (TableSharder, UnpooledTableSharder)]


class SearchSpace(NamedTuple):
    """Layouts that the planner may try in addition to those that are always allowed. A larger space takes longer.

    Args:
        allows_row_wise: True if row-wise sharding (over all ranks) is allowed even for a table that can be
            table-row-wise (over the ranks of one host).
        uvm: True if the kernels with the table in host memory (`UVM`) are allowed, too.
    """

    allows_row_wise: bool
    uvm: bool


def search_spaces(cluster: Cluster) -> tuple[SearchSpace, ...]:
    """Return the search spaces to try in turn until a plan fits.

    On more than `MANY_RANKS` GPUs, row-wise sharding makes so many shards that the planner takes minutes.
    Table-row-wise sharding exchanges as many bytes with fewer shards. So the first space excludes row-wise for tables
    that can be table-row-wise; it is tried only if no plan in the first space fits. Kernels with tables in host memory
    come last, and only on GPUs.
    """
    without_row_wise = (
        (SearchSpace(allows_row_wise=False, uvm=False),) if cluster.cuda and cluster.world_size > MANY_RANKS else ()
    )
    with_row_wise = (
        SearchSpace(allows_row_wise=True, uvm=False),
        *((SearchSpace(allows_row_wise=True, uvm=True),) if cluster.cuda else ()),
    )
    return (*without_row_wise, *with_row_wise)


def allowed_shardings(
    config: EmbeddingsConfig,
    table: str,
    rows: int,
    cluster: Cluster,
    *,
    allows_row_wise: bool = True,
    unpooled: bool = False,
) -> tuple[Sharding, ...]:
    """Return the shardings that the planner may choose for a table.

    The result is the first of these three sets that is not empty:

    1. The sharding that the configuration of the table forces; it is an error if it leaves an empty shard.
    2. That of all tables (`embeddings.sharding`), or else the default ones, without those that leave an empty shard.
       Row-wise is no default for a table with `hosts`, nor, if `allows_row_wise` is false, for one that can be
       table-row-wise. Table-row-wise is a default on several hosts, or for a table with `hosts`: on one host it would
       be row-wise with more exchanges. On one rank every table is whole, and table-wise needs the fewest transfers.
       An unpooled table cannot be table-row-wise.
    3. Table-wise.

    A rank with an empty shard would take part in the table's exchanges for nothing. On such a rank, FBGEMM's CPU
    kernels may read beyond their tables, and the backward pass then fails with "more than 2B rows".

    Raises:
        UserError: The sharding that the table forces leaves an empty shard, or is table-row-wise for an unpooled table;
            or the configuration sets row-wise for a table with `hosts`.
    """
    table_config = config.tables.get(table, TableConfig())
    place = f"embeddings.tables.{table}.sharding"
    if table_config.sharding is not None:
        if unpooled and table_config.sharding == "table_row_wise":
            raise _unpooled_error(place)
        _check_forced_sharding(place, table_config, table, rows, cluster)
        return (table_config.sharding,)
    default: tuple[Sharding, ...] = ("table_wise",) if cluster.world_size == 1 else ("table_wise", "row_wise")
    if cluster.cuda and cluster.world_size > 1 and (cluster.hosts > 1 or table_config.hosts is not None):
        default += ("table_row_wise",)
    candidates = (config.sharding,) if config.sharding else default
    if config.sharding == "row_wise" and table_config.hosts is not None:
        raise _row_wise_hosts_error(table, table_config.hosts, f"embeddings.tables.{table}.hosts")
    if unpooled:
        candidates = tuple(s for s in candidates if s != "table_row_wise")
    fitting = tuple(s for s in candidates if not _leaves_empty_shard(s, rows, cluster))
    if table_config.hosts is not None or (not allows_row_wise and "table_row_wise" in fitting):
        fitting = tuple(s for s in fitting if s != "row_wise")
    return fitting or ("table_wise",)


def allowed_kernels(config: EmbeddingsConfig, table: str, cluster: Cluster, *, uvm: bool) -> tuple[Kernel, ...]:
    """Return the kernel that the configuration forces, or else "fused" and, if `uvm` is true, the kernels of `UVM`.

    Raises:
        UserError: A UVM kernel is forced on CPU hosts.
    """
    table_config = config.tables.get(table, TableConfig())
    forced = table_config.kernel or config.kernel
    if forced in UVM and not cluster.cuda:
        raise UserError(
            f"embeddings.tables.{table}.kernel" if table_config.kernel else "embeddings.kernel",
            f'got "{forced}" on CPU hosts',
            "UVM kernels let a GPU read host memory; on CPU hosts, all tables lie in host memory",
            'remove the key, or set it to "fused"',
        )
    return (forced,) if forced else ("fused", *(UVM if uvm else ()))


def table_constraints(
    config: EmbeddingsConfig,
    table: str,
    rows: int,
    dim: int,
    ids_per_sample: tuple[float, ...],
    cluster: Cluster,
    space: SearchSpace,
    *,
    unpooled: bool = False,
) -> ParameterConstraints:
    """Return TorchRec's constraints for one table.

    Args:
        config: Configuration of the run's embeddings.
        table: Name of the table.
        rows: Number of rows of the table.
        dim: Number of columns of the table.
        ids_per_sample: Mean number of ids in a sample, for each feature that reads the table.
        cluster: Cluster for which the plan is made.
        space: Layouts that the planner may try.
        unpooled: True for a table of an `EmbeddingCollection`.

    Raises:
        UserError: The configuration forces a layout that the cluster cannot have.
    """
    table_config = config.tables.get(table)
    # TorchRec needs column shards of one width for all tables of an `EmbeddingCollection`, so their width does not
    # depend on the hosts of the table.
    hosts = table_config.hosts if table_config is not None and not unpooled else None
    shardings = allowed_shardings(
        config, table, rows, cluster, allows_row_wise=space.allows_row_wise, unpooled=unpooled
    )
    return ParameterConstraints(
        sharding_types=list(shardings),
        compute_kernels=list(allowed_kernels(config, table, cluster, uvm=space.uvm)),
        min_partition=_column_width(dim, cluster.ranks_per_host * len(hosts) if hosts else cluster.world_size),
        pooling_factors=list(ids_per_sample),
        cache_params=CacheParams(load_factor=config.cache_load_factor) if cluster.cuda else None,
    )


def _column_width(dim: int, ranks: int) -> int:
    """Return the number of columns of a column-wise shard: the least one for which there is a rank for each shard."""
    return min((dim // shards for shards in range(1, ranks + 1) if dim % (_COLUMN_MULTIPLE * shards) == 0), default=dim)


def _leaves_empty_shard(sharding: Sharding, rows: int, cluster: Cluster) -> bool:
    shard_count = {"row_wise": cluster.world_size, "table_row_wise": cluster.ranks_per_host}.get(sharding, 1)
    return -(-rows // shard_count) * (shard_count - 1) >= rows


def _check_forced_sharding(place: str, table_config: TableConfig, table: str, rows: int, cluster: Cluster) -> None:
    assert table_config.sharding is not None
    if table_config.sharding == "row_wise" and table_config.hosts is not None:
        raise _row_wise_hosts_error(table, table_config.hosts, place)
    if _leaves_empty_shard(table_config.sharding, rows, cluster):
        shard_count = cluster.world_size if table_config.sharding == "row_wise" else cluster.ranks_per_host
        raise UserError(
            place,
            f"got {table_config.sharding} for {rows} row(s) on {shard_count} ranks",
            f"shards of {-(-rows // shard_count)} row(s) leave the last rank without rows; FBGEMM's CPU kernels may "
            "crash on such a rank, and GPUs exchange data with it for nothing",
            "remove the key, so that the planner chooses, or set table_wise",
        )


def _unpooled_error(place: str) -> UserError:
    return UserError(
        place,
        'got table_row_wise with model.history = "din"',
        "attention needs the row of each event, and TorchRec has no table_row_wise sharding that returns single rows",
        "remove the key, or set row_wise, table_wise or column_wise",
    )


def _row_wise_hosts_error(table: str, hosts: tuple[int, ...], place: str) -> UserError:
    return UserError(
        place,
        f"got row_wise with hosts = {list(hosts)}",
        "a row-wise table has a shard on every rank of every host",
        f"remove embeddings.tables.{table}.hosts, or set table_row_wise or table_wise for it",
    )


def check_table_hosts(config: EmbeddingsConfig, cluster: Cluster) -> None:
    """Raise an error if the configuration puts a table on a host that the cluster does not have.

    Raises:
        UserError: The key `hosts` of a table has a number that is too large.
    """
    for name, table_config in config.tables.items():
        if beyond := [host for host in table_config.hosts or () if host >= cluster.hosts]:
            raise UserError(
                f"embeddings.tables.{name}.hosts",
                f"names host {beyond[0]}",
                f"the hosts of {cluster.describe()} are 0 to {cluster.hosts - 1}",
                "list hosts of the cluster, or remove the key",
            )


# Function that is called with the number of proposals that the planner has tried so far.
ProposalCallback = Callable[[int], None]


class HostPartitioner(GreedyPerfPartitioner):
    """TorchRec's greedy partitioner, which puts a shard on the least busy rank or host, restricted to allowed hosts.

    Args:
        hosts: Hosts on which a table may lie, by table name; a table without an entry may lie on any host.
        ranks_per_host: Number of ranks of each host.
        on_proposal: Function that is called at each proposal with the number of proposals so far.
    """

    def __init__(
        self, hosts: Mapping[str, Sequence[int]], ranks_per_host: int, on_proposal: ProposalCallback | None = None
    ) -> None:
        super().__init__()
        self._hosts, self._ranks_per_host, self._on_proposal = hosts, ranks_per_host, on_proposal
        self._tried = 0

    def partition(
        self, proposal: list[ShardingOption], storage_constraint: Topology, hbm_per_device: int | None = None
    ) -> list[ShardingOption]:
        """Give every shard of the proposal a rank.

        Raises:
            PlannerError: A shard fits on none of its ranks.
        """
        self._tried += 1
        if self._on_proposal is not None:
            self._on_proposal(self._tried)
        return super().partition(proposal, storage_constraint, hbm_per_device)

    def _allowed(self, option: ShardingOption, device: DeviceHardware) -> bool:
        """Return True if a table that is listed in `hosts` may lie on the host of a device."""
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
        # The call has added load to devices that are also in `minheap_devices`, so its order has to be restored.
        heapq.heapify(minheap_devices)

    def _cohost_partition(
        self, sharding_option_group: ShardingOptionGroup, _host_level_devices: list[list[DeviceHardware]]
    ) -> None:
        (option,) = sharding_option_group.sharding_options
        hosts = _host_level_devices
        if option.name in self._hosts:
            hosts = [devices for devices in hosts if self._allowed(option, devices[0])]
        super()._cohost_partition(sharding_option_group, hosts)
