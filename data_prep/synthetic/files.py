"""Worker processes that divide the generation of files among them, and the writer of the Parquet files."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.output.writer import UNFINISHED

T = TypeVar("T")
R = TypeVar("R")


def run_shares(
    work: Callable[..., Iterator[R]], fixed: tuple[Any, ...], tasks: Sequence[T], processes: int
) -> Iterator[R]:
    """Divide tasks among worker processes, and yield the results of all workers in the order in which they arrive.

    Worker i of n runs `work(*fixed, share)`, where its share is a list of the tasks i, i + n, i + 2 n, ... With one
    process or one task, `work` runs in this process. A worker whose parent has ended ends at its next result.

    Args:
        work: Generator function at the top level of a module. Its arguments and results are pickled.
        fixed: First arguments of the function.
        tasks: Tasks to divide.
        processes: Largest number of workers; there are never more than tasks.

    Raises:
        Exception: `work` has raised it in a worker.
        RuntimeError: A worker ended without an answer, for example since it was killed.
    """
    count = min(processes, len(tasks))
    if count <= 1:
        yield from work(*fixed, list(tasks))
        return
    context = multiprocessing.get_context("spawn")
    children = []
    try:
        for share in range(count):
            ours, theirs = context.Pipe(duplex=False)
            child = context.Process(
                target=_serve, args=(theirs, work, (*fixed, list(tasks[share::count]))), daemon=True
            )
            child.start()
            theirs.close()
            children.append((child, ours))
        waiting = {pipe: child for child, pipe in children}
        while waiting:
            for pipe in wait(list(waiting)):
                assert isinstance(pipe, Connection)  # For the type checker; `wait` also takes sockets.
                try:
                    kind, value = pipe.recv()
                except EOFError:
                    child = waiting[pipe]
                    child.join()
                    raise RuntimeError(f"a worker ended with exit code {child.exitcode}") from None
                if kind == "error":
                    raise value
                if kind == "end":
                    del waiting[pipe]
                else:
                    yield value
    finally:
        for child, pipe in children:
            pipe.close()
            child.terminate() if child.is_alive() else None
            child.join()


def _serve(pipe: Connection, work: Callable[..., Iterator[Any]], arguments: tuple[Any, ...]) -> None:
    try:
        for value in work(*arguments):
            pipe.send(("value", value))
        pipe.send(("end", None))
    except (BrokenPipeError, KeyboardInterrupt):
        return
    except Exception as error:  # The parent raises it.
        pipe.send(("error", error))


@dataclass(frozen=True)
class ParquetLayout:
    """Columns and encodings of Parquet files.

    Args:
        schema: Columns and types.
        without_dictionary: Columns that are encoded plainly, since they have too many different values for a
            dictionary.
        split_bytes: Float32 columns with too many different values, too, which are encoded as BYTE_STREAM_SPLIT.
        metadata: Key-value metadata of the footer.
    """

    schema: pa.Schema
    without_dictionary: tuple[str, ...] = ()
    split_bytes: tuple[str, ...] = ()
    metadata: Mapping[bytes, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class WrittenFile:
    """Complete Parquet file."""

    path: Path
    rows: int
    row_groups: int


class FileWriter:
    """Context manager that writes a Parquet file, with one row group per table.

    The file has a temporary name until the block ends. If the block raises an error, the file is removed.

    Args:
        path: Path of the file. An existing file is replaced.
        layout: Columns and encodings of the file.
    """

    def __init__(self, path: Path, layout: ParquetLayout) -> None:
        self.path = path
        # The name has the process id, since a worker that survives its killed parent may be writing the same file.
        self._unfinished = path.with_name(f"{path.stem}.{os.getpid()}{UNFINISHED}")
        self.rows = self.row_groups = 0
        no_dictionary = {*layout.without_dictionary, *layout.split_bytes}
        self._file = pq.ParquetWriter(
            self._unfinished,
            layout.schema,
            compression="zstd",
            compression_level=1,
            use_dictionary=[name for name in layout.schema.names if name not in no_dictionary],
            column_encoding=dict.fromkeys(layout.split_bytes, "BYTE_STREAM_SPLIT") or None,
            write_page_checksum=True,
            store_schema=False,  # With the Arrow schema, readers would get texts as dictionaries.
        )
        self._file.add_key_value_metadata(dict(layout.metadata))

    def __enter__(self) -> FileWriter:
        return self

    def add(self, table: pa.Table) -> None:
        """Append a table as one row group; a table without rows is skipped."""
        if table.num_rows:
            self._file.write_table(table, row_group_size=table.num_rows)
            self.rows += table.num_rows
            self.row_groups += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        if kind is None:
            self._unfinished.replace(self.path)
        else:
            self._unfinished.unlink(missing_ok=True)

    @property
    def written(self) -> WrittenFile:
        """Path and sizes of the file; the file exists only after the block of the context manager."""
        return WrittenFile(self.path, self.rows, self.row_groups)


def write_file(path: Path, tables: Iterable[pa.Table], layout: ParquetLayout) -> WrittenFile:
    """Write a Parquet file with one row group per table that has rows."""
    with FileWriter(path, layout) as writer:
        for table in tables:
            writer.add(table)
    return writer.written
