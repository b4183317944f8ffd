"""`ple-rec bench checkpoint`: what a save costs a training that goes on beside it."""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ple_rec.bench.figures import Figure, Figures, figure_of, ratios
from ple_rec.bench.report import Reporter
from ple_rec.bench.tables_plan import Plan, check_dim, configuration, shortage, too_large
from ple_rec.bench.tables_slice import write_slice
from ple_rec.config.load import dump_toml
from ple_rec.errors import PleRecError
from ple_rec.text import aligned

_STEPS = 40  # that the data hold at least; an epoch starts anew after them
_COPIES = 3  # of the shards in memory: themselves, staged, and pages that wait for the disk
_LOG_TAIL = 2000  # characters of the ranks' output that a failure shows


def run(args: argparse.Namespace) -> int:
    """Measure, print."""
    check_dim(args.dim)
    report = Reporter(args)
    plan = Plan(
        users=args.rows, dim=args.dim, ranks=args.ranks, batch_size=args.batch_size, steps=_STEPS, turns=1, lookups=0
    )
    short = shortage(plan.needed_bytes() + (_COPIES - 1) * plan.ranks * plan.shard_bytes())
    if short is not None:
        raise too_large(plan, short)
    with tempfile.TemporaryDirectory(prefix="ple-rec-bench-") as name:
        folder = Path(name)
        report.say(f"writing {plan.samples:,} impressions of a feed of {plan.users:,} users")
        write_slice(folder / "data", plan.users, plan.samples)
        records = measure(folder, plan, args.work or str(folder / "checkpoints"), args.repeats)
    results = summary(plan, records)
    report.finish(results, figures(results), None, lines)
    return 0


def measure(folder: Path, plan: Plan, where: str, repeats: int) -> list[dict[str, Any]]:
    """What each rank saw.

    Args:
        folder: With the dataset `data`.
        plan: Of the tables and ranks.
        where: Path or address of the checkpoints.
        repeats: Saves of each kind that count.

    Raises:
        PleRecError: a rank failed.
    """
    config = folder / "config.toml"
    config.write_text(dump_toml(configuration(folder / "data", plan)), encoding="utf-8")
    launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(plan.ranks)]
    ranks = ["-m", "ple_rec.bench.checkpoint_rank", str(config), where, str(repeats), str(folder)]
    done = subprocess.run([sys.executable, "-m", *launcher, *ranks], capture_output=True, text=True, check=False)
    if done.returncode:
        raise PleRecError(
            str(plan),
            f"its ranks ended with exit code {done.returncode}",
            f"they said:\n{done.stderr[-_LOG_TAIL:].strip()}\n",
            "see there; one that was killed without a word wanted more memory than there is",
        )
    return [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in range(plan.ranks)]


def summary(plan: Plan, records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Of all ranks: each save is as long as on the rank where it is longest."""
    longest = {
        key: [max(values) for values in zip(*(record[key] for record in records), strict=True)]
        for key in ("synchronous", "blocked", "written")
    }
    steps = {key: [statistics.median(record[key]) for record in records] for key in ("steps_alone", "steps_beside")}
    return {
        "subject": "checkpoint",
        "data": {"user rows": plan.users, "bytes": sum(record["bytes"] for record in records)},
        "settings": {"ranks": plan.ranks, "dim": plan.dim, "batch_size_per_rank": plan.batch_size},
        "seconds": longest,
        "step_ms": {key: statistics.median(values) for key, values in steps.items()},
        "peak_bytes": max(record["peak_bytes"] for record in records),
    }


def figures(results: dict[str, Any]) -> Figures:
    """What the final lines say."""
    seconds, step_ms = results["seconds"], results["step_ms"]
    named = {f"{key}_seconds": figure_of(values).rounded(4) for key, values in seconds.items()}
    return named | {
        "blocked_share": ratios(seconds["blocked"], seconds["synchronous"]).rounded(4),
        "step_ms_alone": Figure(step_ms["steps_alone"]).rounded(4),
        "step_ms_beside": Figure(step_ms["steps_beside"]).rounded(4),
        "slowdown": Figure(step_ms["steps_beside"] / step_ms["steps_alone"]).rounded(4),
        "peak_bytes": Figure(results["peak_bytes"]),
    }


def lines(results: dict[str, Any]) -> list[str]:
    """A table, and what it means."""
    seconds, values = results["seconds"], results["values"]
    table: list[tuple[str, ...]] = [("seconds", "median", "min", "max")]
    titles = {
        "synchronous": "a synchronous save, for which training stands still",
        "blocked": "an asynchronous one: training stands still",
        "written": "an asynchronous one: until it is whole on the disk",
    }
    for key, title in titles.items():
        table.append((title, *(f"{v:.3f}" for v in figure_of(seconds[key]) if v is not None)))
    return [
        *aligned(table),
        "",
        f"an asynchronous save stops training for {100 * values['blocked_share']:.0f} % as long as the other",
        f"a step takes {values['step_ms_beside']:.0f} ms beside an asynchronous one and "
        f"{values['step_ms_alone']:.0f} ms alone, {values['slowdown']:.2f} times as long; a rank has "
        f"{results['peak_bytes'] / 2**20:,.0f} MiB at most",
    ]
