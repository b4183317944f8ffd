"""The checkpoints of a run, on disk or in an object store.

checkpoints/step-<n>/     written whole, by torch.distributed.checkpoint, into a directory that holds nothing
checkpoints/step-<n>/manifest.json    written last, with sizes and checksums: a checkpoint without it does not exist
checkpoints/{latest,best} the name of one of them
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
from ple_rec.checkpoint.files import SummingWriter
from ple_rec.checkpoint.listing import find_checkpoint, finished_steps, is_step, remove_checkpoint, require_checkpoint
from ple_rec.checkpoint.load import damage_of
from ple_rec.checkpoint.manifest import MANIFEST, File, Manifest
from ple_rec.distributed.collectives import broadcast, run_on_rank_zero
from ple_rec.errors import DataError, Option, UserError
from ple_rec.storage import Location, StoreError, free_bytes, make_directory, names_in, short, sizes_in, write_checked

logger = logging.getLogger(__name__)


class CheckpointStore:
    """The checkpoints of one run; every rank makes one and calls it together with the others.

    Args:
        directory: Of them all.
        keep: Newest checkpoints kept, beside the best.
        keep_every: Those of steps that it divides are kept, too; None: no more.
        asynchronous: Copy the state, and write it while training goes on. Costs this rank's part of the state again in
            host memory.
        wrote: Called after each block of a save, as a sign of life.
        check: Function that is called on rank 0 right before each change, and raises if this run may no more write.
        committing: Function that is called on rank 0 when a save is whole, before it counts; it may refuse it.
        committed: Function that is called on rank 0 when a save counts.
        timeout_seconds: For which an asynchronous save waits for another rank.
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
        self.saved_step: int | None = None  # step of the last finished save that this process made or resumed from
        self.seconds: float | None = None  # of the last save that is done, as rank 0 saw it
        self.total_seconds = 0.0  # of all of them
        self.blocked_seconds = 0.0  # of these, for which training on this rank stood still
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
        """Write `state` as the checkpoint of `step` (a collective), make it `latest`, and `best` where said.

        An asynchronous store returns once it has copied the state; what then goes wrong, the next `save`, `wait` or
        `close` raises. It waits first for the save before, if that still goes on.

        Args:
            step: Its number.
            state: Tensors, shards of tables and plain values, nested.
            best: Whether it becomes `best` too.
            written_by: What a reader must know before it loads; kept in the manifest.
            texts: Further files of the checkpoint, content by name; a line feed ends each.

        Raises:
            UserError: the disk is full or not writable; nothing then counts as a checkpoint. A PeerError on the other
                ranks, where it failed on rank 0 alone.
        """
        self.wait()
        begun = time.monotonic()
        if self._background is None:
            self._write(step, state, best, written_by, texts or {}, begun, None)
        else:
            staged, group = self._stager.stage(state), self._background.group
            self._background.start(lambda: self._write(step, staged, best, written_by, texts or {}, begun, group))
        self.blocked_seconds += time.monotonic() - begun

    def mark_best(self, step: int) -> None:
        """Make the finished checkpoint of `step` the best one (a collective).

        Raises:
            UserError: the directory is not writable; a PeerError on the other ranks.
        """

        def write() -> None:
            with _writing(self.directory / f"step-{step}"):
                self._put(self.directory / "best", f"step-{step}")

        run_on_rank_zero(write)

    def mend_best(self, step: int) -> bool:
        """Make the finished checkpoint of `step` the best one where that is damaged or gone, and log so (a collective).

        Args:
            step: Step of a checkpoint whose bytes are whole.

        Returns:
            Whether it did.

        Raises:
            UserError: the directory cannot be read or written.
        """

        def read() -> str | None:
            with suppress(DataError):
                return None if (best := self.find("best")) is None else best.name
            return None

        name = broadcast(run_on_rank_zero(read))
        if name is None:
            damage = "the best checkpoint is gone"
        elif name != f"step-{step}" and (found := damage_of(self.directory / name)) is not None:
            damage = f"the best checkpoint, {name}, is damaged: {found.place}: {found.value}; {found.rule}"
        else:
            return False
        if dist.get_rank() == 0:
            logger.info(f"{damage}; step-{step} takes its place until the next evaluation")
        self.mark_best(step)
        return True

    @property
    def asynchronous(self) -> bool:
        """Whether saves are written while training goes on."""
        return self._background is not None

    @property
    def pending(self) -> bool:
        """Whether a save may still go on; the same on every rank."""
        return self._background is not None and self._background.pending

    @property
    def writing(self) -> bool:
        """Whether this rank's thread still writes; ranks may differ."""
        return self._background is not None and self._background.alive

    def wait(self) -> None:
        """Return once the last save is done (a collective).

        Raises:
            UserError, PeerError: it failed, as `save` says.
        """
        begun = time.monotonic()
        try:
            if self._background is not None:
                self._background.wait()
        finally:
            self.blocked_seconds += time.monotonic() - begun

    def close(self) -> None:
        """`wait`, on the way out: a save that fails here is said and not raised, so that what came first is heard."""
        if self._background is not None:
            self._background.close()

    def find(self, name: str) -> Location | None:
        """Return the checkpoint that `latest`, `best` or `step-<n>` names, or None.

        Raises:
            DataError: `latest` or `best` does not hold the name of a checkpoint.
        """
        return find_checkpoint(self.directory, name)

    def require(self, name: str) -> Location:
        """The checkpoint that `latest`, `best` or `step-<n>` names.

        Raises:
            UserError: there is none.
        """
        return require_checkpoint(self.directory, name)

    def latest(self) -> Location | None:
        """The latest checkpoint as rank 0 sees it, or None, on every rank (a collective)."""

        def name() -> str | None:
            found = self.find("latest")
            return None if found is None else found.name

        known = broadcast(run_on_rank_zero(name))
        return None if known is None else self.directory / known

    def newest_good(self) -> Location | None:
        """Return the newest checkpoint whose files are all as they were written, or None without any (a collective).

        Each that is damaged is logged.

        Raises:
            DataError: there are some, and all are damaged.
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
            found = f"{damage.place}: {damage.value}; {damage.rule}"
            raise DataError(str(self.directory), found, "every checkpoint of the run is damaged", "train it anew")
        return None

    def _newest_first(self) -> list[int]:
        """Steps of the checkpoints up to the latest; later ones are of an attempt that was given up."""
        latest = self.find("latest")
        last = int(latest.name.split("-")[1]) if latest is not None else None
        return [step for step in reversed(self.steps()) if last is None or step <= last]

    def steps(self) -> list[int]:
        """Steps of the finished checkpoints, ascending."""
        return finished_steps(self.directory)

    def _write(
        self,
        step: int,
        state: dict[str, Any],
        best: bool,
        written_by: Mapping[str, Any],
        texts: Mapping[str, str],
        begun: float,
        group: dist.ProcessGroup | None,
    ) -> None:
        path = self.directory / f"step-{step}"
        run_on_rank_zero(lambda: self._make_room(path), group)
        writer = SummingWriter(path, self._wrote)
        try:
            dcp.save(state, storage_writer=writer, process_group=group)
        except dcp.api.CheckpointException as error:  # raised on every rank
            cause = next(iter(error.failures.values()))[0]
            if isinstance(cause, KeyboardInterrupt):  # the next save removes what is there
                raise cause from None
            run_on_rank_zero(lambda: self._give_up(path), group)
            # torch tells of a write that is cut short by a RuntimeError of its archive.
            if error.args[0] != "write" or not isinstance(cause, OSError | RuntimeError | StoreError):
                raise
            raise _unwritable(path, cause) from error
        every: list[Any] | None = [None] * dist.get_world_size() if dist.get_rank() == 0 else None
        dist.gather_object(writer.sums, every, dst=0, group=group)
        files = dict(sorted((name, file) for part in every or () for name, file in part.items()))
        run_on_rank_zero(lambda: self._commit(path, Manifest(step, written_by, files), texts, best), group)
        self.seconds = broadcast(time.monotonic() - begun, group)
        self.saves, self.total_seconds = self.saves + 1, self.total_seconds + self.seconds
        self.saved_step = step

    def _make_room(self, path: Location) -> None:
        with _writing(path):
            self._check()
            make_directory(self.directory)
            if path.name in names_in(self.directory):
                # A save over an unfinished or superseded one could mix old and new.
                remove_checkpoint(path, self._check)

    def _give_up(self, path: Location) -> None:
        """Remove a save that failed, if that is possible; the next save removes what is left."""
        with suppress(OSError, UserError):  # The user is told why the save failed.
            remove_checkpoint(path, self._check)

    def _commit(self, path: Location, manifest: Manifest, texts: Mapping[str, str], best: bool) -> None:
        with _writing(path):
            own = {}
            for name, text in texts.items():
                self._put(path / name, text)
                own[name] = File.of_text(text + "\n")
            whole = Manifest(manifest.step, manifest.written_by, {**manifest.files, **own})
            _check_there(path, whole)
            self._committing()
            self._put(path / MANIFEST, whole.text())
            if best:  # before `latest`: a run that dies in between does the step again, and finds the same best
                self._put(self.directory / "best", path.name)
            self._put(self.directory / "latest", path.name)
            self._committed()
        try:
            self._prune(manifest.step)
        except (OSError, StoreError) as error:  # The checkpoint stands.
            sys.stderr.write(f"ple-rec: earlier checkpoints in {self.directory} could not be removed: {error}\n")

    def _put(self, file: Location, text: str) -> None:
        write_checked(file, f"{text}\n".encode(), self._check)

    def _prune(self, step: int) -> None:
        """Remove what nothing keeps up to `step`, and what is later or not whole: of attempts that were given up."""
        steps = self.steps()
        kept = [n for n in steps if n <= step]
        kept = kept[-self.keep :] + [n for n in kept if self.keep_every and n % self.keep_every == 0]
        best = self.find("best")
        wanted = {f"step-{n}" for n in kept} | (set() if best is None else {best.name})
        for name in names_in(self.directory):
            if is_step(name) and name not in wanted:
                remove_checkpoint(self.directory / name, self._check)


def _check_there(path: Location, manifest: Manifest) -> None:
    """Refuse a checkpoint of which this host does not see every file, as on a disk that hosts do not share.

    Raises:
        UserError: a file is missing or has another size.
    """
    found = sizes_in(path)
    wrong = [name for name, file in manifest.files.items() if found.get(name) != file.bytes]
    if wrong:
        raise UserError(
            str(path / wrong[0]),
            f"is not seen by rank 0 as the rank wrote it, nor are {len(wrong) - 1} more files",
            "all hosts write a checkpoint to the same storage",
            f"give a {Option.RUN_DIR} or checkpoint.path on storage that every host sees",
        )


def _unwritable(path: Location, error: BaseException) -> UserError:
    # Of a write that the file system cuts short torch says no more than that a position is not the expected one.
    free = free_bytes(path.parent)
    left = "" if free is None else f", with {free >> 20:,} MiB free"
    return UserError(
        str(path),
        f"cannot be written ({error.value if isinstance(error, StoreError) else short(error)}){left}",
        "a checkpoint needs room and permission; earlier checkpoints are untouched",
        f"free space or correct the permission, then run again with {Option.RESUME}",
    )


@contextmanager
def _writing(path: Location) -> Iterator[None]:
    try:
        yield
    except (OSError, StoreError) as error:
        raise _unwritable(path, error) from error
