"""Translation of exceptions of DuckDB, Spark and pyarrow into this project's errors, which have a rule and a fix.

Engines run their queries inside `translate_failures`.
"""

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

_MAX_LINES = 3  # Lines of an engine's message that are shown.
# Error of this project in the traceback of an executor, as `PleRecError` writes it.
_PROJECT_ERROR = re.compile(r"^ple_rec\.errors\.(UserError|DataError): (.+?): (.+); (.+?)\. Fix: (.+)$", re.MULTILINE)
# Last line of a Python traceback, such as `pkg.module.SomeError: text`.
_EXCEPTION_LINE = re.compile(r"^((?:[a-z_]\w*\.)*[A-Z]\w*(?:Error|Exception): .*)$", re.MULTILINE)
# Line of a Java or Python error of memory in Spark's message.
_NO_MEMORY = re.compile(r"^.*\b(?:java\.lang\.OutOfMemoryError|\w*MemoryError)\b.*$", re.MULTILINE)
_HINTS = re.compile(r"\s*(?:Possible solutions:|This limit was set).*", re.DOTALL)  # DuckDB suggests its own settings.
_MISSING_PACKAGE = re.compile(r"No module named|PYTHON_VERSION_MISMATCH|PACKAGE_NOT_INSTALLED")
_DISK_FULL_ERRNOS = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)


class EngineError(DataError):
    """Error of an engine that could not read a file or compute a value. `data_prep.diagnose` searches for the cause."""


class DiskFullError(UserError):
    """Error of a file for which a disk, a quota, or the limit on the size of files has no room."""


class OutOfMemoryError(UserError):
    """Error of an engine that had too little memory."""


@contextmanager
def translate_failures() -> Iterator[None]:
    """Translate an exception that an engine raises in the block. Errors of this project pass through unchanged.

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
            raise disk_full_error(str(error)) from error
        raise _out_of_memory_error("DuckDB ran out of memory", error) from error
    except MemoryError as error:  # Precedes ArrowException, since pyarrow's error of this kind is of both classes.
        raise _out_of_memory_error("this process ran out of memory", error) from error
    except (duckdb.Error, pa.ArrowException) as error:
        if is_disk_full(error):
            raise disk_full_error(str(error)) from error
        raise unreadable_error(error) from error
    except RuntimeError as error:
        if "Query interrupted" not in str(error):
            raise
        # A signal handler has raised KeyboardInterrupt while the engine worked.
        raise KeyboardInterrupt(*_signal_arguments(error)) from error
    except Exception as error:  # Errors of Spark have no common class; all others go on.
        if not _is_spark_error(error):
            raise
        if is_disk_full(error):
            raise disk_full_error(str(error)) from error
        raise _spark_error(str(error)) or unreadable_error(error) from error


def _out_of_memory_error(what: str, error: Exception) -> OutOfMemoryError:
    return OutOfMemoryError(
        f"prep {Option.MEMORY}",
        f"{what} ({shorten_message(error)})",
        "the largest step must fit, which is usually to count the values of the column with the most distinct values",
        f"give more, twice as much to begin with, or fewer {Option.THREADS}; finished steps are kept for the next run",
    )


def _spark_error(text: str) -> PleRecError | None:
    """Return the error that an executor has reported, or that of Java without memory; None if the text has neither.

    Args:
        text: Message of Spark's exception, which contains the traceback of the executor.
    """
    if match := _NO_MEMORY.search(text):
        return UserError(
            f"prep {Option.ENGINE} spark",
            f"out of memory ({shorten_message(match[0])})",
            "the rows that one core works on must fit",
            f"give more: {Option.MEMORY} to a local Spark, spark.executor.memory and spark.executor.memoryOverhead to "
            "others",
        )
    if match := _PROJECT_ERROR.search(text):
        kind, place, value, rule, fix = match.groups()
        return (UserError if kind == "UserError" else EngineError)(place, value, rule, fix)
    raised = _EXCEPTION_LINE.findall(text)
    if not raised:
        return None
    if _MISSING_PACKAGE.search(text):
        return UserError(
            "the executors of Spark",
            shorten_message(raised[-1]).rstrip("."),
            "they need this package with its base requirements, and the driver's version of Python",
            "install it on every host, for the Python that PYSPARK_PYTHON names",
        )
    return EngineError(
        "an executor of Spark",
        shorten_message(raised[-1]).rstrip("."),
        "it could not read, compute or write its part",
        "correct what it names; finished parts are kept for the next run",
    )


def _signal_arguments(error: BaseException) -> tuple[Any, ...]:
    """Return the arguments of the KeyboardInterrupt that caused an error; none if another exception caused it."""
    inner = error.__cause__ or error.__context__
    return inner.args if isinstance(inner, KeyboardInterrupt) else ()


def _is_spark_error(error: Exception) -> bool:
    """Return whether an error is Spark's. The module of its class tells, so that PySpark need not be imported."""
    return any(kind.__module__.startswith(("pyspark.", "py4j.")) for kind in type(error).__mro__)


def is_disk_full(error: BaseException) -> bool:
    """Return whether an error came from a full disk, a quota, or the limit on the size of a file."""
    if isinstance(error, OSError) and error.errno in _DISK_FULL_ERRNOS:
        return True
    return any(text in str(error) for text in map(os.strerror, _DISK_FULL_ERRNOS))


def disk_full_error(reason: str) -> DiskFullError:
    """Return the error of a full disk.

    Args:
        reason: Message of the engine or of the system.
    """
    return DiskFullError(
        f"prep {Option.OUT}",
        f"no space left ({shorten_message(reason)})",
        "the parts and what the engine spills need room beside the dataset directory",
        f"free some space or name another {Option.OUT} (if it is an address, another PLE_REC_CACHE); finished parts "
        "are kept for the next run",
    )


def unreadable_error(error: Exception) -> EngineError:
    """Return the error of a damaged file, or of a value that does not fit an expression.

    It names the file if the message of `error` does, and otherwise the log.
    """
    file = re.search(r"[\"']((?:/|\w+://)[^\"']+)[\"']", str(error))
    return EngineError(
        file[1] if file else "the log",
        shorten_message(error),
        "the engine could not read or compute it",
        "replace the file, or correct the values or the expression that reads them",
    )


def shorten_message(reason: object) -> str:
    """Return the first lines of an engine's message as one line of at most 500 characters."""
    lines = [line.strip() for line in _HINTS.sub("", str(reason)).splitlines() if line.strip()]
    return " ".join(lines[:_MAX_LINES])[:500]
