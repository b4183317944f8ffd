"""Checkpoints of a training run, on disk or in an object store: `CheckpointStore` saves, finds and prunes them.

checkpoints/step-<n>/                 files of a checkpoint, from torch.distributed.checkpoint
checkpoints/step-<n>/manifest.json    sizes and checksums, written last: without it, the checkpoint does not count
checkpoints/{latest,best}             name of a checkpoint, as text
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import torch.distributed as dist
import torch.distributed.checkpoint as dcp

from ple_rec.checkpoint.background import BackgroundRunner, Stager
from ple_rec.checkpoint.files import ChecksumWriter
from ple_rec.checkpoint.listing import (
    find_checkpoint,
    finished_steps,
    is_checkpoint_name,
    remove_checkpoint,
    require_checkpoint,
)
from ple_rec.checkpoint.load import find_damage
from ple_rec.checkpoint.manifest import MANIFEST, FileInfo, Manifest
from ple_rec.distributed.collectives import broadcast, run_on_rank_zero
from ple_rec.errors import DataError, Option, UserError
from ple_rec.storage import (
    Location,
    StoreError,
    free_bytes,
    make_directory,
    names_in,
    short_message,
    sizes_in,
    write_checked,
)

logger = logging.getLogger(__name__)


class CheckpointStore:
    """Checkpoints of one run. Every rank has a store, and all ranks call its collectives together.

    Args:
        directory: Directory of all checkpoints.
        keep: Number of newest checkpoints to keep, besides the best one.
        keep_every: Checkpoints whose step is a multiple of this number are kept, too. None to keep no further ones.
        asynchronous: True to copy the state and write the copy while training continues. The copy of this rank's part
            of the state takes host memory.
        on_write: Function that is called after each written block, so that a watchdog can see progress.
        check_may_write: Function that is called on rank 0 before each change, and raises if this process may no longer
            write, since it has lost the lock of the run directory.
        before_commit: Function that is called on rank 0 when all files are written, before the manifest; it may raise
            an error to stop the save.
        after_commit: Function that is called on rank 0 when `latest` names the checkpoint.
        timeout_seconds: Time in seconds for which an asynchronous save waits for another rank.
    """

    def __init__(
        self,
        directory: Location,
        keep: int = 2,
        *,
        keep_every: int | None = None,
        asynchronous: bool = False,
        on_write: Callable[[], None] = lambda: None,
        check_may_write: Callable[[], None] = lambda: None,
        before_commit: Callable[[], None] = lambda: None,
        after_commit: Callable[[], None] = lambda: None,
        timeout_seconds: float = 1800.0,
    ) -> None:
        self.directory, self.keep, self.keep_every = directory, keep, keep_every
        self.save_count = 0
        # Step of the last checkpoint that this process saved or resumed from.
        self.saved_step: int | None = None
        # Duration of the last save, measured on rank 0 (None before the first one), and of all saves.
        self.last_save_seconds: float | None = None
        self.total_save_seconds = 0.0
        # Time for which training on this rank waited for saves.
        self.blocked_seconds = 0.0
        self._on_write, self._check_may_write, self._before_commit, self._after_commit = (
            on_write,
            check_may_write,
            before_commit,
            after_commit,
        )
        self._stager = Stager()
        self._background = BackgroundRunner(timeout_seconds) if asynchronous else None

    def save(
        self,
        step: int,
        state: dict[str, Any],
        *,
        best: bool,
        written_by: Mapping[str, Any],
        file_texts: Mapping[str, str] | None = None,
    ) -> None:
        """Write `state` as the checkpoint of `step`, and make it `latest`. This is a collective.

        A save that is still running is waited for first. An asynchronous store returns when the state is copied. If the
        write fails later, the next `save` or `wait` raises the error, or `close` prints it.

        Args:
            step: Global step of the checkpoint.
            state: Tensors, shards of tables and plain values, nested.
            best: True to make it `best`, too.
            written_by: Properties of the run for the manifest, which readers check before they load.
            file_texts: Contents of further files of the checkpoint, by name; a line feed is added at the end of each.

        Raises:
            UserError: The checkpoint cannot be written, for example because the disk is full. `latest` then names the
                previous checkpoint, unless `after_commit` failed. If the error occurred on rank 0 alone, the other
                ranks raise PeerError.
        """
        self.wait()
        started_at = time.monotonic()
        if self._background is None:
            self._write(step, state, best, written_by, file_texts or {}, started_at, None)
        else:
            staged, group = self._stager.stage(state), self._background.group
            self._background.start(
                lambda: self._write(step, staged, best, written_by, file_texts or {}, started_at, group)
            )
        self.blocked_seconds += time.monotonic() - started_at

    def mark_best(self, step: int) -> None:
        """Make the finished checkpoint of `step` the best one. This is a collective.

        Raises:
            UserError: The file `best` cannot be written; the other ranks raise PeerError.
        """

        def write() -> None:
            with _explain_write_errors(self.directory / f"step-{step}"):
                self._write_text(self.directory / "best", f"step-{step}")

        run_on_rank_zero(write)

    def replace_damaged_best(self, step: int) -> bool:
        """Make the checkpoint of `step` the best one if `best` names a damaged one, or none. This is a collective.

        The replacement is logged.

        Args:
            step: Step of a finished checkpoint without damage.

        Returns:
            True if the best checkpoint was replaced.

        Raises:
            UserError: The directory cannot be read or written.
        """

        def read() -> str | None:
            with suppress(DataError):
                return None if (best := self.find("best")) is None else best.name
            return None

        name = broadcast(run_on_rank_zero(read))
        if name is None:
            damage = "the best checkpoint is missing"
        elif name != f"step-{step}" and (error := find_damage(self.directory / name)) is not None:
            damage = f"the best checkpoint, {name}, is damaged: {error.place}: {error.value}; {error.rule}"
        else:
            return False
        if dist.get_rank() == 0:
            logger.info(f"{damage}; step-{step} counts as the best until the next evaluation")
        self.mark_best(step)
        return True

    @property
    def asynchronous(self) -> bool:
        """True if saves are written while training continues."""
        return self._background is not None

    @property
    def pending(self) -> bool:
        """True if a save may still be running. All ranks have the same value."""
        return self._background is not None and self._background.pending

    @property
    def writing(self) -> bool:
        """True if this rank's thread is still writing. Ranks may differ."""
        return self._background is not None and self._background.alive

    def wait(self) -> None:
        """Wait until the last save is finished. This is a collective.

        Raises:
            UserError, PeerError: The save failed, as described for `save`.
        """
        started_at = time.monotonic()
        try:
            if self._background is not None:
                self._background.wait()
        finally:
            self.blocked_seconds += time.monotonic() - started_at

    def close(self) -> None:
        """Wait for the last save at the end of the process. Its error is printed and not raised.

        The process may be ending because of an earlier error, which a further one must not hide.
        """
        if self._background is not None:
            self._background.close()

    def find(self, name: str) -> Location | None:
        """Return the directory of the finished checkpoint that `latest`, `best` or `step-<n>` names; None without it.

        Raises:
            DataError: `latest` or `best` does not contain the name of a checkpoint.
            UserError: The directory cannot be read.
        """
        return find_checkpoint(self.directory, name)

    def require(self, name: str) -> Location:
        """Return the directory of the finished checkpoint that `latest`, `best` or `step-<n>` names.

        Raises:
            DataError: `latest` or `best` does not contain the name of a checkpoint.
            UserError: There is no such checkpoint, or the directory cannot be read.
        """
        return require_checkpoint(self.directory, name)

    def latest(self) -> Location | None:
        """Return the directory of the finished checkpoint that `latest` names, or None. This is a collective.

        Rank 0 reads the name, so that all ranks return the same checkpoint.

        Raises:
            DataError: `latest` does not contain the name of a checkpoint.
            UserError: The directory cannot be read.
            PeerError: Rank 0 has raised one of these errors; this is another rank.
        """

        def name() -> str | None:
            latest = self.find("latest")
            return None if latest is None else latest.name

        name_on_rank_zero = broadcast(run_on_rank_zero(name))
        return None if name_on_rank_zero is None else self.directory / name_on_rank_zero

    def newest_undamaged(self) -> Location | None:
        """Return the newest checkpoint without damage, but none after `latest`. This is a collective.

        Damaged checkpoints are logged.

        Returns:
            Directory of the checkpoint, or None if there are no checkpoints.

        Raises:
            DataError: There are checkpoints, and all are damaged; or `latest` does not contain a checkpoint's name.
        """
        damage: DataError | None = None
        for step in broadcast(run_on_rank_zero(self._candidate_steps)) or ():
            path = self.directory / f"step-{step}"
            damage = find_damage(path)
            if damage is None:
                return path
            if dist.get_rank() == 0:
                logger.info(f"{path.name} is damaged and skipped: {damage.place}: {damage.value}; {damage.rule}")
        if damage is not None:
            value = f"{damage.place}: {damage.value}; {damage.rule}"
            raise DataError(str(self.directory), value, "every checkpoint of the run is damaged", "train the run again")
        return None

    def _candidate_steps(self) -> list[int]:
        """Return the steps of the finished checkpoints up to `latest`, the newest first; all steps without a `latest`.

        A later checkpoint is of an attempt that ended before it changed `latest`.
        """
        latest = self.find("latest")
        latest_step = int(latest.name.split("-")[1]) if latest is not None else None
        return [step for step in reversed(self.steps()) if latest_step is None or step <= latest_step]

    def steps(self) -> list[int]:
        """Return the steps of the finished checkpoints, ascending."""
        return finished_steps(self.directory)

    def _write(
        self,
        step: int,
        state: dict[str, Any],
        best: bool,
        written_by: Mapping[str, Any],
        file_texts: Mapping[str, str],
        started_at: float,
        group: dist.ProcessGroup | None,
    ) -> None:
        path = self.directory / f"step-{step}"
        run_on_rank_zero(lambda: self._prepare_directory(path), group)
        writer = ChecksumWriter(path, self._on_write)
        try:
            dcp.save(state, storage_writer=writer, process_group=group)
        except dcp.api.CheckpointException as error:
            # The exception is raised on every rank, so all of them may take part in collectives.
            cause = next(iter(error.failures.values()))[0]
            if isinstance(cause, KeyboardInterrupt):
                # The next save removes the incomplete files.
                raise cause from None
            run_on_rank_zero(lambda: self._remove_failed_save(path), group)
            # "write" is the phase of the save that failed. If a write is cut short, torch raises a RuntimeError.
            if error.args[0] != "write" or not isinstance(cause, OSError | RuntimeError | StoreError):
                raise
            raise _write_error(path, cause) from error
        files_of_ranks: list[Any] | None = [None] * dist.get_world_size() if dist.get_rank() == 0 else None
        dist.gather_object(writer.written_files, files_of_ranks, dst=0, group=group)
        files = dict(sorted((name, file) for of_rank in files_of_ranks or () for name, file in of_rank.items()))
        run_on_rank_zero(lambda: self._commit(path, Manifest(step, written_by, files), file_texts, best), group)
        self.last_save_seconds = broadcast(time.monotonic() - started_at, group)
        self.save_count, self.total_save_seconds = self.save_count + 1, self.total_save_seconds + self.last_save_seconds
        self.saved_step = step

    def _prepare_directory(self, path: Location) -> None:
        with _explain_write_errors(path):
            self._check_may_write()
            make_directory(self.directory)
            if path.name in names_in(self.directory):
                # Files of an earlier save of this step could mix with the new ones.
                remove_checkpoint(path, self._check_may_write)

    def _remove_failed_save(self, path: Location) -> None:
        """Remove the files of a failed save, if that is possible. The next save removes the rest."""
        # The user must see the error of the save, not that of the removal.
        with suppress(OSError, UserError):
            remove_checkpoint(path, self._check_may_write)

    def _commit(self, path: Location, manifest: Manifest, file_texts: Mapping[str, str], best: bool) -> None:
        with _explain_write_errors(path):
            text_files = {}
            for name, text in file_texts.items():
                self._write_text(path / name, text)
                text_files[name] = FileInfo.from_text(text + "\n")
            full_manifest = Manifest(manifest.step, manifest.written_by, {**manifest.files, **text_files})
            _check_files_visible(path, full_manifest)
            self._before_commit()
            self._write_text(path / MANIFEST, full_manifest.to_json())
            if best:
                # `best` is written before `latest`: a run that dies in between resumes from the previous `latest`, and
                # reaches this checkpoint again with the same result.
                self._write_text(self.directory / "best", path.name)
            self._write_text(self.directory / "latest", path.name)
            self._after_commit()
        try:
            self._prune(manifest.step)
        except (OSError, StoreError) as error:
            # The new checkpoint is valid, so this is no reason to stop the run.
            sys.stderr.write(f"ple-rec: earlier checkpoints in {self.directory} could not be removed: {error}\n")

    def _write_text(self, file: Location, text: str) -> None:
        write_checked(file, f"{text}\n".encode(), self._check_may_write)

    def _prune(self, step: int) -> None:
        """Remove checkpoints up to `step` that are not to be kept, and later or unfinished ones of failed attempts."""
        finished = [n for n in self.steps() if n <= step]
        steps_to_keep = finished[-self.keep :] + [n for n in finished if self.keep_every and n % self.keep_every == 0]
        best = self.find("best")
        names_to_keep = {f"step-{n}" for n in steps_to_keep} | (set() if best is None else {best.name})
        for name in names_in(self.directory):
            if is_checkpoint_name(name) and name not in names_to_keep:
                remove_checkpoint(self.directory / name, self._check_may_write)


