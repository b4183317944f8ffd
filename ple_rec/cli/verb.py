"""The application of a verb, of an action or of the program: what cyclopts is told of each of them."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from cyclopts import App, Group, Parameter

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
