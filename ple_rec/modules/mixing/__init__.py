"""How a level makes A in `y_o = sum_e A_oe h_e`, by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ple_rec.modules.mixing.base import Mixing
from ple_rec.modules.mixing.constant import ConcatMixing, MeanMixing, SumMixing
from ple_rec.modules.mixing.learned import ChannelStitch, LevelMixing, SubspaceMixing
from ple_rec.modules.mixing.softmax import SoftmaxGates
from ple_rec.modules.routing import Routing

__all__ = [
    "MIXINGS",
    "ChannelStitch",
    "ConcatMixing",
    "LevelMixing",
    "MeanMixing",
    "Mixing",
    "SoftmaxGates",
    "SubspaceMixing",
    "SumMixing",
]

# Each is made from the routing of its level and the widths of the level's input streams, with that of x last.
MIXINGS: dict[str, Callable[[Routing, Sequence[int]], Mixing]] = {
    "softmax": SoftmaxGates,
    "concat": ConcatMixing,
    "sum": SumMixing,
    "mean": MeanMixing,
    "stitch": SubspaceMixing,
    "stitch_channels": ChannelStitch,
    "subspaces": SubspaceMixing,
}
