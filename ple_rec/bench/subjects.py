"""What `ple-rec bench` can measure: each subject with its arguments. What it needs is imported when it runs."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ple_rec.cli_words import positive, size


@dataclass(frozen=True)
class Subject:
    """One subject.

    Args:
        help: One line.
        description: What is measured, and how.
        arguments: Adds its flags.
        run: Measures and prints; gives the exit code.
        torch: Whether it needs torch.
    """

    help: str
    description: str
    arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]
    torch: bool = True


def _loader_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, metavar="DIR", help="a dataset directory; default: a synthetic one")
    parser.add_argument(
        "--rows", type=positive, default=1 << 21, metavar="N", help="of the synthetic dataset; default 2 M"
    )
    parser.add_argument("--batch-size", type=positive, default=4096, metavar="N", help="samples a step; default 4096")
    parser.add_argument("--shards", type=positive, default=16, metavar="V", help="virtual shards; default 16")
    add_common(parser)


def _loader(args: argparse.Namespace) -> int:
    from ple_rec.bench.loader import run

    return run(args)


def _prep_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rows", type=positive, default=2_000_000, metavar="N", help="raw rows; default 2 M")
    parser.add_argument("--memory", type=size, default=8 << 30, metavar="SIZE", help="for each way; default 8GiB")
    parser.add_argument("--threads", type=positive, metavar="N", help="default: all cores")
    parser.add_argument("--work", type=Path, metavar="DIR", help="for logs and results; default: the temporary folder")
    add_common(parser)


def _prep(args: argparse.Namespace) -> int:
    from ple_rec.bench.prep import run

    return run(args)


def add_common(parser: argparse.ArgumentParser) -> None:
    """The flags of every subject."""
    parser.add_argument("--repeats", type=positive, default=3, metavar="N", help="passes that count; default 3")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


SUBJECTS: dict[str, Subject] = {
    "loader": Subject(
        help="rows per second of reading batches, beside torch's DataLoader and beside plain pyarrow",
        description="Read the training split of a dataset with the loader of training, with torch's DataLoader, and "
        "with pyarrow alone, which is the limit. Each way has a process of its own, pinned to one core (with the "
        "loader's prefetch thread) unless the table says otherwise; they take turns, after a warm-up pass each.",
        arguments=_loader_arguments,
        run=_loader,
    ),
    "prep": Subject(
        help="rows per second and memory of preparing raw logs, beside the bare DuckDB query",
        description="Write raw feed logs, .78 distinct users and .045 distinct videos a row, then prepare them, and "
        "run the DuckDB query that counts, joins and writes the same columns without checks, splits, order or "
        "statistics, which is the limit. They take turns, each in a process of its own with all cores.",
        arguments=_prep_arguments,
        run=_prep,
        torch=False,
    ),
}
