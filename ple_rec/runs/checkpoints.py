"""Where a run keeps its checkpoints: in its directory, or where `checkpoint.path` says, which then is its alone."""

from __future__ import annotations

import json
import time
from pathlib import Path

from ple_rec.checkpoint.listing import is_step, remove_checkpoint
from ple_rec.config.run import RunConfig
from ple_rec.errors import UserError
from ple_rec.runs.directory import RunDirectory
from ple_rec.runs.layout import CHECKPOINTS, CONFIG, INIT, OF_RUN, PLAN, REPLACED, place_of
from ple_rec.storage import Location, create_text, explain_errors, make_directory, names_in, unlink_checked

OWNER = "run.json"  # in a directory of checkpoints outside of the run's own: whose they are


class CheckpointTimer:
    """Timer for checkpoints by time.

    Args:
        minutes: Most minutes between checkpoints.
    """

    def __init__(self, minutes: float) -> None:
        self._seconds = 60 * minutes
        self.restart()

    def restart(self) -> None:
        """Start again from zero."""
        self._since = time.monotonic()

    def is_due(self) -> bool:
        """Return whether a checkpoint is due."""
        return time.monotonic() - self._since >= self._seconds


def checkpoint_place(config: RunConfig, run_dir: Location) -> Location:
    """Return the place of the checkpoints of a run; `{run}` stands for the name of its directory.

    Raises:
        UserError: an address that cannot be spoken.
    """
    return place_of(config.checkpoint.path, run_dir)


def directories_of(config: RunConfig, run_dir: Location) -> list[Path]:
    """Return the directories that all ranks of a run write to on disks that their hosts share."""
    places = [run_dir] if config.checkpoint.path is None else [run_dir, checkpoint_place(config, run_dir)]
    return [place for place in places if isinstance(place, Path)]


def restore_head(checkpoint: Location, run: RunDirectory) -> None:
    """Write start, configuration and plan of a run whose directory is gone, as a checkpoint has them.

    Args:
        checkpoint: Directory of the checkpoint.
        run: Directory of the run.

    Raises:
        UserError: a file cannot be read or written.
    """
    with explain_errors(checkpoint):
        names = [INIT] * (checkpoint / INIT).is_file() + [PLAN, CONFIG]  # the last one makes it a run directory again
        texts = {name: (checkpoint / name).read_text() for name in names}
    for name, text in texts.items():
        run.write_text(name, text)


def claim_checkpoints(config: RunConfig, run: RunDirectory) -> None:
    """Make the directory that `checkpoint.path` names this run's.

    Args:
        config: Configuration of the run.
        run: Directory of the run.

    Raises:
        UserError: another run has made it its own meanwhile, or it cannot be read or written.
    """
    if config.checkpoint.path is None:
        return
    where, owned = checkpoint_place(config, run.address), json.dumps({"run": identity(run.address)})
    run.check()
    with explain_errors(where, "written"):
        make_directory(where)
        try:
            create_text(where / OWNER, owned)
        except OSError:
            if (owner := owner_of(where)) is None:
                raise
            refuse_others(where, owner, run.address)


def take_over(config: RunConfig, run: RunDirectory, *, resuming: bool) -> None:
    """Remove what an earlier run left, unless it is resumed, and make the place of checkpoints this run's.

    It comes once everything that can refuse the run has been looked at.

    Args:
        config: Configuration of the run.
        run: Directory of the run.
        resuming: True for a run that goes on.

    Raises:
        UserError: another run has taken the place meanwhile, or it cannot be read or written.
    """
    claim_checkpoints(config, run)  # first: it may be refused
    if resuming:
        return
    run.write_bytes(REPLACED, b"")  # If this process is killed here, no other goes on with the earlier run.
    run.remove(OF_RUN)  # Results whose checkpoints are gone would be those of a finished run.
    where = checkpoint_place(config, run.address)
    if not (isinstance(where, Path) and where.is_symlink()):  # What a link leads to is not the run's.
        with explain_errors(where, "removed"):
            for name in names_in(where):
                if is_step(name):
                    remove_checkpoint(where / name, run.check)
                elif name in ("latest", "best"):
                    unlink_checked(where / name, run.check)
    run.remove([CHECKPOINTS, REPLACED] if config.checkpoint.path is None else [REPLACED])


def identity(run_dir: Location) -> str:
    """Return the name of a run in the file of an owner: its directory."""
    return str(run_dir.resolve()) if isinstance(run_dir, Path) else str(run_dir)


def refuse_others(where: Location, owner: str, run_dir: Location) -> None:
    """Refuse a place of checkpoints whose owner is another run.

    Raises:
        UserError: the owner is another run.
    """
    if owner != identity(run_dir):
        raise UserError(
            str(where),
            f"holds the checkpoints of {owner}",
            "a run's checkpoints lie apart from those of others",
            f"give another checkpoint.path, or remove {where}/{OWNER} if that run is no more",
        )


def owner_of(where: Location) -> str | None:
    """Return the run directory that a place of checkpoints belongs to; None where it is nobody's.

    Raises:
        UserError: the place cannot be read.
    """
    with explain_errors(where):
        file = where / OWNER
        if not file.is_file():
            return None
        text = file.read_text()
    try:
        return str(json.loads(text)["run"])
    except (ValueError, LookupError, TypeError):
        return "a run that cannot be told"
