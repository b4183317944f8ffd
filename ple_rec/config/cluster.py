"""Hosts, ranks, memories and bandwidths: what a plan is made for. Presets by device, and `[topology]` to change them.

Units: GiB are 2^30 bytes, GB/s are 10^9 bytes a second in one direction, TFLOP/s are 10^12 a second.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import BeforeValidator, Field

from ple_rec.config.base import Config, Fraction, NonNegativeFloat, PositiveFloat, PositiveInt
from ple_rec.config.choices import DeviceName, current_preset_name
from ple_rec.errors import UserError

GIB = 1 << 30
MAX_RANKS = 1024


Device = Annotated[DeviceName, BeforeValidator(current_preset_name)]
Share = Annotated[float, Field(gt=0, le=1)]


class Hardware(Config):
    """One host and its ranks, of which each has a GPU, or a share of the host's processors and memory."""

    device: Device = Field(description="GPU of a rank, or cpu")
    hbm_gib: NonNegativeFloat = Field(description="memory of a GPU that a process finds there, 0 for cpu")
    host_memory_gib: PositiveFloat = Field(description="memory of a host, which its ranks share")
    reserve: Fraction = Field(description="share of either memory that is kept free of tables and their batches")
    hbm_gb_per_s: NonNegativeFloat = Field(description="bandwidth of a GPU's memory, 0 for cpu")
    host_memory_gb_per_s: PositiveFloat = Field(description="memory bandwidth of a host, which its ranks share")
    hbm_to_host_gb_per_s: PositiveFloat = Field(description="from a GPU to its host's memory, for UVM kernels")
    intra_host_gb_per_s: PositiveFloat = Field(description="of a rank to the others of its host")
    inter_host_gb_per_s: PositiveFloat = Field(description="of a rank to those of other hosts")
    fp32_tflops: PositiveFloat = Field(description="peak of fp32 matrix products of a rank; a host's for cpu")
    bf16_tflops: PositiveFloat = Field(description="the same in bf16")
    dense_efficiency: Share = Field(description="share of that peak which the dense layers reach")
    loader_rows_per_s: PositiveFloat = Field(description="what a rank's loader reads")


_COMMON: Mapping[str, float] = {"reserve": 0.15, "dense_efficiency": 0.4, "loader_rows_per_s": 2e6}
_DGX_A100: Mapping[str, float] = {
    "host_memory_gib": 2000.0,
    "host_memory_gb_per_s": 400.0,
    "hbm_to_host_gb_per_s": 32.0,
    "intra_host_gb_per_s": 300.0,
    "inter_host_gb_per_s": 25.0,
    "fp32_tflops": 19.5,
    "bf16_tflops": 312.0,
}
_DGX_H100: Mapping[str, float] = {
    "host_memory_gib": 2000.0,
    "host_memory_gb_per_s": 600.0,
    "hbm_to_host_gb_per_s": 64.0,
    "intra_host_gb_per_s": 450.0,
    "inter_host_gb_per_s": 50.0,
    "fp32_tflops": 67.0,
    "bf16_tflops": 989.0,
}
# docs/planning.md names the data sheet of every figure. hbm_gib is the memory that CUDA reports, in whole GiB.
_FIGURES: Mapping[DeviceName, Mapping[str, float]] = {
    "a100-40": {**_COMMON, **_DGX_A100, "hbm_gib": 39.0, "hbm_gb_per_s": 1555.0, "host_memory_gib": 1000.0},
    "a100-80": {**_COMMON, **_DGX_A100, "hbm_gib": 79.0, "hbm_gb_per_s": 2039.0},
    "h100": {**_COMMON, **_DGX_H100, "hbm_gib": 79.0, "hbm_gb_per_s": 3350.0},
    "h200": {**_COMMON, **_DGX_H100, "hbm_gib": 139.0, "hbm_gb_per_s": 4800.0},
    "h20": {
        **_COMMON,
        **_DGX_H100,
        "hbm_gib": 95.0,
        "hbm_gb_per_s": 4000.0,
        "fp32_tflops": 44.0,
        "bf16_tflops": 148.0,
    },
    "l40s": {
        **_COMMON,
        "hbm_gib": 44.0,
        "hbm_gb_per_s": 864.0,
        "host_memory_gib": 1536.0,
        "host_memory_gb_per_s": 400.0,
        "hbm_to_host_gb_per_s": 32.0,
        "intra_host_gb_per_s": 32.0,
        "inter_host_gb_per_s": 6.25,
        "fp32_tflops": 91.6,
        "bf16_tflops": 362.0,
    },
    "b200": {
        **_COMMON,
        "hbm_gib": 178.0,
        "hbm_gb_per_s": 7700.0,
        "host_memory_gib": 2000.0,
        "host_memory_gb_per_s": 700.0,
        "hbm_to_host_gb_per_s": 64.0,
        "intra_host_gb_per_s": 900.0,
        "inter_host_gb_per_s": 50.0,
        "fp32_tflops": 75.0,
        "bf16_tflops": 2250.0,
    },
    "cpu": {
        **_COMMON,
        "hbm_gib": 0.0,
        "hbm_gb_per_s": 0.0,
        "host_memory_gib": 256.0,
        "host_memory_gb_per_s": 200.0,
        "hbm_to_host_gb_per_s": 32.0,
        "intra_host_gb_per_s": 5.0,
        "inter_host_gb_per_s": 3.0,
        "fp32_tflops": 2.0,
        "bf16_tflops": 2.0,
        "loader_rows_per_s": 1e6,
    },
}
PRESETS: Mapping[DeviceName, Hardware] = {
    device: Hardware.model_validate({"device": device, **figures}) for device, figures in _FIGURES.items()
}


