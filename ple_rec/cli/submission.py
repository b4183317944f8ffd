"""Checks of a verb's input before its ranks start, and before a job is submitted."""

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
    """Return the command of a command line, or print its help or version and exit.

    Raises:
        UserError: The command line is wrong.
        SystemExit: The command only prints help or the version.
    """
    command = parse(argv)
    if command.informs:
        raise SystemExit(command.call() or 0)
    return command


def paths_of(argv: Sequence[str]) -> list[Location]:
    """Return the paths that all hosts of a distributed verb read or write; none for other verbs.

    Raises:
        UserError: The configuration, which names them, is wrong, or the run to start from does not exist.
    """
    command = command_of(argv)
    if command.verb == "train":
        return train.paths(command.values["options"])
    return evaluate.paths(command.values["run"], command.values["options"]) if command.verb == "evaluate" else []


def check_input(argv: Sequence[str], world_sizes: Callable[[], Sequence[int]]) -> int:
    """Check a distributed verb's input before its ranks start.

    Args:
        argv: Words of `ple-rec`.
        world_sizes: Function that returns the possible numbers of ranks over all hosts, the desired one first. It is
            called after torch has been imported.

    Returns:
        0, or the exit code of an error, which has been printed.
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
        full_size, *smaller_sizes = world_sizes()
        _check(command, full_size)
        if smaller_sizes and command.verb == "train":
            _check_elastic(command.values["options"], full_size, smaller_sizes)

    return guarded(check)


def _check(command: Command, world_size: int) -> None:
    if command.verb == "train":
        train.check(command.values["options"], world_size)
    else:
        evaluate.check(command.values["run"], command.values["options"])


def _check_elastic(options: train.TrainFlags, full_size: int, smaller_sizes: Sequence[int]) -> None:
    """Refuse a run that could not go on after the loss of hosts."""
    config = options.read()[0].train
    if config.batch_size is None:
        batch = (config.batch_size_per_rank or 0) * full_size
        raise UserError(
            "train.batch_size_per_rank",
            f"with {smaller_sizes[-1]} to {full_size} ranks",
            "a run goes on with as many samples a step as it began with, however many ranks are left",
            f"--set train.batch_size={batch} --set train.batch_size_per_rank=",
        )
    for world_size in smaller_sizes:
        try:
            train.check(options, world_size)
        except PleRecError as error:
            place = f"on {world_size} ranks, where hosts are lost: {error.place}"
            fix = f"{error.fix}; it has to do for every number of ranks, or ask for other hosts (--min_nnodes)"
            raise type(error)(place, error.value, error.rule, fix) from error


_ONE_PROCESS = ("plan", "prep", "compare", "predict")  # The other verbs run on ranks.
MOUNTS = Path("/proc/mounts")
_IN_MEMORY = ("ramfs", "tmpfs")
_OF_ONE_HOST = ("/tmp", "/var/tmp", "/dev/shm")


def check_submission(options: Sequence[str], verb: Sequence[str]) -> int:
    """Check the input of a job before its submission, in the folder in which it will run.

    If torch does not load, as on a login node without the GPU's driver, a message says what remains unchecked.

    Args:
        options: Options of torchrun: `--nnodes`, `--nproc-per-node`.
        verb: Verb of `ple-rec` with its flags.

    Returns:
        0, or the exit code of an error, which has been printed.
    """
    if verb[:1] and verb[0] in _ONE_PROCESS:
        return guarded(lambda: _check_one_process(verb))
    if code := guarded(lambda: _check_places(options, verb)):
        return code
    try:
        import torch  # noqa: F401
        import torchrec  # noqa: F401
    except (ImportError, OSError) as error:
        unchecked = "the job itself checks dataset, sizes for the ranks and content of the run directory"
        sys.stderr.write(f"ple-rec: torch does not load here ({error}): {unchecked}\n")
        return 0
    return check_input(verb, lambda: world_sizes_of(options))


def _check_one_process(verb: Sequence[str]) -> None:
    command = command_of(verb)
    command.call(import_module(f"ple_rec.cli.{command.verb}").check)


def _check_places(options: Sequence[str], verb: Sequence[str]) -> None:
    """Refuse a wrong configuration, and for several hosts also places that not all hosts can see."""
    paths = paths_of(verb)
    sizes = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    sizes.add_argument("--nnodes", default="1")
    nnodes = sizes.parse_known_args(list(options))[0].nnodes
    if nnodes.rpartition(":")[2] == "1":
        return
    if reasons := {path: reason for path in paths if (reason := only_here(path))}:
        raise UserError(
            " and ".join(map(str, reasons)),
            "; ".join(dict.fromkeys(reasons.values())),
            f"{nnodes} hosts need what they all read or write under the same path",
            "put it on storage that all hosts mount (NFS, Lustre, EFS), or give addresses of an object store: "
            "--run_dir, data.path, checkpoint.path, --init_from, --plan",
        )


def only_here(path: Location, mounts: Iterable[str] | None = None) -> str | None:
    """Return why no other host can see a path; None if other hosts may see it.

    Only this host sees a file system in memory, and the folders for temporary files, unless something is mounted below
    them. Any other path counts as visible, since a disk may be mounted by other hosts.

    Args:
        path: Path, which need not exist, or an address, which every host sees.
        mounts: Lines of /proc/mounts; None to read that file, if it exists.
    """
    if not isinstance(path, Path):
        return None
    if mounts is None:
        mounts = MOUNTS.read_text().splitlines() if MOUNTS.is_file() else []
    place = path.absolute().resolve()
    kinds = {Path(_unescaped(point)): kind for _, point, kind, *_ in (line.split(" ") for line in mounts)}
    point = max(
        (point for point in kinds if place.is_relative_to(point)), key=lambda point: len(point.parts), default=None
    )
    if point is not None and kinds[point] in _IN_MEMORY:
        return f"lies in this host's memory ({kinds[point]} at {point})"
    for folder in _OF_ONE_HOST:
        is_mounted = point is not None and point != Path(folder) and point.is_relative_to(folder)
        if place.is_relative_to(folder) and not is_mounted:
            return f"lies below {folder}, which every host has for itself"
    return None


def _unescaped(point: str) -> str:
    """Return the path of a mount point; /proc/mounts writes a space as a backslash and 040."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), point)
