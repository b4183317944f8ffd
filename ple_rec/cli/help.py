"""The layout of `--help`.

Names stand in a column, their texts beside it, on a terminal as in a pipe; there are no boxes.
"""

from __future__ import annotations

import os
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TextIO

from cyclopts import App, ArgumentCollection

from ple_rec.cli.console import line_width
from ple_rec.cli.verb import OPTIONS

if TYPE_CHECKING:
    from cyclopts.help import HelpEntry, HelpPanel
    from rich.console import Console, ConsoleOptions

_NAMES = 26  # widest column of names; a longer name has a line of its own
_FLAGS = dict.fromkeys(("--help", "-h"), "show this help, then stop") | {"--version": "print the version, then stop"}
_NARROWEST, _WIDEST = 40, 120  # characters of a line, however wide the terminal


def help_text(app: App, words: Sequence[str], stream: TextIO) -> str:
    """Return the help of a verb, or of the program.

    Args:
        app: The command line.
        words: Verb, with its action where it has some; none for the program.
        stream: Stream for which it is laid out; a terminal gets bold headings.
    """
    from rich.console import Console

    console = Console(
        file=stream,
        width=max(line_width(), _NARROWEST),
        color_system=None if os.environ.get("NO_COLOR") else "auto",  # rich leaves bold where it leaves out colors
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
        command.help = None  # the list of verbs has a line for it; its own help is the docstring
        command.usage = command.usage or _usage(name, command.assemble_argument_collection())
    with console.capture() as capture:
        app.help_print(list(words), console=console)
    return capture.get()


def _usage(command: str, arguments: ArgumentCollection) -> str:
    shown = arguments.filter_by(show=True)
    positional = [argument for argument in shown if argument.index is not None]
    flags = [argument for argument in shown if argument.index is None]
    words = [argument.name if argument.required else f"[{argument.name}]" for argument in positional]
    words += [f"{flag.name} {flag.parameter.metavar}" for flag in flags if flag.required]
    return " ".join([command, *words, *["[OPTIONS]"] * any(not flag.required for flag in flags)])


class HelpFormatter:
    """A formatter that cyclopts calls for every part of a help text."""

    def __call__(self, console: Console, options: ConsoleOptions, panel: HelpPanel) -> None:
        """Print the names of a group with their texts."""
        if not panel.entries:
            return
        width = min(console.width, _WIDEST)
        entries = sorted(panel.entries, key=lambda entry: not entry.required)  # first what is needed
        names = [_names(entry) for entry in entries]
        column = min(max(map(len, names)) + 4, _NAMES)
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
        """Print how the command is called."""
        _print(console, f"usage: {str(usage).strip()}")

    def render_description(self, console: Console, options: ConsoleOptions, description: Any) -> None:
        """Print what the command does."""
        text = str(getattr(description, "primary_renderable", ""))
        for paragraph in filter(None, text.split("\n\n")):
            _print(console, "\n" + textwrap.fill(" ".join(paragraph.split()), min(console.width, _WIDEST)))


def _names(entry: HelpEntry) -> str:
    """Return the names of an argument, each with what stands for its value, or of a command."""
    if entry.positional_label is not None:
        return entry.positional_label
    value = f"{{{','.join(entry.choices)}}}" if entry.metavar == "CHOICE" and entry.choices else entry.metavar
    return ", ".join(f"{name} {value}" if value else name for name in (*entry.positive_shorts, *entry.positive_names))


def _print(console: Console, text: str, *, bold: bool = False, end: str = "\n") -> None:
    console.print(text, style="bold" if bold else None, end=end)