class TopologyConfig(Config):
    """`[topology]`: the cluster's hosts, where they differ from the preset of their device."""

    device: Device | None = Field(None, description="preset to start from; default: that of --device, or this machine")
    hbm_gib: PositiveFloat | None = Field(None, description="memory of a GPU")
    host_memory_gib: PositiveFloat | None = Field(None, description="memory of a host, which its ranks share")
    reserve: Fraction | None = Field(
        None, description="share of either memory that is kept free of tables and their batches; .15 in every preset"
    )
    hbm_gb_per_s: PositiveFloat | None = Field(None, description="bandwidth of a GPU's memory")
    host_memory_gb_per_s: PositiveFloat | None = Field(None, description="memory bandwidth of a host")
    hbm_to_host_gb_per_s: PositiveFloat | None = Field(None, description="between a GPU and its host's memory")
    intra_host_gb_per_s: PositiveFloat | None = Field(None, description="of a rank to the others of its host")
    inter_host_gb_per_s: PositiveFloat | None = Field(None, description="of a rank to those of other hosts")
    fp32_tflops: PositiveFloat | None = Field(None, description="peak of fp32 matrix products of a GPU, or CPU host")
    bf16_tflops: PositiveFloat | None = Field(None, description="the same in bf16")
    dense_efficiency: Share | None = Field(None, description="share of the peak which the dense layers reach")
    loader_rows_per_s: PositiveFloat | None = Field(None, description="what a rank's loader reads")

    def over(self, preset: Hardware) -> Hardware:
        """The preset with what is given here in its place.

        Raises:
            UserError: a figure of GPUs for CPU hosts.
        """
        given = self.model_dump(exclude_none=True, exclude={"device"})
        if preset.device == "cpu" and (odd := [key for key in given if key.startswith("hbm_")]):
            raise UserError(
                f"topology.{odd[0]}", f"got {given[odd[0]]:g}", "CPU hosts have no GPU and no HBM", "remove it"
            )
        return preset.model_copy(update=given)


class Cluster(Config):
    """Hosts of one kind with as many ranks each; rank r lies on host r // ranks_per_host."""

    hosts: PositiveInt
    ranks_per_host: PositiveInt
    hardware: Hardware

    @property
    def world_size(self) -> int:
        """W, number of ranks."""
        return self.hosts * self.ranks_per_host

    @property
    def cuda(self) -> bool:
        """Whether a rank has a GPU."""
        return self.hardware.device != "cpu"

    @property
    def hbm_bytes(self) -> int:
        """Memory of a rank's GPU, 0 without one."""
        return int(self.hardware.hbm_gib * GIB)

    @property
    def ddr_bytes(self) -> int:
        """A rank's part of its host's memory."""
        return int(self.hardware.host_memory_gib * GIB) // self.ranks_per_host

    def hosts_of(self, ranks: range | tuple[int, ...]) -> tuple[int, ...]:
        """The hosts of these ranks, each once."""
        return tuple(dict.fromkeys(rank // self.ranks_per_host for rank in ranks))

    def describe(self) -> str:
        """`8 hosts x 8 h100`."""
        hosts = f"{self.hosts} host{'s' if self.hosts > 1 else ''}"
        if self.cuda:
            return f"{hosts} x {self.ranks_per_host} {self.hardware.device}"
        return f"{hosts} x {self.ranks_per_host} CPU rank{'s' if self.ranks_per_host > 1 else ''}"
