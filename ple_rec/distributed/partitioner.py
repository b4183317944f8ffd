"""TorchRec's greedy partitioner with two more things: tables that are kept on some hosts, and someone who watches."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping, Sequence

from torchrec.distributed.planner.partitioners import GreedyPerfPartitioner, OrderedDeviceHardware, ShardingOptionGroup
from torchrec.distributed.planner.types import DeviceHardware, ShardingOption, Topology

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
