"""`ple-rec bench fuse`: settings of the exponents that a search evaluates in a second, beside the order alone."""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from ple_rec.bench.figures import Figure, Figures, Headline, figure_of, ratios
from ple_rec.bench.report import Reporter, Results
from ple_rec.parallel.host import usable_cores
from ple_rec.ranking.evaluation import Evaluation
from ple_rec.ranking.fusion import Factors
from ple_rec.ranking.lists import Lists
from ple_rec.ranking.metrics import Measured, metric_of
from ple_rec.text import aligned

METRICS = ("view.gauc", "view.ndcg@10", "view.map@10", "view.mean@5", "view.value@5")
_FACTORS, _ALONE = 5, 8  # settings of a turn that are evaluated one by one


def run(args: argparse.Namespace) -> int:
    """Measure, print."""
    threads = args.threads or usable_cores()
    report = Reporter(args, threads)
    results = measure(args.impressions, args.list_rows, threads, args.settings, args.repeats, report.say)
    report.finish(results, figures(results), headline(results), lines)
    return 0


def measure(
    impressions: int, list_rows: int, threads: int, settings: int, repeats: int, say: Callable[[str], None]
) -> Results:
    """Each metric, many settings together and one by one, and the order alone, by turns.

    Args:
        impressions: Rows.
        list_rows: Of a list, on average; the lengths are those of balls in as many boxes.
        threads: Of the evaluation.
        settings: Of a turn.
        repeats: Turns that count, after one that does not.
        say: Told of every turn.
    """
    random = np.random.default_rng(0)
    group_N = random.integers(0, max(1, impressions // list_rows), impressions)
    label_N = (random.random(impressions) < 0.3).astype(np.float64)
    lists = Lists.of(group_N)
    weight_N = random.exponential(size=len(lists.row_N))
    factors = Factors(tuple(f"factor_{k}" for k in range(_FACTORS)), random.normal(size=(impressions, _FACTORS)), {})
    exponents_WK = random.uniform(0, 2, (settings, _FACTORS))

    def evaluation(*names: str) -> Evaluation:
        metrics = {}
        for name in names:
            measured = Measured.parse(name, {"view": "binary"}, "bench")
            metrics[measured] = metric_of(measured, lists, label_N[lists.row_N], weight_N)
        return Evaluation(lists, factors, metrics, threads)

    def one_by_one(what: Evaluation) -> None:
        for w in range(_ALONE):
            what(exponents_WK[w : w + 1])

    together = {name: evaluation(name) for name in METRICS}
    ways: dict[str, tuple[Callable[[], Any], int]] = {"order": (lambda: evaluation()(exponents_WK), settings)}
    ways |= {name: (partial(of, exponents_WK), settings) for name, of in together.items()}
    ways["one by one"] = (lambda: one_by_one(together[METRICS[1]]), _ALONE)
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(repeats + 1):
        for name, (way, count) in ways.items():
            start = time.perf_counter()
            way()
            if turn:
                rates[name].append(count / (time.perf_counter() - start))
        if turn:
            say(
                f"turn {turn} of {repeats}: " + ", ".join(f"{name} {found[-1]:,.0f}/s" for name, found in rates.items())
            )
    return {
        "subject": "fuse",
        "data": {"impressions": impressions, "lists": len(lists.size_L), "rows_in_lists": len(lists.row_N)},
        "settings": {"factors": _FACTORS, "settings_a_turn": settings, "turns": repeats, "threads": threads},
        "rates": rates,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def figures(results: Results) -> Figures:
    """What the final lines say."""
    rates: Mapping[str, list[float]] = results["rates"]
    named: Figures = {f"{_key(name)}_settings_per_second": figure_of(found).rounded(0) for name, found in rates.items()}
    together, alone = rates[METRICS[1]], rates["one by one"]
    return named | {"together_over_one_by_one": ratios(together, alone).rounded(2)}


def headline(results: Results) -> Headline:
    """In one line."""
    rates = results["rates"]
    what = f"fuse, {METRICS[1]} of {results['data']['impressions']:,} impressions"
    return Headline(
        what,
        "settings/s",
        figure_of(rates[METRICS[1]]),
        "order alone",
        figure_of(rates["order"]).value,
        results["peak_bytes"],
    )


def lines(results: Results) -> list[str]:
    """A table."""
    table = [("settings a second", "median", "min", "max")]
    for name, found in results["rates"].items():
        figure: Figure = figure_of(found)
        title = {"order": "order alone", "one by one": f"{METRICS[1]}, one by one"}.get(name, name)
        table.append((title, *(f"{value:,.0f}" for value in figure if value is not None)))
    data = results["data"]
    return [*aligned(table), f"{data['rows_in_lists']:,} of {data['impressions']:,} rows in {data['lists']:,} lists"]


def _key(name: str) -> str:
    return name.replace("view.", "").replace("@", "_").replace(" ", "_")
