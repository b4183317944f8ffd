"""The command line `ple-rec VERB`: `parse` turns words into a `Command`, and `main` runs it.

Only the file of the given verb is imported, and torch only when the verb needs it, so that help texts are fast.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from functools import partial
from pathlib import Path
from typing import Any

from cyclopts import App, CycloptsError, Group

from ple_rec import __version__
from ple_rec.cli.console import show
from ple_rec.cli.help import HelpFormatter, command_line_error, help_text, unknown_verb_error
from ple_rec.cli.options import end_lists_at_equals, verb_app
from ple_rec.errors import UserError
from ple_rec.runtime.exits import end_with_agent, is_under_agent, run_reporting_errors

_EPILOG = """\
exit codes: 0 done; 1 a bug (traceback); 2 your input is wrong; 3 data refused; 4 training diverged;
            5 some runs of several failed; 6 the gate refused a day's model; 75 asked to stop (SIGTERM,
            SIGUSR1), saved, run again to go on; 130 stopped by Ctrl-C, 143 by SIGTERM before there was a step

a first run:
  ple-rec doctor
  ple-rec prep census --out data/census
  ple-rec train --config census-ple --ranks 2
"""
_COMPLETE = "__complete"  # Completion scripts call this verb of cyclopts for values such as names of recipes.
# Line of each verb in the list of verbs. The flags and the help of a verb are in its file, `ple_rec/cli/VERB.py`.
VERBS = {
    "doctor": "check this machine: versions that fit, kernels, devices, speed",
    "init": "your own logs -> a commented prep.toml and train.toml to begin with",
    "prep": "raw logs -> dataset directory",
    "verify": "read a dataset directory to its last byte",
    "plan": "plan the placement of tables on a cluster, and estimate the time of a step",
    "train": "train a model, evaluate it, write a report",
    "evaluate": "evaluate a checkpoint of a run",
    "checkpoint": "list, verify or show the checkpoints of a run",
    "runs": "list runs with their status and metrics",
    "diff": "compare two runs: configuration, environment, metrics",
    "report": "write report.html of a run, finished or not",
    "analyze": "analyze a finished run: experts, gradient conflict, gates by sub-population",
    "repeat": "train with several seeds; mean and standard deviation of every metric",
    "compare": "train several models with several seeds at equal cost; who gains, who loses",
    "fuse": "search for the exponents that fuse predictions into the score of a ranked feed (Eq. 1)",
    "predict": "predict every row of a dataset or of raw logs, as Parquet",
    "export": "a run -> a self-contained model that serves: tables, program, vocabularies, card",
    "daily": "one day of a chain: its dataset, its run, a check against the served model, a new version",
    "tables": "publish newer side tables of an exported model, which a running server then loads",
    "serve": "answer requests for ranked feeds over HTTP with an exported model",
    "completion": "print the script for the completion of verbs and flags in a shell",
}


@dataclass(frozen=True)
class Command:
    """Parsed command line.

    Args:
        verb: Verb with its action, if it has actions: `train`, `checkpoint list`.
        argv: Words of the command line.
        function: Function of the verb.
        arguments: Parsed arguments of the function, its defaults included.
        only_prints: True if the command only prints a help text or the version.
    """

    verb: str
    argv: tuple[str, ...]
    function: Callable[..., int]
    arguments: inspect.BoundArguments
    only_prints: bool = False

    @property
    def values(self) -> Mapping[str, Any]:
        """Arguments by name."""
        return self.arguments.arguments

    def call(self, function: Callable[..., Any] | None = None) -> Any:
        """Call the verb's function, or another function of the same parameters, such as `check` in the verb's file."""
        return (function or self.function)(*self.arguments.args, **self.arguments.kwargs)


def command_line() -> App:
    """Return the application with all verbs; cyclopts imports the file of a verb when it is needed."""
    app = verb_app(
        "ple-rec",
        _EPILOG,
        help="Multi-task recommenders on sharded embedding tables: prepare logs, train, evaluate.",
        help_format="plaintext",
        help_formatter=HelpFormatter(),
        version_flags=("--version",),
        group_commands=Group("verbs", sort_key=0),
        exit_on_error=False,
        print_error=False,
        result_action="return_value",
    )
    for order, (verb, line) in enumerate(VERBS.items()):
        app.command(f"ple_rec.cli.{verb}:app", name=verb, help=line, sort_key=order)
    return app


def parse(argv: Sequence[str]) -> Command:
    """Parse a command line.

    Raises:
        UserError: A verb or an argument is unknown, or a flag refuses its value.
    """
    app = command_line()
    if argv and not argv[0].startswith("-") and argv[0] not in (*VERBS, _COMPLETE):
        raise unknown_verb_error(argv[0], list(VERBS))
    try:
        function, arguments, unread = app.parse_args(end_lists_at_equals(app, argv))
    except CycloptsError as error:
        raise command_line_error(error, app, argv) from None
    words = [word for word in app.parse_commands(list(argv))[0] if not word.startswith("-")]
    if function == app.help_print:
        return _printing_command(words, argv, partial(_print_help, app, words, argv))
    if function == app.version_print:
        return _printing_command(words, argv, partial(show, f"ple-rec {__version__}"))
    arguments.apply_defaults()
    _refuse_addresses(arguments.arguments)
    if "argv" in unread:  # cyclopts does not parse it; the verb starts its ranks with these words.
        arguments.arguments["argv"] = tuple(argv)
    return Command(" ".join(words), tuple(argv), function, arguments)


def _refuse_addresses(arguments: Mapping[str, Any]) -> None:
    """Refuse an address, such as s3://..., for an argument of the type `Path`, which must be a path on this machine.

    Raises:
        UserError: A path is an address.
    """
    for name, value in arguments.items():
        if is_dataclass(value):
            _refuse_addresses(vars(value))
        for item in value if isinstance(value, tuple) else (value,):
            if isinstance(item, Path) and item.parts[:1] and item.parts[0].endswith(":"):  # Path turns s3:// into s3:/.
                rule = "it must be a path on this machine; the help of an option says if it takes addresses"
                raise UserError(
                    f"--{name.replace('_', '-')}",
                    f"got the address {item.parts[0]}//...",
                    rule,
                    "give a folder or a file",
                )


def _printing_command(words: Sequence[str], argv: Sequence[str], function: Callable[[], Any]) -> Command:
    """Return a command that only prints a text."""
    return Command(" ".join(words), tuple(argv), function, inspect.signature(function).bind(), only_prints=True)


def _print_help(app: App, words: Sequence[str], argv: Sequence[str]) -> int:
    """Print the help. If no flag asks for it, print it on standard error, and return the exit code 2."""
    is_requested = not {"--help", "-h"}.isdisjoint(argv)
    stream = sys.stdout if is_requested else sys.stderr
    show(help_text(app, words, stream).rstrip("\n"), stream)
    return 0 if is_requested else 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run `ple-rec` and return its exit code."""

    def run() -> int:
        command = parse(sys.argv[1:] if argv is None else argv)
        if is_under_agent():
            end_with_agent()
        from ple_rec.text.messages import print_messages

        with print_messages():
            return command.call() or 0

    return run_reporting_errors(run)
