"""Where a run keeps its checkpoints: in its directory, or where `checkpoint.path` says, which then is its alone."""

from __future__ import annotations

import json
import time
from pathlib import Path

from ple_rec.checkpoint.listing import finished_steps, is_step
from ple_rec.checkpoint.place import (
    Place,
    create_text,
    is_there,
    make_directory,
    names_in,
    reading,
    remove_tree,
    write_text,
)
from ple_rec.config.run import RunConfig
from ple_rec.errors import UserError
from ple_rec.training.run_dir import CONFIG, INIT, PLAN, has_saved, place_of
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


def checkpoint_place(config: RunConfig, run_dir: Path) -> Place:
    """Of a run that is configured so; `{run}` stands for the name of its directory.

    Raises:
        UserError: an address that cannot be spoken.
    """
    return place_of(config.checkpoint.path, run_dir)


def directories_of(config: RunConfig, run_dir: Path) -> list[Path]:
    """Where all ranks of a run write on disks that their hosts share."""
    where = checkpoint_place(config, run_dir)
    return [run_dir] + ([where] if config.checkpoint.path is not None and isinstance(where, Path) else [])


def check_owned(config: RunConfig, run_dir: Path, *, resume: bool, overwrite: bool) -> None:
    """Refuse a directory of checkpoints outside of the run's own that is not this run's, or that it has filled before.

    Raises:
        UserError: so it is, or it cannot be read.
    """
    if config.checkpoint.path is None:
        return
    where = checkpoint_place(config, run_dir)
    owner = _owner(where)
    if owner is None and not resume and (content := _content(where)):
        raise UserError(
            str(where),
            f"holds {', '.join(content[:3])}, and no {OWNER} that says of which run",
            "a run's checkpoints lie apart from all else",
            f"give a checkpoint.path that is empty, as {where}/{{run}}",
        )
    if owner is not None:
        _refuse_others(where, owner, run_dir)
    if not resume and not overwrite and finished_steps(where):
        raise UserError(
            str(where),
            "already holds checkpoints of this run directory",
            "they are never overwritten unasked",
            "go on with --resume or --auto-resume, by which a run directory that is gone comes back; replace them with "
            "--overwrite, or give another checkpoint.path",
        )


def is_lost(config: RunConfig, run_dir: Path) -> bool:
    """Whether the run has checkpoints, by which it can go on, but its directory, or its configuration there, is gone.

    Raises:
        UserError: their store cannot be read.
    """
    if (run_dir / CONFIG).exists():
        return False
    where = checkpoint_place(config, run_dir)
    own = config.checkpoint.path is None or _owner(where) == _identity(run_dir)
    return own and bool(finished_steps(where))


def check_kept(config: RunConfig, run_dir: Path) -> None:
    """Refuse to go on with a run that has saved checkpoints, and whose checkpoints are away.

    Raises:
        UserError: so it is, or their store cannot be read.
    """
    where = checkpoint_place(config, run_dir)
    if has_saved(run_dir) and not finished_steps(where):
        raise UserError(
            str(where),
            "holds no checkpoint",
            f"the run of {run_dir} has saved some there, and goes on from them",
            "mount or copy them where they were; --overwrite begins the run anew",
        )


def restore_head(config: RunConfig, run_dir: Path) -> None:
    """Write start, configuration and plan of a run that `is_lost`, as its newest checkpoint has them.

    Raises:
        UserError: they cannot be read or written.
    """
    where = checkpoint_place(config, run_dir)
    newest = where / f"step-{finished_steps(where)[-1]}"
    with reading(newest):
        names = [INIT] * is_there(newest / INIT) + [PLAN, CONFIG]  # the last one makes it a run directory again
        texts = {name: (newest / name).read_text() for name in names}
    for name, text in texts.items():
        write_file(run_dir / name, text)


def claim_checkpoints(config: RunConfig, run_dir: Path, *, overwrite: bool) -> None:
    """Make the directory that `checkpoint.path` names this run's; with `overwrite`, without what was there.

    Raises:
        UserError: another run has made it its own meanwhile, or it cannot be read or written.
    """
    if config.checkpoint.path is None:
        return
    where, owned = checkpoint_place(config, run_dir), json.dumps({"run": _identity(run_dir)})
    with reading(where, "written"):
        make_directory(where)
        try:
            create_text(where / OWNER, owned)
        except OSError:
            if (owner := _owner(where)) is not None:
                _refuse_others(where, owner, run_dir)
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


def _identity(run_dir: Path) -> str:
    return str(run_dir.resolve())


def _content(where: Place) -> list[str]:
    with reading(where):
        return names_in(where)


def _refuse_others(where: Place, owner: str, run_dir: Path) -> None:
    """Refuse a place of checkpoints whose owner is another run."""
    if owner != _identity(run_dir):
        raise UserError(
            str(where),
            f"holds the checkpoints of {owner}",
            "a run's checkpoints lie apart from those of others",
            f"give another checkpoint.path, or remove {where}/{OWNER} if that run is no more",
        )


def _owner(where: Place) -> str | None:
    with reading(where):
        file = where / OWNER
        if not is_there(file):
            return None
        text = file.read_text()
    try:
        return str(json.loads(text)["run"])
    except (ValueError, LookupError, TypeError):
        return "a run that cannot be told"
