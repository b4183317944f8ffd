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

    It knows the verbs and flags of this version: print it anew after an update.
    """
    script = _app().generate_completion(shell=shell)
    show(_with_files(script) if shell == "bash" else script)
    return 0


def _app() -> App:
    """Return the command line as its scripts offer it.

    The scripts of cyclopts offer the version flags of the program with every verb, but a command of the program with
    the program alone, so `--version` is one here.
    """
    program = command_line()
    program.version_flags = ()
    program.command(App(name="--version", help="print the version, then stop"))
    return program


def _with_files(script: str) -> str:
    """Return a script of bash by which bash itself completes files, where there is nothing else to offer.

    That of cyclopts completes no file of a flag whose value is a text, such as `--config`, and no name with a space.
    """
    script = re.sub(r"COMPREPLY=\( \$\(compgen -[fd] .*\) \)", "COMPREPLY=()", script)
    return re.sub(r"^complete -F", "complete -o bashdefault -o default -F", script, flags=re.MULTILINE)
