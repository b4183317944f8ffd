"""Declaration of verbs and flags for cyclopts: functions that declare them, parsers of values, and shared flags.

A flag is an annotated field: `Annotated[int, flag("number of seeds", "N", positive_int)]`. A parser raises ValueError
with the text `got VALUE; RULE` or `got VALUE; RULE; FIX`, which `ple_rec.cli.help` turns into an error message.
"""

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


def verb_app(name: str, epilog: str = "", **more: Any) -> App:
    """Return the application of a verb, or of the program.

    Args:
        name: Name of the verb, or of the program.
        epilog: Text at the end of its help, printed without changes.
        more: Other arguments of `cyclopts.App`, such as `usage`.
    """
    return App(name=name, help_epilogue=epilog, **{**_COMMON_SETTINGS, **more})


def names_text(lead: str, names: Sequence[str]) -> str:
    """Return names as lines of an epilog, the text at the end of a help: `recipes: census-ple, census-mmoe`.

    Args:
        lead: Word before the names; further lines are indented by its length.
        names: Names to list.
    """
    text = f"{lead}: {', '.join(names)}"
    return textwrap.fill(text, 80, subsequent_indent=" " * (len(lead) + 2), break_on_hyphens=False)


def last_list(type_: Any, tokens: Sequence[Token]) -> Any:
    """Convert the values of a flag with a list; if the flag is given more than once, only its last list counts.

    Args:
        type_: Type of the list.
        tokens: Values of all lists; the first value of each list has the index 0.
    """
    start = max(position for position, token in enumerate(tokens) if token.index == 0)
    return convert(type_, tokens[start:])


def end_lists_at_equals(app: App, argv: Sequence[str]) -> list[str]:
    """Return a command line on which a flag with a list, written as `--flag=VALUE`, takes only this value.

    cyclopts would add the words that follow to the list, so they are moved to the end, after `--`.

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


def flag(text: str, metavar: str = "", parse: Callable[[str], object] | None = None, **more: Any) -> Parameter:
    """Return the declaration of a flag or an argument for cyclopts.

    Args:
        text: Help text.
        metavar: Word for the value in the help; if it is empty, the choices of the type are shown, or the flag's name
            if the type has none.
        parse: Function that parses the value; its ValueError says `got VALUE; RULE` or `got VALUE; RULE; FIX`.
        more: Other arguments of `cyclopts.Parameter`.
    """
    keys: dict[str, Any] = {"help": text} | ({"metavar": metavar} if metavar else {})
    if parse is not None:
        keys["converter"] = lambda _, tokens: parse(tokens[0].value)
    return Parameter(**keys, **more)


def location_flag(text: str, metavar: str = "", **more: Any) -> Parameter:
    """Return the declaration of a flag of the type `Location`, a path or an address, for cyclopts.

    Args:
        text: Help text.
        metavar: Word for the value in the help; empty for the name.
        more: Other arguments of `cyclopts.Parameter`.
    """
    return flag(text, metavar, location, accepts_keys=False, **more)


def local_path(text: str) -> Path:
    """Parse a path on this machine; refuse an address."""
    if is_address(text):
        raise ValueError(f"got {text!r}; expected a path on this machine")
    return Path(text)


def parse_each(parse: Callable[[str], T]) -> Callable[[Any, Sequence[Token]], tuple[T, ...]]:
    """Return the converter of a flag with several values.

    Args:
        parse: Function that parses one value, as for `flag`.
    """

    def convert(_: Any, tokens: Sequence[Token]) -> tuple[T, ...]:
        return tuple(parse(token.value) for token in tokens)

    return convert


def positive_int(text: str) -> int:
    """Parse a positive int."""
    value = int(text) if text.isdecimal() else 0
    if value < 1:
        raise ValueError(f"got {text!r}; expected a positive int")
    return value


def non_negative_int(text: str) -> int:
    """Parse a non-negative int."""
    if not text.isdecimal():
        raise ValueError(f"got {text!r}; expected a non-negative int, 0 for none")
    return int(text)


def any_int(text: str) -> int:
    """Parse an int; cyclopts' own parser would round 1.5."""
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"got {text!r}; expected an int") from None


def positive_float(text: str) -> float:
    """Parse a finite number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < math.inf:
        raise ValueError(f"got {text!r}; expected a number above 0")
    return value


def non_negative_float(text: str) -> float:
    """Parse a finite number of 0 or more."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < math.inf:
        raise ValueError(f"got {text!r}; expected a finite number of 0 or more")
    return value


def byte_size(text: str) -> int:
    """Parse a size in bytes: 4GiB, 512MiB, 8GB."""
    value = parse_bytes(text)
    if value is None:
        raise ValueError(f"got {text!r}; expected a size such as 4GiB, 512MiB or 8GB")
    return value


RunName = Annotated[str, flag("run directory, or its name under runs/")]
ConfigSource = Annotated[
    str | None,
    flag("TOML file, or name of a recipe", "FILE|NAME", completer=lambda _: recipe_names()),
]
OverrideFlags = Annotated[
    tuple[str, ...], flag("override a configuration key, e.g. train.epochs=2 (repeatable)", "KEY=VALUE", name="--set")
]
EvaluationOverrideFlags = Annotated[
    OverrideFlags, flag("override a configuration key that an evaluation may change, e.g. data.path=... (repeatable)")
]
Ranks = Annotated[
    int,
    flag(
        "processes on this host (one per GPU; on one CPU more are slower for a small model); default 1",
        "N",
        positive_int,
    ),
]
Checkpoint = Annotated[str, flag("checkpoint: best (default), latest or step-<n>", "CHECKPOINT")]
FinalSplit = Annotated[Literal["test", "valid"], flag("split of the final metrics; default: test")]
HelpConfig = Annotated[bool, flag("list every key of the TOML file, then stop")]
# Words of the command line, with which a verb starts its ranks. `ple_rec.cli.app` sets them; cyclopts does not.
Argv = Annotated[tuple[str, ...], Parameter(parse=False)]
