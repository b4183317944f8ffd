"""Allowed values of options and configuration keys: devices, precisions, recipes.

Help texts list them, so the module imports nothing large.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Any, Literal, get_args

DeviceName = Literal["a100-40", "a100-80", "h100", "h200", "h20", "l40s", "b200", "cpu"]
DEVICES: tuple[DeviceName, ...] = get_args(DeviceName)
Match = Literal["flops", "params", "none"]


def current_preset_name(device: Any) -> Any:
    """Return the current name of a device preset; older configurations and plans say `a100` for `a100-80`.

    Args:
        device: Name of a preset, or any other value that a file holds in its place, which is returned unchanged.
    """
    return "a100-80" if device == "a100" else device


AskedPrecision = Literal["fp32", "bf16", "auto"]
UsedPrecision = Literal["fp32", "bf16"]
TablePrecision = Literal["fp32", "fp16", "int8", "int4"]  # Precision of the tables of an exported model.

# Speed-up of matrix products from which `auto` selects bf16. It is well above 1, since a bf16 layer also casts
# weights and activations, which the probe does not measure, and since a gain within the noise of a shared machine is
# not worth rounding to 8 bits.
MIN_BF16_SPEEDUP = 1.3


def faster_precision(fp32: float, bf16: float) -> UsedPrecision:
    """Return the precision that `auto` selects.

    Args:
        fp32: Speed of fp32 matrix products, in any unit.
        bf16: Speed of bf16 matrix products, in the same unit; 0 if the processor has none.
    """
    return "bf16" if bf16 >= MIN_BF16_SPEEDUP * fp32 else "fp32"


def speed_text(gflops: float) -> str:
    """Return a speed in GFLOP/s as text: `740`, `1.7`."""
    return f"{gflops:,.0f}" if gflops >= 10 else f"{gflops:.1f}"


RECIPES: Traversable = resources.files("ple_rec") / "recipes"
SCHEMAS: Traversable = RECIPES / "schemas"  # Schemas for plans whose dataset is not prepared yet.


@dataclass(frozen=True)
class ConfigKind:
    """Kind of configuration that comes with recipes.

    Args:
        name: Noun for messages, such as "run".
        verb: Verb of the command line that takes such a configuration.
        folder: Folder of its recipes, or a path relative to `RECIPES`, empty for `RECIPES` itself.
    """

    name: str
    verb: str
    folder: str | Traversable

    @property
    def recipe_folder(self) -> Traversable:
        """Folder of the recipes, whatever the form of `folder`."""
        if not isinstance(self.folder, str):
            return self.folder
        return RECIPES / self.folder if self.folder else RECIPES


RUN_CONFIGS, COMPARISON_CONFIGS = ConfigKind("run", "train", ""), ConfigKind("comparison", "compare", "compare")


def recipe_names(kind: ConfigKind = RUN_CONFIGS) -> list[str]:
    """Return the names of the recipes of a kind, sorted."""
    files = kind.recipe_folder.iterdir() if kind.recipe_folder.is_dir() else ()
    return sorted(file.name.removesuffix(".toml") for file in files if file.name.endswith(".toml"))
