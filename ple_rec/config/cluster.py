"""Cluster for which a plan is made: hosts, ranks, memories and bandwidths, from presets by device.

The table `[topology]` of a run changes figures of a preset.

Units: GiB are 2^30 bytes, GB/s are 10^9 bytes a second in one direction, TFLOP/s are 10^12 operations a second; ms are
milliseconds, us microseconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, NamedTuple

from pydantic import BeforeValidator, Field

from ple_rec.config.base import Config, Fraction, NonNegativeFloat, PositiveFloat, PositiveInt
from ple_rec.config.choices import DeviceName, current_preset_name
from ple_rec.errors import UserError

GIB = 1 << 30
MAX_RANKS = 1024  # Most ranks for which `ple-rec plan` plans.


Device = Annotated[DeviceName, BeforeValidator(current_preset_name)]
Share = Annotated[float, Field(gt=0, le=1)]


class Hardware(Config):
    """Figures of a host and its ranks. A rank has a GPU, or else a share of the host's processors and memory."""

    device: Device = Field(description="GPU of a rank, or cpu")
    hbm_gib: NonNegativeFloat = Field(description="memory of a GPU as CUDA reports it, 0 for cpu")
    host_memory_gib: PositiveFloat = Field(description="memory of a host, which its ranks share")
    reserve: Fraction = Field(description="share of each memory that stays free of tables and their batches")
    hbm_gb_per_s: NonNegativeFloat = Field(description="bandwidth of a GPU's memory, 0 for cpu")
    host_memory_gb_per_s: PositiveFloat = Field(description="memory bandwidth of a host, which its ranks share")
    hbm_to_host_gb_per_s: PositiveFloat = Field(
        description="bandwidth from a GPU to its host's memory, for UVM kernels"
    )
    intra_host_gb_per_s: PositiveFloat = Field(description="bandwidth of a rank to the other ranks of its host")
    inter_host_gb_per_s: PositiveFloat = Field(description="bandwidth of a rank to ranks of other hosts")
    fp32_tflops: PositiveFloat = Field(description="peak of fp32 matrix products of a GPU, or of a CPU host")
    bf16_tflops: PositiveFloat = Field(description="peak of bf16 matrix products of a GPU, or of a CPU host")
    dense_efficiency: Share = Field(description="share of the peak that the dense layers reach")
    # Plans of older versions lack the following figures. These defaults estimate a step as those versions did.
    lookup_efficiency: Share = Field(1.0, description="share of the memory's bandwidth that look-ups and updates reach")
    exchange_efficiency: Share = Field(1.0, description="share of the bandwidth between ranks that exchanges reach")
    host_ms_per_step: NonNegativeFloat = Field(0.0, description="time in which a host issues a step of one rank")
    host_ms_per_sharding_type: NonNegativeFloat = Field(
        0.0, description="time that each sharding type of several ranks adds to that"
    )
    intra_host_latency_us: NonNegativeFloat = Field(0.0, description="latency of a collective inside a host")
    inter_host_latency_us: NonNegativeFloat = Field(0.0, description="latency of a collective between hosts")
    loader_rows_per_s: PositiveFloat = Field(description="rows that a rank's loader reads in a second")


class AssumedFigure(NamedTuple):
    """Figure that no data sheet has: the value of the presets, and the range that it is expected in.

    Args:
        slow: End of the range at which a step takes longest.
        value: Value of the presets.
        fast: End of the range at which a step takes least time.
    """

    slow: float
    value: float
    fast: float


# docs/planning.md says where each of these figures comes from. A figure of `[topology]` or of a calibration replaces
# both the value and the range.
ASSUMED_OF_GPUS: Mapping[str, AssumedFigure] = {
    "dense_efficiency": AssumedFigure(0.05, 0.2, 0.6),
    "lookup_efficiency": AssumedFigure(0.2, 0.5, 0.8),
    "exchange_efficiency": AssumedFigure(0.2, 0.5, 0.8),
    "host_ms_per_step": AssumedFigure(4.0, 2.5, 1.0),
    "host_ms_per_sharding_type": AssumedFigure(2.5, 1.0, 0.5),
    "intra_host_latency_us": AssumedFigure(50.0, 20.0, 10.0),
    "inter_host_latency_us": AssumedFigure(150.0, 50.0, 20.0),
    "loader_rows_per_s": AssumedFigure(1e6, 2e6, 3e6),
}
ASSUMED_OF_CPUS: Mapping[str, AssumedFigure] = {
    "dense_efficiency": AssumedFigure(0.2, 0.4, 0.6),
    "lookup_efficiency": AssumedFigure(0.01, 0.05, 0.2),
    "exchange_efficiency": AssumedFigure(0.1, 0.3, 0.8),
    "host_ms_per_step": AssumedFigure(20.0, 15.0, 5.0),
    "host_ms_per_sharding_type": AssumedFigure(5.0, 2.0, 0.5),
    "intra_host_latency_us": AssumedFigure(1000.0, 300.0, 100.0),
    "inter_host_latency_us": AssumedFigure(1000.0, 300.0, 100.0),
    "loader_rows_per_s": AssumedFigure(2.5e5, 1e6, 2e6),
}


_COMMON: Mapping[str, float] = {"reserve": 0.15} | {key: figure.value for key, figure in ASSUMED_OF_GPUS.items()}
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
# docs/planning.md names the data sheets and the assumptions. hbm_gib is the memory that CUDA reports, in whole GiB.
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
        "reserve": 0.15,
        **{key: figure.value for key, figure in ASSUMED_OF_CPUS.items()},
        "hbm_gib": 0.0,
        "hbm_gb_per_s": 0.0,
        "host_memory_gib": 256.0,
        "host_memory_gb_per_s": 200.0,
        "hbm_to_host_gb_per_s": 32.0,
        "intra_host_gb_per_s": 5.0,
        "inter_host_gb_per_s": 3.0,
        "fp32_tflops": 2.0,
        "bf16_tflops": 2.0,
    },
}
PRESETS: Mapping[DeviceName, Hardware] = {
    device: Hardware.model_validate({"device": device, **figures}) for device, figures in _FIGURES.items()
}


