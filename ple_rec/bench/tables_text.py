"""The measurements of tables for people, as `name=value` lines, and beside the limit."""

from __future__ import annotations

from typing import Any

from ple_rec.bench.figures import Figure, Figures, Headline, figure_of
from ple_rec.bench.report import Results
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
    "of bandwidth",
    "start-up s",
    "MiB shards",
    "MiB peak",
    "of bound",
)


def lines(results: Results) -> list[str]:
    """A table and the claims."""
    claims = [f"{'holds' if claim['holds'] else 'DOES NOT HOLD'}: {claim['text']}" for claim in results["claims"]]
    return [*aligned([_HEAD, *(_line(size) for size in _all(results))]), *results["skipped"], "", *claims]


def figures(results: Results) -> Figures:
    """What the final lines say: of every size its figures, of every claim its value and whether it holds (1 or 0)."""
    named: Figures = {}
    for size in _all(results):
        name = f"rows_{size['users']}_dim_{size['dim']}_ranks_{size['ranks']}"
        named[f"{name}_ms_per_step"] = _turns(size["step_ms"])
        named[f"{name}_cpu_ms_per_step"] = _turns(size["cpu_ms"])
        named[f"{name}_tables_ms"] = Figure(*(size["tables_ms"][key] for key in ("median", "min", "max"))).rounded(2)
        named[f"{name}_share_of_bandwidth"] = Figure(round(share_of_bandwidth(size), 4))
        named[f"{name}_startup_seconds"] = Figure(round(size["startup_seconds"], 1))
        named[f"{name}_shard_bytes"] = Figure(_shards(size))
        named[f"{name}_peak_bytes"] = Figure(size["peak_bytes"])
    for claim in results["claims"]:
        named[claim["name"]] = Figure(claim["value"])
        named[f"{claim['name']}_holds"] = Figure(int(claim["holds"]))
    return named


def headline(results: Results) -> Headline:
    """Of the largest size: the tables alone, beside copying as many bytes."""
    size = results["sizes"][-1]
    samples = results["settings"]["batch_size_per_rank"] * size["ranks"]
    milliseconds = Figure(*(size["tables_ms"][key] for key in ("median", "min", "max")))
    return Headline(
        f"look-up and update alone, {size['users']:,} users, {size['ranks']} rank(s)",
        "samples/s",
        milliseconds.inverse(1e3 * samples),
        "copying as many bytes",
        1e9 * size["copy_gb_per_second"] / size["sample_bytes"],
        size["peak_bytes"],
    )


def share_of_bandwidth(size: dict[str, Any]) -> float:
    """Bytes of rows that the tables alone read and write in a second, by those that a copy does.

    A row is read by the look-up, and read and written by the update.
    """
    per_second = size["sample_bytes"] * size["samples"] / (size["tables_ms"]["median"] * 1e-3)
    return float(per_second / (1e9 * size["copy_gb_per_second"]))


def _turns(spread: dict[str, Any]) -> Figure:
    """Of all steps the median; its least and most over the turns."""
    turns = figure_of(spread["medians"])
    return Figure(spread["median"], turns.low, turns.high).rounded(2)


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
        f"{share_of_bandwidth(size):.3f}",
        f"{size['startup_seconds']:.1f}",
        f"{_shards(size) / 2**20:,.1f}",
        f"{size['peak_bytes'] / 2**20:,.0f}",
        f"{size['peak_bytes'] / size['bound_bytes']:.3f}",
    )


def _shards(size: dict[str, Any]) -> int:
    """Weights and state of the rank that has most of them."""
    return max(int(a + b) for a, b in zip(size["shard_bytes"], size["state_bytes"], strict=True))
