"""Writer and reader of a checkpoint's files, local or in an object store, for `torch.distributed.checkpoint` (DCP).

DCP writes one file of tensors for each rank, and `.metadata`, which says where each tensor lies. The writer computes
the checksum of each file while it writes the file. The caller puts the checksums into the manifest, a file that lists
all files of the checkpoint. The reader verifies only `.metadata` by the manifest; `ple_rec.checkpoint.load` verifies
the other files.
"""

from __future__ import annotations

import io
import os
import zlib
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from torch.distributed.checkpoint import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.filesystem import FileSystem as LocalFiles
from torch.distributed.checkpoint.filesystem import FileSystemBase
from torch.distributed.checkpoint.metadata import Metadata

from ple_rec.checkpoint.manifest import MANIFEST, FileInfo, check_content, read_manifest
from ple_rec.checkpoint.metadata import METADATA, parse_metadata
from ple_rec.errors import DataError
from ple_rec.storage import Location, atomic_write, is_remote, location, names_in


class _ChecksumStream(io.RawIOBase):
    """Output stream that passes its content on to another stream and computes the size and CRC-32 of the content.

    Args:
        stream: Stream that receives the content; its owner closes it.
        on_write: Function that is called after each written block.
    """

    def __init__(self, stream: Any, on_write: Callable[[], None]) -> None:
        self.stream, self.on_write = stream, on_write
        self.crc, self.size = 0, 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        block = memoryview(data).cast("B")
        self.stream.write(block)
        self.crc, self.size = zlib.crc32(block, self.crc), self.size + len(block)
        self.on_write()
        return len(block)

    def tell(self) -> int:
        return self.size

    def flush(self) -> None:
        if not self.stream.closed:
            self.stream.flush()

    def fileno(self) -> int:
        return int(self.stream.fileno())

    def close(self) -> None:
        """Do nothing: the owner of the inner stream closes it."""


class _RemoteFiles(FileSystemBase):
    """Objects of a store, behind the file-system interface that DCP's writer and reader call."""

    @contextmanager
    def create_stream(self, path: str | os.PathLike[str], mode: str) -> Generator[io.IOBase, None, None]:
        file = location(str(path))
        with atomic_write(file) if "w" in mode else file.open() as stream:
            yield cast(io.IOBase, stream)

    def concat_path(self, path: str | os.PathLike[str], suffix: str) -> str | os.PathLike[str]:
        return f"{path}/{suffix}"

    def rename(self, path: str | os.PathLike[str], new_path: str | os.PathLike[str]) -> None:
        """Copy an object to the new name and remove the old one. DCP renames only `.metadata`, so the copy is small."""
        old = location(str(path))
        with atomic_write(location(str(new_path))) as stream:
            stream.write(old.read_bytes())
        old.unlink()

    def init_path(self, path: str | os.PathLike[str]) -> str | os.PathLike[str]:
        return path

    def mkdir(self, path: str | os.PathLike[str]) -> None:
        """Do nothing: a store has no directories."""

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        return True

    def exists(self, path: str | os.PathLike[str]) -> bool:
        target = location(str(path))
        return target.is_file() or bool(names_in(target))

    def rm_file(self, path: str | os.PathLike[str]) -> None:
        location(str(path)).unlink()


