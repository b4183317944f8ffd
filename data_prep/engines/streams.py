"""Concurrent writing of sorted queries of DuckDB to part files.

DuckDB sorts on all cores and then returns one stream, which one thread turns into Arrow batches and another into
Parquet. The next query is sorted meanwhile, so that the other cores are not idle.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import closing, suppress
from types import TracebackType
from typing import Self

import duckdb
import pyarrow as pa

from data_prep.engines.base import PartFile, Unit
from data_prep.failures import translated

_BATCH_ROWS = 65_536
_READY = 8  # So many batches of a query may wait for the thread that writes.


class Streams:
    """Units that are being written; the end of the block stops unfinished ones.

    Args:
        duck: Connection to the database.
        most: Most units that are written at a time.
        advance: Function that gets the number of rows just written; any thread may call it.

    Attributes:
        most: Most units that are written at a time; callers may lower it.
        running: Units by the future of their parts.
    """

    def __init__(self, duck: duckdb.DuckDBPyConnection, most: int, advance: Callable[[int], None]) -> None:
        self._duck, self.most, self._advance = duck, most, advance
        self._pool = ThreadPoolExecutor(most, thread_name_prefix="parts")
        self._cursors: set[duckdb.DuckDBPyConnection] = set()
        self.running: dict[Future[list[PartFile]], Unit] = {}

    @property
    def full(self) -> bool:
        """True if no other unit may start."""
        return len(self.running) >= self.most

    @property
    def rows(self) -> int:
        """Number of rows of the running units."""
        return sum(unit.count for unit in self.running.values())

    def start(self, unit: Unit, queries: Sequence[str]) -> None:
        """Start to write a unit, whose sorted rows are those of the queries; each query has some of the columns."""
        cursors = [self._duck.cursor() for _ in queries]
        self.running[self._pool.submit(self._write, unit, queries, cursors)] = unit

    def next(self) -> tuple[Unit, Future[list[PartFile]]]:
        """Wait for a unit, and return it with a finished future, which has its parts or its error."""
        done = next(iter(wait(self.running, return_when=FIRST_COMPLETED).done))
        return self.running.pop(done), done

    def _write(
        self, unit: Unit, queries: Sequence[str], cursors: Sequence[duckdb.DuckDBPyConnection]
    ) -> list[PartFile]:
        return list(unit.layout.write(self._counted(self._batches(queries, cursors))))

    def _counted(self, batches: Generator[pa.RecordBatch]) -> Generator[pa.RecordBatch]:
        with closing(batches):
            for batch in batches:
                yield batch
                self._advance(batch.num_rows)

    def _batches(
        self, queries: Sequence[str], cursors: Sequence[duckdb.DuckDBPyConnection]
    ) -> Generator[pa.RecordBatch]:
        """Yield the rows of queries; a thread computes the next batches meanwhile."""
        ready: queue.Queue[pa.RecordBatch | BaseException | None] = queue.Queue(_READY)
        stop = threading.Event()

        def fill() -> None:
            try:
                results = [cursor.execute(sql) for cursor, sql in zip(cursors, queries, strict=True)]
                for batch in _side_by_side([result.to_arrow_reader(_BATCH_ROWS) for result in results]):
                    ready.put(batch)
                    if stop.is_set():
                        return
                ready.put(None)
            except BaseException as error:  # The consumer raises it.
                ready.put(error)

        self._cursors.update(cursors)
        thread = threading.Thread(target=fill, name="query", daemon=True)
        thread.start()
        try:
            with translated():
                while (item := ready.get()) is not None:
                    if isinstance(item, BaseException):
                        raise item
                    yield item
        finally:
            stop.set()
            for cursor in cursors:
                cursor.interrupt()
            while thread.is_alive():
                while not ready.empty():
                    ready.get_nowait()
                thread.join(0.01)
            self._cursors.difference_update(cursors)
            for cursor in cursors:
                cursor.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
        while any(not future.done() for future in self.running):
            for cursor in list(self._cursors):  # Interrupts repeat, since a query that has not begun ignores them.
                with suppress(duckdb.Error):  # The cursor may be closed by now.
                    cursor.interrupt()
            wait(self.running, timeout=0.05)
        self._pool.shutdown()


def _side_by_side(readers: Sequence[pa.RecordBatchReader]) -> Iterator[pa.RecordBatch]:
    """Yield batches with the columns of all readers, which have the same rows in batches of different sizes."""
    if len(readers) == 1:
        yield from readers[0]
        return
    with suppress(StopIteration):
        batches = [next(reader) for reader in readers]
        while True:
            rows = min(batch.num_rows for batch in batches)
            columns = {name: batch[name][:rows] for batch in batches for name in batch.schema.names}
            yield pa.RecordBatch.from_pydict(columns)
            batches = [
                batch[rows:] if batch.num_rows > rows else next(reader)
                for batch, reader in zip(batches, readers, strict=True)
            ]
