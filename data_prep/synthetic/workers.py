"""Shares of a list of tasks, each in a process of its own, results as they come."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar

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
