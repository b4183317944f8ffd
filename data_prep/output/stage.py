"""Where a dataset directory grows: a folder beside its place, renamed into it when it is complete.

A dataset at an address grows in the cache folder of this machine, and is uploaded when it is complete.

`.<name>.partial/` holds `state.json` (the fingerprint of what is being made), `work/` (what the engine spills),
`staging/` (CSV files as Parquet) and the dataset's own files. Whatever stops a run leaves that folder; the next run for
the same fingerprint keeps the files that are finished, any other run starts again. Files appear under their names only
when they are complete. `.<name>.lock` is locked while a run works, and outlives only a run that was killed.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from data_prep.engines.failures import EngineError, disk_full, is_full
from data_prep.output.upload import check_address, check_upload, upload
from data_prep.output.writer import (
    UNFINISHED,
    complete_recipe,
    is_damaged,
    prepared_recipe,
    publish,
    recover,
    write_whole,
)
from ple_rec.errors import DataError, Option, PleRecError, UserError
from ple_rec.storage import Location, Remote
from ple_rec.storage.cache import cache_folder
from ple_rec.storage.locks import open_locked

STATE_FILE = "state.json"
WORK_DIR = "work"
STAGING_DIR = "staging"
_OWN = (WORK_DIR, STAGING_DIR, STATE_FILE)  # the state last: what is complete without one was about to be published


class Stage:
    """A dataset directory under way; see `open_stage` and `dataset_directory`.

    Attributes:
        out: Place of the dataset directory, absolute and without links.
        folder: Folder where it grows.
        begun: True once it is known which dataset grows there.
        continued: True if a stopped run has left finished files.
        complete: True if it has left all files, and none is damaged.
    """

    def __init__(self, out: Path) -> None:
        self.out, self.folder = out, _folder_of(out)
        self.begun = self.continued = self.complete = False

    @property
    def staging(self) -> Path:
        """For raw files in another format."""
        return self.folder / STAGING_DIR

    @property
    def work(self) -> Path:
        """For files that are no part of the dataset."""
        return self.folder / WORK_DIR

    def begin(self, fingerprint: str) -> None:
        """Keep what a stopped run for the same fingerprint has finished, and nothing else.

        `continued` says whether that is anything, `complete` whether it is all.
        """
        try:
            state = json.loads((self.folder / STATE_FILE).read_text(encoding="utf-8"))
            same = state == {"fingerprint": fingerprint}
        except (OSError, ValueError):
            same = complete_recipe(self.folder) == fingerprint
        for path in self.folder.iterdir():
            if path.name != STAGING_DIR and not (same and path.name != WORK_DIR):
                _remove(path)
        self._remove_unfinished()
        self.continued = any(path.parent.name != STAGING_DIR for path in self.folder.glob("*/*.parquet"))
        self.complete = complete_recipe(self.folder) == fingerprint and not is_damaged(self.folder)
        self.work.mkdir(exist_ok=True)
        write_whole(self.folder / STATE_FILE, json.dumps({"fingerprint": fingerprint}))
        self.begun = True

    def clear(self) -> None:
        """Remove all that a stopped run left."""
        for path in self.folder.iterdir():
            _remove(path)

    def discard(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def tidy(self) -> None:
        """Remove what a later run cannot use: all of it, where no file of the dataset is finished."""
        shutil.rmtree(self.work, ignore_errors=True)
        self._remove_unfinished()
        finished = any(path.suffix == ".parquet" for path in self.folder.glob("*/*"))
        if self.folder.is_dir() and not finished:
            self.discard()

    def _remove_unfinished(self) -> None:
        """Remove files of attempts that were killed; Spark makes a part twice where a task is slow or lost."""
        for path in self.folder.rglob(f"*{UNFINISHED}"):
            _remove(path)

    def finish(self) -> None:
        """Remove what is no part of the complete dataset directory."""
        self._remove_unfinished()
        for name in _OWN:
            _remove(self.folder / name)


def is_there(out: Location, fingerprint: str, *, overwrite: bool, refusal: Callable[[str], UserError]) -> bool:
    """Return whether a dataset directory need not be made, for it is there.

    Args:
        out: Path or address of the directory.
        fingerprint: Fingerprint of its recipe.
        overwrite: Flag that another dataset gives way, and that a damaged one is made again.
        refusal: Function that makes the error of another dataset from its fingerprint, empty for an unknown one.

    Raises:
        UserError: Another dataset, or an upload of one, is there that does not give way, or something else.
    """
    there = prepared_recipe(out)
    if there is None and isinstance(out, Remote) and not overwrite:
        check_upload(out, fingerprint)
    if there is not None and there != fingerprint and not overwrite:
        raise refusal(there)
    return there == fingerprint and not (overwrite and is_damaged(out))


@contextmanager
def dataset_directory(
    out: Location, *, overwrite: bool, resumes: bool = True, say: Callable[[str], None] = lambda _: None
) -> Iterator[Stage]:
    """Open the folder where a dataset directory grows; what has begun there takes its place when the block ends well.

    Args:
        out: Path or address of the directory.
        overwrite: Flag that a dataset which is there gives way.
        resumes: Flag that a run goes on from what a stopped one has finished; else nothing is left behind.
        say: Function that gets a line of text about an upload.

    Raises:
        UserError: Another run is writing it, the place may not be written, the disk is full, `out` holds more than
            a dataset, or the store of an address fails.
    """
    if prepared_recipe(out) is None or overwrite:
        check_place(out)
    with open_stage(growing_place(out)) as stage:
        replace = prepared_recipe(out) is not None  # looked at again: no other run writes there now
        try:
            if not resumes:
                stage.clear()
            yield stage
            if stage.begun:
                stage.finish()
                if isinstance(out, Path):
                    publish(stage.folder, stage.out, replace=replace)
                else:
                    upload(stage.folder, out, overwrite=overwrite, say=say)
                    stage.discard()
            else:
                stage.discard()
        except OSError as error:
            if resumes:
                raise
            raise _left_nothing(out, error) from error
        finally:
            if not resumes:
                stage.discard()


def keeps(out: Location) -> bool:
    """Return whether a run that was stopped has left something that the next one goes on from."""
    return _folder_of(_place_of(growing_place(out))).is_dir()


def growing_place(out: Location) -> Path:
    """Return the path beside which a dataset directory grows: its own, or for an address one in the cache folder."""
    if isinstance(out, Path):
        return out
    return cache_folder() / "prep" / f"{out.name}-{hashlib.sha256(str(out).encode()).hexdigest()[:12]}"


def check_place(out: Location) -> None:
    """Refuse a place that no dataset directory can be moved or uploaded to.

    Raises:
        UserError: It is a mount point, the working directory lies in it, or the store does not let us write there.
    """
    if isinstance(out, Remote):
        check_address(out)
        return
    place = _place_of(out)
    if place.is_mount():
        value = "is a mount point"
    elif Path.cwd().is_relative_to(place):
        value = "is the working directory, or holds it"
    else:
        return
    rule = "a dataset is made beside the folder, and then takes its place"
    raise UserError(str(out), value, rule, "name a folder inside it")


def _place_of(out: Path) -> Path:
    """Return the place that a path leads to: a folder cannot take that of a link."""
    return Path(os.path.realpath(out))


def _folder_of(out: Path) -> Path:
    return out.parent / f".{out.name}.partial"


@contextmanager
def open_stage(out: Path) -> Iterator[Stage]:
    """The folder where the dataset directory `out` grows, for one process at a time.

    Raises:
        UserError: Another run is writing it, the place may not be written, or the disk is full.
    """
    out = _place_of(out)
    with _locked(out):
        try:
            recover(out)
            stage = Stage(out)
            stage.folder.mkdir(exist_ok=True)
            try:
                yield stage
            except DataError as error:
                if not isinstance(error, EngineError):
                    stage.discard()  # the same files would be refused again
                raise
            finally:
                stage.tidy()
        except OSError as error:
            raise _unwritable(out, error) from error


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    """A lock on the place of a dataset directory, whose file is there only while it is held."""
    path = out.parent / f".{out.name}.lock"
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        lock = open_locked(path)
    except OSError as error:
        raise _unwritable(out, error) from error
    if lock is None:
        raise UserError(
            str(out),
            "another run is preparing it",
            "one run writes a dataset directory at a time",
            f"wait for it, or name another {Option.OUT}",
        )
    with lock:
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _left_nothing(out: Location, error: OSError) -> UserError:
    return UserError(
        str(out.absolute()),
        f"could not be written ({error.strerror or error})",
        "it needs a writable place with enough room",
        f"free some space or name another {Option.OUT}; nothing was left behind",
    )


def _unwritable(out: Path, error: OSError) -> PleRecError:
    if is_full(error):
        return disk_full(str(error))
    place, fix = str(out), f"name another {Option.OUT}, or make the place writable"
    if error.filename is not None and Path(error.filename).parent == out.parent and os.path.lexists(error.filename):
        # It is another user's lock, or a file in the way.
        place, fix = error.filename, f"remove it, or name another {Option.OUT}"
    value, rule = f"could not be written ({error.strerror or error})", "it needs a writable place with enough room"
    return UserError(place, value, rule, fix)
