"""What engines raise, in the words of this project."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import duckdb
import pyarrow as pa

from ple_rec.errors import DataError, Option, PleRecError, UserError

_LINES = 3
_TOLD = re.compile(r"^ple_rec\.errors\.(UserError|DataError): (.+?): (.+); (.+?)\. Fix: (.+)$", re.MULTILINE)
_RAISED = re.compile(r"^((?:[a-z_]\w*\.)*[A-Z]\w*(?:Error|Exception): .*)$", re.MULTILINE)  # a traceback's last line
_NO_MEMORY = re.compile(r"^.*\b(?:java\.lang\.OutOfMemoryError|\w*MemoryError)\b.*$", re.MULTILINE)
_HINTS = re.compile(r"\s*(?:Possible solutions:|This limit was set).*", re.DOTALL)  # of DuckDB, by its own settings
_LACKING = re.compile(r"No module named|PYTHON_VERSION_MISMATCH|PACKAGE_NOT_INSTALLED")
_FULL = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)


class EngineError(DataError):
    """An engine could not read or compute something; which row it was, it does not say."""


class DiskFullError(UserError):
    """There was no room for a file."""


class OutOfMemoryError(UserError):
    """An engine had too little memory."""


@contextmanager
def translated() -> Iterator[None]:
    """Turn an engine's failure into an error that names what to do.

    Raises:
        UserError: No memory left.
        DataError: No disk left, or the data cannot be read or computed.
        KeyboardInterrupt: The user interrupted the engine.
    """
    try:
        yield
    except PleRecError:
        raise
    except duckdb.InterruptException as error:
        raise KeyboardInterrupt from error
    except duckdb.OutOfMemoryException as error:
        if any(word in str(error) for word in ("offload", "temp_directory", "No space left")):
            raise disk_full(str(error)) from error
        raise _out_of_memory("DuckDB ran out of it", error) from error
    except MemoryError as error:  # pyarrow's is an ArrowException too
        raise _out_of_memory("this process ran out of it", error) from error
    except (duckdb.Error, pa.ArrowException) as error:
        if is_full(error):
            raise disk_full(str(error)) from error
        raise unreadable(error) from error
    except RuntimeError as error:
        if "Query interrupted" not in str(error):
            raise
        raise KeyboardInterrupt(*_signal_of(error)) from error  # a signal came while the engine worked
    except Exception as error:
        if not _is_sparks(error):
            raise
        if is_full(error):
            raise disk_full(str(error)) from error
        raise _of_spark(str(error)) or unreadable(error) from error


def _out_of_memory(what: str, error: Exception) -> OutOfMemoryError:
    return OutOfMemoryError(
        f"prep {Option.MEMORY}",
        f"{what} ({shortened(error)})",
        "the largest step must fit: mostly counting the values of the columns that have most",
        f"give more, twice as much to begin with, or fewer {Option.THREADS}; what is finished is kept for the next run",
    )


def _of_spark(text: str) -> PleRecError | None:
    """What Python raised on an executor, or a Java that lacks memory: Spark tells the traceback as text."""
    if found := _NO_MEMORY.search(text):
        return UserError(
            f"prep {Option.ENGINE} spark",
            f"out of memory ({shortened(found[0])})",
            "the rows that one core works on must fit",
            f"give more: {Option.MEMORY} to a local Spark, spark.executor.memory and spark.executor.memoryOverhead to "
            "others",
        )
    if found := _TOLD.search(text):
        kind, place, value, rule, fix = found.groups()
        return (UserError if kind == "UserError" else EngineError)(place, value, rule, fix)
    raised = _RAISED.findall(text)
    if not raised:
        return None
    if _LACKING.search(text):
        return UserError(
            "the executors of Spark",
            shortened(raised[-1]).rstrip("."),
            "they need this package with its base requirements, and the driver's version of Python",
            "install it on every host, for the Python that PYSPARK_PYTHON names",
        )
    return EngineError(
        "an executor of Spark",
        shortened(raised[-1]).rstrip("."),
        "it could not read, compute or write its part",
        "see what it says; parts that are finished are kept for the next run",
    )


def _signal_of(error: BaseException) -> tuple[Any, ...]:
    """What the handler of the signal has raised, if the engine has kept it."""
    inner = error.__cause__ or error.__context__
    return inner.args if isinstance(inner, KeyboardInterrupt) else ()


def _is_sparks(error: Exception) -> bool:
    """Whether Spark raised it; PySpark is loaded then, and is not loaded to find out."""
    return any(kind.__module__.startswith(("pyspark.", "py4j.")) for kind in type(error).__mro__)


def is_full(error: BaseException) -> bool:
    """Whether the system had no room for a file: disk, quota, or the largest file that it allows."""
    if isinstance(error, OSError) and error.errno in _FULL:
        return True
    return any(text in str(error) for text in map(os.strerror, _FULL))


def disk_full(reason: str) -> DiskFullError:
    """The disk has no room left."""
    return DiskFullError(
        f"prep {Option.OUT}",
        f"no space left ({shortened(reason)})",
        "the parts and what the engine spills need room beside the dataset directory",
        f"free some space or name another {Option.OUT}, or another PLE_REC_CACHE where that is an address; parts that "
        "are finished are kept for the next run",
    )


def unreadable(error: Exception) -> EngineError:
    """A file is damaged, or a value does not fit an expression."""
    file = re.search(r"[\"']((?:/|\w+://)[^\"']+)[\"']", str(error))
    return EngineError(
        file[1] if file else "the log",
        shortened(error),
        "the engine could not read or compute it",
        "replace the file, or correct the values or the expression that reads them",
    )


def shortened(reason: object) -> str:
    """The first lines of an engine's message, as one."""
    lines = [line.strip() for line in _HINTS.sub("", str(reason)).splitlines() if line.strip()]
    return " ".join(lines[:_LINES])[:500]
