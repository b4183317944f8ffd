"""What cyclopts is told of every verb, and the layout of `--help`.

Names stand in a column, their texts beside it, on a terminal as in a pipe; there are no boxes.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TextIO

from cyclopts import App, ArgumentCollection, Group, Parameter

if TYPE_CHECKING:
    from cyclopts.help import HelpEntry, HelpPanel
    from rich.console import Console, ConsoleOptions

_OF_ALL: Mapping[str, Any] = {
    "default_parameter": Parameter(
        negative=(), show_default=False, allow_repeating=True, json_list=False, json_dict=False
    ),
    "group_arguments": Group("arguments", sort_key=0),
    "group_parameters": Group("options", sort_key=1),
}
_NAMES = 26  # widest column of names; a longer name has a line of its own
_WIDEST = 120  # characters of a line, however wide the terminal


def verb(name: str, epilog: str = "", **more: Any) -> App:
    """Return the application of a verb, or of the program.

    Args:
        name: Name of the verb, or of the program.
        epilog: Text at the end of its help, as it stands.
        more: Other arguments of `cyclopts.App`.
    """
    return App(name=name, help_epilogue=epilog, **_OF_ALL, **more)


def help_text(app: App, words: Sequence[str], stream: TextIO) -> str:
    """Return the help of a verb, or of the program.

    Args:
        app: The command line.
        words: Verb, with its action where it has some; none for the program.
        stream: Where it is to be printed; a terminal gets bold headings.
    """
    from rich.console import Console

    console = Console(file=stream, soft_wrap=True, markup=False, highlight=False, emoji=False)
    command, name = app.parse_commands(list(words))[1][-1], " ".join(("ple-rec", *words))
    if command.default_command is None:
        command.usage = f"{name} {'ACTION' if words else 'VERB'} ..."
    else:
        command.help = None  # the list of verbs has a line for it; its own help is the docstring
        command.usage = _usage(name, command.assemble_argument_collection())
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
        names = [_names(entry) for entry in panel.entries]
        column = min(max(map(len, names)) + 4, _NAMES)
        _print(console, f"\n{panel.title}:", bold=True)
        for name, entry in zip(names, panel.entries, strict=True):
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
