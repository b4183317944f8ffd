"""Translation of an engine's failures into the errors of this project."""

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
_PROJECT_ERROR = re.compile(r"^ple_rec\.errors\.(UserError|DataError): (.+?): (.+); (.+?)\. Fix: (.+)$", re.MULTILINE)
# This is the last line of a traceback.
_RAISED = re.compile(r"^((?:[a-z_]\w*\.)*[A-Z]\w*(?:Error|Exception): .*)$", re.MULTILINE)
_NO_MEMORY = re.compile(r"^.*\b(?:java\.lang\.OutOfMemoryError|\w*MemoryError)\b.*$", re.MULTILINE)
_HINTS = re.compile(r"\s*(?:Possible solutions:|This limit was set).*", re.DOTALL)  # DuckDB suggests its own settings.
_LACKING = re.compile(r"No module named|PYTHON_VERSION_MISMATCH|PACKAGE_NOT_INSTALLED")
_FULL = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)


class EngineError(DataError):
    """Error of an engine that could not read or compute something; it does not name the row."""


class DiskFullError(UserError):
    """Error of a disk without room for a file."""


class OutOfMemoryError(UserError):
    """Error of an engine that had too little memory."""


@contextmanager
def translated() -> Iterator[None]:
    """Turn an engine's failure into an error with a fix.

    Raises:
        OutOfMemoryError: No memory is left.
        DiskFullError: No room is left on the disk.
        EngineError: The data cannot be read or computed.
        UserError: The executors of Spark lack memory or a package.
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
    except MemoryError as error:  # This precedes ArrowException, since pyarrow's error is of both classes.
        raise _out_of_memory("this process ran out of it", error) from error
    except (duckdb.Error, pa.ArrowException) as error:
        if is_full(error):
            raise disk_full(str(error)) from error
        raise unreadable(error) from error
    except RuntimeError as error:
        if "Query interrupted" not in str(error):
            raise
        # The handler of a signal has raised while the engine worked.
        raise KeyboardInterrupt(*_signal_of(error)) from error
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
    """Return the error of an executor, or of a Java out of memory; None if the text of Spark holds neither.

    Args:
        text: Message of Spark, which holds the traceback of the executor.
    """
    if match := _NO_MEMORY.search(text):
        return UserError(
            f"prep {Option.ENGINE} spark",
            f"out of memory ({shortened(match[0])})",
            "the rows that one core works on must fit",
            f"give more: {Option.MEMORY} to a local Spark, spark.executor.memory and spark.executor.memoryOverhead to "
            "others",
        )
    if match := _PROJECT_ERROR.search(text):
        kind, place, value, rule, fix = match.groups()
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
    """Return the arguments of the KeyboardInterrupt of a signal handler that is the cause of an error; else ()."""
    inner = error.__cause__ or error.__context__
    return inner.args if isinstance(inner, KeyboardInterrupt) else ()


def _is_sparks(error: Exception) -> bool:
    """Return whether Spark raised an error, by the module of its class, so that PySpark need not be imported."""
    return any(kind.__module__.startswith(("pyspark.", "py4j.")) for kind in type(error).__mro__)


def is_full(error: BaseException) -> bool:
    """Return whether an error came from a full disk, a quota, or the limit of the size of a file."""
    if isinstance(error, OSError) and error.errno in _FULL:
        return True
    return any(text in str(error) for text in map(os.strerror, _FULL))


def disk_full(reason: str) -> DiskFullError:
    """Return the error of a full disk."""
    return DiskFullError(
        f"prep {Option.OUT}",
        f"no space left ({shortened(reason)})",
        "the parts and what the engine spills need room beside the dataset directory",
        f"free some space or name another {Option.OUT}, or another PLE_REC_CACHE where that is an address; parts that "
        "are finished are kept for the next run",
    )


def unreadable(error: Exception) -> EngineError:
    """Return the error of a damaged file, or of a value that does not fit an expression."""
    file = re.search(r"[\"']((?:/|\w+://)[^\"']+)[\"']", str(error))
    return EngineError(
        file[1] if file else "the log",
        shortened(error),
        "the engine could not read or compute it",
        "replace the file, or correct the values or the expression that reads them",
    )


def shortened(reason: object) -> str:
    """Return the first lines of an engine's message as one line."""
    lines = [line.strip() for line in _HINTS.sub("", str(reason)).splitlines() if line.strip()]
    return " ".join(lines[:_LINES])[:500]
