"""`manifest.json` of a checkpoint: the list of its files with sizes and checksums, written last.

A checksum is CRC-32 (zlib) as 8 hexadecimal digits. It detects damage, at 4 GB/s, but does not guard against forgery.
Each rank computes the checksums of its files while it writes them. When a checkpoint is loaded, each rank verifies a
share of the files. Manifests of version 1 have sizes and no checksums.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

# Before Python 3.12, pydantic refuses the TypedDict of `typing`.
from typing_extensions import TypedDict

from ple_rec.errors import DataError, UserError
from ple_rec.storage import Location, explain_errors, size_of
from ple_rec.text import printable

MANIFEST = "manifest.json"
VERSION = 2
_BLOCK_BYTES = 1 << 22  # Bytes that are read at a time to compute a checksum.
_MAX_MESSAGE_LENGTH = 300  # Characters of a parser's message that an error shows.
_USE_ANOTHER = "use another checkpoint of the run (`latest`, `best` and `step-*` beside it)"

_Count = Annotated[int, Field(ge=0, lt=1 << 63)]
_PositiveCount = Annotated[int, Field(ge=1, lt=1 << 31)]
# A name without a slash, and neither `.` nor `..`, so that a manifest cannot name a file outside of its directory.
_FileName = Annotated[str, Field(pattern="^[A-Za-z0-9_.-]*[A-Za-z0-9_-][A-Za-z0-9_.-]*$", max_length=255)]


@dataclass(frozen=True)
class FileInfo:
    """Size and checksum of one file of a checkpoint, as its manifest lists them.

    Args:
        bytes: Size of the file in bytes.
        crc32: Checksum of the file, or None if the manifest has none.
    """

    bytes: _Count
    crc32: Annotated[str, Field(pattern="^[0-9a-f]{8}$")] | None

    @classmethod
    def from_text(cls, text: str) -> FileInfo:
        """Return size and checksum of a file with this content."""
        content = text.encode()
        return cls(len(content), f"{zlib.crc32(content):08x}")


@dataclass(frozen=True)
class Manifest:
    """Content of `manifest.json`.

    Args:
        step: Step of the checkpoint.
        written_by: Properties of the run that readers check before they load, such as its tasks and columns.
        files: Size and checksum of each file, by name.
    """

    step: int
    written_by: Mapping[str, Any]
    files: Mapping[str, FileInfo]

    def to_json(self) -> str:
        """Return the manifest as JSON."""
        files = {name: vars(file) for name, file in self.files.items()}
        raw = {"version": VERSION, "step": self.step, "written_by": dict(self.written_by), "files": files}
        return json.dumps(raw, indent=1)


class _WrittenByKeys(TypedDict, total=False):
    """Keys of `written_by` whose types its readers rely on. Other keys are allowed.

    `columns` holds the number of columns of each shard of a column-wise table, by table.
    """

    # mypy allows only annotations in a TypedDict, but pydantic reads its configuration from here.
    __pydantic_config__ = ConfigDict(strict=True, extra="allow")  # type: ignore[misc]

    ranks: _PositiveCount
    threads: _PositiveCount
    batch_size: _PositiveCount
    dataset: str
    table_rows: dict[str, _Count]
    tasks: list[str]
    inputs: list[str]
    columns: dict[str, list[_Count]]
    device: str
    early_stopping: str
    unreported_steps: _Count
    evaluation_pending: bool


class _CommonKeys(BaseModel):
    model_config = ConfigDict(strict=True)

    step: _Count
    written_by: _WrittenByKeys = {}


class _Version1(_CommonKeys):
    version: Literal[1]
    files: dict[_FileName, _Count]


class _Version2(_CommonKeys):
    version: Literal[2]
    files: dict[_FileName, FileInfo]


_ADAPTER: TypeAdapter[_Version1 | _Version2] = TypeAdapter(
    Annotated[_Version1 | _Version2, Field(discriminator="version")]
)


def read_file_info(file: Location) -> FileInfo:
    """Read a file block by block, and return its size and CRC-32."""
    crc, size = 0, 0
    with file.open("rb") as stream:
        while block := stream.read(_BLOCK_BYTES):
            crc, size = zlib.crc32(block, crc), size + len(block)
    return FileInfo(size, f"{crc:08x}")


def read_manifest(path: Location) -> Manifest:
    """Read the manifest of the checkpoint in the directory `path`, which is named after its step.

    Raises:
        DataError: The manifest is missing, damaged, of another version than 1 and 2, or of another step; or it lists
            fewer files than ranks.
        UserError: The store cannot be read.
    """
    file = path / MANIFEST
    try:
        content = _ADAPTER.validate_json(file.read_bytes())
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        # The first segment of the location is the version, by which pydantic selects the class.
        key = ".".join(str(segment) for segment in first["loc"][1:])
        raise _unreadable_error(file, f"{key}: {first['msg']}" if key else first["msg"]) from None
    except OSError as error:
        raise _unreadable_error(file, str(error)) from error
    if path.name != f"step-{content.step}":
        raise _unreadable_error(file, f"its step is {content.step}")
    # Each rank writes at least one file.
    if content.written_by.get("ranks", 0) > len(content.files):
        raise _unreadable_error(file, f"{len(content.files)} files of {content.written_by['ranks']} ranks")
    files = {name: info if isinstance(info, FileInfo) else FileInfo(info, None) for name, info in content.files.items()}
    return Manifest(content.step, dict(content.written_by), files)


def _unreadable_error(file: Location, reason: str) -> DataError:
    value = f"unreadable ({printable(reason)[:_MAX_MESSAGE_LENGTH]})"
    return DataError(str(file), value, "it must list the files of the checkpoint", _USE_ANOTHER)


@contextmanager
def explain_removal(path: Location) -> Iterator[None]:
    """Replace a DataError or UserError of the block by `removal_error` if the run has removed the checkpoint meanwhile.

    Args:
        path: Directory of the checkpoint.

    Raises:
        UserError: The run has removed the checkpoint.
    """
    try:
        yield
    except (DataError, UserError) as error:
        if is_removed(path):
            raise removal_error(path) from error
        raise


def is_removed(path: Location) -> bool:
    """Return True if a checkpoint that the caller has found before exists no longer, that is, has no manifest.

    Args:
        path: Directory of the checkpoint.

    Raises:
        UserError: The store cannot be read.
    """
    with explain_errors(path):
        return not (path / MANIFEST).is_file()


def removal_error(path: Location) -> UserError:
    """Return the error for a checkpoint that its run removed while it was read."""
    return UserError(
        str(path),
        "was removed while it was read",
        "a run that trains keeps its newest checkpoints (checkpoint.keep) and the best",
        "run the command again",
    )


def _size_of(file: Location) -> int | None:
    """Return the size of a file in bytes, None if it does not exist."""
    try:
        return size_of(file)
    except (FileNotFoundError, NotADirectoryError):
        return None


def check_size(path: Location, name: str, expected: FileInfo) -> None:
    """Check that a file exists and has the size that the manifest lists.

    Raises:
        DataError: The file is missing or has another size.
    """
    size = _size_of(path / name)
    if size != expected.bytes:
        value = "missing" if size is None else f"{size} bytes"
        raise DataError(str(path / name), value, f"the manifest says {expected.bytes} bytes", _USE_ANOTHER)


def check_content(path: Location, name: str, expected: FileInfo) -> None:
    """Check the size and, if the manifest has one, the checksum of a file.

    Raises:
        DataError: The file is missing, its bytes have changed, or its disk cannot read it.
        StoreError: The store cannot be read.
    """
    check_size(path, name, expected)
    try:
        actual = read_file_info(path / name)
    except OSError as error:
        raise DataError(
            str(path / name), f"unreadable ({error})", "every file of a checkpoint is read", _USE_ANOTHER
        ) from error
    if expected.crc32 is not None and actual.crc32 != expected.crc32:
        raise DataError(
            str(path / name),
            f"CRC-32 {actual.crc32}",
            f"the manifest says {expected.crc32}; its bytes changed",
            _USE_ANOTHER,
        )
