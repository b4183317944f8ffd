"""Run directories in an object store: a process works in a folder of its own that mirrors one.

    s3://bucket/runs/a/{config.toml,train.jsonl,...}   <->   <folder>/a/{config.toml,train.jsonl,...}
    s3://bucket/runs/a/checkpoints/                          is read and written in the store alone
    s3://bucket/runs/a/.lease/                               says which process trains there

A run directory but for its checkpoints is small. So whoever opens one by its address fetches it once, and the code that
reads and writes run directories knows paths alone. A process that trains holds the lease, puts what has changed into
the store before each checkpoint counts and when it ends, and is refused a checkpoint once another process has taken the
run. Messages name the address.
"""

from __future__ import annotations

import atexit
import os
import shutil
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path

from ple_rec.checkpoint.manifest import MANIFEST
from ple_rec.errors import Option, UserError
from ple_rec.storage import Location, Remote, at_once, explain_errors, modified_at, names_in, write_bytes
from ple_rec.storage.cache import cache_folder
from ple_rec.storage.lease import Holder, Lease, newest_holder
from ple_rec.text.aliases import show_as
from ple_rec.training.run_dir import CHECKPOINTS, CONFIG, LEASE, LOCK, METRICS, claimed, known_files, stores

_DEPTH = 4  # prefixes below the one that is searched for runs
_mirrors: dict[Path, Mirror] = {}  # by their folders
_tops: dict[Remote, Path] = {}  # folders by the addresses that were asked for


class Mirror:
    """A folder that mirrors a run directory, or a folder of several, of a store.

    Args:
        address: Address of the run directory.
        folder: Folder of this process.
        files: Function that lists the files of either by their names below it.
    """

    def __init__(self, address: Remote, folder: Path, files: Callable[[Location], list[str]] = known_files) -> None:
        self.address, self.folder, self._files = address, folder, files
        self._stored: dict[str, tuple[int, int]] = {}  # size and time of the files that the store has as they are here
        self._lock = threading.Lock()
        self._lease: Lease | None = None
        self._training = False

    def fetch(self) -> None:
        """Make the folder hold what the store holds of the run; nothing is done while this process trains there.

        Raises:
            UserError: The store cannot be read.
        """
        if self._training:
            return
        with explain_errors(self.address, why="a run lies there"), self._lock:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir(parents=True)
            self._stored.clear()
            for name in self._files(self.address):
                file = self.folder / name
                file.parent.mkdir(parents=True, exist_ok=True)
                write_bytes(file, (self.address / name).read_bytes())  # whole, or a full disk would damage the store
                if (written := modified_at(self.address / name)) is not None:
                    os.utime(file, (written.timestamp(), written.timestamp()))
                self._stored[name] = _stamp(file)

    def push(self) -> None:
        """Put what has changed in the folder into the store, results last; what is gone here goes there.

        Raises:
            UserError: The store cannot be written, or another process has taken the run.
        """
        if self._lease is not None:
            with explain_errors(self.address, why="a run lies there"):
                other = self._lease.other_holder()
            if other is not None:
                raise _in_use(self.address, other)
        with explain_errors(self.address, "written", "a run lies there"), self._lock:
            here = self._stamps()
            for name in sorted(here, key=lambda name: (name == METRICS, name)):
                if self._stored.get(name) != here[name]:
                    write_bytes(self.address / name, (self.folder / name).read_bytes())
                    self._stored[name] = here[name]
            for name in self._stored.keys() - here.keys():
                (self.address / name).unlink(missing_ok=True)
                del self._stored[name]

    @contextmanager
    def hold(self, wait: float) -> Iterator[None]:
        """Hold the run directory; what the block has written there is in the store at its end.

        What cannot be put there at the end is given up: a later call of this process must not put it over what another
        has written.

        Args:
            wait: Seconds that another process has to let go of it.

        Raises:
            UserError: Another process holds it, or the store cannot be read or written.
        """
        with explain_errors(self.address, "written", "a run lies there"):
            found = Lease.acquire(self.address / LEASE, f"{os.getpid()} on {socket.gethostname()}", wait)
        if isinstance(found, Holder):
            raise _in_use(self.address, found)
        self._lease = found
        try:
            self.fetch()
            self._training = True
            try:
                yield
            except BaseException:
                with suppress(UserError):  # what came first is heard
                    self.push()
                raise
            self.push()
        finally:
            self._lease, self._training = None, False
            self._stored = self._stamps()  # what could not be put there is given up
            with suppress(OSError):  # the lease ends by itself
                found.give_back()

    def _stamps(self) -> dict[str, tuple[int, int]]:
        return {name: _stamp(self.folder / name) for name in self._files(self.folder)}

    def is_held(self) -> bool:
        """Return whether a process holds the run directory.

        Raises:
            UserError: The store cannot be read.
        """
        with explain_errors(self.address, why="a run lies there"):
            holder = newest_holder(self.address / LEASE)
        return holder is not None and holder.is_live


