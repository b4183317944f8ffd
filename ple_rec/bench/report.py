"""Measurements as a table with final `name=value` lines, or as JSON."""

from __future__ import annotations

import json
from typing import Any

from ple_rec.text import aligned

Results = dict[str, Any]


def format_json(results: Results) -> str:
    """All of it."""
    return json.dumps(results | {"values": values(results)}, indent=1)


def values(results: Results) -> dict[str, float]:
    """What the final lines say: of every contender its median rate, peak memory and share of the limit."""
    unit, limit = results["unit"], results["measured"][results["limit"]]["median"]
    named: dict[str, float] = {}
    for name, measured in results["measured"].items():
        named[f"{name}_{unit}_per_second"] = round(measured["median"])
        named[f"{name}_{unit}_per_cpu_second"] = round(measured["cpu_median"])
        named[f"{name}_peak_bytes"] = measured["peak_bytes"]
        named[f"{name}_share_of_limit"] = round(measured["median"] / limit, 4)
    return named


def format_results(results: Results) -> str:
    """A table, its conditions, and the lines."""
    unit, limit = results["unit"], results["measured"][results["limit"]]["median"]
    head = ("", "cores", f"{unit}/s", "min", "max", "of the limit", f"{unit}/CPU s", "MiB idle", "MiB peak")
    lines = [head]
    for measured in results["measured"].values():
        lines.append(
            (
                measured["title"],
                "1" if measured["pinned"] else "all",
                *(f"{measured[key]:,.0f}" for key in ("median", "min", "max")),
                f"{measured['median'] / limit:.3f}",
                f"{measured['cpu_median']:,.0f}",
                *(f"{measured[key] / (1 << 20):,.0f}" for key in ("idle_bytes", "peak_bytes")),
            )
        )
    return "\n".join(
        [*aligned(lines), "", *condition_lines(results), "", *(f"{k}={v}" for k, v in values(results).items())]
    )


def condition_lines(results: Results) -> list[str]:
    """Data, settings, machine and versions of a measurement."""
    of = results["conditions"]
    versions = ", ".join(f"{name} {version}" for name, version in of["versions"].items())
    load = " ".join(f"{value:.2f}" for value in of["load_before"])
    return [
        ", ".join(f"{_number(value)} {name.replace('_', ' ')}" for name, value in results["data"].items()),
        ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in results["settings"].items()),
        f"{of['cpu']}, {of['cores']} cores, {of['memory_bytes'] / (1 << 30):.0f} GiB, load before {load}",
        versions,
    ]


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.1f}"
