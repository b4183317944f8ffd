"""`ple-rec completion`."""

from __future__ import annotations

from typing import Annotated, Literal

from ple_rec.cli.app import command_line
from ple_rec.cli.console import show
from ple_rec.cli.help import verb
from ple_rec.cli.options import flag

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
    """Print the script by which a shell completes verbs and flags.

    It knows the verbs and flags of this version: print it anew after an update.
    """
    show(command_line().generate_completion(shell=shell))
    return 0
