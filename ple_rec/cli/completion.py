"""`ple-rec completion`: the scripts of cyclopts by which a shell completes verbs and flags, with two corrections.

`--version` is offered only after `ple-rec` itself, not after every verb; and bash completes file names
by itself.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from cyclopts import App

from ple_rec.cli.app import command_line
from ple_rec.cli.console import show
from ple_rec.cli.options import flag, verb_app

app = verb_app(
    "completion",
    """\
examples:
  ple-rec completion bash > ~/.local/share/bash-completion/completions/ple-rec
  ple-rec completion zsh > "${fpath[1]}/_ple-rec"
  ple-rec completion fish > ~/.config/fish/completions/ple-rec.fish
""",
)


@app.default
def completion(shell: Annotated[Literal["bash", "zsh", "fish"], flag("bash, zsh or fish", name="SHELL")], /) -> int:
    """Print the script by which a shell completes verbs, flags and files.

    It knows the verbs and flags of this version, so print it again after an update.
    """
    script = _completion_app().generate_completion(shell=shell)
    show(_with_file_completion(script) if shell == "bash" else script)
    return 0


def _completion_app() -> App:
    """Return the application for completion scripts, in which `--version` is a command.

    cyclopts' scripts would offer a version flag after every verb; they offer a command only after `ple-rec` itself.
    """
    program = command_line()
    program.version_flags = ()
    program.command(App(name="--version", help="print the version, then stop"))
    return program


def _with_file_completion(script: str) -> str:
    """Return a bash script with which bash itself completes file names where the script offers nothing.

    cyclopts' script completes no file names for a flag whose value is a text, such as `--config`, and breaks names at
    spaces. So its own completion of files (`compgen`) is removed, and bash's default is allowed.
    """
    script = re.sub(r"COMPREPLY=\( \$\(compgen -[fd] .*\) \)", "COMPREPLY=()", script)
    return re.sub(r"^complete -F", "complete -o bashdefault -o default -F", script, flags=re.MULTILINE)
