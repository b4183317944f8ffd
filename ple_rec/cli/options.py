"""Flags that several verbs take, each declared once, and the readers of their values."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from cyclopts import Parameter, Token

from ple_rec.config.choices import recipe_names
from ple_rec.storage import is_address, location
from ple_rec.text.units import parse_bytes

T = TypeVar("T")


def flag(text: str, value: str = "", read: Callable[[str], object] | None = None, **more: Any) -> Parameter:
    """Return what cyclopts is told of a flag or an argument.

    Args:
        text: Its help.
        value: Word of the help for its value; empty: the choices of its type, or its name.
        read: Function that reads the one value; its ValueError says `got VALUE; RULE` or `got VALUE; RULE; FIX`.
        more: Other arguments of `cyclopts.Parameter`.
    """
    keys: dict[str, Any] = {"help": text} | ({"metavar": value} if value else {})
    if read is not None:
        keys["converter"] = lambda _, tokens: read(tokens[0].value)
    return Parameter(**keys, **more)


def place(text: str, value: str = "", **more: Any) -> Parameter:
    """Return what cyclopts is told of a flag of the type `Location`: a path, or an address of a store.

    Args:
        text: Its help.
        value: Word of the help for its value; empty: its name.
        more: Other arguments of `cyclopts.Parameter`.
    """
    return flag(text, value, location, accepts_keys=False, **more)


def local(text: str) -> Path:
    """Read a path of this machine."""
    if is_address(text):
        raise ValueError(f"got {text!r}; expected a path of this machine")
    return Path(text)


def each(read: Callable[[str], T]) -> Callable[[Any, Sequence[Token]], tuple[T, ...]]:
    """Return the converter of a flag with several values.

    Args:
        read: Function that reads one of them, as that of `flag`.
    """

    def convert(_: Any, tokens: Sequence[Token]) -> tuple[T, ...]:
        return tuple(read(token.value) for token in tokens)

    return convert


def positive(text: str) -> int:
    """Read a positive int."""
    value = int(text) if text.isdecimal() else 0
    if value < 1:
        raise ValueError(f"got {text!r}; expected a positive int")
    return value


def count(text: str) -> int:
    """Read a non-negative int."""
    if not text.isdecimal():
        raise ValueError(f"got {text!r}; expected a non-negative int, 0 for none")
    return int(text)


def integer(text: str) -> int:
    """Read an int; cyclopts' own reader rounds 1.5."""
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"got {text!r}; expected an int") from None


def above_zero(text: str) -> float:
    """Read a finite number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < math.inf:
        raise ValueError(f"got {text!r}; expected a number above 0")
    return value


def not_negative(text: str) -> float:
    """Read a finite number of 0 or more."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < math.inf:
        raise ValueError(f"got {text!r}; expected a finite number of 0 or more")
    return value


def size(text: str) -> int:
    """Read a size in bytes: 4GiB, 512MiB, 8GB."""
    value = parse_bytes(text)
    if value is None:
        raise ValueError(f"got {text!r}; a size reads 4GiB, 512MiB or 8GB")
    return value


Run = Annotated[str, flag("run directory, or its name under runs/")]
Config = Annotated[
    str | None,
    flag("a TOML file, or the name of a recipe", "FILE|NAME", completer=lambda _: recipe_names()),
]
Set = Annotated[
    tuple[str, ...], flag("override a configuration key, e.g. train.epochs=2 (repeatable)", "KEY=VALUE", name="--set")
]
EvaluationSet = Annotated[
    Set, flag("override a configuration key that an evaluation may change, e.g. data.path=... (repeatable)")
]
Ranks = Annotated[
    int,
    flag(
        "processes on this host (one per GPU; on one CPU more are slower for a small model); default 1", "N", positive
    ),
]
Checkpoint = Annotated[str, flag("best (default), latest or step-<n>", "CHECKPOINT")]
FinalSplit = Annotated[Literal["test", "valid"], flag("split of the final metrics; default: test")]
HelpConfig = Annotated[bool, flag("list every key of the TOML file, then stop")]
Argv = Annotated[tuple[str, ...], Parameter(parse=False)]  # words of the command line, for a verb that starts ranks
