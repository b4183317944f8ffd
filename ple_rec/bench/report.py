"""Measurements as a table with final `name=value` lines, or as JSON; and beside earlier ones."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from typing import Any

from ple_rec.bench.against import arguments_of, compare, read_earlier
from ple_rec.bench.figures import Figure, Figures, Headline, ratios, spreads, values
from ple_rec.bench.harness import conditions
from ple_rec.bench.neighbours import Neighbours
from ple_rec.text import aligned

Results = dict[str, Any]


class Reporter:
    """From the arguments of a subject to what it prints; made before anything is measured.

    Args:
        args: With `subject`, `json` and `against`.
        threads: Of each measured process; None: all cores, or as the table says.

    Raises:
        UserError: `--against` names no result, or one of something else.
    """

    def __init__(self, args: argparse.Namespace, threads: int | None = None) -> None:
        self._json: bool = args.json
        self._arguments = arguments_of(vars(args))
        self._earlier = None if args.against is None else read_earlier(args.against, args.subject, self._arguments)
        self._before = conditions(threads)
        self._neighbours = Neighbours()

    def say(self, text: str) -> None:
        """What happens, for people who wait."""
        sys.stderr.write(f"{text}\n")

    def finish(
        self, results: Results, figures: Figures, headline: Headline | None, text: Callable[[Results], list[str]]
    ) -> None:
        """Print.

        Args:
            results: Of the subject: `subject`, `data`, `settings` and what else it has.
            figures: Its final lines.
            headline: Of `ple-rec bench all`.
            text: Its lines before conditions and final lines.
        """
        whole = results | {
            "arguments": self._arguments,
            "conditions": self._before | {"neighbours": self._neighbours.shares()},
            "headline": None if headline is None else headline.record(),
            "values": values(figures),
            "spreads": spreads(figures),
        }
        beside = None if self._earlier is None else compare(self._earlier, whole)
        if self._json:
            sys.stdout.write(format_json(whole if beside is None else whole | {"against": beside}) + "\n")
        else:
            sys.stdout.write(format_lines(whole, text(whole), beside) + "\n")


def format_json(results: Results) -> str:
    """All of it."""
    return json.dumps(results, indent=1)


def format_lines(results: Results, text: list[str], beside: list[str] | None = None) -> str:
    """A subject's own lines, its conditions, what an earlier result makes of it, and the final lines."""
    final = [f"{name}={value}" for name, value in results["values"].items()]
    against = [] if beside is None else [*beside, ""]
    return "\n".join([*text, "", *condition_lines(results), "", *against, *final])


def race_figures(results: Results) -> Figures:
    """Of a race: of every contender its rates, peak memory and share of the limit."""
    unit, limit = results["unit"], results["measured"][results["limit"]]
    named: Figures = {}
    for name, measured in results["measured"].items():
        rates = Figure(measured["median"], measured["min"], measured["max"])
        of_cpu = (measured["cpu_median"], min(measured["cpu_rates"]), max(measured["cpu_rates"]))
        named[f"{name}_{unit}_per_second"] = rates.rounded(0)
        named[f"{name}_{unit}_per_cpu_second"] = Figure(*of_cpu).rounded(0)
        named[f"{name}_peak_bytes"] = Figure(measured["peak_bytes"])
        turns = ratios(measured["rates"], limit["rates"])
        share = Figure(measured["median"] / limit["median"], turns.low, turns.high)
        named[f"{name}_share_of_limit"] = share.rounded(4)
    return named


def race_headline(results: Results, name: str, what: str) -> Headline:
    """Of a race: a contender beside the limit."""
    measured, limit = (results["measured"][key] for key in (name, results["limit"]))
    return Headline(
        what,
        f"{results['unit']}/s",
        Figure(measured["median"], measured["min"], measured["max"]),
        limit["title"].removesuffix(" (the limit)"),
        limit["median"],
        measured["peak_bytes"],
    )


def race_lines(results: Results) -> list[str]:
    """Of a race: a table of the contenders."""
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
    return aligned(lines)


def condition_lines(results: Results) -> list[str]:
    """Data, settings, machine, neighbours and versions of a measurement."""
    of = results["conditions"]
    versions = ", ".join(f"{name} {version}" for name, version in of["versions"].items())
    load = " ".join(f"{value:.2f}" for value in of["load_before"])
    shares = of.get("neighbours") or {}
    beside = (
        f"; of the processors' time other processes had {shares['others']:.1%}, other machines {shares['steal']:.1%}"
        if shares
        else ""
    )
    data = ", ".join(f"{_number(value)} {name.replace('_', ' ')}" for name, value in results["data"].items())
    return [
        *([data] if data else []),
        ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in results["settings"].items()),
        f"{of['cpu']}, {of['cores']} cores, {of['memory_bytes'] / (1 << 30):.0f} GiB, "
        f"threads {of['threads'] or 'as the table says'}, load before {load}{beside}",
        versions,
    ]


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.1f}"
