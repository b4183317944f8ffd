"""Launcher of `ple-rec train` or `ple-rec evaluate` on the ranks of this host, by torchrun's elastic agent.

    python -m ple_rec.agent --nnodes 2 --nproc-per-node 8 --rdzv-endpoint HOST:PORT -- train --config census-ple

Options before `--` are torchrun's; the words after it are those of `ple-rec`: a verb (train or evaluate) and its flags.
If a rank fails, torchrun would end with 1, but this agent ends with the exit code of the rank: 2 for wrong input, 3 for
damaged data, 4 for a diverged training, or 75 if the ranks were asked to stop. So a scheduler can tell wrong input from
a crash. Errors of the input are printed once, before any rank starts; errors that only ranks can find are printed once
per host. No process that a rank started outlives the agent.

With `--nnodes MIN:MAX` or `--max-restarts N`, ranks start again after a crash or the loss of a host; `train` then needs
`--auto-resume`. With `--check` before the options, the input is checked and no rank starts; `launch` does this before
it submits a job.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from ple_rec.cli.submission import check_input, check_submission
from ple_rec.runtime.exits import end_process, run_reporting_errors, stop_with_parent
from ple_rec.runtime.ranks import check_restarts, possible_world_sizes, run_ranks


def main(argv: Sequence[str] | None = None) -> int:
    """Check the input of the verb, run its ranks unless `--check` is given, and return the exit code."""
    # When a connection breaks, torch prints pages of C++ frames; our own message says what that means.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    arguments = list(sys.argv[1:] if argv is None else argv)
    if "--" not in arguments:
        print("usage: python -m ple_rec.agent [--check] [torchrun options] -- VERB [flags]", file=sys.stderr)
        return 2
    separator = arguments.index("--")
    options, verb_argv = arguments[:separator], arguments[separator + 1 :]
    if options[:1] == ["--check"]:
        return check_submission(options[1:], verb_argv)
    if os.environ.get("TORCHX_JOB_ID", "").startswith("local_cwd:"):
        stop_with_parent()  # `torchx run` starts this process in a session of its own, which no Ctrl-C reaches.
    # The first exit code that is not 0 is returned, and nothing after it runs.
    code = check_input(verb_argv, lambda: possible_world_sizes(options)) or run_reporting_errors(
        lambda: check_restarts(options, verb_argv)
    )
    return code or run_reporting_errors(lambda: run_ranks(options, verb_argv))


if __name__ == "__main__":
    end_process(main())
