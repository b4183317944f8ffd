"""`ple-rec bench train`: the reference workload from Parquet to updated weights, beside what bounds it.

Runs of one rank with all threads, over sizes of the users' table, and of as many ranks as cores take turns. Between the
turns of the first of them its process runs the dense part alone, evaluates, and multiplies matrices.

    train_plan.py     the workload
    train_rank.py     a rank: the loop of training, paced
    train_figures.py  what came of it
    session.py        the ranks of a run, and turns.py, their turns
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ple_rec.bench.report import Reporter, Results
from ple_rec.bench.session import Session
from ple_rec.bench.tables_plan import Plan, shortage, too_large
from ple_rec.bench.tables_slice import world_of, write_slice
from ple_rec.bench.train_figures import figures, headline, lines
from ple_rec.bench.train_plan import MODULE, RECIPE, TRAINED, configuration
from ple_rec.bench.train_rank import TRAIN
from ple_rec.bench.turns import AGAIN
from ple_rec.parallel.host import usable_cores

USERS = 100_000
_EVALUATED = 75_000  # users of the validation split of the first run: some ten batches
_BESIDE = ("gemm", "dense", "evaluate")  # turns of the first run after that of the loop

Say = Callable[[str], None]


@dataclass(frozen=True)
class Shape:
    """What all runs have alike.

    Args:
        batch_size: Samples a step and rank.
        precision: `train.precision`; None: of the recipe.
        warm_up: Steps before the first turn.
        steps: Of a turn that count.
        dense_steps: Of a turn of the dense part that count.
        turns: How many.
    """

    batch_size: int
    precision: str | None
    warm_up: int
    steps: int
    dense_steps: int
    turns: int

    def samples(self, ranks: int) -> int:
        """That the loop reads."""
        return ranks * self.batch_size * (self.warm_up + self.turns * (AGAIN + self.steps))

    def sizes(self) -> dict[str, int]:
        """Of the order of a rank."""
        return {"warm_up": self.warm_up, "steps": self.steps, "dense_steps": self.dense_steps}


@dataclass(frozen=True)
class Run:
    """One of the runs that take turns.

    Args:
        users: Rows of the table of users.
        ranks: Processes.
        threads: Of each.
    """

    users: int
    ranks: int
    threads: int

    def __str__(self) -> str:
        """For people."""
        return f"{self.users:,} users, {self.ranks} rank(s) x {self.threads} thread(s)"


def run(args: argparse.Namespace) -> int:
    """Measure, print."""
    threads = args.threads or usable_cores()
    report = Reporter(args, threads)
    shape = Shape(args.batch_size, args.precision, args.warm_up, args.steps, max(2, args.steps // 2), args.repeats)
    users = list(dict.fromkeys(args.users or [USERS]))
    ranks = args.ranks or threads
    runs = [Run(each, 1, threads) for each in users]
    if ranks > 1:
        runs.append(Run(users[0], ranks, max(1, threads // ranks)))
    check_memory(runs, shape)
    with tempfile.TemporaryDirectory(prefix="ple-rec-bench-") as name:
        results = measure(Path(name), runs, shape, report.say)
    report.finish(results, figures(results), headline(results), lines)
    return 0


def check_memory(runs: Sequence[Run], shape: Shape) -> None:
    """Refuse sizes that do not fit together.

    Raises:
        UserError: too few users, too many, or more than fit in memory at once.
    """
    needed = 0
    for each in runs:
        world_of(each.users, "--users")
        plan = Plan(each.users, ranks=each.ranks, batch_size=shape.batch_size)
        needed += plan.needed_bytes()
        if (short := shortage(needed)) is not None:
            raise too_large(plan, short, "--users")


def measure(folder: Path, runs: Sequence[Run], shape: Shape, say: Say) -> Results:
    """Let the runs take turns.

    Args:
        folder: For data sets and files of the ranks.
        runs: The first of them is that of one rank which does more between its turns.
        shape: Of all.
        say: Told of every start and turn.

    Raises:
        PleRecError: what a rank raised.
    """
    samples = max(shape.samples(each.ranks) for each in runs)
    for users in dict.fromkeys(each.users for each in runs):
        say(f"writing {samples:,} impressions of a feed of {users:,} users")
        more = (_EVALUATED,) if users == runs[0].users else ()
        write_slice(folder / f"data-{users}", users, samples, *more)
    beside: dict[str, list[Any]] = defaultdict(list)
    turns: list[list[list[Any]]] = [[] for _ in runs]  # of each run, of each turn, by rank
    with ExitStack() as stack:
        sessions = []
        for i, each in enumerate(runs):
            say(f"{each}: starts")
            sessions.append(stack.enter_context(_session(folder, i, each, shape)))
            sessions[-1].warm_up()
        for turn in range(1, shape.turns + 1):
            say(f"turn {turn} of {shape.turns}, load {os.getloadavg()[0]:.2f}")
            for i in range(len(runs))[:: 1 if turn % 2 else -1]:  # to and fro: load that grows or falls favours none
                turns[i].append(sessions[i].turn(TRAIN))
                for what in _BESIDE if i == 0 else ():
                    beside[what] += sessions[i].turn(what)
        beside["copy"] += sessions[0].turn("copy")
        records = [session.finish() for session in sessions]
    first = records[0][0]
    return {
        "subject": "train",
        "data": {"impressions": samples},
        "settings": {
            "recipe": RECIPE,
            "precision": first["precision"],
            "batch_size_per_rank": shape.batch_size,
            "warm_up_steps": shape.warm_up,
            "steps_a_turn": shape.steps,
            "turns": shape.turns,
        },
        "flops_per_sample": TRAINED * first["flops_per_sample"],
        "runs": [run_record(*of_run) for of_run in zip(runs, turns, records, strict=True)],
        "dense_step_seconds": [sum(saw["seconds"]) / len(saw["seconds"]) for saw in beside["dense"]],
        "evaluate_rates": [saw["rows"] / saw["seconds"] for saw in beside["evaluate"]],
        "gemm_gflops": [saw["gflops"] for saw in beside["gemm"]],
        "copy_gb_per_second": beside["copy"][0]["gb_per_second"],
    }


def run_record(run: Run, turns: Sequence[Sequence[dict[str, Any]]], ranks: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A run: of each turn the slowest rank, of start-up and memory the worst.

    Args:
        run: Which.
        turns: What the ranks saw, by turn and rank.
        ranks: What they left, by rank.
    """
    steps = len(turns[0][0]["seconds"])
    slowest = [max(sum(saw["seconds"]) for saw in turn) / steps for turn in turns]
    samples = sum(rank["batch_size"] for rank in ranks)
    # Of the first turn: what a process does between its later ones is no part of training.
    peaks = [saw["peak_bytes"] for saw in turns[0]]
    return {
        "users": run.users,
        "ranks": run.ranks,
        "threads": ranks[0]["threads"],
        "step_seconds": slowest,
        "rates": [samples / seconds for seconds in slowest],
        "start_seconds": max(rank["startup_seconds"] for rank in ranks),
        "table_bytes": max(rank["table_bytes"] for rank in ranks),
        "peak_bytes": max(peaks),
        "beside_tables_bytes": max(p - rank["table_bytes"] for p, rank in zip(peaks, ranks, strict=True)),
    }


def _session(folder: Path, number: int, run: Run, shape: Shape) -> Session:
    data = folder / f"data-{run.users}"
    config = configuration(data, run.ranks, run.threads, shape.batch_size, shape.precision)
    into = folder / f"run-{number}"
    return Session(str(run), MODULE, config, run.ranks, into, shape.sizes(), launcher=run.ranks > 1)
