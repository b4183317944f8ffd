"""The measurements of tables for people, as `name=value` lines, and as JSON."""

from __future__ import annotations

import json
from typing import Any

from ple_rec.bench.report import Results, condition_lines
from ple_rec.text import aligned

_HEAD = (
    "user rows",
    "video rows",
    "dim",
    "ranks",
    "threads",
    "ms/step",
    "min",
    "max",
    "CPU ms",
    "tables alone",
    "start-up s",
    "MiB shards",
    "MiB peak",
    "of bound",
)


def format_json(results: Results) -> str:
    """All of it."""
    return json.dumps(results | {"values": values(results)}, indent=1)


def format_results(results: Results) -> str:
    """A table, its conditions, the claims, and the lines."""
    lines = [_HEAD, *(_line(size) for size in _all(results))]
    claims = [f"{'holds' if claim['holds'] else 'DOES NOT HOLD'}: {claim['text']}" for claim in results["claims"]]
    return "\n".join(
        [
            *aligned(lines),
            *results["skipped"],
            "",
            *condition_lines(results),
            "",
            *claims,
            "",
            *(f"{key}={value}" for key, value in values(results).items()),
        ]
    )


def values(results: Results) -> dict[str, float | int]:
    """What the final lines say: of every size its figures, of every claim its value and whether it holds (1 or 0)."""
    named: dict[str, float | int] = {}
    for size in _all(results):
        name = f"rows_{size['users']}_dim_{size['dim']}_ranks_{size['ranks']}"
        named[f"{name}_ms_per_step"] = round(size["step_ms"]["median"], 2)
        named[f"{name}_cpu_ms_per_step"] = round(size["cpu_ms"]["median"], 2)
        named[f"{name}_tables_ms"] = round(size["tables_ms"]["median"], 2)
        named[f"{name}_startup_seconds"] = round(size["startup_seconds"], 1)
        named[f"{name}_shard_bytes"] = _shards(size)
        named[f"{name}_peak_bytes"] = size["peak_bytes"]
    for claim in results["claims"]:
        named[claim["name"]] = claim["value"]
        named[f"{claim['name']}_holds"] = int(claim["holds"])
    return named


def _all(results: Results) -> list[dict[str, Any]]:
    return [*results["sizes"], *([results["wide"]] if results["wide"] else [])]


def _line(size: dict[str, Any]) -> tuple[str, ...]:
    return (
        f"{size['users']:,}",
        f"{size['videos']:,}",
        str(size["dim"]),
        str(size["ranks"]),
        str(size["threads"]),
        *(f"{size['step_ms'][key]:.1f}" for key in ("median", "min", "max")),
        f"{size['cpu_ms']['median']:.1f}",
        f"{size['tables_ms']['median']:.1f}",
        f"{size['startup_seconds']:.1f}",
        f"{_shards(size) / 2**20:,.1f}",
        f"{size['peak_bytes'] / 2**20:,.0f}",
        f"{size['peak_bytes'] / size['bound_bytes']:.3f}",
    )


def _shards(size: dict[str, Any]) -> int:
    """Weights and state of the rank that has most of them."""
    return max(int(a + b) for a, b in zip(size["shard_bytes"], size["state_bytes"], strict=True))
