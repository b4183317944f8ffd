"""Help texts and error messages of the command line, in place of those of cyclopts.

A help text has two columns and no boxes, on a terminal and in a pipe alike. An error is a `UserError`, with the four
parts of every error of the program.
"""

from __future__ import annotations

import os
import re
import shlex
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TextIO

from cyclopts import (
    App,
    Argument,
    ArgumentCollection,
    CoercionError,
    ConsumeMultipleError,
    CycloptsError,
    MissingArgumentError,
    UnknownCommandError,
    UnknownOptionError,
)

from ple_rec.cli.console import line_width
from ple_rec.cli.options import OPTIONS
from ple_rec.errors import UserError

if TYPE_CHECKING:
    from cyclopts.help import HelpEntry, HelpPanel
    from rich.console import Console, ConsoleOptions


_MAX_COLUMN = 26  # Greatest width of the column of names; a longer name gets a line of its own.
_FLAGS = dict.fromkeys(("--help", "-h"), "show this help, then stop") | {"--version": "print the version, then stop"}
_MIN_WIDTH, _MAX_WIDTH = 40, 120  # Characters of a line.


def help_text(app: App, words: Sequence[str], stream: TextIO) -> str:
    """Return the help of a verb, or of the program.

    Args:
        app: Application with all verbs.
        words: Verb, and its action if it has actions; empty for the program.
        stream: Stream that decides on the layout; a terminal gets bold headings.
    """
    from rich.console import Console

    console = Console(
        file=stream,
        width=max(line_width(), _MIN_WIDTH),
        color_system=None if os.environ.get("NO_COLOR") else "auto",  # With NO_COLOR, rich would still print bold.
        soft_wrap=True,
        markup=False,
        highlight=False,
        emoji=False,
    )
    command, name = app.parse_commands(list(words))[1][-1], " ".join(("ple-rec", *words))
    for flag in (*command.help_flags, *command.version_flags):
        command[flag].show, command[flag].group, command[flag].help = True, OPTIONS, _FLAGS[flag]
    if command.default_command is None:
        command.usage = f"{name} {'ACTION' if words else 'VERB'} ..."
    else:
        command.help = None  # Then cyclopts prints the docstring, instead of the line for the list of verbs.
        command.usage = command.usage or _usage(name, command.assemble_argument_collection())
    with console.capture() as capture:
        app.help_print(list(words), console=console)
    return capture.get()


def _usage(command: str, arguments: ArgumentCollection) -> str:
    visible = arguments.filter_by(show=True)
    positional = [argument for argument in visible if argument.index is not None]
    flags = [argument for argument in visible if argument.index is None]
    words = [argument.name if argument.required else f"[{argument.name}]" for argument in positional]
    words += [f"{flag.name} {flag.parameter.metavar}" for flag in flags if flag.required]
    return " ".join([command, *words, *["[OPTIONS]"] * any(not flag.required for flag in flags)])


class HelpFormatter:
    """Formatter that cyclopts calls for every part of a help text."""

    def __call__(self, console: Console, options: ConsoleOptions, panel: HelpPanel) -> None:
        """Print a group of arguments or verbs: the names, each with its text."""
        if not panel.entries:
            return
        width = min(console.width, _MAX_WIDTH)
        entries = sorted(panel.entries, key=lambda entry: not entry.required)  # Required ones come first.
        names = [_names_text(entry) for entry in entries]
        column = min(max(map(len, names)) + 4, _MAX_COLUMN)
        _print(console, f"\n{panel.title}:", bold=True)
        for name, entry in zip(names, entries, strict=True):
            self._print_entry(console, name, str(getattr(entry.description, "primary_renderable", "")), column, width)

    @staticmethod
    def _print_entry(console: Console, name: str, text: str, column: int, width: int) -> None:
        lines = textwrap.wrap(text, max(width - column, 20), break_on_hyphens=False) or [""]
        if len(name) + 4 > column:
            _print(console, f"  {name}", bold=True)
        else:
            _print(console, f"  {name}", bold=True, end=" " * (column - 2 - len(name)))
            _print(console, lines.pop(0))
        for line in lines:
            _print(console, " " * column + line)

    def render_usage(self, console: Console, options: ConsoleOptions, usage: Any) -> None:
        """Print the usage of the command."""
        _print(console, f"usage: {str(usage).strip()}")

    def render_description(self, console: Console, options: ConsoleOptions, description: Any) -> None:
        """Print the description of the command."""
        text = str(getattr(description, "primary_renderable", ""))
        for paragraph in filter(None, text.split("\n\n")):
            _print(console, "\n" + textwrap.fill(" ".join(paragraph.split()), min(console.width, _MAX_WIDTH)))


