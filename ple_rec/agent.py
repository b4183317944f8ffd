"""Start the ranks of a verb on this host by torchrun's elastic agent, and end with *their* exit code.

    python -m ple_rec.agent --nnodes 2 --nproc-per-node 8 --rdzv-endpoint HOST:PORT -- train --config census-ple

Options before `--` are torchrun's. Torchrun itself ends with 1 whatever its ranks return; this ends with 2, 3 or 4
where a rank did, so that a scheduler can tell wrong input from a crash. What is wrong with the input is said once,
before any rank starts.
"""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Sequence

_SAID_BY_A_RANK = (2, 3, 4)


def world_size_of(options: Sequence[str]) -> int:
    """Ranks that torchrun would start with these options."""
    from torch.distributed.run import determine_local_world_size, parse_args, parse_min_max_nnodes

    args = parse_args([*options, "-m", "ple_rec"])
    return int(parse_min_max_nnodes(args.nnodes)[1] * determine_local_world_size(args.nproc_per_node))


def run_ranks(options: Sequence[str], verb: Sequence[str]) -> int:
    """Run `ple-rec <verb>` on every rank.

    Args:
        options: Of torchrun.
        verb: Of `ple-rec`, with its flags.

    Returns:
        0, or the exit code of the rank that failed: 2, 3 or 4 where any rank said so, else 1.
    """
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    # The agent's own account of a failure repeats, at length, what the rank has said.
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    logging.getLogger("torch.distributed.run").setLevel(logging.ERROR)
    try:
        run(parse_args([*options, "-m", "ple_rec", *verb]))
    except ChildFailedError as error:
        codes = [failure.exitcode for failure in error.failures.values()]
        return next((code for code in codes if code in _SAID_BY_A_RANK), 1)
    return 0


def run_verb(verb: Sequence[str]) -> int:
    """Run `ple-rec <verb>` in a process of its own; its exit code."""
    return subprocess.run([sys.executable, "-m", "ple_rec", *verb], check=False).returncode


def main(argv: Sequence[str] | None = None) -> int:
    """Check the verb's input, then run its ranks."""
    from ple_rec.cli import check_input

    arguments = list(sys.argv[1:] if argv is None else argv)
    if "--" not in arguments:
        print("usage: python -m ple_rec.agent [torchrun options] -- VERB [flags]", file=sys.stderr)
        return 2
    at = arguments.index("--")
    options, verb = arguments[:at], arguments[at + 1 :]
    code = check_input(verb, world_size_of(options))
    return code or run_ranks(options, verb)


if __name__ == "__main__":
    raise SystemExit(main())
