"""Footers of Parquet files, and digests of their content."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.types as pt

from data_prep.sources.columns import Columns, plain
from data_prep.sources.find import FoundFile
from data_prep.sources.remote import open_raw_parquet, opened
from data_prep.sources.table import POSITION, RawFile
from ple_rec.errors import DataError, PleRecError
from ple_rec.storage import is_address
from ple_rec.text.units import short_bytes

_CHUNK = 1 << 22
_MAGIC = b"PAR1"
_SECONDS_PER_REPORT = 0.5
_ENCRYPTED = "PARE"


class Meter:
    """Progress of reading files. Threads may share it.

    Args:
        label: Name of the work in messages: `log: digesting 3 files`.
        total: Bytes of all files.
        progress: Function that gets a line of text, at most twice a second. Any thread may call it, one at a time.
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
    """Return the hex digest of a file.

    A local file is read for its SHA-256, which only SHA-1 outruns in hashlib (1.7 GB/s on one core). The digest of an
    object was computed when it was listed.

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
        raise unreadable_file(file.shown, error) from error
    return digest.hexdigest()


def unreadable_file(shown: str, error: OSError) -> DataError:
    """Return the error of a file that the system does not let us read."""
    return DataError(shown, f"cannot be read ({error.strerror or error})", "every file of a table is read", "mend it")


def read_footer(file: FoundFile, digest: str = "") -> RawFile:
    """Return a Parquet file with its rows and columns, and with the stamp of its listing.

    Args:
        file: Parquet file.
        digest: Identity of the file; empty if it is not known yet.

    Raises:
        DataError: The file is not a sound Parquet file.
        UserError: The store of the file cannot be read.
    """
    try:
        with open_raw_parquet(file.path) as parquet:
            footer = parquet.metadata
            fields = list(parquet.schema_arrow)
            columns: Columns = tuple((field.name, plain(field.type)) for field in fields)
            zones = {field.name: field.type.tz for field in fields if pt.is_timestamp(field.type) and field.type.tz}
            groups = tuple(footer.row_group(index).num_rows for index in range(footer.num_row_groups))
            rows = footer.num_rows
    except (pa.ArrowException, OSError, ValueError, RuntimeError, MemoryError) as error:
        raise _unsound(file, error) from error
    if rows != sum(groups) or min(groups, default=0) < 0:
        raise DataError(
            file.shown,
            f"the footer counts {rows} rows, its row groups {sum(groups)}",
            "a Parquet file counts its rows once",
            "copy or write the file again",
        )
    if any(name.lower() == POSITION for name, _ in columns):
        fix = "write the file without it, or with another name"
        raise DataError(file.shown, f"has a column {POSITION!r}", "prep needs that name for itself", fix)
    return RawFile(
        file.path, file.shown, rows, groups, file.size, digest, file.partitions, columns, stamp=file.stamp, zones=zones
    )


def footer_if_whole(path: Path) -> pq.FileMetaData | None:
    """Return the footer of a file that an earlier run has written. Remove a damaged file and return None.

    Every page is read and compared with its checksum, since a disk may lose bytes or return other bytes.
    """
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            for group in range(file.num_row_groups):
                file.read_row_group(group)
            return file.metadata
    except (OSError, ValueError, pa.ArrowException):  # A name that is not UTF-8 raises one of them, too.
        path.unlink(missing_ok=True)
        return None


def _unsound(file: FoundFile, error: Exception) -> PleRecError:
    """Return the error of a file that is no sound Parquet file. Its first bytes decide on value and fix."""
    try:
        source = opened(file.path)
        with Path(source).open("rb") if isinstance(source, str) else source as stream:
            head = bytes(stream.read(64))
    except OSError as other:
        return unreadable_file(file.shown, other)
    rule, again = "not a sound Parquet file", "copy or write the file again"
    if not head:
        return DataError(file.shown, "the file is empty", rule, again)
    if head[:4] == _ENCRYPTED.encode() or "encrypt" in str(error):
        return DataError(file.shown, "the file is encrypted", "encrypted Parquet is not read", "write it unencrypted")
    if head[:4] == _MAGIC:
        reason = " ".join(str(error).split())[:200]
        return DataError(file.shown, f"the file is truncated or damaged ({reason})", rule, again)
    if head[:2] == b"\x1f\x8b":
        return DataError(file.shown, "a gzip file", rule, 'unpack it, or set format = "csv" if it is one')
    text = all(byte >= 32 or byte in b"\t\r\n" for byte in head)
    fix = 'set format = "csv"' if text else "name Parquet files only"
    return DataError(file.shown, f"begins with {head[:16]!r}", f"{rule}, which begins with {_MAGIC!r}", fix)
