"""`manifest.json` of a checkpoint: its files with sizes and checksums, written last.

A checksum is CRC-32 (zlib), 8 hexadecimal digits: it finds damage, at 4 GB/s, and does not guard against forgery. Each
rank sums what it writes as it writes it, and reads a share of the files when a checkpoint is loaded. Manifests of
version 1 have sizes alone.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict  # pydantic takes that of `typing` from Python 3.12 on

from ple_rec.errors import DataError, UserError
from ple_rec.storage import Location, explain_errors, size_of
from ple_rec.text import printable

MANIFEST = "manifest.json"
VERSION = 2
_BLOCK = 1 << 22
_SHOWN = 300  # characters of what is wrong with it
_ANOTHER = "use another checkpoint of the run (`latest`, `best` and `step-*` beside it)"

_Count = Annotated[int, Field(ge=0, lt=1 << 63)]
_Some = Annotated[int, Field(ge=1, lt=1 << 31)]
_FileName = Annotated[str, Field(pattern="^[A-Za-z0-9_.-]*[A-Za-z0-9_-][A-Za-z0-9_.-]*$", max_length=255)]


@dataclass(frozen=True)
class File:
    """A file of a checkpoint.

    Args:
        bytes: Its size.
        crc32: Its checksum; None where the manifest has none.
    """

    bytes: _Count
    crc32: Annotated[str, Field(pattern="^[0-9a-f]{8}$")] | None

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


class _WrittenBy(TypedDict, total=False):
    """What of `written_by` has a type that its readers rely on; it may hold more."""

    # mypy takes a TypedDict for annotations alone; pydantic reads its configuration here.
    __pydantic_config__ = ConfigDict(strict=True, extra="allow")  # type: ignore[misc]

    ranks: _Some
    threads: _Some
    batch_size: _Some
    dataset: str
    table_rows: dict[str, _Count]
    tasks: list[str]
    inputs: list[str]
    columns: dict[str, list[_Count]]
    device: str
    early_stopping: str
    unreported_steps: _Count
    evaluation_pending: bool


class _Head(BaseModel):
    model_config = ConfigDict(strict=True)

    step: _Count
    written_by: _WrittenBy = {}


class _Version1(_Head):
    version: Literal[1]
    files: dict[_FileName, _Count]


class _Version2(_Head):
    version: Literal[2]
    files: dict[_FileName, File]


_CONTENT: TypeAdapter[_Version1 | _Version2] = TypeAdapter(
    Annotated[_Version1 | _Version2, Field(discriminator="version")]
)


def checksum(file: Location) -> File:
    """Size and CRC-32 of a file, read block by block."""
    crc, size = 0, 0
    with file.open("rb") as stream:
        while block := stream.read(_BLOCK):
            crc, size = zlib.crc32(block, crc), size + len(block)
    return File(size, f"{crc:08x}")


def read_manifest(path: Location) -> Manifest:
    """Return the manifest of the checkpoint in directory `path`, whose name is that of its step.

    Raises:
        DataError: it is damaged, of another version, or of another step.
        UserError: its store cannot be read.
    """
    file = path / MANIFEST
    try:
        found = _CONTENT.validate_json(file.read_bytes())
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        key = ".".join(str(part) for part in first["loc"][1:])  # after the version
        raise _unreadable(file, f"{key}: {first['msg']}" if key else first["msg"]) from None
    except OSError as error:
        raise _unreadable(file, str(error)) from error
    if path.name != f"step-{found.step}":
        raise _unreadable(file, f"it is of step {found.step}")
    if found.written_by.get("ranks", 0) > len(found.files):  # each writes one at least
        raise _unreadable(file, f"{len(found.files)} files of {found.written_by['ranks']} ranks")
    files = {name: each if isinstance(each, File) else File(each, None) for name, each in found.files.items()}
    return Manifest(found.step, dict(found.written_by), files)


def _unreadable(file: Location, why: str) -> DataError:
    value = f"unreadable ({printable(why)[:_SHOWN]})"
    return DataError(str(file), value, "it lists the files of a checkpoint", _ANOTHER)


@contextmanager
def explain_removal(path: Location) -> Iterator[None]:
    """Tell that a checkpoint was removed where reading it in the block failed for that reason.

    Args:
        path: Directory of the checkpoint.

    Raises:
        UserError: the run has removed the checkpoint.
    """
    try:
        yield
    except (DataError, UserError) as error:
        if is_removed(path):
            raise removal_error(path) from error
        raise


def is_removed(path: Location) -> bool:
    """Return whether the checkpoint in directory `path`, which was there, is no more.

    Raises:
        UserError: its store cannot be read.
    """
    with explain_errors(path):
        return not (path / MANIFEST).is_file()


def removal_error(path: Location) -> UserError:
    """Return the error of a checkpoint that its run removed while it was read."""
    return UserError(
        str(path),
        "was removed while it was read",
        "a run that trains keeps its newest checkpoints (checkpoint.keep) and the best",
        "ask again",
    )


def _size_of(file: Location) -> int | None:
    """Return the bytes of a file; None where it is not there."""
    try:
        return size_of(file)
    except (FileNotFoundError, NotADirectoryError):
        return None


def check_size(path: Location, name: str, expected: File) -> None:
    """Refuse a file that is not there, or not whole.

    Raises:
        DataError: so it is.
    """
    found = _size_of(path / name)
    if found != expected.bytes:
        value = "missing" if found is None else f"{found} bytes"
        raise DataError(str(path / name), value, f"the manifest says {expected.bytes} bytes", _ANOTHER)


def check_content(path: Location, name: str, expected: File) -> None:
    """Refuse a file whose bytes are not those that were written.

    Raises:
        DataError: so it is, or a disk cannot read it.
        StoreError: its store cannot be read.
    """
    check_size(path, name, expected)
    try:
        found = checksum(path / name)
    except OSError as error:
        raise DataError(str(path / name), f"unreadable ({error})", "a checkpoint is read whole", _ANOTHER) from error
    if expected.crc32 is not None and found.crc32 != expected.crc32:
        raise DataError(
            str(path / name),
            f"CRC-32 {found.crc32}",
            f"the manifest says {expected.crc32}; its bytes changed",
            _ANOTHER,
        )
