"""Footers of Parquet parts: what a split has of rows and columns is read once, by a few threads.

A parsed footer is some eight times as large as its bytes (half a megabyte for 16 row groups of 37 columns), so of many
parts only the latest are kept; to parse one again takes a twentieth of the time that one of its row groups takes.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from ple_rec.data.integrity import Digests, read_footer
from ple_rec.storage import Location

MOST_BYTES = 16 << 20  # of the footers kept, as they stand in their files
THREADS = 8  # where files are far away, they wait rather than work


@dataclass(frozen=True)
class Part:
    """What a footer says: rows of each row group, the names of the columns, and the schema, shared by equal parts."""

    file: Location
    rows: tuple[int, ...]
    names: tuple[str, ...]
    schema: pa.Schema


class Footers:
    """The footers of a dataset; may be used by several threads.

    Args:
        digests: Digests of the dataset, to which every footer is held when it is parsed.
        most_bytes: Bytes of footers that are kept.
    """

    def __init__(self, digests: Digests, most_bytes: int = MOST_BYTES) -> None:
        self.digests, self.most_bytes = digests, most_bytes
        self._kept: OrderedDict[Location, pq.FileMetaData] = OrderedDict()
        self._schemas: list[pa.Schema] = []  # that differ
        self._bytes = 0
        self._lock = threading.Lock()

    def of(self, file: Location) -> pq.FileMetaData:
        """The footer of a file, of which no errors are caught."""
        with self._lock:
            if (footer := self._kept.get(file)) is not None:
                self._kept.move_to_end(file)
                return footer
        return self.parse(file)[0]

    def parse(self, file: Location) -> tuple[pq.FileMetaData, pa.Schema]:
        """Return the footer, which is kept, and the schema of a file, without its metadata.

        The schema is the reader's: a footer that is asked for its own refers to it and is referred to by it, and such
        pairs stay in memory until the garbage collector comes by, which of few objects, however large, is late.

        Raises:
            DataError: it is not the footer that was written.
        """
        content = read_footer(file)
        self.digests.check_footer(f"{file.parent.name}/{file.name}", content)
        with pq.ParquetFile(pa.BufferReader(content)) as parquet:
            footer, own = parquet.metadata, parquet.schema_arrow.remove_metadata()
        with self._lock:
            schema = next((known for known in self._schemas if known.equals(own)), None)
            if schema is None:
                self._schemas.append(schema := own)
            if file not in self._kept:
                self._kept[file] = footer
                self._bytes += footer.serialized_size
            while self._bytes > self.most_bytes and len(self._kept) > 1:
                self._bytes -= self._kept.popitem(last=False)[1].serialized_size
        return footer, schema

    def parts(self, files: Sequence[Location], read: Callable[[Location], Part]) -> list[Part]:
        """What the footers say, in the order of the files.

        Args:
            files: Parquet files.
            read: Gives what the footer of one says, or refuses it.

        Raises:
            DataError: what `read` raises first, in the order of the files.
        """
        pool = ThreadPoolExecutor(min(THREADS, len(files)), thread_name_prefix="footers")
        try:
            return list(pool.map(read, files))
        finally:
            pool.shutdown(cancel_futures=True)
