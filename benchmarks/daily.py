"""Quality of a feed's model day after day, for four ways to keep it up to date, and the rows of its tables.

It calls `prep`, `train` and `predict` itself, and not `ple-rec daily`, which has no way that starts from random weights
and a gate that would leave days out.

    python -m benchmarks.daily [--days N] [--seeds N] [--users N] [--rows N] [--videos N]

The logs are those of `docs/examples/feed_logs.py --come-and-go`. The first seven days are the first log. On each later
day, every way predicts all rows of the day by its model of the day before, from the raw log, as a server would. Then
the day is appended. The ways:

    once      the model of the first log, which is never trained again
    scratch   a new dataset and a new model of all days before, from random weights
    warm      `prep --append` and `train --init-from` the model of the day before, one epoch of the day
    expire    as warm, but tables admit and expire values, and have fewer rows

NE and AUC are those of the task `click`. They are means over seeds of the models; the logs are the same. The last lines
compare each way with `warm`: the mean over the days of the difference of NE, with its 95 % interval (Student's t, a
value for each day).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import tomllib
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import date, timedelta
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple, cast

import pyarrow.parquet as pq
import torch

import ple_rec
from benchmarks.harness import conditions, say, scratch_folder
from ple_rec.analysis.compare.gain import seed_interval
from ple_rec.config.load import load_schema
from ple_rec.metrics.accumulator import compute
from ple_rec.metrics.binary import BinaryAccumulator
from ple_rec.runtime.host import usable_cores
from ple_rec.text import align_columns

WAYS = ("once", "scratch", "warm", "expire")
EXAMPLES = Path(__file__).resolve().parent.parent / "docs" / "examples"
LOGS = Path("data", "feed-raw")  # Folder in which `feed_logs.py` writes.
FIRST_LOG_DAYS = 7
_TASKS = [
    {"name": "click", "kind": "binary", "label": "is_click"},
    {
        "name": "completion",
        "kind": "regression",
        "label": "clip(play_time_ms / duration_ms, 0, 1)",
        "space": "duration_ms > 0",
    },
]


class Quality(NamedTuple):
    """Metrics of the task `click` on all rows of a day."""

    ne: float
    auc: float


def day_name(day: int) -> str:
    """Return a day, of which the first is 1, as `feed_logs.py` names it."""
    return f"{date(2024, 5, 1) + timedelta(day - 1)}"


def prep_config(args: argparse.Namespace, way: str) -> dict[str, Any]:
    """Return the preparation of the first log: docs/examples/feed.toml with other tasks and tables."""
    config = tomllib.loads((EXAMPLES / "feed.toml").read_text(encoding="utf-8"))
    tables = {"user": {"capacity": 2 * args.users}, "video": {"min_count": 2, "capacity": 20 * args.videos}}
    if way == "expire":
        # A user may stay away for seven days. A video is shown for five days. After these days, it is still in the
        # histories of users who have clicked it, and a video in a history counts as seen.
        tables["user"] |= {
            "admit": {"count": 2, "days": 7},
            "expire": {"unseen_days": 8},
            "capacity": args.users * 3 // 2,
        }
        tables["video"] |= {
            "admit": {"count": 2, "days": 5},
            "expire": {"unseen_days": 6},
            "capacity": 15 * args.videos,
        }
    # Few rows are held out, since this benchmark predicts the rows of the next day.
    return config | {"tasks": _TASKS, "tables": tables, "append": {"valid": 0.02, "test": 0.02}}


def prepare_fresh(args: argparse.Namespace, folder: Path, way: str, day: int) -> None:
    """Write the dataset `WAY-DAY`, whose training rows are all rows up to this day."""
    split = {"by": "day", "train": [1, day], "test": [day + 1, day + 1], "valid_share": 0.5}
    # The next day's rows are held out, but nothing is chosen by them: every run ends after its epochs.
    ple_rec.prepare(prep_config(args, way) | {"split": split}, folder / f"{way}-{day}", source=folder / LOGS)


def append_day(args: argparse.Namespace, folder: Path, way: str, day: int) -> None:
    """Write the dataset `WAY-DAY`, which has the rows of this day and the ids of the dataset of the day before."""
    config = prep_config(args, way) | {
        "split": {"by": "day", "train": [1, FIRST_LOG_DAYS], "test": [8, 8], "valid_share": 0.5}
    }
    config["log"] = {"files": [f"log/day={day_name(day)}"]}
    parent = folder / f"{way}-{day - 1}"
    ple_rec.prepare(config, folder / f"{way}-{day}", source=folder / LOGS, append=f"day={day}", parent=parent)


def train_day(args: argparse.Namespace, folder: Path, way: str, day: int, seed: int) -> ple_rec.Run:
    """Train on the dataset `WAY-DAY`; after the first log, `warm` and `expire` start from the run of the day before."""
    continues = way in ("warm", "expire") and day > FIRST_LOG_DAYS
    overrides = {
        "data.path": str(folder / f"{way}-{day}"),
        "seed": seed,
        "train.batch_size": args.batch_size,
        "train.epochs": 1 if continues else args.epochs,
        "train.best_metric": "click.auc",
        "runtime.threads": 1,
    }
    run_dir, parent = (folder / f"run-{way}-{d}-{seed}" for d in (day, day - 1))
    init_from = f"{parent}:latest" if continues else None
    return ple_rec.train(EXAMPLES / "feed_ple.toml", run_dir=run_dir, overrides=overrides, init_from=init_from)


def predict_day(folder: Path, run: ple_rec.Run, day: int) -> Quality:
    """Predict all rows of a day from the raw log, and return the metrics."""
    log, source = folder / LOGS / "log" / f"day={day_name(day)}", folder / LOGS
    predictions = run.predict(log, checkpoint="latest", ids=["is_click"], source=source)
    probability_N1 = torch.from_numpy(predictions["click"].to_numpy())[:, None]
    label_N1 = torch.from_numpy(predictions["is_click"].to_numpy())[:, None].float()
    metrics = BinaryAccumulator(["click"], "cpu")
    metrics.update(torch.logit(probability_N1, 1e-7), label_N1, None, torch.ones_like(label_N1))
    result = compute([metrics], None)["click"]
    return Quality(cast(float, result["ne"]), cast(float, result["auc"]))  # None only if a class is missing.


def run_way(args: argparse.Namespace, folder: Path, way_and_seed: tuple[str, int]) -> list[Quality]:
    """Return the quality of a way on each day after the first log, for one seed of the models."""
    way, seed = way_and_seed
    qualities = []
    torch.set_num_threads(1)
    with contextlib.redirect_stdout(sys.stderr):
        for day in range(FIRST_LOG_DAYS, FIRST_LOG_DAYS + args.days):
            if way != "once" or day == FIRST_LOG_DAYS:
                run = train_day(args, folder, way, day, seed)
            qualities.append(predict_day(folder, run, day + 1))
            say(f"{way}, seed {seed}: day {day + 1} {qualities[-1]}")
    return qualities


def count_rows(vocabulary: Path, allocated: int) -> tuple[int, int, int]:
    """Return how many rows of a table have a value, are free, and are allocated.

    Args:
        vocabulary: File of the table's vocabulary; a value is null if its row is free again.
        allocated: Number of allocated rows.
    """
    raw = pq.read_table(vocabulary, columns=["raw"])["raw"]
    used = len(raw) - raw.null_count
    return used, allocated - 1 - used, allocated  # Row 0 has no value and is never free.


def quality_lines(qualities: Mapping[str, Sequence[Sequence[Quality]]], days: Sequence[int]) -> list[str]:
    """Return a table of the qualities by day, and then the differences from `warm`.

    Args:
        qualities: Qualities by way, then by seed, then by day.
        days: Days that were predicted.
    """
    means = {
        way: [Quality(*map(statistics.fmean, zip(*day, strict=True))) for day in zip(*by_seed, strict=True)]
        for way, by_seed in qualities.items()
    }
    rows = [("day", *(f"NE {way}" for way in means), *(f"AUC {way}" for way in means))]
    for i, day in enumerate(days):
        rows.append(
            (f"{day}", *(f"{q[i].ne:.4f}" for q in means.values()), *(f"{q[i].auc:.4f}" for q in means.values()))
        )
    average = [Quality(*map(statistics.fmean, zip(*by_day, strict=True))) for by_day in means.values()]
    rows.append(("mean", *(f"{q.ne:.4f}" for q in average), *(f"{q.auc:.4f}" for q in average)))
    lines = [*align_columns(rows), ""]
    for way in (way for way in means if way != "warm" and "warm" in means):
        differences = [a.ne - b.ne for a, b in zip(means[way], means["warm"], strict=True)]
        bounds = " to ".join(f"{bound:+.4f}" for bound in seed_interval(differences) or ())
        lines.append(f"NE {way} - NE warm: {statistics.fmean(differences):+.4f}, 95 % interval {bounds}")
    return lines


def rows_lines(folder: Path, ways: Sequence[str], days: Sequence[int]) -> list[str]:
    """Return a table of the rows of the tables `user` and `video` after each day, for the ways that append days."""
    columns = [(way, table) for way in ways if way in ("warm", "expire") for table in ("user", "video")]
    if not columns:
        return []
    rows = [("day", *(f"{way}, {table}" for way, table in columns))]
    for day in days:
        cells = []
        for way, table in columns:
            dataset = folder / f"{way}-{day}"
            counts = count_rows(dataset / "vocab" / f"{table}.parquet", load_schema(dataset).table_rows()[table])
            cells.append(", ".join(f"{count:,}" for count in counts))
        rows.append((f"{day}", *cells))
    return ["", "rows of tables after the day: used, free, allocated", *align_columns(rows)]


def main() -> None:
    """Measure and print."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS, metavar="WAY", help="default: all four")
    arguments.add_argument("--days", type=int, default=10, metavar="N", help="days after the first log; default 10")
    arguments.add_argument("--seeds", type=int, default=3, metavar="N", help="seeds of the models; default 3")
    arguments.add_argument("--users", type=int, default=2_000, metavar="N", help="users at a time; default 2,000")
    arguments.add_argument("--rows", type=int, default=20_000, metavar="N", help="rows of a day; default 20,000")
    arguments.add_argument("--videos", type=int, default=200, metavar="N", help="new videos of a day; default 200")
    arguments.add_argument("--batch-size", type=int, default=256, metavar="N", help="samples of a step; default 256")
    arguments.add_argument("--epochs", type=int, default=1, metavar="N", help="epochs of a new model; default 1")
    arguments.add_argument("--json", type=Path, metavar="FILE", help="write the results to a file, too")
    args = arguments.parse_args()
    days = range(FIRST_LOG_DAYS + 1, FIRST_LOG_DAYS + args.days + 1)
    with scratch_folder() as name, contextlib.redirect_stdout(sys.stderr):
        folder = Path(name)
        sizes = [f"--{name}={getattr(args, name)}" for name in ("users", "rows", "videos")]
        command = [sys.executable, str(EXAMPLES / "feed_logs.py"), "1", str(days[-1]), "--come-and-go", *sizes]
        subprocess.run(command, cwd=folder, check=True, stdout=sys.stderr)
        for way in args.ways:
            prepare_fresh(args, folder, way, FIRST_LOG_DAYS)
            for day in days[:-1] if way != "once" else ():
                (prepare_fresh if way == "scratch" else append_day)(args, folder, way, day)
        work = [(way, seed) for seed in range(args.seeds) for way in args.ways]
        with ProcessPoolExecutor(usable_cores(), get_context("spawn")) as pool:
            results = dict(zip(work, pool.map(partial(run_way, args, folder), work), strict=True))
        qualities = {way: [results[way, seed] for seed in range(args.seeds)] for way in args.ways}
        lines = [*quality_lines(qualities, days), *rows_lines(folder, args.ways, days[:-1])]
    lines += ["", *(f"{key}: {value}" for key, value in conditions(args).items())]
    sys.stdout.write("\n".join(lines) + "\n")
    if args.json is not None:
        args.json.write_text(
            json.dumps({"conditions": conditions(args), "qualities": qualities}) + "\n", encoding="utf-8"
        )


if __name__ == "__main__":
    main()