def assumed_figures(hardware: Hardware) -> dict[str, AssumedFigure]:
    """Return the figures that are still those of the presets, which nobody has measured, by key."""
    assumed = ASSUMED_OF_CPUS if hardware.device == "cpu" else ASSUMED_OF_GPUS
    return {key: figure for key, figure in assumed.items() if getattr(hardware, key) == figure.value}


class TopologyConfig(Config):
    """`[topology]`: figures of the hosts that differ from the preset of their device."""

    device: Device | None = Field(
        None, description="preset to start from; default: the preset of --device, or this machine"
    )
    hbm_gib: PositiveFloat | None = Field(None, description="memory of a GPU as CUDA reports it")
    host_memory_gib: PositiveFloat | None = Field(None, description="memory of a host, which its ranks share")
    reserve: Fraction | None = Field(
        None, description="share of each memory that stays free of tables and their batches; .15 in every preset"
    )
    hbm_gb_per_s: PositiveFloat | None = Field(None, description="bandwidth of a GPU's memory")
    host_memory_gb_per_s: PositiveFloat | None = Field(None, description="memory bandwidth of a host, shared by ranks")
    hbm_to_host_gb_per_s: PositiveFloat | None = Field(None, description="bandwidth from a GPU to its host's memory")
    intra_host_gb_per_s: PositiveFloat | None = Field(
        None, description="bandwidth of a rank to the other ranks of its host"
    )
    inter_host_gb_per_s: PositiveFloat | None = Field(None, description="bandwidth of a rank to ranks of other hosts")
    fp32_tflops: PositiveFloat | None = Field(None, description="peak of fp32 matrix products of a GPU, or a CPU host")
    bf16_tflops: PositiveFloat | None = Field(None, description="peak of bf16 matrix products of a GPU, or a CPU host")
    dense_efficiency: Share | None = Field(None, description="share of the peak that the dense layers reach")
    lookup_efficiency: Share | None = Field(
        None, description="share of the memory's bandwidth that look-ups and updates of rows reach"
    )
    exchange_efficiency: Share | None = Field(
        None, description="share of the bandwidth between ranks that exchanges reach"
    )
    host_ms_per_step: NonNegativeFloat | None = Field(
        None, description="time in which a host issues a step of one rank"
    )
    host_ms_per_sharding_type: NonNegativeFloat | None = Field(
        None, description="time that each sharding type of several ranks adds to that"
    )
    intra_host_latency_us: NonNegativeFloat | None = Field(None, description="latency of a collective inside a host")
    inter_host_latency_us: NonNegativeFloat | None = Field(None, description="latency of a collective between hosts")
    loader_rows_per_s: PositiveFloat | None = Field(None, description="rows that a rank's loader reads in a second")

    def apply_to(self, preset: Hardware) -> Hardware:
        """Return a copy of a preset in which the figures of this table replace those of the preset.

        Raises:
            UserError: The table has a figure of GPU memory (`hbm_...`), but the preset is of CPU hosts.
        """
        figures = self.model_dump(exclude_none=True, exclude={"device"})
        if preset.device == "cpu" and (hbm_keys := [key for key in figures if key.startswith("hbm_")]):
            raise UserError(
                f"topology.{hbm_keys[0]}",
                f"got {figures[hbm_keys[0]]:g}",
                "CPU hosts have no GPU and no HBM",
                "remove it",
            )
        return preset.model_copy(update=figures)


class Cluster(Config):
    """Equal hosts with equally many ranks; rank r lies on host r // ranks_per_host."""

    hosts: PositiveInt
    ranks_per_host: PositiveInt
    hardware: Hardware
    calibration: str | None = Field(None, description="source of the measured figures; default: nothing was measured")

    @property
    def world_size(self) -> int:
        """W, number of ranks."""
        return self.hosts * self.ranks_per_host

    @property
    def cuda(self) -> bool:
        """True if each rank has a GPU."""
        return self.hardware.device != "cpu"

    @property
    def latency_ms(self) -> float:
        """Latency of a collective of all ranks in milliseconds."""
        hardware = self.hardware
        return (hardware.intra_host_latency_us if self.hosts == 1 else hardware.inter_host_latency_us) / 1e3

    @property
    def hbm_bytes(self) -> int:
        """Memory of a rank's GPU in bytes, 0 without a GPU."""
        return int(self.hardware.hbm_gib * GIB)

    @property
    def ddr_bytes(self) -> int:
        """Bytes of a rank's share of its host's memory."""
        return int(self.hardware.host_memory_gib * GIB) // self.ranks_per_host

    def hosts_of_ranks(self, ranks: range | tuple[int, ...]) -> tuple[int, ...]:
        """Return the distinct hosts on which ranks lie, in the order of the ranks."""
        return tuple(dict.fromkeys(rank // self.ranks_per_host for rank in ranks))

    def describe(self) -> str:
        """Return a short text: `8 hosts x 8 h100`, `1 host x 2 CPU ranks`."""
        hosts = f"{self.hosts} host{'s' if self.hosts > 1 else ''}"
        if self.cuda:
            return f"{hosts} x {self.ranks_per_host} {self.hardware.device}"
        return f"{hosts} x {self.ranks_per_host} CPU rank{'s' if self.ranks_per_host > 1 else ''}"
