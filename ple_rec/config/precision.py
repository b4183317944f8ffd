"""Precisions of training and of an exported model, and which of two measured or stated speeds decides for bf16."""

from __future__ import annotations

from typing import Literal

AskedPrecision = Literal["fp32", "bf16", "auto"]
UsedPrecision = Literal["fp32", "bf16"]
TablePrecision = Literal["fp32", "fp16", "int8", "int4"]  # of the tables of an exported model

# Beside its products a bf16 layer casts weights and activations, forward and backward, which a probe of products alone
# does not see; and rounding to 8 bits is not to be had for a gain within the noise of a shared machine.
CLEARLY_FASTER = 1.3


def faster_precision(fp32: float, bf16: float) -> UsedPrecision:
    """What `auto` comes to where matrix products run at these speeds, in any unit; 0 where there are none in bf16."""
    return "bf16" if bf16 >= CLEARLY_FASTER * fp32 else "fp32"


def speed_text(gflops: float) -> str:
    """A measured speed for people: `740`, `1.7`."""
    return f"{gflops:,.0f}" if gflops >= 10 else f"{gflops:.1f}"
