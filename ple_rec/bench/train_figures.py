"""What `ple-rec bench train` found: final lines, a table, and the line of `ple-rec bench all`."""

from __future__ import annotations

from typing import Any

from ple_rec.bench.figures import Figure, Figures, Headline, figure_of, ratios
from ple_rec.bench.report import Results
from ple_rec.text import aligned

_HEAD = (
    "user rows",
    "ranks",
    "threads",
    "samples/s",
    "min",
    "max",
    "ms/step",
    "start s",
    "MiB tables",
    "MiB peak",
    "MiB beside tables",
)


def figures(results: Results) -> Figures:
    """What the final lines say. Ratios are of the same turn of both."""
    first, *more = results["runs"]
    rates = [gflop * results["flops_per_sample"] / 1e9 for gflop in first["rates"]]
    named: Figures = {
        "train_samples_per_second": figure_of(first["rates"]).rounded(0),
        "train_step_ms": figure_of(1e3 * s for s in first["step_seconds"]).rounded(2),
        "dense_step_ms": figure_of(1e3 * s for s in results["dense_step_seconds"]).rounded(2),
        "beside_dense_share": figure_of(
            1 - dense / step for dense, step in zip(results["dense_step_seconds"], first["step_seconds"], strict=True)
        ).rounded(4),
        "gemm_gflops": figure_of(results["gemm_gflops"]).rounded(1),
        "train_peak_fraction": ratios(rates, results["gemm_gflops"]).rounded(4),
        "evaluate_samples_per_second": figure_of(results["evaluate_rates"]).rounded(0),
        "evaluate_ratio": ratios(results["evaluate_rates"], first["rates"]).rounded(3),
    }
    for run in more:
        ratio = ratios(run["rates"], first["rates"]).rounded(4)
        if run["ranks"] > 1:
            named["ranks_samples_per_second"] = figure_of(run["rates"]).rounded(0)
            named["ratio_ranks"] = ratio
        else:
            named[f"train_{run['users']}_samples_per_second"] = figure_of(run["rates"]).rounded(0)
            named[f"flat_{run['users']}"] = ratio
    alone = [run for run in results["runs"] if run["ranks"] == 1]
    return named | {
        "start_seconds": Figure(round(max(run["start_seconds"] for run in alone), 2)),
        "memory_beside_tables_bytes": Figure(max(run["beside_tables_bytes"] for run in alone)),
        "train_peak_bytes": Figure(max(run["peak_bytes"] for run in alone)),
        "copy_gb_per_second": Figure(round(results["copy_gb_per_second"], 2)),
    }


def headline(results: Results) -> Headline:
    """In `ple-rec bench all`: the first run, beside the samples of which the dense part takes all of the product."""
    first = results["runs"][0]
    product = figure_of(results["gemm_gflops"]).value
    return Headline(
        f"training end to end, {first['users']:,} users",
        "samples/s",
        figure_of(first["rates"]),
        "fastest product",
        1e9 * product / results["flops_per_sample"],
        first["peak_bytes"],
    )


def lines(results: Results) -> list[str]:
    """A table of the runs, and what was measured between their turns."""
    values = results["values"]
    return [
        *aligned([_HEAD, *(_line(run) for run in results["runs"])]),
        "",
        f"a step takes {values['train_step_ms']:.1f} ms, its dense part alone {values['dense_step_ms']:.1f}: "
        f"{values['beside_dense_share']:.1%} of the step is for data, look-up, tables' update, metrics and logging",
        f"training runs at {values['train_peak_fraction']:.1%} of the fastest product, "
        f"{values['gemm_gflops']:,.0f} GFLOP/s; evaluation at {values['evaluate_ratio']:.2f} times training, "
        f"{values['evaluate_samples_per_second']:,.0f} samples/s",
    ]


def _line(run: dict[str, Any]) -> tuple[str, ...]:
    return (
        f"{run['users']:,}",
        str(run["ranks"]),
        str(run["threads"]),
        *(f"{rate:,.0f}" for rate in figure_of(run["rates"]) if rate is not None),
        f"{1e3 * figure_of(run['step_seconds']).value:.1f}",
        f"{run['start_seconds']:.1f}",
        *(f"{run[key] / 2**20:,.0f}" for key in ("table_bytes", "peak_bytes", "beside_tables_bytes")),
    )
