"""Check a job's input before it is submitted, so that wrong input is refused before the job waits in a queue."""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence

from torchx.specs.finder import ComponentValidationException


def refusal_error(value: str, rule: str, fix: str) -> ComponentValidationException:
    """Return an error in the only class of exceptions that `torchx run` shows without a traceback.

    Args:
        value: Refused arguments, such as `--nproc 0`.
        rule: Rule that the arguments break.
        fix: Advice to the user.
    """
    return ComponentValidationException(f"{value}; {rule}. Fix: {fix}")


_PREFIX = "ple-rec: "  # Begins each message of `ple-rec`.
_MAX_LINES = 5  # Number of lines of output that a message shows if the check itself fails.
_SKIP_CHECK_FIX = "submit without a check by --check False"


def check_verb(python: str, options: Sequence[str], verb: Sequence[str], env: Mapping[str, str]) -> None:
    """Check a verb's input in this folder, with the Python that will run it.

    Args:
        python: Command of the Python interpreter.
        options: Options of torchrun, which give the number of ranks; none for a verb that is one process.
        verb: Subcommand of `ple-rec` with its flags.
        env: Environment variables of the job.

    Raises:
        ComponentValidationException: The input is wrong (the message is that of `ple-rec`), or the check cannot run.
    """
    command = [python, "-m", "ple_rec.agent", "--check", *options, "--", *verb]
    result = subprocess.run(command, env={**os.environ, **env}, capture_output=True, encoding="locale", check=False)
    output = result.stderr.strip()
    message = output[output.index(_PREFIX) + len(_PREFIX) :] if _PREFIX in output else ""
    if result.returncode == 0:
        if message:  # It says what could not be checked on this machine.
            sys.stderr.write(f"{_PREFIX}{message}\n")
        return
    if not message:
        last_lines = "\n".join(output.splitlines()[-_MAX_LINES:])
        rule = f"the check of the input ended with exit code {result.returncode}:\n{last_lines}\n"
        raise refusal_error(
            f"--python {python}", rule, f"name the Python that has ple-rec by --python, or {_SKIP_CHECK_FIX}"
        )
    hint = f"found before submission; if this does not hold on the job's hosts, {_SKIP_CHECK_FIX}"
    raise ComponentValidationException(f"{message}\n ({hint})")
