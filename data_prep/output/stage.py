"""Stage of a dataset directory: the temporary folder in which a run writes a dataset until it is complete.

The stage of the dataset directory `<name>` is the folder `.<name>.partial` beside it. When the dataset is complete, the
stage is renamed to `<name>`. If the dataset has an address in an object store, its stage lies in the cache folder of
this machine, and the complete dataset is uploaded.

A stage contains the finished files of the dataset and

    state.json   digest of the dataset's recipe, which is all that determines its content: configuration and raw files
    work/        temporary files of the engine (DuckDB or Spark) that runs the preparation
    staging/     raw CSV files, converted to Parquet

A run that is stopped leaves its stage if it has finished any Parquet file; a run that refuses its raw files leaves
none. The next run keeps the finished files if its recipe has the same digest. Otherwise it removes them, except for
`staging/`. A file is written as `*.unfinished` and gets its own name only when it is complete.

A run locks the file `.<name>.lock`, so that no other run writes the same dataset, and removes the file at its end. Only
a run that was killed leaves the file; it is not locked any more then.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from data_prep.failures import EngineError, disk_full_error, is_disk_full
from data_prep.output.upload import check_address, check_upload, upload
from data_prep.output.writer import (
    UNFINISHED,
    complete_recipe_digest,
    existing_recipe_digest,
    is_damaged,
    publish,
    recover,
    write_atomically,
)
from ple_rec.errors import DataError, Option, PleRecError, UserError
from ple_rec.storage import Location, Remote
from ple_rec.storage.cache import cache_folder
from ple_rec.storage.locks import open_locked

STATE_FILE = "state.json"
WORK_DIR = "work"
STAGING_DIR = "staging"
# Files of the stage that do not belong to the dataset, in the order in which `finish` removes them. The state is the
# last, so a complete dataset without a state is ready for its final place.
_TEMPORARY = (WORK_DIR, STAGING_DIR, STATE_FILE)


class Stage:
    """Temporary folder in which a dataset is written; `open_stage` and `dataset_directory` create it.

    Args:
        out: Final path of the dataset directory, absolute and without symbolic links.

    Attributes:
        out: Final path of the dataset directory.
        folder: Path of the stage.
        has_begun: True after a call of `begin`, which needs the digest of the dataset's recipe.
        is_continued: True if a stopped run has left finished Parquet files of the same dataset.
        is_complete: True if a stopped run has left all files of the same dataset, and none is damaged.
    """

    def __init__(self, out: Path) -> None:
        self.out, self.folder = out, _stage_folder(out)
        self.has_begun = self.is_continued = self.is_complete = False

    @property
    def staging(self) -> Path:
        """Folder for raw CSV files that were converted to Parquet."""
        return self.folder / STAGING_DIR

    @property
    def work(self) -> Path:
        """Folder for temporary files, which are removed at the end of the run."""
        return self.folder / WORK_DIR

    def begin(self, recipe_digest: str) -> None:
        """Prepare the stage for a dataset: keep files of a stopped run that can be used again, and remove all others.

        The finished files are kept if the stopped run had the same recipe. `staging/` is kept in any case. The
        attributes `has_begun`, `is_continued` and `is_complete` are set.

        Args:
            recipe_digest: Digest of the recipe of the dataset.
        """
        try:
            state = json.loads((self.folder / STATE_FILE).read_text(encoding="utf-8"))
            is_same = state == {"fingerprint": recipe_digest}
        except (OSError, ValueError):  # No state: the stage is new, or `finish` has removed it from a complete dataset.
            is_same = complete_recipe_digest(self.folder) == recipe_digest
        for path in self.folder.iterdir():
            if path.name != STAGING_DIR and not (is_same and path.name != WORK_DIR):
                _remove(path)
        self._remove_unfinished()
        self.is_continued = any(path.parent.name != STAGING_DIR for path in self.folder.glob("*/*.parquet"))
        self.is_complete = complete_recipe_digest(self.folder) == recipe_digest and not is_damaged(self.folder)
        self.work.mkdir(exist_ok=True)
        write_atomically(self.folder / STATE_FILE, json.dumps({"fingerprint": recipe_digest}))
        self.has_begun = True

    def clear(self) -> None:
        """Remove everything in the stage, but not the stage itself."""
        for path in self.folder.iterdir():
            _remove(path)

    def discard(self) -> None:
        """Remove the stage."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def tidy(self) -> None:
        """Remove the files that a later run cannot use.

        The stage itself is removed if no finished Parquet file is left, neither of the dataset nor in `staging/`.
        """
        shutil.rmtree(self.work, ignore_errors=True)
        self._remove_unfinished()
        finished = any(path.suffix == ".parquet" for path in self.folder.glob("*/*"))
        if self.folder.is_dir() and not finished:
            self.discard()

    def _remove_unfinished(self) -> None:
        """Remove unfinished files.

        A killed run leaves such files. Spark also leaves them if it runs a slow task twice and drops one attempt.
        """
        for path in self.folder.rglob(f"*{UNFINISHED}"):
            _remove(path)

    def finish(self) -> None:
        """Remove all files that do not belong to the complete dataset directory."""
        self._remove_unfinished()
        for name in _TEMPORARY:
            _remove(self.folder / name)


def dataset_exists(out: Location, recipe_digest: str, *, overwrite: bool, refusal: Callable[[str], UserError]) -> bool:
    """Return True if `out` holds the dataset of this recipe, so that it need not be made again.

    Args:
        out: Path or address of the dataset directory.
        recipe_digest: Digest of the recipe of the dataset that is wanted.
        overwrite: True if another dataset at `out` may be replaced. Then a damaged dataset counts as missing.
        refusal: Function from the recipe digest of the other dataset, empty if it is unknown, to the error that is
            raised if that dataset may not be replaced.

    Raises:
        UserError: `out` holds another dataset that may not be replaced, the unfinished upload of another dataset, or
            files that belong to no dataset.
    """
    existing = existing_recipe_digest(out)
    if existing is None and isinstance(out, Remote) and not overwrite:
        check_upload(out, recipe_digest)
    if existing is not None and existing != recipe_digest and not overwrite:
        raise refusal(existing)
    return existing == recipe_digest and not (overwrite and is_damaged(out))