def local_run(where: Location) -> Path:
    """Return a run directory, or a folder of run directories, as a path: that of its mirror where it is an address.

    Raises:
        UserError: The store cannot be read.
    """
    if isinstance(where, Path):
        return where
    with explain_errors(where, why="runs lie there"):
        _mirror_all(where, _top_of(where), _DEPTH)
    return _top_of(where)


def local_folder(where: Location) -> Path:
    """Return a folder with runs and more, such as a comparison, as a path; one mirror holds it, without checkpoints.

    Raises:
        UserError: The store cannot be read.
    """
    if isinstance(where, Path):
        return where
    folder = _top_of(where)
    _mirrors.setdefault(folder, Mirror(where, folder, _finished_files)).fetch()
    return folder


def _finished_files(where: Location) -> list[str]:
    """Return the files below a folder of runs but those of runs that have not finished: their checkpoints stay here."""
    names = names_in(where)
    if CONFIG in names and METRICS not in names:
        return []
    found = []
    for name in names:
        if name not in (CHECKPOINTS, LOCK, LEASE):
            below = where / name
            found += [name] if below.is_file() else [f"{name}/{file}" for file in _finished_files(below)]
    return found


def _top_of(where: Remote) -> Path:
    if where not in _tops:
        folder = cache_folder() / "runs"  # which nobody clears in a long run, as some do with /tmp
        folder.mkdir(parents=True, exist_ok=True)
        _tops[where] = Path(tempfile.mkdtemp(dir=folder)) / where.name
        show_as(str(_tops[where]), str(where))
    return _tops[where]


def mirror_of(path: Path) -> Mirror | None:
    """Return the mirror whose folder a path is; None of a run directory on a disk."""
    return _mirrors.get(path)


@contextmanager
def hold_run(path: Path, wait: float) -> Iterator[None]:
    """Hold a run directory, by its lock or by the lease of its store.

    Args:
        path: Run directory, or the folder that mirrors it.
        wait: Seconds that another process has to let go of it.

    Raises:
        UserError: Another process trains in it, or it cannot be made, locked or reached.
    """
    mirror = mirror_of(path)
    with claimed(path, wait=wait) if mirror is None else mirror.hold(wait):
        yield


def hold_folder(path: Path) -> AbstractContextManager[None]:
    """Hold a folder of runs where it mirrors one of a store; on a disk, its runs are held one by one.

    Raises:
        UserError: Another process holds it, or the store cannot be reached.
    """
    mirror = mirror_of(path)
    return nullcontext() if mirror is None else mirror.hold(0.0)


def fetch(path: Path) -> None:
    """Let a run directory hold what its store holds, where it has one; nothing is done by the process that holds it.

    Raises:
        UserError: The store cannot be read.
    """
    if (mirror := mirror_of(path)) is not None:
        mirror.fetch()


def push(path: Path) -> None:
    """Put what has changed in a run directory into its store, where it has one; errors as of `Mirror.push`."""
    if (mirror := mirror_of(path)) is not None:
        mirror.push()


def push_all() -> None:
    """Put what this process has changed in any run directory into its store; errors as of `Mirror.push`."""
    for mirror in _mirrors.values():
        mirror.push()


def address_of(path: Path) -> str:
    """Return the address of a run directory: that of its store, or its path as it is."""
    mirror = mirror_of(path)
    return str(path) if mirror is None else str(mirror.address)


@atexit.register
def remove_mirrors() -> None:
    """Remove the folders of this process; what is in them is in the stores, or was given up."""
    for folder in _tops.values():
        shutil.rmtree(folder.parent, ignore_errors=True)
    _tops.clear()
    _mirrors.clear()
    stores.clear()


def _mirror_all(address: Remote, folder: Path, depth: int) -> None:
    """Mirror the runs below an address, and what is no run at the address itself: it may become one."""
    names = names_in(address)
    folder.mkdir(parents=True, exist_ok=True)
    mirror = _mirrors.setdefault(folder, Mirror(address, folder))
    stores[folder] = address
    if MANIFEST in names:  # a checkpoint, which has the run's configuration too
        return
    if CONFIG in names or LEASE in names:
        mirror.fetch()
        return

    def mirror_below(name: str) -> None:
        if not (address / name).is_file():
            _mirror_all(address / name, folder / name, depth - 1)

    at_once(mirror_below, [name for name in names if depth and not name.startswith(".")])


def _stamp(file: Path) -> tuple[int, int]:
    stat = file.stat()
    return stat.st_size, stat.st_mtime_ns


def _in_use(address: Remote, holder: Holder) -> UserError:
    return UserError(
        str(address),
        f"in use by process {holder.name} until {holder.until_text} at least",
        "one process at a time trains in a run directory",
        f"wait for it, stop it, or give another {Option.RUN_DIR}",
    )
