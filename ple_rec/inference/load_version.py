"""Loading of a version of a model, with a first request that shows whether its files fit each other."""

from __future__ import annotations

from ple_rec.errors import DataError
from ple_rec.inference.ranker import Ranker
from ple_rec.inference.remote_model import checked_version
from ple_rec.inference.request_error import RequestError, shorten
from ple_rec.storage import Location

# Files that do not fit each other raise one of these.
_INCONSISTENT = (LookupError, TypeError, ValueError, AttributeError, RuntimeError, OSError, RequestError)
_AGAIN = "export the run again"
# Number of items of the first request.
_FIRST_ITEMS = 40


def load_ranker(version: Location, threads: int | None = None) -> Ranker:
    """Return a verified version that has answered a first request, which takes longer than later ones.

    Args:
        version: Folder of the version; a version in a store is copied to this machine.
        threads: Number of threads of the dense layers; None for torch's number.

    Raises:
        UserError: The fusion does not fit the model, or a configuration is wrong.
        DataError: A file has changed since the export, or the files do not fit each other.
        UnavailableError: The version is in a store that cannot be read.
    """
    folder = checked_version(version)
    try:
        ranker = Ranker(folder, threads, checked=True)
        ranker.answer([ranker.read_rank({"items": [{}] * _FIRST_ITEMS})])
    except _INCONSISTENT as error:
        why = shorten(" ".join(str(error).split()))
        value = f"cannot be loaded ({type(error).__name__}: {why})"
        raise DataError(str(version), value, "its files fit each other as an export writes them", _AGAIN) from error
    return ranker