def _check_files_visible(path: Location, manifest: Manifest) -> None:
    """Check that this host sees every file of a checkpoint. It does not if hosts write to disks of their own.

    Raises:
        UserError: A file is missing or has another size.
    """
    sizes = sizes_in(path)
    wrong = [name for name, file in manifest.files.items() if sizes.get(name) != file.bytes]
    if wrong:
        raise UserError(
            str(path / wrong[0]),
            "missing for rank 0, or of another size than its rank wrote"
            + (f" (and {len(wrong) - 1} other files)" if len(wrong) > 1 else ""),
            "all hosts must write a checkpoint to the same storage",
            f"give a {Option.RUN_DIR} or checkpoint.path on storage that every host sees",
        )


def _write_error(path: Location, error: BaseException) -> UserError:
    # If a file system cuts a write short, torch only reports an unexpected position, so the free space is shown, too.
    free = free_bytes(path.parent)
    free_text = "" if free is None else f", with {free >> 20:,} MiB free"
    return UserError(
        str(path),
        f"cannot be written ({error.value if isinstance(error, StoreError) else short_message(error)}){free_text}",
        "a checkpoint needs room and permission; earlier checkpoints are untouched",
        f"free space or correct the permission, then run again with {Option.RESUME}",
    )


@contextmanager
def _explain_write_errors(path: Location) -> Iterator[None]:
    try:
        yield
    except (OSError, StoreError) as error:
        raise _write_error(path, error) from error
