"""What can be refused where a job is submitted, before it waits in a queue: `python -m ple_rec.agent --check`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

from ple_rec.cli.distributed import check_input, command_of, paths_of
from ple_rec.errors import UserError
from ple_rec.exits import guarded
from ple_rec.ranks import world_sizes_of
from ple_rec.storage import only_here

_ALONE = ("plan", "prep", "compare", "predict")  # verbs that are one process; the others run on ranks


def check_submission(options: Sequence[str], verb: Sequence[str]) -> int:
    """Check the input of a job that is to run elsewhere, in the folder in which it is to run.

    Args:
        options: Of torchrun: `--nnodes`, `--nproc-per-node`.
        verb: Of `ple-rec`, with its flags.

    Returns:
        0, or the exit code of what is wrong, which has been said. Where torch does not load (a login node without the
        GPU's driver), it is said what is left unchecked.
    """
    if verb[:1] and verb[0] in _ALONE:
        return guarded(lambda: _check_alone(verb))
    if code := guarded(lambda: _check_places(options, verb)):
        return code
    try:
        import torch  # noqa: F401
        import torchrec  # noqa: F401
    except (ImportError, OSError) as error:
        unchecked = "dataset, sizes for the ranks and what the run directory holds are left to the job"
        sys.stderr.write(f"ple-rec: torch does not load here ({error}): {unchecked}\n")
        return 0
    return check_input(verb, lambda: world_sizes_of(options))


def _check_alone(verb: Sequence[str]) -> None:
    command = command_of(verb)
    command.call(import_module(f"ple_rec.cli.{command.verb}").check)


def _check_places(options: Sequence[str], verb: Sequence[str]) -> None:
    """Refuse a configuration that is wrong, and, for several hosts, storage that each has for itself."""
    paths = paths_of(verb)
    sizes = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    sizes.add_argument("--nnodes", default="1")
    nnodes = sizes.parse_known_args(list(options))[0].nnodes
    if nnodes.rpartition(":")[2] == "1":
        return
    if found := {path: why for path in paths if (why := only_here(path))}:
        raise UserError(
            " and ".join(map(str, found)),
            "; ".join(dict.fromkeys(found.values())),
            f"{nnodes} hosts need what they all read or write under the same path",
            "put it on storage that all hosts mount (NFS, Lustre, EFS): --run_dir, data.path, checkpoint.path, "
            "--init_from, --plan",
        )
