"""Rate of `ple-rec train` with attention over a history of 50 events, beside the mean of the events and no history.

    python -m benchmarks.history_train [--rows N] [--batch-size N] [--threads N]

The model is that of the reference workload, the recipe `bench-feed` (`ple_rec/recipes/bench-feed.toml`). A prepared log
with few users has the history, so that most rows have all 50 events. The rates come from the run's own reports; the
runs take turns.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from benchmarks.harness import BenchmarkCase, Pass, parser, race, report, say, scratch_folder
from benchmarks.history_prep import HISTORY, LENGTH, prep_toml_with_author
from benchmarks.raw_logs import write_logs
from benchmarks.reference import TrainRun, run_overrides, train_command
from data_prep.run import Options, prepare
from ple_rec.runtime.host import usable_cores

_ROWS_PER_USER, _ROWS_PER_VIDEO, _AUTHORS = 1_000, 22, 500
_TASKS = ", ".join(f'{{name = "{task}"}}' for task in ("valid_view", "completion", "share", "comment"))
# Overrides of each case.
_CASES = {
    "din": ["model.history=din"],
    "mean": ["model.history=mean"],
    "no history": ['data.drop=["clicked"]'],
}


@contextmanager
def train(folder: Path, case: str, args: argparse.Namespace) -> Iterator[Pass]:
    """Train at least `args.steps` steps in each pass."""
    more = [f"train.batch_size_per_rank={args.batch_size}", "train.precision=fp32", f"tasks=[{_TASKS}]"]
    # The recipe describes its own dataset by `data.described_by`. The empty value removes the key, since the dataset of
    # this benchmark is another one.
    overrides = run_overrides(folder / "data", args.threads, *more, "data.described_by=", *_CASES[case])
    run_dir = folder / f"run-{case}".replace(" ", "-")
    with closing(TrainRun(train_command(run_dir, overrides), run_dir / "train.jsonl", args.batch_size)) as run:
        yield lambda: run.run_turn(args.steps)


def _mean_length(dataset: Path) -> float:
    """Return the mean number of events of the histories of training rows."""
    lengths = []
    for part in sorted((dataset / "train").glob("*.parquet")):
        begin, end = (pq.read_table(part, columns=[f"clicked_{side}"])[0].to_numpy() for side in ("begin", "end"))
        lengths.append(end - begin)
    return float(np.minimum(np.concatenate(lengths), LENGTH).mean())


def main() -> None:
    """Measure and print."""
    arguments = parser(__doc__, repeats=8)
    arguments.add_argument("--rows", type=int, default=400_000, metavar="N", help="raw rows; default 400,000")
    arguments.add_argument("--threads", type=int, default=usable_cores(), metavar="N", help="default: one per core")
    arguments.add_argument("--batch-size", type=int, default=4096, metavar="N", help="samples per step")
    arguments.add_argument("--steps", type=int, default=10, metavar="N", help="steps of a turn; default 10")
    args = arguments.parse_args()
    with scratch_folder() as name:
        folder = Path(name)
        write_logs(folder / "raw", args.rows, max(1, args.rows // _ROWS_PER_USER), args.rows // _ROWS_PER_VIDEO)
        toml = prep_toml_with_author(f"video_id % {_AUTHORS}") + HISTORY
        (folder / "feed.toml").write_text(toml, encoding="utf-8")
        prepare(str(folder / "feed.toml"), folder / "data", Options(source=str(folder / "raw"), threads=args.threads))
        say(f"a training row has {_mean_length(folder / 'data'):.1f} events on average")
        cases = [BenchmarkCase(case, partial(train, folder, case, args), is_baseline=case == "mean") for case in _CASES]
        report(args, "samples", cases, race(cases, args.repeats))


if __name__ == "__main__":
    main()
