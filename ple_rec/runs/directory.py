"""Exclusive access to a run directory, which has the results of one training run, and functions that write its files.

A process holds a run directory while no other process may change it. On a disk it holds a lock on a file; in an object
store it holds a lease, which is an object that it renews every few seconds. Most files are written in one piece. A
store cannot append to a file, so files that grow line by line (logs and TensorBoard events) are written to a folder of
this machine. They are pushed, that is uploaded, to the store before a checkpoint becomes valid.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from ple_rec.errors import UserError
from ple_rec.runs.layout import LOCK, LOG, TENSORBOARD, hold_lock, remove_names
from ple_rec.storage import Location, Remote, StoreError, explain_errors, names_in, write_checked
from ple_rec.storage.cache import cache_folder
from ple_rec.storage.lease import Holder, Lease, in_use_error
from ple_rec.storage.locks import open_locked, take_lock

_RULE = "it is the directory of a run"


def growing_files(folder: Path) -> list[str]:
    """Return the names of the existing files of a run that grow line by line.

    Args:
        folder: Folder of this machine that has the files.
    """
    events = [f"{TENSORBOARD}/{file.name}" for file in sorted((folder / TENSORBOARD).glob("*"))]
    return [*events, *([LOG] if (folder / LOG).is_file() else [])]


class RunDirectory:
    """Run directory that this process may use, since it or another process of the same job holds it.

    Args:
        address: Directory of the run, on a disk or in a store.
        folder: Folder of this machine for files that grow line by line; the run directory itself if it is on a disk.
        leases: Leases that this process holds: of a directory in a store, and of an outside place of checkpoints in a
            store. Empty if both are on a disk, and in a process that does not hold the directory itself.
        list_files: Function that returns the names of the files to push, given `folder`.
    """

    def __init__(
        self,
        address: Location,
        folder: Path,
        leases: Sequence[Lease] = (),
        list_files: Callable[[Path], list[str]] = growing_files,
    ) -> None:
        self.address, self.folder, self._leases, self._list_files = address, folder, leases, list_files
        # The files that are in the folder now were downloaded from the store, so they need no push.
        self._pushed = self._stamps()

    def __truediv__(self, name: str) -> Location:
        return self.address / name

    def __str__(self) -> str:
        return str(self.address)

    def check(self) -> None:
        """Check that this process still holds its leases; every method that changes the directory calls this first.

        Raises:
            UserError: Another process has acquired a lease meanwhile, or the store cannot be read.
        """
        for lease in self._leases:
            lease.check()

    def write_text(self, name: str, text: str) -> None:
        """Write a file atomically: after an error, the old content is still there.

        Raises:
            UserError: Another process holds the directory, the disk is full, or the store cannot be written.
        """
        self.write_bytes(name, text.encode())

    def write_json(self, name: str, value: Any) -> None:
        """Write a JSON file; raises as `write_text` does."""
        self.write_text(name, json.dumps(value, indent=1) + "\n")

    def write_bytes(self, name: str, content: bytes) -> None:
        """Write a file atomically; raises as `write_text` does."""
        with explain_errors(self.address, "written", "a run needs room and permission"):
            write_checked(self.address / name, content, self.check)

    def remove(self, names: Sequence[str]) -> None:
        """Remove files and folders of the run if they exist; raises as `write_text` does."""
        self.check()
        with explain_errors(self.address, "written", _RULE):
            remove_names(self.address, names)

    def push(self) -> None:
        """Upload the files of the folder that are new or have changed since the last push.

        Raises:
            UserError: Another process holds the directory, a file is missing here, or the store cannot be written.
        """
        if isinstance(self.address, Path) or not self._leases:
            return
        with explain_errors(
            self.folder, "read", f"files for {self.address} are written there before they are uploaded"
        ):
            # This raises an error if somebody has removed the folder. Without it, an empty list of files would look as
            # if nothing had changed, and the push would seem to succeed.
            self.folder.stat()
            for name, stamp in self._stamps().items():
                if self._pushed.get(name) != stamp:
                    write_checked(self.address / name, (self.folder / name).read_bytes(), self.check)
                    self._pushed[name] = stamp

    def _stamps(self) -> dict[str, tuple[int, int]]:
        """Return size and modification time of each file to push, by name; empty if this process pushes no files."""
        if isinstance(self.address, Path) or not self._leases:
            return {}
        statuses = {name: (self.folder / name).stat() for name in self._list_files(self.folder)}
        return {name: (status.st_size, status.st_mtime_ns) for name, status in statuses.items()}


@contextmanager
def hold_run(where: Location, checkpoints: Location, wait: float = 0.0) -> Iterator[RunDirectory]:
    """Hold a run directory during the block, so that no other process changes it, and push its files at the end.

    Checkpoints in a store may lie outside the run directory; they are held by a second lease.

    Args:
        where: Directory of the run, created on a disk if it is missing.
        checkpoints: Directory or prefix of its checkpoints. Another run may be configured to use the same one.
        wait: Seconds to wait for another process to release the directory.

    Raises:
        UserError: Another process holds the directory, or it cannot be created, locked or reached.
    """
    with ExitStack() as stack:
        leases = []
        if isinstance(where, Path):
            stack.enter_context(hold_lock(where, wait=wait))
            folder = where
        else:
            leases.append(stack.enter_context(hold_prefix(where, wait)))
            folder = stack.enter_context(_working_folder(where))
        if isinstance(checkpoints, Remote) and not str(checkpoints).startswith(f"{where}/"):
            leases.append(stack.enter_context(hold_prefix(checkpoints, wait)))
        run = RunDirectory(where, folder, leases)
        try:
            yield run
        except BaseException:
            # An error of the push must not hide the first error.
            with suppress(UserError):
                run.push()
            raise
        run.push()


def directory_of_other_rank(where: Location) -> RunDirectory:
    """Return the run directory for a rank other than 0, while rank 0 holds it.

    The returned object has no leases: its checks always pass, and its `push` does nothing.
    """
    return RunDirectory(where, where if isinstance(where, Path) else Path())


@contextmanager
def hold_prefix(prefix: Remote, wait: float = 0.0) -> Iterator[Lease]:
    """Hold the lease of a prefix in a store during the block.

    Args:
        prefix: Prefix that the lease covers.
        wait: Seconds to wait for another process to release the prefix.

    Raises:
        UserError: Another process holds the prefix, or the store cannot be read or written.
    """
    lease = Lease.acquire(prefix, f"{os.getpid()} on {socket.gethostname()}", wait)
    if isinstance(lease, Holder):
        raise in_use_error(prefix, lease)
    try:
        yield lease
    finally:
        # If the lease cannot be given back, it expires by itself.
        with suppress(StoreError):
            lease.give_back()


@contextmanager
def _working_folder(where: Remote) -> Iterator[Path]:
    """Yield a temporary folder of this machine, filled with those files of a run in a store that grow line by line.

    A process locks its folder as long as it lives. Folders that no process has locked were left by killed processes,
    and are removed.
    """
    # Some systems clear /tmp during a long run, so the folder is made in the cache folder of ple-rec.
    parent = cache_folder() / "runs"
    with ExitStack() as stack:
        with explain_errors(parent, "written", f"files for {where} are written there before they are uploaded"):
            parent.mkdir(parents=True, exist_ok=True)
            with (parent / LOCK).open("w", encoding="utf-8") as lock:
                take_lock(lock, wait=math.inf)
                for other in parent.glob("*/"):
                    if (abandoned := open_locked(other / LOCK)) is not None:
                        abandoned.close()
                        shutil.rmtree(other, ignore_errors=True)
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=parent, ignore_cleanup_errors=True)))
                own = open_locked(folder / LOCK)
                # No other process can have locked the new folder, since this one holds the lock of `parent`.
                assert own is not None
                stack.enter_context(own)
            events = [f"{TENSORBOARD}/{name}" for name in names_in(where / TENSORBOARD)]
            for name in [*events, *([LOG] if (where / LOG).is_file() else [])]:
                (folder / name).parent.mkdir(exist_ok=True)
                (folder / name).write_bytes((where / name).read_bytes())
        yield folder


@contextmanager
def hold_to_add(where: Location) -> Iterator[None]:
    """Hold a run directory in a store while the block adds files to its results, such as an analysis.

    A directory on a disk is not locked: files are replaced atomically there, so a run may be analysed while it trains.

    Raises:
        UserError: A process trains in the directory, or the store cannot be reached.
    """
    with hold_prefix(where) if isinstance(where, Remote) else nullcontext():
        yield
