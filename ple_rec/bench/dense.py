"""`ple-rec bench dense`: the dense part of the reference step beside the fastest matrix product of the same process.

train_plan.py   the workload
dense_step.py   what is timed
train_rank.py   the process in which it is timed, that of `bench train`
limits.py       the product, and the bandwidth of memory
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

from ple_rec.bench.figures import Figure, Figures, Headline, figure_of, ratios
from ple_rec.bench.report import Reporter, Results
from ple_rec.bench.session import Session
from ple_rec.bench.tables_slice import write_slice
from ple_rec.bench.train_plan import MODULE, RECIPE, TRAINED, configuration, gflops, rate
from ple_rec.bench.turns import AGAIN
from ple_rec.parallel.host import usable_cores
from ple_rec.text import aligned

_USERS = 100_000  # of the tables, which are not looked up


def run(args: argparse.Namespace) -> int:
    """Measure, print."""
    threads = args.threads or usable_cores()
    report = Reporter(args, threads)
    with tempfile.TemporaryDirectory(prefix="ple-rec-bench-") as name:
        results = measure(
            Path(name), threads, args.batch_size, args.precision, args.steps, args.repeats, report.say, users=_USERS
        )
    report.finish(results, figures(results), headline(results), lines)
    return 0


def measure(
    folder: Path,
    threads: int,
    batch_size: int,
    precision: str | None,
    steps: int,
    repeats: int,
    say: Callable[[str], None],
    *,
    users: int,
) -> Results:
    """The limit and the dense part by turns, in one process.

    Args:
        folder: For a data set and the files of the process.
        threads: Of it.
        batch_size: Samples a step.
        precision: `train.precision`; None: of the recipe.
        steps: Of a turn, after one that does not count.
        repeats: Turns that count, after one that does not.
        say: Told of every turn.
        users: Rows of the table of users.

    Raises:
        PleRecError: what the process raised.
    """
    config = configuration(folder / "data", 1, threads, batch_size, precision)
    write_slice(folder / "data", users, (AGAIN + 3) * batch_size)
    sizes = {"warm_up": 1, "steps": 1, "dense_steps": steps}
    with Session("the dense part", MODULE, config, 1, folder / "rank", sizes, launcher=False) as session:
        session.warm_up()
        (first,) = session.turn("dense")
        (probe,) = session.turn("probe")
        dense, gemm = [], []
        for turn in range(1, repeats + 1):
            gemm += session.turn("gemm")
            dense += session.turn("dense")
            ours = rate(batch_size, dense[-1]["seconds"])
            say(f"turn {turn} of {repeats}: {ours:,.0f} samples/s, product {gemm[-1]['gflops']:,.0f} GFLOP/s")
        copied = [session.turn("copy")[0]["gb_per_second"] for _ in range(3)]
        (record,) = session.finish()
    del probe["peak_bytes"]
    return {
        "subject": "dense",
        "data": {"random_samples": batch_size},
        "settings": {
            "recipe": RECIPE,
            "precision": record["precision"],
            "batch_size": batch_size,
            "steps_a_turn": steps,
            "turns": repeats,
        },
        "flops_per_sample": TRAINED * record["flops_per_sample"],
        "precision": record["precision"],
        "threads": record["threads"],
        "rates": [rate(batch_size, turn["seconds"]) for turn in dense],
        "cpu_rates": [rate(batch_size, turn["cpu_seconds"]) for turn in dense],
        "gflops": [gflops(record["flops_per_sample"], rate(batch_size, turn["seconds"])) for turn in dense],
        "gemm_gflops": [turn["gflops"] for turn in gemm],
        "gemm_shapes": [turn["shape"] for turn in gemm],
        "probe_gflops": probe,
        "copy_gb_per_second": copied,
        "peak_bytes": first["peak_bytes"],
    }


def figures(results: Results) -> Figures:
    """What the final lines say."""
    named: Figures = {
        "dense_samples_per_second": figure_of(results["rates"]).rounded(0),
        "dense_samples_per_cpu_second": figure_of(results["cpu_rates"]).rounded(0),
        "dense_gflops": figure_of(results["gflops"]).rounded(1),
        "gemm_gflops": figure_of(results["gemm_gflops"]).rounded(1),
        "dense_peak_fraction": ratios(results["gflops"], results["gemm_gflops"]).rounded(4),
        "dense_best_fraction": Figure(max(results["gflops"]) / max(results["gemm_gflops"])).rounded(4),
        "copy_gb_per_second": figure_of(results["copy_gb_per_second"]).rounded(2),
        "dense_peak_bytes": Figure(results["peak_bytes"]),
    }
    return named | {f"probe_{name}_gflops": Figure(round(v, 1)) for name, v in results["probe_gflops"].items()}


def headline(results: Results) -> Headline:
    """In `ple-rec bench all`."""
    measured, limit = figure_of(results["gflops"]), figure_of(results["gemm_gflops"])
    what = f"dense part, {results['precision']}"
    return Headline(what, "GFLOP/s", measured, "fastest product", limit.value, results["peak_bytes"])


def lines(results: Results) -> list[str]:
    """A table, and what else was measured."""
    titles = {
        "rates": "dense part, samples/s",
        "gflops": "dense part, GFLOP/s",
        "gemm_gflops": f"fastest product in {results['precision']}, GFLOP/s",
        "copy_gb_per_second": "copy of memory, GB/s read and written",
    }
    table: list[tuple[str, ...]] = [("", "median", "min", "max")]
    for key, title in titles.items():
        digits = 0 if key == "rates" else 1
        table.append((title, *(f"{v:,.{digits}f}" for v in figure_of(results[key]) if v is not None)))
    shapes = {" x ".join(map(str, shape)) for shape in results["gemm_shapes"]}
    probe = ", ".join(f"{name} {value:,.0f}" for name, value in results["probe_gflops"].items())
    return [
        *aligned(table),
        "",
        f"the dense part reaches {results['values']['dense_peak_fraction']:.1%} of the product, turn by turn; "
        f"{results['flops_per_sample']:,} FLOPs a sample, peak memory {results['peak_bytes'] / 2**20:,.0f} MiB",
        f"the fastest product was {', '.join(sorted(shapes))}; 1024 x 512 x 512 reaches, in GFLOP/s, {probe}",
    ]
