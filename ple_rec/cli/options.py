"""Options of verbs: their types and help texts, lists of names, and the frame of a verb."""

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

_OF_ALL: Mapping[str, Any] = {
    "default_parameter": Parameter(
        negative=(), show_default=False, allow_repeating=True, json_list=False, json_dict=False
    ),
    "group_arguments": Group("arguments", sort_key=0),
    "group_parameters": OPTIONS,
    "version_flags": (),  # cyclopts gives every verb a --version of its own; here it is the program's alone
}


def verb(name: str, epilog: str = "", **more: Any) -> App:
    """Return the application of a verb, or of the program.

    Args:
        name: Name of the verb, or of the program.
        epilog: Text at the end of its help, as it stands.
        more: Other arguments of `cyclopts.App`, such as `usage` where some flag is needed though it has a default.
    """
    return App(name=name, help_epilogue=epilog, **{**_OF_ALL, **more})


def names_text(lead: str, names: Sequence[str]) -> str:
    """Return names as lines of an epilog.

    Args:
        lead: Word before them; lines after the first stand below the first name.
        names: The names.
    """
    text = f"{lead}: {', '.join(names)}"
    return textwrap.fill(text, 80, subsequent_indent=" " * (len(lead) + 2), break_on_hyphens=False)


def last_list(type_: Any, tokens: Sequence[Token]) -> Any:
    """Read the values of a flag that is repeated: the last list holds, as of a flag with one value.

    Args:
        type_: Type of the list.
        tokens: Values of every list; the first of each has the index 0.
    """
    start = max(at for at, token in enumerate(tokens) if token.index == 0)
    return convert(type_, tokens[start:])


def ending_lists(app: App, argv: Sequence[str]) -> list[str]:
    """Return a command line on which `--flag=VALUE` takes no further values.

    Words that follow it, and that cyclopts would add to its list, are moved behind `--`.

    Args:
        app: The command line.
        argv: Its words.
    """
    at = argv.index("--") if "--" in argv else len(argv)
    words, rest = list(argv[:at]), list(argv[at + 1 :])
    if not any("=" in word and _is_flag(word) and not _is_flag(after) for word, after in pairwise(words)):
        return list(argv)
    command = app.parse_commands(words)[1][-1]
    arguments = command.assemble_argument_collection() if command.default_command else ()
    lists = {name for each in arguments if _takes_several(each) for name in each.names}
    kept: list[str] = []
    moved: list[str] = []
    while words:
        kept.append(words.pop(0))
        flag, equals, _ = kept[-1].partition("=")
        if equals and flag in lists:
            extra = list(takewhile(lambda word: not _is_flag(word), words))
            moved += extra
            del words[: len(extra)]
    return [*kept, *["--"] * (at < len(argv) or bool(moved)), *moved, *rest]


def _takes_several(argument: Argument) -> bool:
    return argument.parameter.consume_multiple is not None or argument.token_count()[0] > 1


def _is_flag(word: str) -> bool:
    return word.startswith("-")


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
