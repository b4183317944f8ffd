"""Hosts, memory and bandwidths of the cluster that a run is on, and their form in TorchRec's planner.

`detect_cluster` describes the running ranks, with the bandwidths of a preset for their GPU. `torchrec_topology`
converts any cluster, even one that does not exist yet.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torchrec.distributed.planner import Topology
from torchrec.distributed.planner.types import HardwareConfig, KernelConfig, TopologyFactory, TrainerConfig

from ple_rec.config.choices import DEVICES
from ple_rec.config.cluster import GIB, PRESETS, Cluster, Hardware, TopologyConfig
from ple_rec.config.words import toml_value
from ple_rec.distributed.process_group import Ranks
from ple_rec.errors import UserError, overrides_text
from ple_rec.runtime.host import usable_memory_bytes

# A bandwidth of 1 GB/s moves this many bytes in a millisecond.
_BYTES_PER_MS = 1e6

# Presets by the name of a GPU in CUDA without "NVIDIA". Other boards with the same chip (H100 PCIe, H200 NVL, GB200,
# MIG slices) have other bandwidths, so they have no entry. PCIe boards communicate over PCIe, since an NVLink bridge
# would connect only two of them.
GPUS: Mapping[str, Hardware] = {
    "A100-SXM4-40GB": PRESETS["a100-40"],
    "A100-PCIE-40GB": PRESETS["a100-40"].model_copy(update={"intra_host_gb_per_s": 32.0}),
    "A100-SXM4-80GB": PRESETS["a100-80"],
    "A100 80GB PCIe": PRESETS["a100-80"].model_copy(update={"intra_host_gb_per_s": 32.0, "hbm_gb_per_s": 1935.0}),
    "H100 80GB HBM3": PRESETS["h100"],
    "H200": PRESETS["h200"],
    "H20": PRESETS["h20"],
    "L40S": PRESETS["l40s"],
    "B200": PRESETS["b200"],
}
# Keys that `[topology]` must set for a GPU without a preset.
_DATA_SHEET = (
    "hbm_gb_per_s",
    "hbm_to_host_gb_per_s",
    "intra_host_gb_per_s",
    "inter_host_gb_per_s",
    "fp32_tflops",
    "bf16_tflops",
)


def detect_cluster(ranks: Ranks, config: TopologyConfig | None = None) -> Cluster:
    """Return the cluster that the ranks are on, with the memory of this host and the bandwidths of a preset.

    Args:
        ranks: Ranks of the run; every host has the same number of them.
        config: Section `[topology]` of the configuration, whose values take precedence.

    Raises:
        UserError: `topology.device` names a GPU but the run is on CPUs, or vice versa; or the GPU has no preset and
            `topology.device` is missing.
    """
    config = config or TopologyConfig()
    if config.device is not None and (config.device == "cpu") != (ranks.device.type == "cpu"):
        raise UserError(
            "topology.device",
            f'got "{config.device}", but the ranks run on {ranks.device.type}',
            "a run's tables must be planned for the devices that it runs on",
            "remove [topology], or change runtime.device",
        )
    memory = {"host_memory_gib": usable_memory_bytes() / GIB}
    if ranks.device.type == "cpu":
        preset = PRESETS["cpu"]
    else:
        gpu = torch.cuda.get_device_properties(ranks.device)
        memory["hbm_gib"] = gpu.total_memory / GIB
        preset = gpu_preset(gpu.name, memory["hbm_gib"], config)
    return Cluster(
        hosts=ranks.world_size // ranks.local_world_size,
        ranks_per_host=ranks.local_world_size,
        hardware=config.apply_to(preset.model_copy(update=memory)),
    )


def gpu_preset(name: str, memory_gib: float, config: TopologyConfig) -> Hardware:
    """Return the preset that `topology.device` names, or else the preset of the GPU.

    Args:
        name: Name of the GPU in CUDA, such as "NVIDIA H200".
        memory_gib: Memory of the GPU in GiB.
        config: Section `[topology]` of the configuration.

    Raises:
        UserError: `topology.device` is missing, and the GPU has no preset.
    """
    if config.device is not None:
        return PRESETS[config.device]
    preset = GPUS.get(name.removeprefix("NVIDIA "))
    if preset is None:
        raise UserError(
            "topology.device",
            f"missing; the GPU is {name} with {memory_gib:.2f} GiB",
            f"presets exist for {', '.join(GPUS)}",
            "put this in place of any [topology] in the configuration, with the figures of the GPU's data sheet (or "
            f"set each by {overrides_text('topology.KEY=VALUE')}):\n{_topology_lines(memory_gib, config)}",
        )
    return preset


def _topology_lines(memory_gib: float, config: TopologyConfig) -> str:
    """Return lines for the section `[topology]` of a GPU without a preset.

    They hold the user's values, the memory of the GPU, and for all other keys the values of the preset with the nearest
    memory size, which the user is to edit.
    """
    gpus = [device for device in DEVICES if device != "cpu"]
    nearest = PRESETS[min(gpus, key=lambda device: abs(PRESETS[device].hbm_gib - memory_gib))]
    user_figures = config.model_dump(exclude_none=True)
    fixed_figures = {"device": nearest.device, "hbm_gib": round(memory_gib, 2)} | user_figures
    to_edit = {key: getattr(nearest, key) for key in _DATA_SHEET if key not in user_figures}
    return "\n".join(
        [
            "[topology]",
            *(f"{key} = {toml_value(value)}" for key, value in fixed_figures.items()),
            *(f"{key} = {toml_value(value)}  # of {nearest.device}" for key, value in to_edit.items()),
        ]
    )


def torchrec_topology(cluster: Cluster, allowed_hbm: int, allowed_host: int) -> Topology:
    """Return TorchRec's topology of a cluster.

    Args:
        cluster: Cluster to convert.
        allowed_hbm: Bytes of HBM that tables may take on a rank.
        allowed_host: Bytes of host memory that tables may take on a rank.
    """
    hardware = cluster.hardware
    kind = "cuda" if cluster.cuda else "cpu"
    lookup, exchange = hardware.lookup_efficiency * _BYTES_PER_MS, hardware.exchange_efficiency * _BYTES_PER_MS
    return TopologyFactory.create_topology(
        trainer_config=TrainerConfig(world_size=cluster.world_size, local_world_size=cluster.ranks_per_host),
        hardware_config=HardwareConfig(
            hbm_cap_bytes=allowed_hbm if cluster.cuda else None,
            ddr_cap_bytes=allowed_host,
            hbm_mem_bw=hardware.hbm_gb_per_s * lookup if cluster.cuda else None,
            ddr_mem_bw=hardware.host_memory_gb_per_s * lookup / cluster.ranks_per_host,
            hbm_to_ddr_mem_bw=hardware.hbm_to_host_gb_per_s * _BYTES_PER_MS,
            intra_host_bw=hardware.intra_host_gb_per_s * exchange,
            inter_host_bw=hardware.inter_host_gb_per_s * exchange,
        ),
        kernel_config=KernelConfig(compute_device=kind, use_hardware_based_bandwidth=True),
    )