class _ChecksumFiles(FileSystemBase):
    """Files of a local directory or of an object store, with a record of the checksum of each file that is written.

    Args:
        directory: Directory of the checkpoint, or the prefix of its objects in a store.
        on_write: Function that is called after each written block.

    Attributes:
        written_files: Size and checksum of each written file, by file name.
    """

    def __init__(self, directory: Location, on_write: Callable[[], None]) -> None:
        self.inner: Any = _RemoteFiles() if is_remote(directory) else LocalFiles()
        self.on_write = on_write
        self.written_files: dict[str, FileInfo] = {}

    @contextmanager
    def create_stream(self, path: str | os.PathLike[str], mode: str) -> Generator[io.IOBase, None, None]:
        with self.inner.create_stream(path, mode) as stream:
            if "r" in mode:
                yield stream
                return
            checksum_stream = _ChecksumStream(stream, self.on_write)
            yield checksum_stream
        self.written_files[_file_name(path)] = FileInfo(checksum_stream.size, f"{checksum_stream.crc:08x}")

    def rename(self, path: str | os.PathLike[str], new_path: str | os.PathLike[str]) -> None:
        self.inner.rename(path, new_path)
        self.written_files[_file_name(new_path)] = self.written_files.pop(_file_name(path))

    def concat_path(self, path: str | os.PathLike[str], suffix: str) -> str | os.PathLike[str]:
        return cast(str, self.inner.concat_path(path, suffix))

    def init_path(self, path: str | os.PathLike[str]) -> str | os.PathLike[str]:
        return path

    def mkdir(self, path: str | os.PathLike[str]) -> None:
        self.inner.mkdir(path)

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        return True

    def exists(self, path: str | os.PathLike[str]) -> bool:
        return bool(self.inner.exists(path))

    def rm_file(self, path: str | os.PathLike[str]) -> None:
        self.inner.rm_file(path)


def _file_name(path: str | os.PathLike[str]) -> str:
    """Return the last component of a path or address."""
    return os.fspath(path).rpartition("/")[2]


class ChecksumWriter(FileSystemWriter):
    """DCP writer of a checkpoint.

    Args:
        directory: Directory of the checkpoint, or the prefix of its objects in a store; it must not contain files yet.
        on_write: Function that is called after each written block, so that a watchdog can see progress.
    """

    def __init__(self, directory: Location, on_write: Callable[[], None] = lambda: None) -> None:
        # The base class would turn an address into a local path, so `path` is set below.
        super().__init__(".", sync_files=not is_remote(directory))
        self._files = _ChecksumFiles(directory, on_write)
        # The base class declares `fs` with torch's class of local files, but calls only the methods of FileSystemBase.
        self.fs = self._files  # type: ignore[assignment]
        self.path = _dcp_path(directory)

    @property
    def written_files(self) -> dict[str, FileInfo]:
        """Size and checksum of every file that this rank wrote, by file name."""
        return self._files.written_files


class CheckpointReader(FileSystemReader):
    """DCP reader of a checkpoint.

    Args:
        directory: Directory of the checkpoint, or the prefix of its objects in a store.
    """

    def __init__(self, directory: Location) -> None:
        # The base class would turn an address into a local path, so `path` is set below.
        super().__init__(".")
        # The base class declares `fs` with torch's class of local files, but calls only the methods of FileSystemBase.
        self.fs = _ChecksumFiles(directory, lambda: None)  # type: ignore[assignment]
        self.path = _dcp_path(directory)
        self._directory = directory
        self._metadata: Metadata | None = None

    # The method of the base class also takes a rank, for checkpoints in which each rank has a metadata file of its own.
    # A checkpoint of this project has one `.metadata` for all ranks, so this method takes no rank.
    def read_metadata(self) -> Metadata:
        """Return the parsed `.metadata`.

        The first call compares the file with its checksum in the manifest and parses it; later calls return the same
        object.

        Raises:
            DataError: The file is damaged, or is not in the manifest, or its pickle names an object that the metadata
                of a checkpoint never contains.
            StoreError: The store cannot be read.
        """
        if self._metadata is None:
            file, files = self._directory / METADATA, read_manifest(self._directory).files
            if METADATA not in files:
                rule = f"{MANIFEST} lists the files of a checkpoint, and does not list it"
                raise DataError(str(file), "unverified", rule, "use another checkpoint of the run")
            check_content(self._directory, METADATA, files[METADATA])
            self._metadata = parse_metadata(str(file), file.read_bytes(), files)
        return self._metadata


def _dcp_path(directory: Location) -> str | Path:
    """Return a local directory as a Path and an address as a text, as DCP's writer and reader expect them."""
    return directory if isinstance(directory, Path) else str(directory)
