"""Checks of a verb's input before its ranks start (`check_input`), and before a job is submitted (`check_submission`).

`ple_rec.agent` calls both, and `launch` calls the second through it. Errors are printed once, not by every rank.
"""

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
from ple_rec.runtime.exits import run_reporting_errors
from ple_rec.runtime.ranks import possible_world_sizes
from ple_rec.storage import Location

_VERBS = ("train", "evaluate")


def parse_command(argv: Sequence[str]) -> Command:
    """Return the command of a command line; if it asks for help or the version, print that and exit.

    Raises:
        UserError: The command line is wrong.
        SystemExit: The command only prints help or the version.
    """
    command = parse(argv)
    if command.only_prints:
        raise SystemExit(command.call() or 0)
    return command


def shared_paths(argv: Sequence[str]) -> list[Location]:
    """Return the paths that all hosts of `train` or `evaluate` read or write; none for other verbs.

    Raises:
        UserError: The configuration, which names them, is wrong, or the run to start from does not exist.
    """
    command = parse_command(argv)
    if command.verb == "train":
        return train.shared_paths(command.values["options"])
    return evaluate.shared_paths(command.values["run"], command.values["options"]) if command.verb == "evaluate" else []


def check_input(argv: Sequence[str], world_sizes: Callable[[], Sequence[int]]) -> int:
    """Check the input of `train` or `evaluate` before its ranks start.

    Args:
        argv: Words after `ple-rec`.
        world_sizes: Function that returns the possible numbers of ranks over all hosts, the desired one first. It is
            called after torch has been imported.

    Returns:
        0, or the exit code of an error, which has been printed.
    """

    def check() -> None:
        command = parse_command(argv)
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

    return run_reporting_errors(check)


def _check(command: Command, world_size: int) -> None:
    if command.verb == "train":
        train.check(command.values["options"], world_size)
    else:
        evaluate.check(command.values["run"], command.values["options"])


def _check_elastic(options: train.TrainFlags, full_size: int, smaller_sizes: Sequence[int]) -> None:
    """Refuse a run that could not go on with fewer ranks after the loss of hosts, as it must in an elastic job."""
    config = options.read()[0].train
    if config.batch_size is None:
        batch = (config.batch_size_per_rank or 0) * full_size
        raise UserError(
            "train.batch_size_per_rank",
            f"with {smaller_sizes[-1]} to {full_size} ranks",
            "after the loss of a host, a run keeps its number of samples a step, however many ranks are left",
            f"--set train.batch_size={batch} --set train.batch_size_per_rank=",
        )
    for world_size in smaller_sizes:
        try:
            train.check(options, world_size)
        except PleRecError as error:
            place = f"on {world_size} ranks, after the loss of hosts: {error.place}"
            fix = f"{error.fix}; the value must be right for every number of ranks, or change the hosts (--min_nnodes)"
            raise type(error)(place, error.value, error.rule, fix) from error


_SINGLE_PROCESS_VERBS = ("plan", "prep", "compare", "predict")  # Verbs of a job that is one process, without ranks.
MOUNTS = Path("/proc/mounts")
_IN_MEMORY = ("ramfs", "tmpfs")  # Types of file systems that lie in memory.
_FOLDERS_OF_ONE_HOST = ("/tmp", "/var/tmp", "/dev/shm")


def check_submission(torchrun_options: Sequence[str], verb_argv: Sequence[str]) -> int:
    """Check the input of a job before its submission, in the folder in which it will run.

    If torch does not load, as on a login node without the GPU's driver, a message says what remains unchecked.

    Args:
        torchrun_options: Options of torchrun: `--nnodes`, `--nproc-per-node`.
        verb_argv: Words after `ple-rec`: a verb and its flags.

    Returns:
        0, or the exit code of an error, which has been printed.
    """
    if verb_argv[:1] and verb_argv[0] in _SINGLE_PROCESS_VERBS:
        return run_reporting_errors(lambda: _check_one_process(verb_argv))
    if code := run_reporting_errors(lambda: _check_places(torchrun_options, verb_argv)):
        return code
    try:
        import torch  # noqa: F401
        import torchrec  # noqa: F401
    except (ImportError, OSError) as error:
        unchecked = "the job itself checks dataset, sizes for the ranks and content of the run directory"
        sys.stderr.write(f"ple-rec: torch does not load here ({error}): {unchecked}\n")
        return 0
    return check_input(verb_argv, lambda: possible_world_sizes(torchrun_options))


def _check_one_process(verb_argv: Sequence[str]) -> None:
    command = parse_command(verb_argv)
    command.call(import_module(f"ple_rec.cli.{command.verb}").check)


def _check_places(torchrun_options: Sequence[str], verb_argv: Sequence[str]) -> None:
    """Refuse a wrong configuration, and for several hosts also paths that not all of them can see."""
    paths = shared_paths(verb_argv)
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--nnodes", default="1")
    nnodes = parser.parse_known_args(list(torchrun_options))[0].nnodes
    if nnodes.rpartition(":")[2] == "1":
        return
    if reasons := {path: reason for path in paths if (reason := reason_not_shared(path))}:
        raise UserError(
            " and ".join(map(str, reasons)),
            "; ".join(dict.fromkeys(reasons.values())),
            f"{nnodes} hosts must see these files under the same path",
            "put them on storage that all hosts mount (NFS, Lustre, EFS), or give addresses of an object store: "
            "--run_dir, data.path, checkpoint.path, --init_from, --plan",
        )


def reason_not_shared(path: Location, mounts: Iterable[str] | None = None) -> str | None:
    """Return the reason why no other host can see a path; None if other hosts may see it.

    Only this host sees a file system in memory. It alone sees folders for temporary files, too, unless something is
    mounted below them. Any other path may be on a disk that other hosts mount.

    Args:
        path: Path, which need not exist, or an address, which every host sees.
        mounts: Lines of /proc/mounts; None to read that file, if it exists.
    """
    if not isinstance(path, Path):
        return None
    if mounts is None:
        mounts = MOUNTS.read_text(encoding="utf-8").splitlines() if MOUNTS.is_file() else []
    resolved = path.absolute().resolve()
    types_by_mount = {Path(_unescape(point)): type_ for _, point, type_, *_ in (line.split(" ") for line in mounts)}
    point = max(
        (point for point in types_by_mount if resolved.is_relative_to(point)),
        key=lambda point: len(point.parts),
        default=None,
    )
    if point is not None and types_by_mount[point] in _IN_MEMORY:
        return f"lies in this host's memory ({types_by_mount[point]} at {point})"
    for folder in _FOLDERS_OF_ONE_HOST:
        is_mounted = point is not None and point != Path(folder) and point.is_relative_to(folder)
        if resolved.is_relative_to(folder) and not is_mounted:
            return f"lies below {folder}, which every host has for itself"
    return None


def _unescape(point: str) -> str:
    """Return the path of a mount point; /proc/mounts writes a space as a backslash and 040."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), point)