def _names_text(entry: HelpEntry) -> str:
    """Return the names of an argument, each with its metavar, or the name of a command."""
    if entry.positional_label is not None:
        return entry.positional_label
    value = f"{{{','.join(entry.choices)}}}" if entry.metavar == "CHOICE" and entry.choices else entry.metavar
    return ", ".join(f"{name} {value}" if value else name for name in (*entry.positive_shorts, *entry.positive_names))


def _print(console: Console, text: str, *, bold: bool = False, end: str = "\n") -> None:
    console.print(text, style="bold" if bold else None, end=end)


_NOUNS: Mapping[str, str] = {"float": "a number", "int": "an int", "bool": "no value, or true or false"}
_HELP_ADVICE = "run `ple-rec --help`"
_CONFIGURED = ("train", "plan", "repeat")  # Verbs whose --set takes any key of a run's configuration.


def unknown_verb_error(word: str, known: Sequence[str]) -> UserError:
    """Return the error of an unknown verb.

    Args:
        word: First word of the command line.
        known: Names of the verbs.
    """
    return UserError("command line", f'unknown verb "{word}"', _suggestion(word, known), _HELP_ADVICE)


def command_line_error(error: CycloptsError, app: App, argv: Sequence[str]) -> UserError:
    """Return the error of a wrong command line.

    Args:
        error: Error of cyclopts.
        app: Application with all verbs.
        argv: Words of the command line.
    """
    words, apps, _ = app.parse_commands(list(argv))
    verb, command = " ".join(words), apps[-1]
    help_advice = f"run `ple-rec {verb} --help`"
    if isinstance(error, UnknownCommandError):
        word, known = (error.unused_tokens or [""])[0], [name for name in command if not name.startswith("-")]
        if not verb:
            return UserError("command line", f'got "{word}" as its verb', _suggestion(word, known), _HELP_ADVICE)
        return UserError(verb, f'unknown action "{word}"', _suggestion(word, known), help_advice)
    flags = _flag_names(command.assemble_argument_collection()) if command.default_command else []
    unknown = _unknown_word(error, flags)
    if unknown is not None:
        if "--" in argv and unknown in argv[argv.index("--") :]:
            return UserError(verb, f'unknown argument "{unknown}"', "after -- no word is a flag", "leave out the --")
        return _unknown_argument_error(verb, unknown, flags, help_advice)
    if error.argument is None:
        return UserError(verb, str(error).rstrip("."), "the command line has another form", help_advice)
    if isinstance(error, MissingArgumentError):
        arguments = command.assemble_argument_collection().filter_by(show=True)
        return _missing_error(error, error.argument, arguments, verb, argv, help_advice)
    if isinstance(error, CoercionError):
        return _value_error(error, error.argument, help_advice)
    return UserError(error.argument.name, str(error).rstrip("."), "the command line has another form", help_advice)


