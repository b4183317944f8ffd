"""A version of a model, loaded and asked once, so that one whose files do not fit each other is refused at once."""

from __future__ import annotations

from ple_rec.errors import DataError
from ple_rec.inference.ranker import Ranker
from ple_rec.inference.remote_model import checked_version
from ple_rec.inference.request_error import RequestError, shorten
from ple_rec.storage import Location

_FORGED = (LookupError, TypeError, ValueError, AttributeError, RuntimeError, OSError, RequestError)
_AGAIN = "export the run again"
_FIRST_ITEMS = 40  # Items of the request that a version answers before anybody asks.


def load_ranker(version: Location, threads: int | None = None) -> Ranker:
    """Return a version, verified, that has answered once: the first call is slow.

    Args:
        version: Folder of the version; one in a store is copied to this machine.
        threads: Number of threads of the dense part; None for torch's own.

    Raises:
        UserError: Its model cannot have its fusion, or a configuration is wrong.
        DataError: It is not as it was exported, or its files do not fit each other.
        UnavailableError: It lies in a store that cannot be read.
    """
    folder = checked_version(version)
    try:
        ranker = Ranker(folder, threads, checked=True)
        ranker.answer([ranker.read_rank({"items": [{}] * _FIRST_ITEMS})])
    except _FORGED as error:
        why = shorten(" ".join(str(error).split()))
        value = f"cannot be loaded ({type(error).__name__}: {why})"
        raise DataError(str(version), value, "its files fit each other as an export writes them", _AGAIN) from error
    return ranker
