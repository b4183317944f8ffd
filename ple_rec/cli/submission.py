"""Verbs that run on several ranks: their options, and the check of a job before it is submitted."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from importlib import import_module
from pathlib import Path

from ple_rec.cli import evaluate, train
from ple_rec.cli.app import Command, parse
from ple_rec.cli.console import require_torch
from ple_rec.errors import PleRecError, UserError
from ple_rec.runtime.exits import guarded
from ple_rec.runtime.ranks import world_sizes_of
from ple_rec.storage import Location

_VERBS = ("train", "evaluate")


def command_of(argv: Sequence[str]) -> Command:
    """Return the command whose input is to be checked.

    Raises:
        UserError: the command line is wrong.
        SystemExit: it is for help or the version, which has been printed: nothing is to be checked or started.
    """
    command = parse(argv)
    if command.informs:
        raise SystemExit(command.call() or 0)
    return command


def paths_of(argv: Sequence[str]) -> list[Location]:
    """Return what all hosts of a distributed verb read or write; of another verb, nothing.

    Raises:
        UserError: the configuration, which names them, is wrong, or there is no run to start from.
    """
    command = command_of(argv)
    if command.verb == "train":
        return train.paths(command.values["options"])
    return evaluate.paths(command.values["run"], command.values["options"]) if command.verb == "evaluate" else []


def check_input(argv: Sequence[str], world_sizes: Callable[[], Sequence[int]]) -> int:
    """Check a distributed verb's input before its ranks start.

    Args:
        argv: Words of `ple-rec`.
        world_sizes: Numbers of ranks over all hosts that there may be, first the one that is meant; called once torch
            is known to load.

    Returns:
        0, or the exit code of what is wrong, which has been printed.
    """

    def check() -> None:
        command = command_of(argv)
        if command.verb not in _VERBS:
            raise UserError(
                "ple_rec.agent",
                f"got the verb {command.verb!r}",
                f"it starts the ranks of {' and '.join(_VERBS)}",
                f"run `ple-rec {command.verb}`, which is one process",
            )
        require_torch()
        wanted, *others = world_sizes()
        _check(command, wanted)
        if others and command.verb == "train":
            _check_elastic(command.values["options"], wanted, others)

    return guarded(check)


def _check(command: Command, world_size: int) -> None:
    if command.verb == "train":
        train.check(command.values["options"], world_size)
    else:
        evaluate.check(command.values["run"], command.values["options"])


def _check_elastic(options: train.Options, wanted: int, others: Sequence[int]) -> None:
    """Refuse a run that could not go on when hosts are lost."""
    config = options.read()[0].train
    if config.batch_size is None:
        batch = (config.batch_size_per_rank or 0) * wanted
        raise UserError(
            "train.batch_size_per_rank",
            f"with {others[-1]} to {wanted} ranks",
            "a run goes on with as many samples a step as it began with, however many ranks are left",
            f"--set train.batch_size={batch} --set train.batch_size_per_rank=",
        )
    for world_size in others:
        try:
            train.check(options, world_size)
        except PleRecError as error:
            place = f"on {world_size} ranks, where hosts are lost: {error.place}"
            fix = f"{error.fix}; it has to do for every number of ranks, or ask for other hosts (--min_nnodes)"
            raise type(error)(place, error.value, error.rule, fix) from error


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
