"""Values that options and configurations choose from, without large imports, since help texts list them."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Any, Literal, get_args

DeviceName = Literal["a100-40", "a100-80", "h100", "h200", "h20", "l40s", "b200", "cpu"]
DEVICES: tuple[DeviceName, ...] = get_args(DeviceName)
Match = Literal["flops", "params", "none"]


def current_preset_name(device: Any) -> Any:
    """Return the current name of a preset: `a100-80` for `a100`, its name in older configurations and plans.

    Args:
        device: Name of a preset, or whatever else a file holds in its place.
    """
    return "a100-80" if device == "a100" else device


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


RECIPES: Traversable = resources.files("ple_rec") / "recipes"
SCHEMAS: Traversable = RECIPES / "schemas"  # of datasets that are not there, for planning


@dataclass(frozen=True)
class Kind:
    """A kind of configurations, of which some come with a package.

    Args:
        name: Word of messages for what is configured, such as "run".
        verb: Verb that takes it.
        folder: Folder of the recipes; a text is one below the recipes of runs.
    """

    name: str
    verb: str
    folder: str | Traversable

    @property
    def files(self) -> Traversable:
        """Folder of the recipes."""
        if not isinstance(self.folder, str):
            return self.folder
        return RECIPES / self.folder if self.folder else RECIPES


RUNS, COMPARISONS = Kind("run", "train", ""), Kind("comparison", "compare", "compare")


def recipe_names(kind: Kind = RUNS) -> list[str]:
    """Return the names of the recipes of a kind, sorted."""
    files = kind.files.iterdir() if kind.files.is_dir() else ()
    return sorted(file.name.removesuffix(".toml") for file in files if file.name.endswith(".toml"))
