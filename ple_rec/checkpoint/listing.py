"""Names and directories of the checkpoints of a run: find, list and remove them, without importing torch."""

from __future__ import annotations

import re
from collections.abc import Callable

from ple_rec.checkpoint.manifest import MANIFEST
from ple_rec.errors import DataError, UserError
from ple_rec.storage import Location, explain_errors, names_in, remove_tree, unlink_checked

_STEP = re.compile("step-(0|[1-9][0-9]*)")


def is_checkpoint_name(name: str) -> bool:
    """Return True if a name has the form of a checkpoint's directory, `step-<n>`."""
    return _STEP.fullmatch(name) is not None


def finished_steps(directory: Location) -> list[int]:
    """Return the steps of the finished checkpoints in a directory, that is, of those with a manifest, ascending.

    Raises:
        UserError: The directory cannot be read.
    """
    with explain_errors(directory):
        return sorted(
            int(name.removeprefix("step-"))
            for name in names_in(directory)
            if is_checkpoint_name(name) and (directory / name / MANIFEST).is_file()
        )


def remove_checkpoint(path: Location, check_may_write: Callable[[], None]) -> None:
    """Remove a checkpoint, finished or not. The manifest goes first, so that a half-removed checkpoint does not count.

    Args:
        path: Directory of the checkpoint.
        check_may_write: Function that is called before the manifest and before the other files are removed; it raises
            if this process may no longer write.

    Raises:
        OSError, StoreError: The checkpoint cannot be removed. An error of `check_may_write` is raised unchanged.
    """
    unlink_checked(path / MANIFEST, check_may_write)
    check_may_write()
    remove_tree(path)


def pointer_target(directory: Location, name: str) -> str | None:
    """Return the checkpoint name in the file `latest` or `best`, finished or not; None if the file does not exist.

    Raises:
        DataError: The file does not contain the name of a checkpoint.
        UserError: The file cannot be read.
    """
    file = directory / name
    with explain_errors(file):
        if not file.is_file():
            return None
        target = file.read_bytes().decode(errors="replace").strip()
    if not is_checkpoint_name(target):
        finished = ", ".join(f"step-{step}" for step in finished_steps(directory))
        raise DataError(
            str(file),
            f"holds {target[:40]!r}",
            "it must hold the name of a checkpoint in the same directory",
            f"write one of these into it: {finished}" if finished else "remove it",
        )
    return target


def find_checkpoint(directory: Location, name: str) -> Location | None:
    """Return the directory of the finished checkpoint that `latest`, `best` or `step-<n>` names; None if there is none.

    Raises:
        DataError: `latest` or `best` does not contain the name of a checkpoint.
        UserError: The directory cannot be read.
    """
    target = name if is_checkpoint_name(name) else pointer_target(directory, name)
    if target is None:
        return None
    path = directory / target
    with explain_errors(directory):
        return path if (path / MANIFEST).is_file() else None


def require_checkpoint(directory: Location, name: str) -> Location:
    """Return the directory of the finished checkpoint that `latest`, `best` or `step-<n>` names.

    Raises:
        DataError: `latest` or `best` does not contain the name of a checkpoint.
        UserError: There is no checkpoint of this name, or the directory cannot be read.
    """
    path = find_checkpoint(directory, name)
    if path is None:
        known = [pointer for pointer in ("best", "latest") if find_checkpoint(directory, pointer)]
        known += [f"step-{step}" for step in finished_steps(directory)]
        raise UserError(
            str(directory),
            f"no checkpoint {name!r}",
            f"there are {', '.join(known) or 'none'}",
            "name one of them, or train the run first",
        )
    return path
