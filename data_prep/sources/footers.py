"""Reading of Parquet footers, digests of raw files, and a meter of the bytes that are read.

The footer of a Parquet file holds its number of rows, its row groups and its columns. A digest of the content
identifies a raw file, so that a later run notices a change.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.types as pt

from data_prep.sources.columns import Columns, plain_type
from data_prep.sources.find import FoundFile
from data_prep.sources.remote import open_raw_parquet, open_source
from data_prep.sources.table import POSITION, RawFile
from ple_rec.errors import DataError, PleRecError
from ple_rec.storage import is_address
from ple_rec.text.units import short_bytes

_CHUNK = 1 << 22  # Bytes that are read at a time.
_MAGIC = b"PAR1"  # First bytes of a Parquet file.
_SECONDS_PER_REPORT = 0.5
_ENCRYPTED = "PARE"  # First bytes of an encrypted Parquet file.


class Meter:
    """Meter of the bytes that threads read or write, which reports progress.

    Args:
        label: Name of the work in messages: `log: digesting 3 files`.
        total: Bytes of all files.
        progress: Callback that gets a line of text, at most twice a second; threads call it one at a time. None to
            report nothing.
    """

    def __init__(self, label: str, total: int, progress: Callable[[str], None] | None) -> None:
        self._label, self._total, self._progress = label, total, progress
        self._done, self._next = 0, 0.0
        self._lock = threading.Lock()

    def add(self, size: int) -> None:
        """Count `size` more bytes, and report if the last report is old enough."""
        with self._lock:
            self._done += size
            if self._progress is not None and time.monotonic() >= self._next:
                self._progress(f"{self._label}: {short_bytes(self._done)} of {short_bytes(self._total)}")
                self._next = time.monotonic() + _SECONDS_PER_REPORT


def identify(file: FoundFile, meter: Meter) -> str:
    """Return the identity of a file: the SHA-256 of a local file, or the digest that an object got when it was listed.

    The size of the file is added to `meter`.

    Raises:
        DataError: The file cannot be read.
    """
    if is_address(file.path):
        meter.add(file.size)
        return str(file.stamp[-1])
    digest = hashlib.sha256()
    try:
        with Path(file.path).open("rb", buffering=0) as stream:
            while chunk := stream.read(_CHUNK):
                digest.update(chunk)
                meter.add(len(chunk))
    except OSError as error:
        raise unreadable_file_error(file.display_name, error) from error
    return digest.hexdigest()


def unreadable_file_error(display_name: str, error: OSError) -> DataError:
    """Return the error about a file that the system cannot read."""
    return DataError(
        display_name, f"cannot be read ({error.strerror or error})", "every file of a table is read", "make it readable"
    )


def read_footer(file: FoundFile, digest: str = "") -> RawFile:
    """Read the footer of a Parquet file, and return the file with its rows, columns and time zones.

    Args:
        file: Parquet file.
        digest: Identity of the file; empty if it is not known yet.

    Raises:
        DataError: The file is not a sound Parquet file, or has a column `__position`, a name that prep uses itself.
        UserError: The store of the file cannot be read.
    """
    try:
        with open_raw_parquet(file.path) as parquet:
            footer = parquet.metadata
            fields = list(parquet.schema_arrow)
            columns: Columns = tuple((field.name, plain_type(field.type)) for field in fields)
            zones = {field.name: field.type.tz for field in fields if pt.is_timestamp(field.type) and field.type.tz}
            groups = tuple(footer.row_group(index).num_rows for index in range(footer.num_row_groups))
            rows = footer.num_rows
    except (pa.ArrowException, OSError, ValueError, RuntimeError, MemoryError) as error:
        raise _unsound_file_error(file, error) from error
    if rows != sum(groups) or min(groups, default=0) < 0:
        raise DataError(
            file.display_name,
            f"its footer counts {rows} rows, its row groups {sum(groups)}",
            "both numbers are equal in a sound Parquet file",
            "copy or write the file again",
        )
    if any(name.lower() == POSITION for name, _ in columns):
        fix = "write the file without it, or with another name"
        raise DataError(file.display_name, f"has a column {POSITION!r}", "prep uses this name itself", fix)
    return RawFile(
        file.path,
        file.display_name,
        rows,
        groups,
        file.size,
        digest,
        file.partitions,
        columns,
        stamp=file.stamp,
        zones=zones,
    )


def read_verified_footer(path: Path) -> pq.FileMetaData | None:
    """Return the footer of a file that an earlier run has written, or None if the file is missing or damaged.

    Every page is read and compared with its checksum. A damaged file is removed.
    """
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            for group in range(file.num_row_groups):
                file.read_row_group(group)
            return file.metadata
    except (OSError, ValueError, pa.ArrowException):  # Also raised for a column name that is not UTF-8.
        path.unlink(missing_ok=True)
        return None


def _unsound_file_error(file: FoundFile, error: Exception) -> PleRecError:
    """Return the error about a file that pyarrow cannot read as Parquet; its first bytes tell the cause."""
    try:
        source = open_source(file.path)
        with Path(source).open("rb") if isinstance(source, str) else source as stream:
            head = bytes(stream.read(64))
    except OSError as other:
        return unreadable_file_error(file.display_name, other)
    rule, again = "it must be a sound Parquet file", "copy or write the file again"
    if not head:
        return DataError(file.display_name, "the file is empty", rule, again)
    if head[:4] == _ENCRYPTED.encode() or "encrypt" in str(error):
        return DataError(
            file.display_name, "the file is encrypted", "encrypted Parquet files cannot be read", "write it unencrypted"
        )
    if head[:4] == _MAGIC:
        reason = " ".join(str(error).split())[:200]
        return DataError(file.display_name, f"the file is truncated or damaged ({reason})", rule, again)
    if head[:2] == b"\x1f\x8b":
        fix = "unpack it, or let its name end in .csv.gz if it holds CSV"
        return DataError(file.display_name, "a gzip file", rule, fix)
    is_text = all(byte >= 32 or byte in b"\t\r\n" for byte in head)
    fix = "name Parquet files only"
    if is_text:  # A folder stands for files whose names show the format, so the format alone would find no file.
        fix = 'rename it to end in .csv, or set format = "csv" and name the files themselves: files = ["folder/*"]'
    return DataError(file.display_name, f"begins with {head[:16]!r}", f"{rule}, which begins with {_MAGIC!r}", fix)
