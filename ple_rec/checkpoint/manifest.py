"""`manifest.json` of a checkpoint: its files with sizes and checksums, written last.

A checksum is CRC-32 (zlib), 8 hexadecimal digits: it finds damage, at 4 GB/s, and does not guard against forgery. Each
rank sums what it writes as it writes it, and reads a share of the files when a checkpoint is loaded. Manifests of
version 1 have sizes alone.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from ple_rec.checkpoint.place import Place, is_remote, reached, reading
from ple_rec.errors import DataError

MANIFEST = "manifest.json"
VERSION = 2
_BLOCK = 1 << 22
_ANOTHER = "use another checkpoint of the run (`latest`, `best` and `step-*` beside it)"


@dataclass(frozen=True)
class File:
    """A file of a checkpoint.

    Args:
        bytes: Its size.
        crc32: Its checksum; None where the manifest has none.
    """

    bytes: int
    crc32: str | None

    @classmethod
    def of_text(cls, text: str) -> File:
        """Of a file of this content."""
        content = text.encode()
        return cls(len(content), f"{zlib.crc32(content):08x}")


@dataclass(frozen=True)
class Manifest:
    """What `manifest.json` says.

    Args:
        step: Of the checkpoint.
        written_by: What a reader must know before it loads.
        files: By name.
    """

    step: int
    written_by: Mapping[str, Any]
    files: Mapping[str, File]

    def text(self) -> str:
        """As JSON."""
        files = {name: vars(file) for name, file in self.files.items()}
        raw = {"version": VERSION, "step": self.step, "written_by": dict(self.written_by), "files": files}
        return json.dumps(raw, indent=1)


def checksum(file: Place) -> File:
    """Size and CRC-32 of a file, read block by block."""
    crc, size = 0, 0
    with reached(), file.open("rb") as stream:
        while block := stream.read(_BLOCK):
            crc, size = zlib.crc32(block, crc), size + len(block)
    return File(size, f"{crc:08x}")


def read_manifest(path: Place) -> Manifest:
    """The manifest of the checkpoint in directory `path`.

    Raises:
        DataError: it is damaged.
        UserError: its store cannot be read.
    """
    file = path / MANIFEST
    try:
        with reading(file) if is_remote(file) else nullcontext():
            raw = json.loads(file.read_text())
        files = {
            name: File(entry["bytes"], entry["crc32"]) if isinstance(entry, dict) else File(int(entry), None)
            for name, entry in raw["files"].items()
        }
        if strange := [name for name in files if "/" in name]:
            raise ValueError(f"{strange[0]!r} is not a file of the checkpoint's own directory")
        return Manifest(int(raw.get("step", -1)), dict(raw.get("written_by", {})), files)
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise DataError(str(file), f"unreadable ({error})", "it lists the files of a checkpoint", _ANOTHER) from error


def size_of(file: Place) -> int | None:
    """Of a file, in bytes; None where it is not there.

    Raises:
        OSError: the store cannot be reached.
    """
    try:
        with reached():
            return int(file.stat().st_size)
    except (FileNotFoundError, NotADirectoryError):
        return None


def check_size(path: Place, name: str, expected: File) -> None:
    """Refuse a file that is not there, or not whole.

    Raises:
        DataError: so it is.
    """
    found = size_of(path / name)
    if found != expected.bytes:
        value = "missing" if found is None else f"{found} bytes"
        raise DataError(str(path / name), value, f"the manifest says {expected.bytes} bytes", _ANOTHER)


def check_content(path: Place, name: str, expected: File) -> None:
    """Refuse a file whose bytes are not those that were written.

    Raises:
        DataError: so it is, or a disk cannot read it.
        OSError: its store cannot be reached.
    """
    check_size(path, name, expected)
    try:
        found = checksum(path / name)
    except OSError as error:
        if is_remote(path):  # a connection that breaks says nothing of the bytes
            raise
        raise DataError(str(path / name), f"unreadable ({error})", "a checkpoint is read whole", _ANOTHER) from error
    if expected.crc32 is not None and found.crc32 != expected.crc32:
        raise DataError(
            str(path / name),
            f"CRC-32 {found.crc32}",
            f"the manifest says {expected.crc32}; its bytes changed",
            _ANOTHER,
        )
