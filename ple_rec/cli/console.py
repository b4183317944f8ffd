"""Output of verbs, and checks that the packages which a verb needs are installed."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, TextIO

from ple_rec.errors import UserError
from ple_rec.runtime.exits import drop_output
from ple_rec.runtime.versions import import_torch

if TYPE_CHECKING:
    from ple_rec.config.base import Config

_WIDTH = 120  # Characters of a line if the output is no terminal.


def show(text: str, stream: TextIO | None = None) -> None:
    """Print a verb's result. A reader that closes the pipe early, such as `head`, is no error.

    Args:
        text: Text to print.
        stream: Stream to print on; None for standard output.
    """
    try:
        print(text, file=stream, flush=True)
    except BrokenPipeError:
        drop_output()


def log(text: str) -> None:
    """Print a line on standard error, since standard output is for the result of a verb."""
    sys.stderr.write(f"{text}\n")


def show_keys(config: type[Config]) -> None:
    """Print every key of a configuration class, and the key `base`, which every TOML file may have."""
    from ple_rec.config.describe import describe

    show(
        f"base: a TOML file or a recipe to start from, optional; the file then holds only changes\n\n{describe(config)}"
    )


def line_width() -> int:
    """Return the width of lines: the variable COLUMNS, else that of the terminal, else 120 characters."""
    return shutil.get_terminal_size(fallback=(_WIDTH, 24)).columns


def require_torch() -> None:
    """Import torch and torchrec.

    Raises:
        UserError: One of them does not load.
    """
    import_torch(own_process=True)


def require_packages(names: Sequence[str], verb: str, extra: str) -> None:
    """Refuse to go on without the packages that one verb needs.

    Args:
        names: Import names of the packages.
        verb: Verb that needs them.
        extra: Extra of setup.cfg that installs them.

    Raises:
        UserError: A package is not installed.
    """
    for name in names:
        if find_spec(name) is None:
            raise UserError(name, "is not installed", f"ple-rec {verb} needs it", f"pip install '.[{extra}]'")
