"""Ranks of a verb on this host, started by torchrun's elastic agent, which ends with *their* exit code.

    python -m ple_rec.agent --nnodes 2 --nproc-per-node 8 --rdzv-endpoint HOST:PORT -- train --config census-ple

Options before `--` are torchrun's. Torchrun itself ends with 1 if a rank fails. This agent ends with 2, 3 or 4 if a
rank did, and with 75 if the ranks were asked to stop and have saved, so that a scheduler can tell wrong input from a
crash. Errors of the input are printed once, before any rank starts; errors that only ranks can find are printed once
per host. No process that a rank started outlives the agent.

With `--nnodes MIN:MAX` or `--max-restarts N`, ranks start again after a crash or the loss of a host; `train` then needs
`--auto-resume`. With `--check` before the options, the input is checked at submission, and no rank starts.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from ple_rec.cli.submission import check_input, check_submission
from ple_rec.runtime.exits import end_process, guarded, stop_with_parent
from ple_rec.runtime.ranks import check_restarts, run_ranks, world_sizes_of


def main(argv: Sequence[str] | None = None) -> int:
    """Check the verb's input, then run its ranks."""
    # When a connection breaks, torch prints pages of C++ frames; our own message says what that means.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    arguments = list(sys.argv[1:] if argv is None else argv)
    if "--" not in arguments:
        print("usage: python -m ple_rec.agent [--check] [torchrun options] -- VERB [flags]", file=sys.stderr)
        return 2
    separator = arguments.index("--")
    options, verb = arguments[:separator], arguments[separator + 1 :]
    if options[:1] == ["--check"]:
        return check_submission(options[1:], verb)
    if os.environ.get("TORCHX_JOB_ID", "").startswith("local_cwd:"):
        stop_with_parent()  # `torchx run` starts it in a session of its own, but must end it.
    code = check_input(verb, lambda: world_sizes_of(options)) or guarded(lambda: check_restarts(options, verb))
    return code or guarded(lambda: run_ranks(options, verb))


if __name__ == "__main__":
    end_process(main())
