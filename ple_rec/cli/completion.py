"""`ple-rec completion`."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from cyclopts import App

from ple_rec.cli.app import command_line
from ple_rec.cli.console import show
from ple_rec.cli.options import flag, verb

app = verb(
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
    script = _app().generate_completion(shell=shell)
    show(_with_files(script) if shell == "bash" else script)
    return 0


def _app() -> App:
    """Return the application for completion scripts, in which `--version` is a command.

    The scripts of cyclopts would offer a version flag with every verb, but they offer a command of the program only
    with the program.
    """
    program = command_line()
    program.version_flags = ()
    program.command(App(name="--version", help="print the version, then stop"))
    return program


def _with_files(script: str) -> str:
    """Return a bash script in which bash itself completes files if the script offers nothing.

    The script of cyclopts completes no files for a flag whose value is a text, such as `--config`, and no names with a
    space.
    """
    script = re.sub(r"COMPREPLY=\( \$\(compgen -[fd] .*\) \)", "COMPREPLY=()", script)
    return re.sub(r"^complete -F", "complete -o bashdefault -o default -F", script, flags=re.MULTILINE)
