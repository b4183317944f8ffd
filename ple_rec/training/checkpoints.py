"""Where a run keeps its checkpoints: in its directory, or where `checkpoint.path` says, which then is its alone."""

from __future__ import annotations

import json
import time
from pathlib import Path

from ple_rec.checkpoint.listing import is_step
from ple_rec.config.run import RunConfig
from ple_rec.errors import UserError
from ple_rec.storage import (
    Location,
    create_text,
    explain_errors,
    make_directory,
    names_in,
    remove_tree,
    write_text,
)
from ple_rec.training.mirror import address_of, mirror_of
from ple_rec.training.run_dir import CONFIG, INIT, PLAN, place_of
from ple_rec.training.run_dir import write_text as write_file

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


def checkpoint_place(config: RunConfig, run_dir: Path) -> Location:
    """Return the place of the checkpoints of a run; `{run}` stands for the name of its directory.

    Raises:
        UserError: an address that cannot be spoken.
    """
    return place_of(config.checkpoint.path, run_dir)


def directories_of(config: RunConfig, run_dir: Path) -> list[Path]:
    """Return the directories that all ranks of a run write to on disks that their hosts share."""
    where = checkpoint_place(config, run_dir)
    own = [run_dir] if mirror_of(run_dir) is None else []
    return own + ([where] if config.checkpoint.path is not None and isinstance(where, Path) else [])


def restore_head(checkpoint: Location, run_dir: Path) -> None:
    """Write start, configuration and plan of a run whose directory is gone, as a checkpoint has them.

    Args:
        checkpoint: Directory of the checkpoint.
        run_dir: Directory of the run.

    Raises:
        UserError: a file cannot be read or written.
    """
    with explain_errors(checkpoint):
        names = [INIT] * (checkpoint / INIT).is_file() + [PLAN, CONFIG]  # the last one makes it a run directory again
        texts = {name: (checkpoint / name).read_text() for name in names}
    for name, text in texts.items():
        write_file(run_dir / name, text)


def claim_checkpoints(config: RunConfig, run_dir: Path, *, overwrite: bool) -> None:
    """Make the directory that `checkpoint.path` names this run's; with `overwrite`, without what was there.

    Raises:
        UserError: another run has made it its own meanwhile, or it cannot be read or written.
    """
    if config.checkpoint.path is None:
        return
    where, owned = checkpoint_place(config, run_dir), json.dumps({"run": identity(run_dir)})
    with explain_errors(where, "written"):
        make_directory(where)
        try:
            create_text(where / OWNER, owned)
        except OSError:
            if (owner := owner_of(where)) is not None:
                refuse_others(where, owner, run_dir)
            elif isinstance(where, Path):
                raise
            else:  # a store that refuses conditional writes; one that cannot be written says so here
                write_text(where / OWNER, owned)
        if overwrite:
            for name in ("latest", "best"):
                (where / name).unlink(missing_ok=True)
            for name in names_in(where):
                if is_step(name):
                    remove_tree(where / name)


def identity(run_dir: Path) -> str:
    """Return the name of a run in the file of an owner: its directory."""
    return address_of(run_dir) if mirror_of(run_dir) else str(run_dir.resolve())


def refuse_others(where: Location, owner: str, run_dir: Path) -> None:
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
