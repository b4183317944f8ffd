"""Errors of object stores: a request that fails raises a `StoreError`, which names the kind of fault.

If the store answers that an object is absent, exists already or is a prefix, the caller gets the error that a disk
would raise, such as `FileNotFoundError`. A `StoreError` is no `OSError`, so that a store that refuses a request is not
taken for a damaged file.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, Self, TypeVar

from ple_rec.errors import UnavailableError

Fault = Literal["denied", "absent", "changed", "busy", "gone"]

_T = TypeVar("_T")
_MAX_MESSAGE = 300  # Characters of a library's message that ours repeats.
_CLIENTS = ("botocore", "aiobotocore", "aiohttp", "gcsfs", "adlfs", "azure")  # Their errors are no OSErrors.
_ANSWERS = (FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError)
_AWS_ERROR = re.compile(r"AWS Error (\w+)")  # pyarrow has one type for all errors of S3.
_DENIED = {
    "403", "accessdenied", "accountproblem", "allaccessdisabled", "expiredtoken", "invalidaccesskeyid",
    "invalidsecurity", "invalidtoken", "notsignedup", "requesttimetooskewed", "signaturedoesnotmatch",
    "tokenrefreshrequired",
}  # fmt: skip
_DENIED_TYPES = ("NoCredentials", "PartialCredentials", "CredentialRetrieval", "TokenRetrieval", "SSO", "Unauthorized")
_CHANGED = {"412", "preconditionfailed", "conditionalrequestconflict"}
_BUSY = {"429", "500", "503", "internalerror", "operationaborted", "serviceunavailable", "slowdown"}
NO_BUCKET = "nosuchbucket"
_WORDS: dict[Fault, tuple[str, str]] = {
    "denied": ("access is denied", "correct the credentials of the store or its permissions, then run it again"),
    "absent": ("the bucket is not there", "correct the address, or make the bucket"),
    "changed": ("another process has changed it meanwhile", "let one process at a time write there"),
    "busy": ("the store is busy", "run it again later"),
    "gone": ("cannot be reached", "correct the address, the endpoint of the store or the network, then run it again"),
}


class StoreError(UnavailableError):
    """Failure of a request to an object store.

    Args:
        place: Address of the object.
        value: Answer of the store.
        rule: Rule that the answer breaks.
        fix: Advice to the user.
        kind: Kind of the fault. "denied": access is denied. "absent": the bucket does not exist. "changed": another
            process has changed the object, so that a condition on it fails. "busy": the store is busy. "gone": the
            store cannot be reached.
    """

    def __init__(self, place: str, value: str, rule: str, fix: str, kind: Fault = "gone") -> None:
        super().__init__(place, value, rule, fix)
        self.args = (*self.args, kind)  # A worker process hands the error to its parent by these.
        self.kind = kind

    def reworded(self, change: Callable[[str], str]) -> Self:
        """Return the error with each of its four parts changed; see `PleRecError.reworded`."""
        error = super().reworded(change)
        error.kind = self.kind
        return error

    @classmethod
    def of(cls, address: str, error: BaseException) -> StoreError:
        """Return the error of a request to an address that failed with an error of a client library."""
        kind = fault_of(error)
        words, fix = _WORDS[kind]
        return cls(address, f"{words} ({short(error)})", "ple-rec reads and writes there", fix, kind)


@contextmanager
def translate_errors(address: str) -> Iterator[None]:
    """Translate errors of a client library that leave the block into a `StoreError` about an address.

    Raises:
        StoreError: The request failed.
        OSError: The store answered that the object is absent, or exists already.
    """
    try:
        yield
    except Exception as error:
        is_answer = isinstance(error, _ANSWERS) and code_of(error) != NO_BUCKET
        is_of_client = isinstance(error, OSError) or type(error).__module__.startswith(_CLIENTS)
        if is_answer or not is_of_client:
            raise
        raise StoreError.of(address, error) from error


def request(address: str, call: Callable[[], _T]) -> _T:
    """Return the result of one call to a store; if access is denied, credentials are read again for a second call.

    Raises:
        StoreError, OSError: As `translate_errors` does.
    """
    try:
        with translate_errors(address):
            return call()
    except StoreError as error:
        if error.kind != "denied":
            raise
    from ple_rec.storage.client import forget_clients

    forget_clients()
    with translate_errors(address):
        return call()


class StoreStream:
    """Stream of an object whose methods raise the errors of `translate_errors`.

    Args:
        stream: Stream of the client library.
        address: Address of the object.
    """

    def __init__(self, stream: Any, address: str) -> None:
        self.stream, self._address = stream, address

    def __getattr__(self, name: str) -> Any:
        value = getattr(self.stream, name)
        if not callable(value):
            return value

        def call(*args: Any, **kwargs: Any) -> Any:
            with translate_errors(self._address):
                return value(*args, **kwargs)

        return call

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with translate_errors(self._address):
            self.stream.close()

    def __iter__(self) -> Iterator[Any]:
        with translate_errors(self._address):
            yield from self.stream


def fault_of(error: BaseException) -> Fault:
    """Return the kind of fault that an error of a client library means."""
    code, name = code_of(error), type(error).__name__
    if code in _DENIED or isinstance(error, PermissionError) or name.startswith(_DENIED_TYPES):
        return "denied"
    if code == NO_BUCKET:
        return "absent"
    if code in _CHANGED:
        return "changed"
    return "busy" if code in _BUSY else "gone"


def code_of(error: BaseException) -> str:
    """Return the store's code of an error in lower case without underscores; empty if it has none."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(response := getattr(cause, "response", None), dict):
            return str(response.get("Error", {}).get("Code", "")).lower()
        cause = cause.__cause__
    match = _AWS_ERROR.search(str(error))
    return match[1].replace("_", "").lower() if match else ""


def short(error: BaseException) -> str:
    """Return the message of a library on one line of at most 300 characters."""
    return " ".join(str(error).split())[:_MAX_MESSAGE]