@contextmanager
def dataset_directory(
    out: Location, *, overwrite: bool, resumes: bool = True, say: Callable[[str], None] = lambda _: None
) -> Iterator[Stage]:
    """Open the stage of a dataset directory, and move or upload the dataset to `out` if the block raises no error.

    If the block does not call `Stage.begin`, nothing is moved or uploaded, and the stage is removed.

    Args:
        out: Path or address of the dataset directory.
        overwrite: True if an existing dataset may be replaced. If not, the block has to call `dataset_exists`, which
            refuses another dataset.
        resumes: True to use the files that a stopped run has left; False to start with an empty stage, and to remove
            the stage after an error.
        say: Callback that gets lines of text about the progress of an upload.

    Raises:
        UserError: Another run is writing the dataset, the place is not writable, the disk is full, `out` holds files
            that belong to no dataset, or the object store fails. Errors of `check_place` are raised, too.
    """
    if existing_recipe_digest(out) is None or overwrite:
        check_place(out)
    with open_stage(stage_place(out)) as stage:
        # Another run may have written a dataset before this run got the lock, so `out` is checked again.
        replace = existing_recipe_digest(out) is not None
        try:
            if not resumes:
                stage.clear()
            yield stage
            if stage.has_begun:
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
            raise _nothing_left_error(out, error) from error
        finally:
            if not resumes:
                stage.discard()


def has_stage(out: Location) -> bool:
    """Return True if a stage of the dataset exists, such as a stopped run leaves for the next run."""
    return _stage_folder(_resolve_links(stage_place(out))).is_dir()


def stage_place(out: Location) -> Path:
    """Return the local path beside which the stage lies: `out` itself, or a path in the cache folder for an address."""
    if isinstance(out, Path):
        return out
    return cache_folder() / "prep" / f"{out.name}-{hashlib.sha256(str(out).encode()).hexdigest()[:12]}"


def check_place(out: Location) -> None:
    """Raise an error if no dataset directory can be moved or uploaded to `out`.

    Raises:
        UserError: `out` is a mount point, or the working directory is `out` or lies in it. An address holds files that
            belong to no dataset, or its store cannot be written to.
    """
    if isinstance(out, Remote):
        check_address(out)
        return
    place = _resolve_links(out)
    if place.is_mount():
        value = "is a mount point"
    elif Path.cwd().is_relative_to(place):
        value = "is the working directory, or holds it"
    else:
        return
    rule = "a dataset is written beside this folder and then takes its place"
    raise UserError(str(out), value, rule, "name a folder inside it")


def _resolve_links(out: Path) -> Path:
    """Return the path with its symbolic links resolved, since a folder cannot be renamed onto a link."""
    return Path(os.path.realpath(out))


def _stage_folder(out: Path) -> Path:
    """Return the path of the stage of a dataset directory."""
    return out.parent / f".{out.name}.partial"


@contextmanager
def open_stage(out: Path) -> Iterator[Stage]:
    """Open the stage of the dataset directory `out`, and hold its lock until the block ends.

    After the block, files that a later run cannot use are removed. If the raw data broke a rule, the whole stage is
    removed: the error is then a DataError, but not an EngineError, which comes from a query that failed.

    Raises:
        UserError: Another run is writing the dataset, the place is not writable, or the disk is full.
    """
    out = _resolve_links(out)
    with _locked(out):
        try:
            recover(out)
            stage = Stage(out)
            stage.folder.mkdir(exist_ok=True)
            try:
                yield stage
            except DataError as error:
                if not isinstance(error, EngineError):
                    stage.discard()  # The next run would refuse the same raw files too, so it has no use for the stage.
                raise
            finally:
                stage.tidy()
        except OSError as error:
            raise _unwritable_error(out, error) from error


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    """Hold the lock of a dataset directory during the block; the lock file is removed after the block."""
    path = out.parent / f".{out.name}.lock"
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        lock = open_locked(path)
    except OSError as error:
        raise _unwritable_error(out, error) from error
    if lock is None:
        raise UserError(
            str(out),
            "another run is preparing this dataset",
            "one run writes a dataset directory at a time",
            f"wait for it, or name another {Option.OUT}",
        )
    with lock:
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _remove(path: Path) -> None:
    """Remove a file, a link or a folder with its content; do nothing if a file is missing."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _nothing_left_error(out: Location, error: OSError) -> UserError:
    """Return the error about a dataset that could not be written and whose stage is removed."""
    return UserError(
        str(out.absolute()),
        f"could not be written ({error.strerror or error})",
        "a dataset needs a writable place with enough room",
        f"free some space or name another {Option.OUT}; nothing was left behind",
    )


def _unwritable_error(out: Path, error: OSError) -> PleRecError:
    """Return the error about a stage or a lock file that cannot be written."""
    if is_disk_full(error):
        return disk_full_error(str(error))
    place, fix = str(out), f"name another {Option.OUT}, or make the place writable"
    if error.filename is not None and Path(error.filename).parent == out.parent and os.path.lexists(error.filename):
        # The lock file belongs to another user, or a file has the name of the stage.
        place, fix = error.filename, f"remove it, or name another {Option.OUT}"
    value, rule = (
        f"could not be written ({error.strerror or error})",
        "a dataset needs a writable place with enough room",
    )
    return UserError(place, value, rule, fix)
