"""Place of the checkpoints of a run, its owner, and the timer of checkpoints.

The place is the folder `checkpoints` of the run directory, or the directory or store that `checkpoint.path` names. A
run owns such an outside place alone: its file run.json has the address of the run directory, and other runs are
refused.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

from ple_rec.checkpoint.listing import is_checkpoint_name, remove_checkpoint
from ple_rec.config.run import RunConfig
from ple_rec.errors import UserError
from ple_rec.runs.directory import RunDirectory
from ple_rec.runs.layout import CHECKPOINTS, CONFIG, INIT, NAMES_OF_RUN, PLAN, REPLACED, resolve_checkpoint_path
from ple_rec.storage import Location, create_text, explain_errors, make_directory, names_in, unlink_checked

# In a place of checkpoints outside of the run directory, this file has the address of the owner's run directory.
OWNER_FILE = "run.json"


class CheckpointTimer:
    """Timer that says when the next checkpoint is due.

    Args:
        minutes: Largest number of minutes between checkpoints.
    """

    def __init__(self, minutes: float) -> None:
        self._seconds = 60 * minutes
        self.restart()

    def restart(self) -> None:
        """Count the time anew, after a checkpoint."""
        self._since = time.monotonic()

    def is_due(self) -> bool:
        """Return True if a checkpoint is due."""
        return time.monotonic() - self._since >= self._seconds


def checkpoint_place(config: RunConfig, run_dir: Location) -> Location:
    """Return the place of the checkpoints of a run; `{run}` in it stands for the name of the run directory.

    Raises:
        UserError: The address is not valid.
    """
    return resolve_checkpoint_path(config.checkpoint.path, run_dir)


def shared_directories(config: RunConfig, run_dir: Location) -> list[Path]:
    """Return the directories on disk that all hosts of a run must share: the run directory and that of checkpoints."""
    places = [run_dir] if config.checkpoint.path is None else [run_dir, checkpoint_place(config, run_dir)]
    return [place for place in places if isinstance(place, Path)]


def restore_run_files(checkpoint: Location, run: RunDirectory) -> None:
    """Restore `init_from.json`, plan and configuration of a run whose directory is lost, from one of its checkpoints.

    Args:
        checkpoint: Directory of the checkpoint.
        run: Directory of the run.

    Raises:
        UserError: A file cannot be read or written.
    """
    with explain_errors(checkpoint):
        # A folder with a configuration counts as a run directory, so the configuration is written last.
        names = [INIT] * (checkpoint / INIT).is_file() + [PLAN, CONFIG]
        texts = {name: (checkpoint / name).read_text(encoding="utf-8") for name in names}
    for name, text in texts.items():
        run.write_text(name, text)


def own_checkpoint_place(config: RunConfig, run: RunDirectory) -> None:
    """Make this run the owner of the place that `checkpoint.path` names, if it names one.

    Args:
        config: Configuration of the run.
        run: Directory of the run.

    Raises:
        UserError: Another run owns the place, or it cannot be read or written.
    """
    if config.checkpoint.path is None:
        return
    place, content = checkpoint_place(config, run.address), json.dumps({"run": full_address(run.address)})
    run.check()
    with explain_errors(place, "written"):
        make_directory(place)
        try:
            # This fails if the file exists, so that only one of several runs becomes the owner.
            create_text(place / OWNER_FILE, content)
        except OSError:
            if (owner := read_owner(place)) is None:
                raise
            check_owner(place, owner, run.address)


def prepare_directory(config: RunConfig, run: RunDirectory, *, resuming: bool) -> None:
    """Make this run the owner of its place of checkpoints, and remove the files of an earlier run unless it is resumed.

    The caller has made all checks before, since this function removes files.

    Args:
        config: Configuration of the run.
        run: Directory of the run.
        resuming: True for a run that resumes.

    Raises:
        UserError: Another run owns the place of checkpoints, or a directory cannot be read or written.
    """
    # This call may refuse the run, so it comes before all removals.
    own_checkpoint_place(config, run)
    if resuming:
        return
    # If this process is killed during the removal, this file prevents that the earlier run is resumed.
    run.write_bytes(REPLACED, b"")
    # Results are removed before checkpoints, since results without checkpoints would look like a finished run.
    run.remove(NAMES_OF_RUN)
    place = checkpoint_place(config, run.address)
    # A symbolic link may lead to files that belong to others.
    if not (isinstance(place, Path) and place.is_symlink()):
        with explain_errors(place, "removed"):
            for name in names_in(place):
                if is_checkpoint_name(name):
                    remove_checkpoint(place / name, run.check)
                elif name in ("latest", "best"):
                    unlink_checked(place / name, run.check)
    run.remove([CHECKPOINTS, REPLACED] if config.checkpoint.path is None else [REPLACED])


def full_address(run_dir: Location) -> str:
    """Return the absolute path of a run directory, or its address in a store, as the file `OWNER_FILE` has it."""
    return str(run_dir.resolve()) if isinstance(run_dir, Path) else str(run_dir)


def check_owner(place: Location, owner: str, run_dir: Location) -> None:
    """Refuse a place of checkpoints that another run owns.

    Args:
        place: Place of the checkpoints.
        owner: Run directory that owns the place.
        run_dir: Directory of this run.

    Raises:
        UserError: The owner is another run.
    """
    if owner != full_address(run_dir):
        raise UserError(
            str(place),
            f"holds the checkpoints of {owner}",
            "each run needs its own place of checkpoints",
            f"give another checkpoint.path, or remove {place}/{OWNER_FILE} if that run no longer exists",
        )


def read_owner(place: Location) -> str | None:
    """Return the run directory that owns a place of checkpoints, by its file `OWNER_FILE`; None without this file.

    If the file is damaged, "an unknown run" is returned.

    Raises:
        UserError: The place cannot be read.
    """
    with explain_errors(place):
        file = place / OWNER_FILE
        if not file.is_file():
            return None
        text = file.read_text(encoding="utf-8")
    try:
        return str(json.loads(text)["run"])
    except (ValueError, LookupError, TypeError):
        return "an unknown run"
