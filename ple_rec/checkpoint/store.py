"""Checkpoints of a run, on disk or in an object store.

checkpoints/step-<n>/                 files of a checkpoint, from torch.distributed.checkpoint
checkpoints/step-<n>/manifest.json    sizes and checksums, written last: without it, the checkpoint does not count
checkpoints/{latest,best}             name of a checkpoint
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

from ple_rec.checkpoint.background import Background, Stager
from ple_rec.checkpoint.files import ChecksumWriter
from ple_rec.checkpoint.listing import find_checkpoint, finished_steps, is_step, remove_checkpoint, require_checkpoint
from ple_rec.checkpoint.load import damage_of
from ple_rec.checkpoint.manifest import MANIFEST, File, Manifest
from ple_rec.distributed.collectives import broadcast, run_on_rank_zero
from ple_rec.errors import DataError, Option, UserError
from ple_rec.storage import Location, StoreError, free_bytes, make_directory, names_in, short, sizes_in, write_checked

logger = logging.getLogger(__name__)


class CheckpointStore:
    """Checkpoints of one run. Every rank has a store, and all ranks call its collectives together.

    Args:
        directory: Directory of all checkpoints.
        keep: Number of newest checkpoints to keep, besides the best one.
        keep_every: Interval of steps; checkpoints of its multiples are kept, too. None to keep no further ones.
        asynchronous: True to copy the state and write the copy while training continues. The copy of this rank's part
            of the state takes host memory.
        wrote: Function that is called after each written block, so that the watchdog sees progress.
        check: Function that is called on rank 0 before each change, and raises if this run may no longer write.
        committing: Function that is called on rank 0 when all files are written, before the manifest; it may raise an
            error to stop the save.
        committed: Function that is called on rank 0 when the checkpoint is `latest`.
        timeout_seconds: Time in seconds for which an asynchronous save waits for another rank.
    """

    def __init__(
        self,
        directory: Location,
        keep: int = 2,
        *,
        keep_every: int | None = None,
        asynchronous: bool = False,
        wrote: Callable[[], None] = lambda: None,
        check: Callable[[], None] = lambda: None,
        committing: Callable[[], None] = lambda: None,
        committed: Callable[[], None] = lambda: None,
        timeout_seconds: float = 1800.0,
    ) -> None:
        self.directory, self.keep, self.keep_every = directory, keep, keep_every
        self.saves = 0
        # Step of the last checkpoint that this process saved or resumed from.
        self.saved_step: int | None = None
        # Duration of the last save, measured on rank 0, and of all saves.
        self.seconds: float | None = None
        self.total_seconds = 0.0
        # Time for which training on this rank waited for saves.
        self.blocked_seconds = 0.0
        self._wrote, self._check, self._committing, self._committed = wrote, check, committing, committed
        self._stager = Stager()
        self._background = Background(timeout_seconds) if asynchronous else None

    def save(
        self,
        step: int,
        state: dict[str, Any],
        *,
        best: bool,
        written_by: Mapping[str, Any],
        texts: Mapping[str, str] | None = None,
    ) -> None:
        """Write `state` as the checkpoint of `step`, and make it `latest`. This is a collective.

        It first waits for the save before, if that is still running. An asynchronous store returns once it has copied
        the state. If the write fails later, the next `save` or `wait` raises the error, and `close` prints it.

        Args:
            step: Global step of the checkpoint.
            state: Tensors, shards of tables and plain values, nested.
            best: True to make it `best`, too.
            written_by: Facts about the run that a reader checks before it loads, for the manifest.
            texts: Contents of further files of the checkpoint, by name; a line feed is added at the end of each.

        Raises:
            UserError: The disk is full or not writable. No checkpoint of this step exists then. If the error occurred
                on rank 0 alone, the other ranks raise PeerError.
        """
        self.wait()
        started_at = time.monotonic()
        if self._background is None:
            self._write(step, state, best, written_by, texts or {}, started_at, None)
        else:
            staged, group = self._stager.stage(state), self._background.group
            self._background.start(lambda: self._write(step, staged, best, written_by, texts or {}, started_at, group))
        self.blocked_seconds += time.monotonic() - started_at

    def mark_best(self, step: int) -> None:
        """Make the finished checkpoint of `step` the best one. This is a collective.

        Raises:
            UserError: The directory is not writable; the other ranks raise PeerError.
        """

        def write() -> None:
            with _explain_write_errors(self.directory / f"step-{step}"):
                self._write_text(self.directory / "best", f"step-{step}")

        run_on_rank_zero(write)

    def mend_best(self, step: int) -> bool:
        """Replace the best checkpoint, if it is damaged or missing, by that of `step`. This is a collective.

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
            damage = "the best checkpoint is gone"
        elif name != f"step-{step}" and (error := damage_of(self.directory / name)) is not None:
            damage = f"the best checkpoint, {name}, is damaged: {error.place}: {error.value}; {error.rule}"
        else:
            return False
        if dist.get_rank() == 0:
            logger.info(f"{damage}; step-{step} takes its place until the next evaluation")
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
        """Wait for the last save at the end of the process. An error is printed and not raised.

        The process may be ending because of an earlier error, which must stay visible.
        """
        if self._background is not None:
            self._background.close()

    def find(self, name: str) -> Location | None:
        """Return the directory of the finished checkpoint that `latest`, `best` or `step-<n>` names, or None.

        Raises:
            DataError: `latest` or `best` does not contain the name of a checkpoint.
        """
        return find_checkpoint(self.directory, name)

    def require(self, name: str) -> Location:
        """Return the directory of the finished checkpoint that `latest`, `best` or `step-<n>` names.

        Raises:
            UserError: There is no such checkpoint.
        """
        return require_checkpoint(self.directory, name)

    def latest(self) -> Location | None:
        """Return the latest checkpoint that rank 0 finds, or None, on every rank. This is a collective."""

        def name() -> str | None:
            latest = self.find("latest")
            return None if latest is None else latest.name

        name_on_rank_zero = broadcast(run_on_rank_zero(name))
        return None if name_on_rank_zero is None else self.directory / name_on_rank_zero

    def newest_good(self) -> Location | None:
        """Return the newest checkpoint without damage, or None if there are no checkpoints. This is a collective.

        Damaged checkpoints are logged.

        Raises:
            DataError: There are checkpoints, and all are damaged.
        """
        damage: DataError | None = None
        for step in broadcast(run_on_rank_zero(self._newest_first)) or ():
            path = self.directory / f"step-{step}"
            damage = damage_of(path)
            if damage is None:
                return path
            if dist.get_rank() == 0:
                logger.info(f"{path.name} is damaged and left out: {damage.place}: {damage.value}; {damage.rule}")
        if damage is not None:
            value = f"{damage.place}: {damage.value}; {damage.rule}"
            raise DataError(str(self.directory), value, "every checkpoint of the run is damaged", "train it anew")
        return None

    def _newest_first(self) -> list[int]:
        """Return the steps of the checkpoints, the newest first, without those after `latest`.

        These belong to an attempt that failed.
        """
        latest = self.find("latest")
        last = int(latest.name.split("-")[1]) if latest is not None else None
        return [step for step in reversed(self.steps()) if last is None or step <= last]

    def steps(self) -> list[int]:
        """Return the steps of the finished checkpoints, ascending."""
        return finished_steps(self.directory)

    def _write(
        self,
        step: int,
        state: dict[str, Any],
        best: bool,
        written_by: Mapping[str, Any],
        texts: Mapping[str, str],
        started_at: float,
        group: dist.ProcessGroup | None,
    ) -> None:
        path = self.directory / f"step-{step}"
        run_on_rank_zero(lambda: self._prepare_directory(path), group)
        writer = ChecksumWriter(path, self._wrote)
        try:
            dcp.save(state, storage_writer=writer, process_group=group)
        except dcp.api.CheckpointException as error:
            # The exception is raised on every rank, so all of them may take part in collectives.
            cause = next(iter(error.failures.values()))[0]
            if isinstance(cause, KeyboardInterrupt):
                # The next save removes the incomplete files.
                raise cause from None
            run_on_rank_zero(lambda: self._remove_failed_save(path), group)
            # If a write is cut short, torch raises a RuntimeError from its archive.
            if error.args[0] != "write" or not isinstance(cause, OSError | RuntimeError | StoreError):
                raise
            raise _write_error(path, cause) from error
        sums_of_ranks: list[Any] | None = [None] * dist.get_world_size() if dist.get_rank() == 0 else None
        dist.gather_object(writer.sums, sums_of_ranks, dst=0, group=group)
        files = dict(sorted((name, file) for part in sums_of_ranks or () for name, file in part.items()))
        run_on_rank_zero(lambda: self._commit(path, Manifest(step, written_by, files), texts, best), group)
        self.seconds = broadcast(time.monotonic() - started_at, group)
        self.saves, self.total_seconds = self.saves + 1, self.total_seconds + self.seconds
        self.saved_step = step

    def _prepare_directory(self, path: Location) -> None:
        with _explain_write_errors(path):
            self._check()
            make_directory(self.directory)
            if path.name in names_in(self.directory):
                # A save into the files of an older one could mix old and new files.
                remove_checkpoint(path, self._check)

    def _remove_failed_save(self, path: Location) -> None:
        """Remove the files of a failed save, if that is possible. The next save removes the rest."""
        # The user must see the error of the save and not a further one.
        with suppress(OSError, UserError):
            remove_checkpoint(path, self._check)

    def _commit(self, path: Location, manifest: Manifest, texts: Mapping[str, str], best: bool) -> None:
        with _explain_write_errors(path):
            own = {}
            for name, text in texts.items():
                self._write_text(path / name, text)
                own[name] = File.of_text(text + "\n")
            full_manifest = Manifest(manifest.step, manifest.written_by, {**manifest.files, **own})
            _check_files_visible(path, full_manifest)
            self._committing()
            self._write_text(path / MANIFEST, full_manifest.text())
            if best:
                # `best` is written before `latest`: a run that dies in between repeats the step with the same result.
                self._write_text(self.directory / "best", path.name)
            self._write_text(self.directory / "latest", path.name)
            self._committed()
        try:
            self._prune(manifest.step)
        except (OSError, StoreError) as error:
            # The new checkpoint is valid, so this is no reason to stop the run.
            sys.stderr.write(f"ple-rec: earlier checkpoints in {self.directory} could not be removed: {error}\n")

    def _write_text(self, file: Location, text: str) -> None:
        write_checked(file, f"{text}\n".encode(), self._check)

    def _prune(self, step: int) -> None:
        """Remove checkpoints up to `step` that are not to be kept, and all that are later or unfinished.

        Later and unfinished ones belong to failed attempts.
        """
        finished = [n for n in self.steps() if n <= step]
        steps_to_keep = finished[-self.keep :] + [n for n in finished if self.keep_every and n % self.keep_every == 0]
        best = self.find("best")
        names_to_keep = {f"step-{n}" for n in steps_to_keep} | (set() if best is None else {best.name})
        for name in names_in(self.directory):
            if is_step(name) and name not in names_to_keep:
                remove_checkpoint(self.directory / name, self._check)


