"""`ple-rec bench all`: the other subjects at small sizes, one after the other, each as a process of its own."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from ple_rec.bench.figures import Figure, Figures
from ple_rec.bench.report import Reporter, Results
from ple_rec.text import aligned

SOME_FAILED = 5

# Sizes at which all of them take some seven minutes on two cores.
SMALL: dict[str, tuple[str, ...]] = {
    "loader": ("--rows", "262144"),
    "prep": ("--rows", "300000"),
    "tables": ("--rows", "100000", "5000000", "--repeats", "4"),
    "dense": ("--repeats", "5"),
    "train": ("--repeats", "4"),
}
THREADED = ("prep", "dense", "train")  # subjects that take --threads

_HEAD = ("subject", "measured", "unit", "min", "max", "limit", "of it", "MiB peak", "what, and the limit")


def run(args: argparse.Namespace) -> int:
    """Run them; 0, or 5 where one has failed."""
    report = Reporter(args, args.threads)
    threads = () if args.threads is None else ("--threads", str(args.threads))
    found: dict[str, dict[str, Any]] = {}
    for name in SMALL:
        report.say(f"{name} ...")
        flags = (*SMALL[name], *(threads if name in THREADED else ()))
        done = subprocess.run(
            [sys.executable, "-m", "ple_rec", "bench", name, "--json", *flags],
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
        if done.returncode:
            report.say(f"{name}: exit code {done.returncode}")
        else:
            found[name] = json.loads(done.stdout)
    results = together(found)
    report.finish(results, figures(found), None, lines)
    return SOME_FAILED if len(found) < len(SMALL) else 0


def together(found: Mapping[str, dict[str, Any]]) -> Results:
    """One result of those of the subjects, by name."""
    return {
        "subject": "all",
        "data": {},
        "settings": {name: " ".join(flags) for name, flags in SMALL.items()},
        "subjects": dict(found),
        "failed": [name for name in SMALL if name not in found],
    }


def figures(found: Mapping[str, dict[str, Any]]) -> Figures:
    """The final lines of each subject, its name before theirs."""
    return {
        f"{subject}.{name}": Figure(value, *result["spreads"].get(name, ()))
        for subject, result in found.items()
        for name, value in result["values"].items()
    }


def lines(results: Results) -> list[str]:
    """A line a subject."""
    table: list[Sequence[str]] = [_HEAD]
    for name, result in results["subjects"].items():
        head = result["headline"]
        measured = head["measured"]
        table.append(
            (
                name,
                f"{measured['value']:,.0f}",
                head["unit"],
                f"{measured['low']:,.0f}",
                f"{measured['high']:,.0f}",
                f"{head['limit']:,.0f}",
                f"{head['fraction']:.3f}",
                f"{head['peak_bytes'] / 2**20:,.0f}",
                f"{head['what']}; {head['limit_of']}",
            )
        )
    return [*aligned(table, left=(0, 2, 8)), *(f"{name}: FAILED, see above" for name in results["failed"])]
