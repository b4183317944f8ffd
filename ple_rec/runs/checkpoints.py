"""Place of the checkpoints of a run: its directory, or `checkpoint.path`, which then belongs to this run alone."""

from __future__ import annotations

import json
import time
from pathlib import Path

from ple_rec.checkpoint.listing import is_step, remove_checkpoint
from ple_rec.config.run import RunConfig
from ple_rec.errors import UserError
from ple_rec.runs.directory import RunDirectory
from ple_rec.runs.layout import CHECKPOINTS, CONFIG, INIT, OF_RUN, PLAN, REPLACED, resolve_checkpoint_path
from ple_rec.storage import Location, create_text, explain_errors, make_directory, names_in, unlink_checked

# This file, in a place of checkpoints outside of the run directory, names the run that owns the place.
OWNER = "run.json"


class CheckpointTimer:
    """Timer for checkpoints by time.

    Args:
        minutes: Largest number of minutes between checkpoints.
    """

    def __init__(self, minutes: float) -> None:
        self._seconds = 60 * minutes
        self.restart()

    def restart(self) -> None:
        """Start again from zero."""
        self._since = time.monotonic()

    def is_due(self) -> bool:
        """Return True if a checkpoint is due."""
        return time.monotonic() - self._since >= self._seconds


def checkpoint_place(config: RunConfig, run_dir: Location) -> Location:
    """Return the place of the checkpoints of a run; `{run}` in it stands for the name of the run directory.

    Raises:
        UserError: The scheme of the address is unknown.
    """
    return resolve_checkpoint_path(config.checkpoint.path, run_dir)


def directories_of(config: RunConfig, run_dir: Location) -> list[Path]:
    """Return the directories of a run that its hosts must share; places in an object store are left out."""
    places = [run_dir] if config.checkpoint.path is None else [run_dir, checkpoint_place(config, run_dir)]
    return [place for place in places if isinstance(place, Path)]


def restore_head(checkpoint: Location, run: RunDirectory) -> None:
    """Restore start, plan and configuration of a run whose directory is lost, from one of its checkpoints.

    Args:
        checkpoint: Directory of the checkpoint.
        run: Directory of the run.

    Raises:
        UserError: A file cannot be read or written.
    """
    with explain_errors(checkpoint):
        # The configuration makes a folder a run directory, so it is written last.
        names = [INIT] * (checkpoint / INIT).is_file() + [PLAN, CONFIG]
        texts = {name: (checkpoint / name).read_text() for name in names}
    for name, text in texts.items():
        run.write_text(name, text)


def claim_checkpoints(config: RunConfig, run: RunDirectory) -> None:
    """Make this run the owner of the directory that `checkpoint.path` names.

    Args:
        config: Configuration of the run.
        run: Directory of the run.

    Raises:
        UserError: Another run owns the directory, or it cannot be read or written.
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


def prepare_directory(config: RunConfig, run: RunDirectory, *, resuming: bool) -> None:
    """Make this run the owner of its place of checkpoints, and remove the files of an earlier run unless it is resumed.

    The function is called after all checks, since it removes files.

    Args:
        config: Configuration of the run.
        run: Directory of the run.
        resuming: True for a run that resumes.

    Raises:
        UserError: Another run owns the place of checkpoints, or a directory cannot be read or written.
    """
    # This call may refuse the run, so it precedes all removals.
    claim_checkpoints(config, run)
    if resuming:
        return
    # If this process is killed during the removal, the file keeps others from resuming the earlier run.
    run.write_bytes(REPLACED, b"")
    # Results go before checkpoints, since results without checkpoints would look like a finished run.
    run.remove(OF_RUN)
    where = checkpoint_place(config, run.address)
    # A symbolic link may lead to files that belong to others.
    if not (isinstance(where, Path) and where.is_symlink()):
        with explain_errors(where, "removed"):
            for name in names_in(where):
                if is_step(name):
                    remove_checkpoint(where / name, run.check)
                elif name in ("latest", "best"):
                    unlink_checked(where / name, run.check)
    run.remove([CHECKPOINTS, REPLACED] if config.checkpoint.path is None else [REPLACED])


def identity(run_dir: Location) -> str:
    """Return the run directory as it stands in the file `OWNER`."""
    return str(run_dir.resolve()) if isinstance(run_dir, Path) else str(run_dir)


def refuse_others(where: Location, owner: str, run_dir: Location) -> None:
    """Refuse a place of checkpoints whose owner is another run.

    Args:
        where: Place of the checkpoints.
        owner: Run directory that owns the place.
        run_dir: Directory of this run.

    Raises:
        UserError: The owner is another run.
    """
    if owner != identity(run_dir):
        raise UserError(
            str(where),
            f"holds the checkpoints of {owner}",
            "a run's checkpoints lie apart from those of others",
            f"give another checkpoint.path, or remove {where}/{OWNER} if that run is no more",
        )


def owner_of(where: Location) -> str | None:
    """Return the run directory that owns a place of checkpoints; None if it has no owner.

    Raises:
        UserError: The place cannot be read.
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
