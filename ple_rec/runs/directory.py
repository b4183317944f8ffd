"""The run directory that a process holds: nothing but its holder changes it.

A run directory on a disk is held by a lock, one in an object store by a lease. Files of the run are written at its
address at once. Those that grow line by line, which no store can do, are written in a folder of this machine and pushed
to the store before each checkpoint counts.
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
from ple_rec.runs.layout import LOCK, LOG, TENSORBOARD, claimed, remove_names
from ple_rec.storage import Location, Remote, StoreError, explain_errors, names_in, write_checked
from ple_rec.storage.cache import cache_folder
from ple_rec.storage.lease import Holder, Lease, in_use
from ple_rec.storage.locks import open_locked, take_lock

_WHY = "a run lies there"


def growing_files(folder: Path) -> list[str]:
    """Return the files of a run that grow line by line."""
    events = [f"{TENSORBOARD}/{file.name}" for file in sorted((folder / TENSORBOARD).glob("*"))]
    return [*events, *([LOG] if (folder / LOG).is_file() else [])]


class RunDirectory:
    """Run directory that this process holds, or that a process of the same job holds.

    Args:
        address: Directory of the run, on a disk or in a store.
        folder: Folder of this machine for files that grow; the directory itself if it lies on a disk.
        leases: Leases under which the run changes its directory and its checkpoints; empty on disks, and in a process
            that leaves all changes to another.
        pushed: Function that lists the files of the folder, by their names below it, that go to the store.
    """

    def __init__(
        self,
        address: Location,
        folder: Path,
        leases: Sequence[Lease] = (),
        pushed: Callable[[Path], list[str]] = growing_files,
    ) -> None:
        self.address, self.folder, self._leases, self._files = address, folder, leases, pushed
        self._pushed = self._stamps()  # The store has these files as they are here.

    def __truediv__(self, name: str) -> Location:
        return self.address / name

    def __str__(self) -> str:
        return str(self.address)

    def check(self) -> None:
        """Do nothing if this process still holds the directory; ask right before each change.

        Raises:
            UserError: Another process has taken it, or its store cannot be read.
        """
        for lease in self._leases:
            lease.check()

    def write_text(self, name: str, text: str) -> None:
        """Write a file whole or not at all.

        Raises:
            UserError: Another process holds the directory, the disk is full, or the store cannot be written.
        """
        self.write_bytes(name, text.encode())

    def write_json(self, name: str, value: Any) -> None:
        """Write a JSON file; raises as `write_text` does."""
        self.write_text(name, json.dumps(value, indent=1) + "\n")

    def write_bytes(self, name: str, content: bytes) -> None:
        """Write a file whole or not at all; raises as `write_text` does."""
        with explain_errors(self.address, "written", "a run needs room and permission"):
            write_checked(self.address / name, content, self.check)

    def remove(self, names: Sequence[str]) -> None:
        """Remove files and folders of the run that are there; raises as `write_text` does."""
        self.check()
        with explain_errors(self.address, "written", _WHY):
            remove_names(self.address, names)

    def push(self) -> None:
        """Put the files of the folder into the store that are new, or have changed since they were put there.

        Raises:
            UserError: Another process holds the directory, a file is gone here, or the store cannot be written.
        """
        if isinstance(self.address, Path) or not self._leases:
            return
        with explain_errors(self.folder, "read", f"what {self.address} is to hold is written there first"):
            self.folder.stat()  # Files that are gone with their folder must not be taken for files that never grew.
            for name, stamp in self._stamps().items():
                if self._pushed.get(name) != stamp:
                    write_checked(self.address / name, (self.folder / name).read_bytes(), self.check)
                    self._pushed[name] = stamp

    def _stamps(self) -> dict[str, tuple[int, int]]:
        """Return size and time of each file that goes to the store; there is none if this process pushes none."""
        if isinstance(self.address, Path) or not self._leases:
            return {}
        statuses = {name: (self.folder / name).stat() for name in self._files(self.folder)}
        return {name: (status.st_size, status.st_mtime_ns) for name, status in statuses.items()}


@contextmanager
def hold_run(where: Location, checkpoints: Location, wait: float = 0.0) -> Iterator[RunDirectory]:
    """Hold a run directory and the place of its checkpoints, so that no other process changes them.

    Args:
        where: Directory of the run; it is made if it is not there.
        checkpoints: Place of its checkpoints, which a run elsewhere may have been given, too.
        wait: Seconds that another process has to let go of it.

    Raises:
        UserError: Another process holds it, or it cannot be made, locked or reached.
    """
    with ExitStack() as stack:
        leases = []
        if isinstance(where, Path):
            stack.enter_context(claimed(where, wait=wait))
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
            with suppress(UserError):  # The user is told what came first.
                run.push()
            raise
        run.push()


def of_other_rank(where: Location) -> RunDirectory:
    """Return the run directory that rank 0 holds, for another rank, which changes nothing there unasked."""
    return RunDirectory(where, where if isinstance(where, Path) else Path())


@contextmanager
def hold_prefix(prefix: Remote, wait: float = 0.0) -> Iterator[Lease]:
    """Hold the lease of a prefix in a store.

    Args:
        prefix: Prefix that the lease covers.
        wait: Seconds that another process has to let go of it.

    Raises:
        UserError: Another process holds it, or the store cannot be read or written.
    """
    lease = Lease.acquire(prefix, f"{os.getpid()} on {socket.gethostname()}", wait)
    if isinstance(lease, Holder):
        raise in_use(prefix, lease)
    try:
        yield lease
    finally:
        with suppress(StoreError):  # The lease ends by itself.
            lease.give_back()


@contextmanager
def _working_folder(where: Remote) -> Iterator[Path]:
    """Give a folder of this machine with the files that grow, as the store has them; it is removed at the end.

    Folders of processes that were killed are removed, too: nobody holds their locks.
    """
    parent = cache_folder() / "runs"  # Nobody clears it in a long run, as some do with /tmp.
    with ExitStack() as stack:
        with explain_errors(parent, "written", f"files of {where} that grow are written there first"):
            parent.mkdir(parents=True, exist_ok=True)
            with (parent / LOCK).open("w") as lock:
                take_lock(lock, wait=math.inf)
                for other in parent.glob("*/"):
                    if (left := open_locked(other / LOCK)) is not None:
                        left.close()
                        shutil.rmtree(other, ignore_errors=True)
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=parent, ignore_cleanup_errors=True)))
                own = open_locked(folder / LOCK)
                assert own is not None
                stack.enter_context(own)
            events = [f"{TENSORBOARD}/{name}" for name in names_in(where / TENSORBOARD)]
            for name in [*events, *([LOG] if (where / LOG).is_file() else [])]:
                (folder / name).parent.mkdir(exist_ok=True)
                (folder / name).write_bytes((where / name).read_bytes())
        yield folder


@contextmanager
def hold_to_add(where: Location) -> Iterator[None]:
    """Hold a run directory of a store while files are added to its results.

    Nothing is held on a disk: a file is replaced whole there, and a run that still trains may be looked at.

    Raises:
        UserError: A process trains there, or the store cannot be reached.
    """
    with hold_prefix(where) if isinstance(where, Remote) else nullcontext():
        yield
