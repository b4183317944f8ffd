"""Loading of an exported version of a model, for the server and the Python API.

`load_ranker` lets the version answer a request before it returns it, so that files which do not fit each other are
noticed before a client sends a request.
"""

from __future__ import annotations

from ple_rec.errors import DataError
from ple_rec.inference.ranker import Ranker
from ple_rec.inference.remote_model import checked_version
from ple_rec.inference.request_error import RequestError, shorten
from ple_rec.storage import Location

# Errors that files which do not fit each other may raise.
_INCONSISTENT = (LookupError, TypeError, ValueError, AttributeError, RuntimeError, OSError, RequestError)
_EXPORT_AGAIN = "export the run again"
# Number of items of the request that a version answers before it is returned.
_TESTED_ITEMS = 40


def load_ranker(version: Location, threads: int | None = None) -> Ranker:
    """Return a version in memory, ready to answer requests, after its files have been verified.

    The ranker has answered one request already, since the first one takes longer than others.

    Args:
        version: Folder of the version; a version in a store is copied to this machine.
        threads: Number of threads of the dense layers; None for torch's number of threads.

    Raises:
        UserError: The fusion does not fit the model, or a configuration is wrong.
        DataError: A file is missing or has changed since the export, or the files do not fit each other.
        UnavailableError: The version is in a store that cannot be read.
    """
    folder = checked_version(version)
    try:
        ranker = Ranker(folder, threads, checked=True)
        ranker.answer([ranker.read_rank({"items": [{}] * _TESTED_ITEMS})])
    except _INCONSISTENT as error:
        why = shorten(" ".join(str(error).split()))
        value = f"cannot be loaded ({type(error).__name__}: {why})"
        raise DataError(str(version), value, "the files of a version are those of one export", _EXPORT_AGAIN) from error
    return ranker
