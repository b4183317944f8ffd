"""Differences of two configurations, key by key."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from typing import Any

from ple_rec.config.base import Config

Difference = tuple[str, Any, Any]  # Key, value in the first configuration, value in the second.


def differences(a: Config, b: Config) -> list[Difference]:
    """Return (key, value in a, value in b) for each key whose values differ; a missing key has the value None."""
    left, right = dict(leaves(a)), dict(leaves(b))
    keys = list(dict.fromkeys([*left, *right]))
    return [(key, left.get(key), right.get(key)) for key in keys if left.get(key) != right.get(key)]


def disallowed_differences(a: Config, b: Config, allowed: Sequence[str]) -> list[Difference]:
    """Return the differences of two configurations, except those in keys that may differ.

    Args:
        a: One configuration.
        b: The other one.
        allowed: Keys that may differ, or tables with all of their keys; `*` stands for any text.
    """

    def is_allowed(changed: str) -> bool:
        return any(fnmatchcase(changed, key) or changed.startswith(f"{key}.") for key in allowed)

    return [d for d in differences(a, b) if not is_allowed(d[0])]


def leaves(config: Config) -> Iterator[tuple[str, Any]]:
    """Yield every key with its value, such as `model.levels[0].task_experts`; a list without tables is one value."""
    return _leaves(config.model_dump(mode="json"))


def _leaves(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for name, part in value.items():
            yield from _leaves(part, f"{key}.{name}" if key else name)
    elif isinstance(value, list) and any(isinstance(part, dict) for part in value):
        for i, part in enumerate(value):
            yield from _leaves(part, f"{key}[{i}]")
    else:
        yield key, value
