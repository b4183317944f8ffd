"""Concurrent writing of units: groups of Parquet files (parts), whose rows DuckDB sorts.

DuckDB sorts the rows of a query on all cores and then returns them as one stream, which one thread turns into Arrow
batches and another into Parquet. The next query is sorted meanwhile, so that the other cores are not idle.
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
from data_prep.failures import translate_failures

_BATCH_ROWS = 65_536
_MAX_WAITING_BATCHES = 8  # Batches of a query that may wait for the thread that writes.


class Streams:
    """Units that are being written, each by a thread of its own; the end of the `with` block stops unfinished units.

    Args:
        duck: Connection to the database.
        max_running: Largest number of units that are written at a time.
        advance: Callback that gets the number of rows just written; any thread may call it.

    Attributes:
        max_running: Largest number of units that are written at a time; callers may lower it.
        running: Units that are being written, by the future of their parts.
    """

    def __init__(self, duck: duckdb.DuckDBPyConnection, max_running: int, advance: Callable[[int], None]) -> None:
        self._duck, self.max_running, self._advance = duck, max_running, advance
        self._pool = ThreadPoolExecutor(max_running, thread_name_prefix="parts")
        self._cursors: set[duckdb.DuckDBPyConnection] = set()
        self.running: dict[Future[list[PartFile]], Unit] = {}

    @property
    def is_full(self) -> bool:
        """True if no further unit may be started now."""
        return len(self.running) >= self.max_running

    @property
    def running_rows(self) -> int:
        """Number of rows of all units that are being written."""
        return sum(unit.row_count for unit in self.running.values())

    def start(self, unit: Unit, queries: Sequence[str]) -> None:
        """Start to write a unit.

        Args:
            unit: Unit to write.
            queries: SQL of the sorted rows. Each query gives the same rows with some of the columns.
        """
        cursors = [self._duck.cursor() for _ in queries]
        self.running[self._pool.submit(self._write, unit, queries, cursors)] = unit

    def wait_next(self) -> tuple[Unit, Future[list[PartFile]]]:
        """Wait until a unit ends; return it with its finished future, which has its parts or its error."""
        future = next(iter(wait(self.running, return_when=FIRST_COMPLETED).done))
        return self.running.pop(future), future

    def _write(
        self, unit: Unit, queries: Sequence[str], cursors: Sequence[duckdb.DuckDBPyConnection]
    ) -> list[PartFile]:
        return list(unit.sink.write(self._report_rows(self._batches(queries, cursors))))

    def _report_rows(self, batches: Generator[pa.RecordBatch]) -> Generator[pa.RecordBatch]:
        with closing(batches):
            for batch in batches:
                yield batch
                self._advance(batch.num_rows)

    def _batches(
        self, queries: Sequence[str], cursors: Sequence[duckdb.DuckDBPyConnection]
    ) -> Generator[pa.RecordBatch]:
        """Yield batches with the columns of all queries; another thread computes the next batches meanwhile."""
        ready: queue.Queue[pa.RecordBatch | BaseException | None] = queue.Queue(_MAX_WAITING_BATCHES)
        stop = threading.Event()

        def run_queries() -> None:
            try:
                results = [cursor.execute(sql) for cursor, sql in zip(cursors, queries, strict=True)]
                for batch in _zip_columns([result.to_arrow_reader(_BATCH_ROWS) for result in results]):
                    ready.put(batch)
                    if stop.is_set():
                        return
                ready.put(None)
            except BaseException as error:  # The thread that takes batches from the queue raises it.
                ready.put(error)

        self._cursors.update(cursors)
        thread = threading.Thread(target=run_queries, name="query", daemon=True)
        thread.start()
        try:
            with translate_failures():
                while (item := ready.get()) is not None:
                    if isinstance(item, BaseException):
                        raise item
                    yield item
        finally:
            # Interrupt the queries, and empty the queue until the thread ends, since the thread may wait in `put`.
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


def _zip_columns(readers: Sequence[pa.RecordBatchReader]) -> Iterator[pa.RecordBatch]:
    """Yield batches with the columns of all readers, which give the same rows in batches of different sizes."""
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
