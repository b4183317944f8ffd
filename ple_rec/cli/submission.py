"""What can be refused where a job is submitted, before it waits in a queue: `python -m ple_rec.agent --check`."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable, Sequence
from importlib import import_module
from pathlib import Path

from ple_rec.cli.distributed import check_input, command_of, paths_of
from ple_rec.errors import UserError
from ple_rec.runtime.exits import guarded
from ple_rec.runtime.ranks import world_sizes_of
from ple_rec.storage import Location

_ALONE = ("plan", "prep", "compare", "predict")  # verbs that are one process; the others run on ranks
MOUNTS = Path("/proc/mounts")
_IN_MEMORY = ("ramfs", "tmpfs")
_OF_ONE_HOST = ("/tmp", "/var/tmp", "/dev/shm")


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
            "put it on storage that all hosts mount (NFS, Lustre, EFS), or give addresses of an object store: "
            "--run_dir, data.path, checkpoint.path, --init_from, --plan",
        )


def only_here(path: Location, mounts: Iterable[str] | None = None) -> str | None:
    """Return why no other host can see a path; None where one may.

    What is plainly of one host: a file system in memory, and the folders for temporary files, unless something is
    mounted below them. A disk may be another host's mount, so it is believed.

    Args:
        path: Path that exists or is to be made, or an address, which every host sees.
        mounts: Lines of /proc/mounts; None to read that file, where there is one.
    """
    if not isinstance(path, Path):
        return None
    if mounts is None:
        mounts = MOUNTS.read_text().splitlines() if MOUNTS.is_file() else []
    place = path.absolute().resolve()
    kinds = {Path(_unescaped(point)): kind for _, point, kind, *_ in (line.split(" ") for line in mounts)}
    point = max((point for point in kinds if place.is_relative_to(point)), key=lambda one: len(one.parts), default=None)
    if point is not None and kinds[point] in _IN_MEMORY:
        return f"lies in this host's memory ({kinds[point]} at {point})"
    for folder in _OF_ONE_HOST:
        mounted = point is not None and point != Path(folder) and point.is_relative_to(folder)
        if place.is_relative_to(folder) and not mounted:
            return f"lies below {folder}, which every host has for itself"
    return None


def _unescaped(point: str) -> str:
    """A mount point as it is; /proc/mounts writes a space as a backslash and 040."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), point)
