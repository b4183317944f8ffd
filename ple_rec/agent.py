"""Start the ranks of a verb on this host by torchrun's elastic agent, and end with *their* exit code.

    python -m ple_rec.agent --nnodes 2 --nproc-per-node 8 --rdzv-endpoint HOST:PORT -- train --config census-ple

Options before `--` are torchrun's. Torchrun itself ends with 1 whatever its ranks return; this ends with 2, 3 or 4
where a rank did, so that a scheduler can tell wrong input from a crash. What is wrong with the input is said once,
before any rank starts; what only the ranks can find is said once per host. With `--check` before the options the input
is checked where the job is submitted, and nothing starts.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from ple_rec.cli import check_input
from ple_rec.exits import end_process, guarded
from ple_rec.ranks import run_ranks, world_sizes_of
from ple_rec.submission import check_submission


def main(argv: Sequence[str] | None = None) -> int:
    """Check the verb's input, then run its ranks."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if "--" not in arguments:
        print("usage: python -m ple_rec.agent [--check] [torchrun options] -- VERB [flags]", file=sys.stderr)
        return 2
    at = arguments.index("--")
    options, verb = arguments[:at], arguments[at + 1 :]
    if options[:1] == ["--check"]:
        return check_submission(options[1:], verb)
    code = check_input(verb, lambda: world_sizes_of(options))
    return code or guarded(lambda: run_ranks(options, verb))


if __name__ == "__main__":
    end_process(main())
