"""Types of command-line arguments, and one that several verbs have."""

from __future__ import annotations

import argparse
import math

from ple_rec.text.units import parse_bytes


def add_set(verb: argparse.ArgumentParser, text: str) -> None:
    """`--set KEY=VALUE`, repeatable.

    Args:
        verb: That takes it.
        text: Its help.
    """
    verb.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides", help=text)


def positive(text: str) -> int:
    """A positive int."""
    value = int(text) if text.isdigit() else 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"got {text!r}; expected a positive int")
    return value


def count(text: str) -> int:
    """A non-negative int."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"got {text!r}; expected a non-negative int, 0 for none")
    return int(text)


def above_zero(text: str) -> float:
    """A finite number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"got {text!r}; expected a number above 0")
    return value


def not_negative(text: str) -> float:
    """A finite number of 0 or more."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"got {text!r}; expected a finite number of 0 or more")
    return value


def size(text: str) -> int:
    """A size in bytes: 4GiB, 512MiB, 8GB."""
    value = parse_bytes(text)
    if value is None:
        raise argparse.ArgumentTypeError(f"got {text!r}; a size reads 4GiB, 512MiB or 8GB")
    return value
