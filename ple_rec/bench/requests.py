"""`ple-rec bench requests`: what it brings to compute once per request what all its samples share.

requests_data.py  the reference workload in requests of one size
requests_rank.py  the process in which both ways take turns
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ple_rec.bench.figures import Figure, Figures, Headline, figure_of, ratios
from ple_rec.bench.report import Reporter, Results
from ple_rec.bench.requests_data import SHARED, write_requests
from ple_rec.bench.requests_rank import PREFIX, WAYS
from ple_rec.bench.session import Session
from ple_rec.bench.train_plan import RECIPE, configuration
from ple_rec.parallel.host import usable_cores
from ple_rec.text import aligned

_USERS = 100_000
_BATCHES = 3  # that the steps of a way take one after the other
_MODULE = "ple_rec.bench.requests_rank"
_HEAD = ("impressions", "", "samples/s without", "with", "ratio", "min", "max", "of CPU s", "ids without", "with")
_TITLES = {"train": "training", "predict": "prediction"}


def run(args: argparse.Namespace) -> int:
    """Measure, print."""
    threads = args.threads or usable_cores()
    report = Reporter(args, threads)
    impressions = list(dict.fromkeys(args.impressions))
    with tempfile.TemporaryDirectory(prefix="ple-rec-bench-") as name:
        results = measure(
            Path(name), impressions, threads, args.batch_size, args.precision, args.steps, args.repeats, report.say
        )
    report.finish(results, figures(results), headline(results), lines)
    return 0


def measure(
    folder: Path,
    impressions: Sequence[int],
    threads: int,
    batch_size: int,
    precision: str | None,
    steps: int,
    repeats: int,
    say: Callable[[str], None],
    *,
    users: int = _USERS,
) -> Results:
    """Both ways by turns on a dataset of each size of a request, in one process.

    Args:
        folder: For the datasets and the files of the process.
        impressions: Of a request, a dataset each.
        threads: Of the process.
        batch_size: Samples a step.
        precision: `train.precision`; None: of the recipe.
        steps: Of training in a turn, and twice as many batches of prediction.
        repeats: Turns that count, after one that does not.
        say: Told of every turn.
        users: Rows of the table of users.

    Raises:
        PleRecError: what the process raised.
    """
    data = folder / "data"
    for each in impressions:
        say(f"writing a feed of {each} impression(s) a request")
        write_requests(data / f"{PREFIX}{each}", users, _BATCHES * batch_size, each)
    config = configuration(data / f"{PREFIX}{impressions[0]}", 1, threads, batch_size, precision)
    work = {"train": steps, "predict": 2 * steps}
    rates: dict[str, list[float]] = defaultdict(list)
    cpu_rates: dict[str, list[float]] = defaultdict(list)
    sizes = {"batches": _BATCHES, **work}
    with Session("both ways", _MODULE, config, 1, folder / "rank", sizes, launcher=False) as session:
        session.warm_up()
        for turn in range(repeats + 1):
            say(f"turn {turn} of {repeats}, load {os.getloadavg()[0]:.2f}" if turn else "warm-up")
            for each in impressions:
                for what, count in work.items():
                    for way in list(WAYS)[:: 1 if turn % 2 else -1]:  # to and fro: load that grows favours neither
                        name = f"{what} {each} {way}"
                        (saw,) = session.turn(name)
                        if turn:
                            rates[name].append(count * batch_size / saw["seconds"])
                            cpu_rates[name].append(count * batch_size / saw["cpu_seconds"])
        (record,) = session.finish()
    return {
        "subject": "requests",
        "data": {"samples_a_dataset": _BATCHES * batch_size, "request_features": len(SHARED)},
        "settings": {
            "recipe": RECIPE,
            "precision": record["precision"],
            "batch_size": batch_size,
            "training_steps_a_turn": steps,
            "batches_predicted_a_turn": 2 * steps,
            "turns": repeats,
        },
        "impressions": list(impressions),
        "rates": rates,
        "cpu_rates": cpu_rates,
        "ids": record["ids"],
        "threads": record["threads"],
        "peak_bytes": record["peak_bytes"],
    }


def figures(results: Results) -> Figures:
    """What the final lines say. Ratios are of neighbouring turns."""
    named: Figures = {}
    for each in results["impressions"]:
        for what in _TITLES:
            name = f"{what}_{each}"
            named[f"{name}_samples_per_second"] = figure_of(_of(results, "rates", what, each, "with")).rounded(0)
            named[f"{name}_ratio"] = _ratios(results, "rates", what, each).rounded(3)
            named[f"{name}_cpu_ratio"] = _ratios(results, "cpu_rates", what, each).rounded(3)
    return named


def headline(results: Results) -> Headline:
    """Of the largest requests: training with request features beside training without."""
    most = max(results["impressions"])
    without, with_ = (figure_of(_of(results, "rates", "train", most, way)) for way in WAYS)
    what = f"training, {most} impressions a request"
    return Headline(what, "samples/s", with_, "without request features", without.value, results["peak_bytes"])


def lines(results: Results) -> list[str]:
    """A table."""
    table: list[tuple[str, ...]] = [_HEAD]
    for each in results["impressions"]:
        table += [_line(results, each, what) for what in _TITLES]
    return aligned(table)


def _of(results: dict[str, Any], key: str, what: str, impressions: int, way: str) -> list[float]:
    rates: list[float] = results[key][f"{what} {impressions} {way}"]
    return rates


def _ratios(results: dict[str, Any], key: str, what: str, impressions: int) -> Figure:
    """The way with request features by the other, turn by turn."""
    without, with_ = (_of(results, key, what, impressions, way) for way in WAYS)
    return ratios(with_, without)


def _line(results: dict[str, Any], impressions: int, what: str) -> tuple[str, ...]:
    return (
        str(impressions),
        _TITLES[what],
        *(f"{figure_of(_of(results, 'rates', what, impressions, way)).value:,.0f}" for way in WAYS),
        *(f"{ratio:.2f}" for ratio in _ratios(results, "rates", what, impressions) if ratio is not None),
        f"{_ratios(results, 'cpu_rates', what, impressions).value:.2f}",
        *(f"{results['ids'][f'{impressions} {way}']:,.0f}" for way in WAYS),
    )
