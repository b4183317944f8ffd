"""The cluster that a run is on, and TorchRec's picture of a cluster."""

from __future__ import annotations

import torch
from torchrec.distributed.planner import Topology
from torchrec.distributed.planner.types import HardwareConfig, KernelConfig, TopologyFactory, TrainerConfig

from ple_rec.config.cluster import DEVICES, GIB, PRESETS, Cluster, Device, Hardware, TopologyConfig
from ple_rec.errors import UserError
from ple_rec.parallel.host import usable_memory_bytes
from ple_rec.parallel.process_group import Ranks

_BYTES_PER_MS = 1e6  # of 1 GB/s


def cluster_of(ranks: Ranks, config: TopologyConfig | None = None) -> Cluster:
    """The cluster that these ranks are: memories as found on this host, bandwidths of the preset that fits its device.

    Args:
        ranks: As started, as many on each host.
        config: `[topology]`, whose figures go before what is found.

    Raises:
        UserError: `[topology]` is of GPUs and the run is not, or the reverse.
    """
    found = _found(ranks.device)
    if config is not None:
        if config.device is not None and (config.device == "cpu") != (found.device == "cpu"):
            raise UserError(
                "topology.device",
                f'got "{config.device}"; the ranks run on {ranks.device.type}',
                "a run is planned for the devices that it has",
                "remove [topology], or set runtime.device",
            )
        found = config.over(found)
    return Cluster(
        hosts=ranks.world_size // ranks.local_world_size, ranks_per_host=ranks.local_world_size, hardware=found
    )


def _found(device: torch.device) -> Hardware:
    """This host's memories, with the rest of its device's preset; of a GPU without one, that of the smallest."""
    memory = {"host_memory_gib": usable_memory_bytes() / GIB}
    if device.type == "cpu":
        return PRESETS["cpu"].model_copy(update=memory)
    properties = torch.cuda.get_device_properties(device)
    name: Device = next((known for known in DEVICES if known in properties.name.lower()), "a100")
    return PRESETS[name].model_copy(update={**memory, "hbm_gib": properties.total_memory / GIB})


def torchrec_topology(cluster: Cluster, allowed_hbm: int, allowed_host: int) -> Topology:
    """TorchRec's topology of a cluster, of whose memories a rank may use so many bytes."""
    hardware = cluster.hardware
    kind = "cuda" if cluster.cuda else "cpu"
    return TopologyFactory.create_topology(
        trainer_config=TrainerConfig(world_size=cluster.world_size, local_world_size=cluster.ranks_per_host),
        hardware_config=HardwareConfig(
            hbm_cap_bytes=allowed_hbm if cluster.cuda else None,
            ddr_cap_bytes=allowed_host,
            hbm_mem_bw=hardware.hbm_gb_per_s * _BYTES_PER_MS if cluster.cuda else None,
            ddr_mem_bw=hardware.host_memory_gb_per_s * _BYTES_PER_MS / cluster.ranks_per_host,
            hbm_to_ddr_mem_bw=hardware.hbm_to_host_gb_per_s * _BYTES_PER_MS,
            intra_host_bw=hardware.intra_host_gb_per_s * _BYTES_PER_MS,
            inter_host_bw=hardware.inter_host_gb_per_s * _BYTES_PER_MS,
        ),
        kernel_config=KernelConfig(compute_device=kind, use_hardware_based_bandwidth=True),
    )
