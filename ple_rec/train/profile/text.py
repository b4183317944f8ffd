"""A breakdown as a person reads it: `step.txt`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ple_rec.text import aligned
from ple_rec.text.units import short_count


def format_breakdown(found: Mapping[str, Any]) -> str:
    """Lines of regions, rates and operators, notes, and what to look at.

    Args:
        found: What `step.json` holds.
    """
    several = found["world_size"] > 1
    first, last = found["first_step"], found["first_step"] + found["steps"] - 1
    of_rank = f", rank {found['rank']} on {found['host']}, which has most to do of {found['world_size']}" * several
    parts = [
        f"where a step goes: steps {first:,} to {last:,}{of_rank}",
        "\n".join(aligned(_regions(found, several))),
        _rates(found),
        f"most expensive operators, of steps {last + 1:,} to {last + found['traced_steps']:,} in the profiler, by the "
        f"time of {found['operators_of']}\n" + "\n".join(aligned(_operators(found))),
        "\n".join(found["notes"]),
        f"look at: {found['advice']}",
        f"trace: {found['traces'][0]}{', and one of every other rank' * several}; open it at https://ui.perfetto.dev",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _regions(found: Mapping[str, Any], several: bool) -> list[list[str]]:
    lines = [["", "ms", "share", *(["min ms", "max ms"] if several else [])]]
    for region, values in found["regions"].items():
        if region == "copy to device" and found["device"] == "cpu":
            continue
        ends = [f"{values['min_ms']:.2f}", f"{values['max_ms']:.2f}"] if several else []
        lines.append([f"  {region}", f"{values['ms']:.2f}", f"{100 * values['share']:.1f} %", *ends])
    total = sum(values["share"] for values in found["regions"].values())
    lines.append(["  step", f"{found['step_ms']:.2f}", f"{100 * total:.1f} %", *(["", ""] if several else [])])
    return lines


def _operators(found: Mapping[str, Any]) -> list[list[str]]:
    lines = [["", "ms a step", "of all", "calls a step"]]
    for one in found["operators"]:
        lines.append([f"  {one['name']}", f"{one['ms']:.2f}", f"{100 * one['share']:.1f} %", f"{one['calls']:.0f}"])
    return lines


def _rates(found: Mapping[str, Any]) -> str:
    rates = found["samples_per_second"]
    timed, before, traced = (rates[key] and short_count(round(rates[key])) for key in ("timed", "before", "traced"))
    text = f"{timed} samples/s in these steps, {traced} in the profiler"
    text += f", {before} in the steps before, with neither" if before else ""
    return f"{text}; {found['cores_busy']:.1f} cores busy"
