"""Shares of a list of tasks, each in a process of its own, and the Parquet files that they write a table at a time."""

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
    """What `work(*fixed, share)` yields, over all shares, in the order of arrival; task i is of share i mod processes.

    With one process, or one task, `work` runs in this one. A child whose parent is gone ends at its next result.

    Args:
        work: A function at the top level of a module; arguments and results are pickled.
        fixed: Its first arguments.
        tasks: To be shared out.
        processes: At least 1.

    Raises:
        Exception: What `work` raised in a child.
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
class Layout:
    """How files look.

    Args:
        schema: Columns and types.
        plain: Columns of too many values for a dictionary.
        split_bytes: Likewise, and of `float32` whose bytes compress better apart.
        metadata: For the footer.
    """

    schema: pa.Schema
    plain: tuple[str, ...] = ()
    split_bytes: tuple[str, ...] = ()
    metadata: Mapping[bytes, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class Written:
    """A complete file."""

    path: Path
    rows: int
    row_groups: int


class FileWriter:
    """Writes a Parquet file, a row group a table; a context manager.

    Args:
        path: Of the file; one of that name gives way.
        layout: Of the file.
    """

    def __init__(self, path: Path, layout: Layout) -> None:
        self.path = path
        # Of this process alone: a worker that outlives its killed parent may be at the same file.
        self._unfinished = path.with_name(f"{path.stem}.{os.getpid()}{UNFINISHED}")
        self.rows = self.row_groups = 0
        without = {*layout.plain, *layout.split_bytes}
        self._file = pq.ParquetWriter(
            self._unfinished,
            layout.schema,
            compression="zstd",
            compression_level=1,
            use_dictionary=[name for name in layout.schema.names if name not in without],
            column_encoding=dict.fromkeys(layout.split_bytes, "BYTE_STREAM_SPLIT") or None,
            write_page_checksum=True,
            store_schema=False,  # so that words read as text, whatever Arrow type they were written from
        )
        self._file.add_key_value_metadata(dict(layout.metadata))

    def __enter__(self) -> FileWriter:
        return self

    def add(self, table: pa.Table) -> None:
        """Append a row group; of no rows, nothing."""
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
        """The file, once it is complete."""
        return Written(self.path, self.rows, self.row_groups)


def write_file(path: Path, tables: Iterable[pa.Table], layout: Layout) -> Written:
    """Write a Parquet file, a row group a table."""
    with FileWriter(path, layout) as writer:
        for table in tables:
            writer.add(table)
    return writer.written
