"""What `ple-rec bench` can measure: each subject with its arguments. What it needs is imported when it runs."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


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


def add_common(parser: argparse.ArgumentParser) -> None:
    """The flags of every subject."""
    parser.add_argument("--repeats", type=positive, default=3, metavar="N", help="passes that count; default 3")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def positive(text: str) -> int:
    """An argument that is a positive int."""
    value = int(text) if text.isdigit() else 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"got {text!r}; expected a positive int")
    return value


SUBJECTS: dict[str, Subject] = {
    "loader": Subject(
        help="rows per second of reading batches, beside torch's DataLoader and beside plain pyarrow",
        description="Read the training split of a dataset with the loader of training, with torch's DataLoader, and "
        "with pyarrow alone, which is the limit. Each way has a process of its own, pinned to one core (with the "
        "loader's prefetch thread) unless the table says otherwise; they take turns, after a warm-up pass each.",
        arguments=_loader_arguments,
        run=_loader,
    ),
}