def _check_files_visible(path: Location, manifest: Manifest) -> None:
    """Check that this host sees every file of the checkpoint; it does not if hosts write to disks of their own.

    Raises:
        UserError: A file is missing or has another size.
    """
    sizes = sizes_in(path)
    wrong = [name for name, file in manifest.files.items() if sizes.get(name) != file.bytes]
    if wrong:
        raise UserError(
            str(path / wrong[0]),
            f"is not seen by rank 0 as the rank wrote it, nor are {len(wrong) - 1} more files",
            "all hosts write a checkpoint to the same storage",
            f"give a {Option.RUN_DIR} or checkpoint.path on storage that every host sees",
        )


def _write_error(path: Location, error: BaseException) -> UserError:
    # If a file system cuts a write short, torch only reports an unexpected position, so the free space is shown, too.
    free = free_bytes(path.parent)
    left = "" if free is None else f", with {free >> 20:,} MiB free"
    return UserError(
        str(path),
        f"cannot be written ({error.value if isinstance(error, StoreError) else short(error)}){left}",
        "a checkpoint needs room and permission; earlier checkpoints are untouched",
        f"free space or correct the permission, then run again with {Option.RESUME}",
    )


@contextmanager
def _explain_write_errors(path: Location) -> Iterator[None]:
    try:
        yield
    except (OSError, StoreError) as error:
        raise _write_error(path, error) from error
