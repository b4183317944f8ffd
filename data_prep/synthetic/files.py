"""Processes that each work on a share of the tasks, and the Parquet files that they write, table by table."""

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
    """Yield the results of `work(*fixed, share)` for all shares, in the order in which they arrive.

    Task i belongs to share i mod processes. For one process or one task, `work` runs in this process. A child whose
    parent has ended ends at its next result.

    Args:
        work: Function at the top level of a module. Its arguments and results are pickled.
        fixed: First arguments of the function.
        tasks: Tasks of all shares.
        processes: Number of processes, at least 1.

    Raises:
        Exception: `work` has raised it in a child.
        RuntimeError: A child was killed.
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
                assert isinstance(pipe, Connection)
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
    except Exception as error:
        pipe.send(("error", error))


@dataclass(frozen=True)
class ParquetLayout:
    """Columns and encodings of Parquet files.

    Args:
        schema: Columns and types.
        plain: Columns with too many values for a dictionary.
        split_bytes: Further such columns, of type `float32`, which compress better as byte streams.
        metadata: Metadata of the footer.
    """

    schema: pa.Schema
    plain: tuple[str, ...] = ()
    split_bytes: tuple[str, ...] = ()
    metadata: Mapping[bytes, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class Written:
    """File that is complete."""

    path: Path
    rows: int
    row_groups: int


class FileWriter:
    """Writer of a Parquet file, with one row group for each table. It is a context manager.

    Args:
        path: Path of the file. An existing file is replaced.
        layout: Columns and encodings of the file.
    """

    def __init__(self, path: Path, layout: ParquetLayout) -> None:
        self.path = path
        # The name has the process id, since a worker that outlives its killed parent may write the same file.
        self._unfinished = path.with_name(f"{path.stem}.{os.getpid()}{UNFINISHED}")
        self.rows = self.row_groups = 0
        without_dictionary = {*layout.plain, *layout.split_bytes}
        self._file = pq.ParquetWriter(
            self._unfinished,
            layout.schema,
            compression="zstd",
            compression_level=1,
            use_dictionary=[name for name in layout.schema.names if name not in without_dictionary],
            column_encoding=dict.fromkeys(layout.split_bytes, "BYTE_STREAM_SPLIT") or None,
            write_page_checksum=True,
            store_schema=False,  # Readers then see words as text, whatever Arrow type they were written from.
        )
        self._file.add_key_value_metadata(dict(layout.metadata))

    def __enter__(self) -> FileWriter:
        return self

    def add(self, table: pa.Table) -> None:
        """Append a row group, unless the table has no rows."""
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
    def written(self) -> Written:
        """The written file, once it is complete."""
        return Written(self.path, self.rows, self.row_groups)


def write_file(path: Path, tables: Iterable[pa.Table], layout: ParquetLayout) -> Written:
    """Write a Parquet file with one row group for each table."""
    with FileWriter(path, layout) as writer:
        for table in tables:
            writer.add(table)
    return writer.written
