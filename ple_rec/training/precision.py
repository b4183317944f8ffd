"""`train.precision = "auto"`: fp32 or bf16, whichever matrix products turn out to be faster in on the machine.

A run keeps what it began with, wherever it goes on and wherever it is evaluated: its checkpoints say so.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from ple_rec.config.choices import CLEARLY_FASTER, AskedPrecision, UsedPrecision, faster_precision, speed_text
from ple_rec.config.run import RunConfig
from ple_rec.distributed.process_group import Ranks
from ple_rec.models.cpu.gemm_probe import layer_gflops
from ple_rec.runs.results import mapping, number

Shape = tuple[int, int, int]
Speeds = tuple[float, float]  # GFLOP/s in fp32, in bf16
_USED: Mapping[object, UsedPrecision] = {"fp32": "fp32", "bf16": "bf16"}


@dataclass(frozen=True)
class Precision:
    """What the matrix products of a run's dense layers are computed in, and why.

    Args:
        asked: `train.precision`.
        used: What that came to.
        gflops: What the probe measured on the rank with the least to gain, by precision; None where none was made.
        seconds: That it took; None where the run began in another process.
    """

    asked: AskedPrecision
    used: UsedPrecision
    gflops: Mapping[str, float] | None = None
    seconds: float | None = None

    def saved(self) -> dict[str, Any]:
        """For the manifest of a checkpoint."""
        return {"used": self.used} | ({} if self.gflops is None else {"gflops": dict(self.gflops)})

    def record(self) -> dict[str, Any]:
        """For `metrics.json`."""
        return {"asked": self.asked} | self.saved()

    def describe(self) -> str:
        """A line of the introduction; empty where the configuration says it all."""
        if self.asked != "auto":
            return ""
        if self.seconds is None or self.gflops is None:
            return f"precision: {self.used}, with which the run began"
        fp32, bf16 = (speed_text(self.gflops[name]) for name in ("fp32", "bf16"))
        probe = f"(probe of {self.seconds:.1f} s)"
        if self.used == "bf16":
            return f"precision: bf16, since matrix products ran at {bf16} GFLOP/s in it and at {fp32} in fp32 {probe}"
        return (
            f"precision: fp32, since matrix products ran at {fp32} GFLOP/s in it and at {bf16} in bf16, which is not "
            f"{CLEARLY_FASTER} times as fast {probe}"
        )


def settle_precision(
    config: RunConfig,
    ranks: Ranks,
    shape: Shape,
    began: Precision | None,
    probe: Callable[[torch.device, Shape], Speeds] | None = None,
) -> Precision:
    """What the run is computed in, the same on every rank (a collective where that has to be measured).

    Args:
        config: The run.
        ranks: The cluster.
        shape: Of the first layer on this rank: (samples of a batch, width in, width out).
        began: With which a run began that goes on, or is evaluated; None: it begins now, or does not say.
        probe: Measures speeds; None: `layer_speeds`.
    """
    asked = config.train.precision
    if asked != "auto":
        return Precision(asked, asked)
    if began is not None:
        return began
    begun = time.perf_counter()
    own = torch.tensor((probe or layer_speeds)(ranks.device, shape), dtype=torch.float64, device=ranks.device)
    every = [torch.empty_like(own) for _ in range(ranks.world_size)]
    dist.all_gather(every, own)  # each rank waits for all in every step, so the one with the least to gain decides
    fp32, bf16 = min((each.tolist() for each in every), key=lambda speeds: speeds[1] / max(speeds[0], 1e-9))
    seconds = time.perf_counter() - begun
    return Precision(asked, faster_precision(fp32, bf16), {"fp32": fp32, "bf16": bf16}, seconds)


def layer_speeds(device: torch.device, shape: Shape) -> Speeds:
    """GFLOP/s of a linear layer's products in fp32 and in bf16; 0 where the device has none in bf16."""
    fp32, bf16 = layer_gflops(torch.float32, device, shape), 0.0
    with suppress(RuntimeError):
        bf16 = layer_gflops(torch.bfloat16, device, shape)
    return fp32, bf16


def saved_precision(written_by: Mapping[str, Any]) -> Precision | None:
    """Return what a run with `precision = "auto"` began with, as a checkpoint says; None where it says nothing.

    Args:
        written_by: What the manifest of the checkpoint says of the run.
    """
    saved = mapping(written_by.get("precision"))
    used = _USED.get(saved.get("used"))
    read = {name: number(speed) for name, speed in mapping(saved.get("gflops")).items()}
    speeds = {name: speed for name, speed in read.items() if speed is not None}
    return None if used is None else Precision("auto", used, speeds or None)