def _missing_error(
    error: MissingArgumentError,
    argument: Argument,
    arguments: ArgumentCollection,
    verb: str,
    argv: Sequence[str],
    help_advice: str,
) -> UserError:
    """Return the error of missing arguments, or of an argument with too few values."""
    words = {word.partition("=")[0] for word in argv}
    if words.isdisjoint(argument.names):
        first = next(i for i, other in enumerate(arguments) if other.name == argument.name)
        names = [other.name for other in arguments[first:] if other.required and words.isdisjoint(other.names)]
        if len(names) > 1:
            return UserError(verb, f"{', '.join(names)} missing", "they are needed", help_advice)
        return UserError(
            verb,
            f"{names[0]} missing",
            "it is needed",
            _fix_for_missing(error, argument, arguments, argv) or help_advice,
        )
    if isinstance(error, ConsumeMultipleError):
        return UserError(argument.name, "no value", "it takes one or more", help_advice)
    number, _ = argument.token_count()
    takes = "it takes one" if number == 1 else f"it takes {number} of them"
    return UserError(argument.name, "too few values" if error.tokens_so_far else "no value", takes, help_advice)


def _fix_for_missing(
    error: MissingArgumentError, argument: Argument, arguments: ArgumentCollection, argv: Sequence[str]
) -> str:
    """Return the fix if a word of the command line may be meant as the missing argument; else an empty text."""
    # Flags with several values take every following word.
    greedy = [other for other in arguments if other.parameter.consume_multiple]
    greedy_names, words = [other.name for other in greedy if other.name in argv], error.unused_tokens or []
    if argument.index is not None and greedy_names:
        return f"write {argument.name} before {greedy_names[0]}, which takes every word after it"
    if argument.index is None and words and not any(word.startswith("-") for word in words):
        return f"write {argument.name} {shlex.join(words if argument in greedy else words[:1])}"
    return ""


def _value_error(error: CoercionError, argument: Argument, help_advice: str) -> UserError:
    """Return the error of a wrong value; the parsers of `ple_rec.cli.options` state the rule in their ValueError."""
    name, value = argument.name, ""
    if error.token is not None:
        name, value = error.token.keyword or name, error.token.value
    if choices := argument.get_choices():
        return UserError(name, f"got {value!r}", _suggestion(value, choices), help_advice)
    if message := re.fullmatch(r"(got .*?); (.*?)(?:; (did you .*))?", str(error.msg)):
        return UserError(name, message[1], message[2], message[3] or help_advice)
    kind = getattr(error.target_type, "__name__", "value")
    return UserError(name, f"got {value!r}", f"expected {_NOUNS.get(kind, kind)}", help_advice)


def _unknown_word(error: CycloptsError, flags: Sequence[str]) -> str | None:
    """Return the first word that no argument takes; None if there is none.

    A misspelt flag is reported before the argument that is missing because of it.
    """
    if isinstance(error, UnknownOptionError):
        return error.token.keyword or error.token.value
    unused = list(error.unused_tokens or ())
    if isinstance(error, MissingArgumentError):
        unused = [word for word in unused if re.match("--.", word) and word.partition("=")[0] not in flags]
    elif isinstance(error, CoercionError):
        return None
    return unused[0] if unused else None


def _unknown_argument_error(place: str, word: str, flags: Sequence[str], help_advice: str) -> UserError:
    fix = help_advice
    if "=" in word and "--set" in flags and not word.startswith("-"):
        fix = f"write --set {word}"
    if "--config" in flags and (word.endswith(".toml") or word in _run_recipe_names()):
        fix = f"write --config {word}"
    if place in _CONFIGURED and word.startswith("--"):
        from ple_rec.config.describe import set_hint
        from ple_rec.config.run import RunConfig

        fix = set_hint(RunConfig, word, hidden=["topology"]) or fix  # `plan` has flags for these keys.
    return UserError(place, f'unknown argument "{word}"', _suggestion(word, flags), fix)


def _flag_names(arguments: ArgumentCollection) -> list[str]:
    names = [name for argument in arguments.filter_by(parse=True) for name in argument.positives]
    return [name for name in names if name.startswith("--")]


def _suggestion(word: str, known: Sequence[str]) -> str:
    """Return `did you mean "train"? (known: train, prep)`, or a rule for a command that takes no such words."""
    from ple_rec.config.words import suggestion

    return suggestion(word, known) if known else "it takes no more"


def _run_recipe_names() -> list[str]:
    from ple_rec.config.choices import recipe_names

    return recipe_names()
