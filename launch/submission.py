"""The check at submission: what the job would refuse when it starts is refused before it waits in a queue."""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence

from torchx.specs.finder import ComponentValidationException


def refused(value: str, rule: str, fix: str) -> ComponentValidationException:
    """The one exception that `torchx run` shows without a traceback.

    Args:
        value: The arguments, as they were given.
        rule: What is allowed.
        fix: What to do about it.
    """
    return ComponentValidationException(f"{value}; {rule}. Fix: {fix}")


_PREFIX = "ple-rec: "
_LINES_SHOWN = 5  # of a check that itself fails
_UNCHECKED = "submit all the same by --check False"


def check_verb(python: str, options: Sequence[str], verb: Sequence[str], env: Mapping[str, str]) -> None:
    """Check a verb's input, in this folder, by the Python that is to run it.

    Args:
        python: Its command.
        options: Of torchrun, for the number of ranks; none of a verb that is one process.
        verb: Of `ple-rec`, with its flags.
        env: Variables of the job.

    Raises:
        ComponentValidationException: what is wrong with the input, in the words of `ple-rec`.
    """
    command = [python, "-m", "ple_rec.agent", "--check", *options, "--", *verb]
    done = subprocess.run(command, env={**os.environ, **env}, capture_output=True, text=True, check=False)
    said = done.stderr.strip()
    message = said[said.index(_PREFIX) + len(_PREFIX) :] if _PREFIX in said else ""
    if done.returncode == 0:
        if message:  # what could not be checked here
            sys.stderr.write(f"{_PREFIX}{message}\n")
        return
    if not message:
        ends = "\n".join(said.splitlines()[-_LINES_SHOWN:])
        rule = f"ended with {done.returncode} where the input was to be checked:\n{ends}\n"
        raise refused(f"--python {python}", rule, f"name the Python that has ple-rec by --python, or {_UNCHECKED}")
    hint = f"found before submission; where the job would find otherwise, {_UNCHECKED}"
    raise ComponentValidationException(f"{message}\n ({hint})")
