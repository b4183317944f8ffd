"""In which precision matrix products are served: what the export says, or for `auto` what is faster where it serves.

What is measured is this machine's, so it is measured once a process: one version after the other is served alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from functools import cache

import torch

from ple_rec.config.precision import AskedPrecision, UsedPrecision, faster_precision
from ple_rec.modules.gemm_probe import gemm_gflops
from ple_rec.threads import one_thread

_SECONDS = 0.1  # of a probe


@cache
def speeds() -> Mapping[UsedPrecision, float]:
    """GFLOP/s of matrix products on one thread of this machine; 0 in bf16 where it has none."""
    with one_thread():
        found: dict[UsedPrecision, float] = {"fp32": gemm_gflops(torch.float32, "cpu", _SECONDS), "bf16": 0.0}
        with suppress(RuntimeError):
            found["bf16"] = gemm_gflops(torch.bfloat16, "cpu", _SECONDS)
    return found


def settled(asked: AskedPrecision) -> UsedPrecision:
    """What `auto` comes to on this machine; else what was asked for."""
    return faster_precision(speeds()["fp32"], speeds()["bf16"]) if asked == "auto" else asked
