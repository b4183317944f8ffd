"""What is checked of a verb on ranks before they start: by the agent, and where a job is submitted."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ple_rec.cli import evaluate, train
from ple_rec.cli.app import Command, parse
from ple_rec.cli.console import require_torch
from ple_rec.errors import PleRecError, UserError
from ple_rec.runtime.exits import guarded
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
