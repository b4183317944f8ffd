"""Check at submission: input that the job would refuse is refused before the job waits in a queue."""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence

from torchx.specs.finder import ComponentValidationException


def refused(value: str, rule: str, fix: str) -> ComponentValidationException:
    """Return the only exception that `torchx run` shows without a traceback.

    Args:
        value: Refused arguments, such as `--nproc 0`.
        rule: Rule that they break.
        fix: Advice to the user.
    """
    return ComponentValidationException(f"{value}; {rule}. Fix: {fix}")


_PREFIX = "ple-rec: "
_MAX_LINES = 5  # Lines of output that a message repeats if the check itself fails.
_UNCHECKED = "submit all the same by --check False"


def check_verb(python: str, options: Sequence[str], verb: Sequence[str], env: Mapping[str, str]) -> None:
    """Check a verb's input in this folder, with the Python that will run it.

    Args:
        python: Command of the Python.
        options: Options of torchrun, which give the number of ranks; none for a verb that is one process.
        verb: Verb of `ple-rec` with its flags.
        env: Environment variables of the job.

    Raises:
        ComponentValidationException: The input is wrong; the message is that of `ple-rec`.
    """
    command = [python, "-m", "ple_rec.agent", "--check", *options, "--", *verb]
    result = subprocess.run(command, env={**os.environ, **env}, capture_output=True, text=True, check=False)
    output = result.stderr.strip()
    message = output[output.index(_PREFIX) + len(_PREFIX) :] if _PREFIX in output else ""
    if result.returncode == 0:
        if message:  # The message says what this machine could not check.
            sys.stderr.write(f"{_PREFIX}{message}\n")
        return
    if not message:
        last_lines = "\n".join(output.splitlines()[-_MAX_LINES:])
        rule = f"ended with {result.returncode} where the input was to be checked:\n{last_lines}\n"
        raise refused(f"--python {python}", rule, f"name the Python that has ple-rec by --python, or {_UNCHECKED}")
    hint = f"found before submission; where the job would find otherwise, {_UNCHECKED}"
    raise ComponentValidationException(f"{message}\n ({hint})")
