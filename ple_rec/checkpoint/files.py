"""The files of a checkpoint as `torch.distributed.checkpoint` writes and reads them, summed while they are written."""

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

from ple_rec.checkpoint.manifest import MANIFEST, File, check_content, read_manifest
from ple_rec.checkpoint.metadata import METADATA, parse_metadata
from ple_rec.errors import DataError
from ple_rec.storage import Location, atomic_write, is_remote, location, names_in


class _Summed(io.RawIOBase):
    """A stream that is written to, with the size and CRC-32 of what went through."""

    def __init__(self, stream: Any, wrote: Callable[[], None]) -> None:
        self.stream, self.wrote = stream, wrote
        self.crc, self.size = 0, 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        block = memoryview(data).cast("B")
        self.stream.write(block)
        self.crc, self.size = zlib.crc32(block, self.crc), self.size + len(block)
        self.wrote()
        return len(block)

    def tell(self) -> int:
        return self.size

    def flush(self) -> None:
        if not self.stream.closed:
            self.stream.flush()

    def fileno(self) -> int:
        return int(self.stream.fileno())

    def close(self) -> None:
        """Leave closing to whoever opened the stream."""


class _RemoteFiles(FileSystemBase):
    """Objects of a store, by their addresses, as torch's writer and reader ask for them."""

    @contextmanager
    def create_stream(self, path: str | os.PathLike[str], mode: str) -> Generator[io.IOBase, None, None]:
        file = location(str(path))
        with atomic_write(file) if "w" in mode else file.open() as stream:
            yield cast(io.IOBase, stream)

    def concat_path(self, path: str | os.PathLike[str], suffix: str) -> str | os.PathLike[str]:
        return f"{path}/{suffix}"

    def rename(self, path: str | os.PathLike[str], new_path: str | os.PathLike[str]) -> None:
        """Write an object anew, which is small: torch renames its metadata alone."""
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
        where = location(str(path))
        return where.is_file() or bool(names_in(where))

    def rm_file(self, path: str | os.PathLike[str]) -> None:
        location(str(path)).unlink()


class _SummedFiles(FileSystemBase):
    """Files of a directory or of an object store, and the sums of those that were written.

    Args:
        where: Directory or prefix of the checkpoint.
        wrote: Function that is called after each block.
    """

    def __init__(self, where: Location, wrote: Callable[[], None]) -> None:
        self.base: Any = _RemoteFiles() if is_remote(where) else LocalFiles()
        self.wrote = wrote
        self.sums: dict[str, File] = {}

    @contextmanager
    def create_stream(self, path: str | os.PathLike[str], mode: str) -> Generator[io.IOBase, None, None]:
        with self.base.create_stream(path, mode) as stream:
            if "r" in mode:
                yield stream
                return
            summed = _Summed(stream, self.wrote)
            yield summed
        self.sums[_name(path)] = File(summed.size, f"{summed.crc:08x}")

    def rename(self, path: str | os.PathLike[str], new_path: str | os.PathLike[str]) -> None:
        self.base.rename(path, new_path)
        self.sums[_name(new_path)] = self.sums.pop(_name(path))

    def concat_path(self, path: str | os.PathLike[str], suffix: str) -> str | os.PathLike[str]:
        return cast(str, self.base.concat_path(path, suffix))

    def init_path(self, path: str | os.PathLike[str]) -> str | os.PathLike[str]:
        return path

    def mkdir(self, path: str | os.PathLike[str]) -> None:
        self.base.mkdir(path)

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        return True

    def exists(self, path: str | os.PathLike[str]) -> bool:
        return bool(self.base.exists(path))

    def rm_file(self, path: str | os.PathLike[str]) -> None:
        self.base.rm_file(path)


def _name(path: str | os.PathLike[str]) -> str:
    return os.fspath(path).rpartition("/")[2]


class SummingWriter(FileSystemWriter):
    """Writes a checkpoint into a directory, or below a prefix, that has none yet.

    Args:
        where: The checkpoint's.
        wrote: Called after each block, as a sign of life.
    """

    def __init__(self, where: Location, wrote: Callable[[], None] = lambda: None) -> None:
        super().__init__(".", sync_files=not is_remote(where))
        self._files = _SummedFiles(where, wrote)
        self.fs = self._files  # type: ignore[assignment]  # torch names its class of local files, and takes any
        self.path = _path(where)

    @property
    def sums(self) -> dict[str, File]:
        """Size and checksum of every file that this rank wrote, by name."""
        return self._files.sums


class Reader(FileSystemReader):
    """A reader of the checkpoint in a directory, or below a prefix.

    Args:
        where: Directory or prefix of the checkpoint.
    """

    def __init__(self, where: Location) -> None:
        super().__init__(".")
        self.fs = _SummedFiles(where, lambda: None)  # type: ignore[assignment]  # as above
        self.path = _path(where)
        self._where = where
        self._metadata: Metadata | None = None

    def read_metadata(self) -> Metadata:  # without the rank whose metadata DCP falls back to
        """Return what the checkpoint holds; the file is compared with the manifest before it is parsed, and read once.

        Raises:
            DataError: the file is damaged, the manifest does not list it, or it names what no checkpoint has.
            StoreError: the store cannot be read.
        """
        if self._metadata is None:
            file, files = self._where / METADATA, read_manifest(self._where).files
            if METADATA not in files:
                rule = f"{MANIFEST} lists the files of a checkpoint, and does not list it"
                raise DataError(str(file), "unverified", rule, "use another checkpoint of the run")
            check_content(self._where, METADATA, files[METADATA])
            self._metadata = parse_metadata(str(file), file.read_bytes(), files)
        return self._metadata


def _path(where: Location) -> str | Path:
    """Return a place as torch's writer and reader take it."""
    return where if isinstance(where, Path) else str(where)
