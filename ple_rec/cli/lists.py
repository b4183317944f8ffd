"""Flags with several values, read as argparse reads them, where cyclopts would not."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise, takewhile
from typing import Any

from cyclopts import App, Argument, Token, convert


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
