"""`ple-rec bench tables`: memory, start-up and steps of training on sharded tables, over the number of their rows.

All sizes are in memory at once and take turns of a few steps: what else runs on the machine then slows all of them
alike. A rank goes through `ple_rec.train.job.assemble` and `ple_rec.train.loop.train_step`.

    tables_plan.py     what a size does, and the memory it takes
    tables_slice.py    data: tables of a whole world, some of its impressions
    tables_rank.py     a rank
    session.py         the ranks of a size, and turns.py, their turns
    tables_claims.py   measurements put together; claims
    tables_text.py     the same for people
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from data_prep.synthetic.columns import table_rows
from ple_rec.bench.report import Reporter, Results
from ple_rec.bench.session import Session
from ple_rec.bench.tables_claims import claims_of, size_record, wide_claims
from ple_rec.bench.tables_plan import DIM, EXPERT, RANKS, Plan, check_dim, configuration, shortage, too_large
from ple_rec.bench.tables_slice import FULL_USERS, world_of, write_slice
from ple_rec.bench.tables_text import figures, headline, lines

SIZES = (100_000, 1_000_000, 10_000_000, FULL_USERS)
WIDE_DIM, WIDE_RANKS = 64, 1  # of the last run

Say = Callable[[str], None]


def run(args: argparse.Namespace) -> int:
    """Measure, print."""
    report = Reporter(args)
    asked = args.rows is not None or args.dim is not None or args.ranks is not None
    shape = Plan(
        users=0,
        dim=args.dim or DIM,
        ranks=args.ranks or RANKS,
        batch_size=args.batch_size,
        warm_up=args.warm_up,
        steps=args.steps,
        turns=args.repeats,
    )
    check_dim(shape.dim)
    plans: list[Plan] = []
    skipped = []
    for users in dict.fromkeys(args.rows or SIZES):
        plan = replace(shape, users=users)
        short = shortage(sum(each.needed_bytes() for each in (*plans, plan)))
        if short is None:
            plans.append(plan)
        elif args.rows is not None or not plans:
            raise too_large(plan, short)
        else:
            skipped.append(f"{plan}: skipped, {short}")
    wide = None if asked else replace(shape, users=FULL_USERS, dim=WIDE_DIM, ranks=WIDE_RANKS, steps=20, turns=1)
    with tempfile.TemporaryDirectory(prefix="ple-rec-bench-") as folder:
        results = measure(Path(folder), plans, wide, report.say)
    results["skipped"] = [*skipped, *results["skipped"]]
    report.finish(results, figures(results), headline(results), lines)
    return 0


def measure(folder: Path, plans: Sequence[Plan], wide: Plan | None, say: Say) -> Results:
    """Train all sizes in turns, then the wide one where it fits.

    Args:
        folder: For data sets and files of the ranks.
        plans: The sizes, alike in everything but `users`.
        wide: Another shape of one size; None to leave it out.
        say: Told of every start and turn.

    Raises:
        PleRecError: a rank failed.
    """
    samples = max(plan.samples for plan in (*plans, *([wide] if wide else [])))
    for users in dict.fromkeys(plan.users for plan in (*plans, *([wide] if wide else []))):
        say(f"writing {samples:,} impressions of a feed of {users:,} users")
        write_slice(folder / f"data-{users}", users, samples)
    measured = train(folder, plans, say)
    results: Results = {
        "subject": "tables",
        "data": {"impressions": samples, "tables": len(table_rows(world_of(plans[0].users)))},
        "settings": {
            "model": f"PLE of 2 levels with experts of {EXPERT}",
            "batch_size_per_rank": plans[0].batch_size,
            "warm_up_steps": plans[0].warm_up,
            "steps_a_turn": plans[0].steps,
            "turns": plans[0].turns,
        },
        "sizes": measured,
        "claims": claims_of(measured),
        "wide": None,
        "skipped": [],
    }
    if wide is not None:
        if (short := shortage(wide.needed_bytes())) is not None:
            results["skipped"].append(f"{wide}: skipped, {short}")
        else:
            (results["wide"],) = train(folder, [wide], say)
            results["claims"] += wide_claims(results["wide"])
    return results


def train(folder: Path, plans: Sequence[Plan], say: Say) -> list[dict[str, Any]]:
    """Start the ranks of each size, one size after the other, let them take turns, and end them.

    Args:
        folder: With the data sets `data-<users>`.
        plans: The sizes.
        say: Told of every start and turn.

    Raises:
        PleRecError: a rank failed.
    """
    with ExitStack() as stack:
        sessions = []
        name = stack.enter_context(tempfile.TemporaryDirectory(prefix="ranks-", dir=folder))
        for i, plan in enumerate(plans):
            say(f"{plan}: starts")
            config = configuration(folder / f"data-{plan.users}", plan)
            of_size = Path(name) / f"size-{i}"
            session = Session(str(plan), "ple_rec.bench.tables_rank", config, plan.ranks, of_size, plan.sizes())
            sessions.append(stack.enter_context(session))
            sessions[-1].warm_up()
        for turn in range(1, plans[0].turns + 1):
            say(f"turn {turn} of {plans[0].turns}, load {os.getloadavg()[0]:.2f}")
            for session in sessions[:: 1 if turn % 2 else -1]:  # to and fro: load that grows or falls favours none
                session.turn()
        records = [size_record(plan, session.finish()) for plan, session in zip(plans, sessions, strict=True)]
    for plan, record in zip(plans, records, strict=True):
        say(f"{plan}: {record['step_ms']['median']:.1f} ms a step, start-up {record['startup_seconds']:.1f} s")
    return records
