"""Types and help texts of the options that verbs share, and functions that declare options and verbs."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise, takewhile
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from cyclopts import App, Argument, Group, Parameter, Token, convert

from ple_rec.config.choices import recipe_names
from ple_rec.storage import is_address, location
from ple_rec.text.units import parse_bytes

OPTIONS = Group("options", sort_key=1)

_COMMON_SETTINGS: Mapping[str, Any] = {
    "default_parameter": Parameter(
        negative=(), show_default=False, allow_repeating=True, json_list=False, json_dict=False
    ),
    "group_arguments": Group("arguments", sort_key=0),
    "group_parameters": OPTIONS,
    "version_flags": (),  # Only the program has --version; cyclopts would give it to every verb.
}


def verb(name: str, epilog: str = "", **more: Any) -> App:
    """Return the application of a verb, or of the program.

    Args:
        name: Name of the verb, or of the program.
        epilog: Text at the end of its help, printed without changes.
        more: Other arguments of `cyclopts.App`, such as `usage`.
    """
    return App(name=name, help_epilogue=epilog, **{**_COMMON_SETTINGS, **more})


def names_text(lead: str, names: Sequence[str]) -> str:
    """Return names as lines of an epilog: `recipes: census-ple, census-mmoe`.

    Args:
        lead: Word before the names, by whose length further lines are indented.
        names: Names to list.
    """
    text = f"{lead}: {', '.join(names)}"
    return textwrap.fill(text, 80, subsequent_indent=" " * (len(lead) + 2), break_on_hyphens=False)


def last_list(type_: Any, tokens: Sequence[Token]) -> Any:
    """Return the values of the last list if a flag with a list is repeated.

    Args:
        type_: Type of the list.
        tokens: Values of every list; the first of each has the index 0.
    """
    start = max(position for position, token in enumerate(tokens) if token.index == 0)
    return convert(type_, tokens[start:])


def ending_lists(app: App, argv: Sequence[str]) -> list[str]:
    """Return a command line on which `--flag=VALUE` takes no further values.

    cyclopts would add the next words to the list of the flag, so they are moved behind `--`.

    Args:
        app: Application with all verbs.
        argv: Words of the command line.
    """
    end = argv.index("--") if "--" in argv else len(argv)
    words, rest = list(argv[:end]), list(argv[end + 1 :])
    if not any("=" in word and _is_flag(word) and not _is_flag(after) for word, after in pairwise(words)):
        return list(argv)
    command = app.parse_commands(words)[1][-1]
    arguments = command.assemble_argument_collection() if command.default_command else ()
    lists = {name for argument in arguments if _takes_several(argument) for name in argument.names}
    before: list[str] = []
    behind: list[str] = []
    while words:
        before.append(words.pop(0))
        flag, equals, _ = before[-1].partition("=")
        if equals and flag in lists:
            extra = list(takewhile(lambda word: not _is_flag(word), words))
            behind += extra
            del words[: len(extra)]
    return [*before, *["--"] * (end < len(argv) or bool(behind)), *behind, *rest]


def _takes_several(argument: Argument) -> bool:
    return argument.parameter.consume_multiple is not None or argument.token_count()[0] > 1


def _is_flag(word: str) -> bool:
    return word.startswith("-")


T = TypeVar("T")


def flag(text: str, value: str = "", read: Callable[[str], object] | None = None, **more: Any) -> Parameter:
    """Return the declaration of a flag or an argument for cyclopts.

    Args:
        text: Help text.
        value: Word for the value in the help; empty for the choices of the type, or else the name.
        read: Function that parses the value; its ValueError says `got VALUE; RULE` or `got VALUE; RULE; FIX`.
        more: Other arguments of `cyclopts.Parameter`.
    """
    keys: dict[str, Any] = {"help": text} | ({"metavar": value} if value else {})
    if read is not None:
        keys["converter"] = lambda _, tokens: read(tokens[0].value)
    return Parameter(**keys, **more)


def place(text: str, value: str = "", **more: Any) -> Parameter:
    """Return the declaration of a flag of the type `Location`, a path or an address, for cyclopts.

    Args:
        text: Help text.
        value: Word for the value in the help; empty for the name.
        more: Other arguments of `cyclopts.Parameter`.
    """
    return flag(text, value, location, accepts_keys=False, **more)


def local(text: str) -> Path:
    """Parse a path of this machine."""
    if is_address(text):
        raise ValueError(f"got {text!r}; expected a path of this machine")
    return Path(text)


def each(read: Callable[[str], T]) -> Callable[[Any, Sequence[Token]], tuple[T, ...]]:
    """Return the converter of a flag with several values.

    Args:
        read: Function that parses one value; its errors are those of `read` of `flag`.
    """

    def convert(_: Any, tokens: Sequence[Token]) -> tuple[T, ...]:
        return tuple(read(token.value) for token in tokens)

    return convert


def positive(text: str) -> int:
    """Parse a positive int."""
    value = int(text) if text.isdecimal() else 0
    if value < 1:
        raise ValueError(f"got {text!r}; expected a positive int")
    return value


def count(text: str) -> int:
    """Parse a non-negative int."""
    if not text.isdecimal():
        raise ValueError(f"got {text!r}; expected a non-negative int, 0 for none")
    return int(text)


def integer(text: str) -> int:
    """Parse an int; cyclopts' own parser would round 1.5."""
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"got {text!r}; expected an int") from None


def above_zero(text: str) -> float:
    """Parse a finite number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < math.inf:
        raise ValueError(f"got {text!r}; expected a number above 0")
    return value


def not_negative(text: str) -> float:
    """Parse a finite number of 0 or more."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < math.inf:
        raise ValueError(f"got {text!r}; expected a finite number of 0 or more")
    return value


def size(text: str) -> int:
    """Parse a size in bytes: 4GiB, 512MiB, 8GB."""
    value = parse_bytes(text)
    if value is None:
        raise ValueError(f"got {text!r}; a size reads 4GiB, 512MiB or 8GB")
    return value


Run = Annotated[str, flag("run directory, or its name under runs/")]
Config = Annotated[
    str | None,
    flag("TOML file, or name of a recipe", "FILE|NAME", completer=lambda _: recipe_names()),
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
Checkpoint = Annotated[str, flag("checkpoint: best (default), latest or step-<n>", "CHECKPOINT")]
FinalSplit = Annotated[Literal["test", "valid"], flag("split of the final metrics; default: test")]
HelpConfig = Annotated[bool, flag("list every key of the TOML file, then stop")]
Argv = Annotated[tuple[str, ...], Parameter(parse=False)]  # Words of the command line, which ranks are started with.
