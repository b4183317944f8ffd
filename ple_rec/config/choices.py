"""Values that flags and configurations choose from; a help text lists them, so that nothing large is imported here."""

from __future__ import annotations

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
