"""Errors of object stores: a request that fails raises a `StoreError`, which names the kind of fault.

If the store answers that an object does not exist, exists already or is a prefix, the caller gets the error that a disk
would raise, such as `FileNotFoundError`. A `StoreError` is not an `OSError`: readers take an `OSError` for a damaged
file, but a store that refuses a request says nothing about the file.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, Self, TypeVar

from ple_rec.errors import UnavailableError

Fault = Literal["denied", "absent", "changed", "busy", "unreachable"]

_T = TypeVar("_T")
_MAX_MESSAGE = 300  # Largest number of characters of a library's message that our message repeats.
_CLIENTS = ("botocore", "aiobotocore", "aiohttp", "gcsfs", "adlfs", "azure")  # Their errors may have any type.
# Errors that mean an answer of the store, not a failed request.
_ANSWERS = (FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError)
_AWS_ERROR = re.compile(r"AWS Error (\w+)")  # All errors of S3 have one type in pyarrow.
# Error codes of S3 as `code_of` returns them, and beginnings of the names of error types, by kind of fault.
_DENIED = {
    "403", "accessdenied", "accountproblem", "allaccessdisabled", "expiredtoken", "invalidaccesskeyid",
    "invalidsecurity", "invalidtoken", "notsignedup", "requesttimetooskewed", "signaturedoesnotmatch",
    "tokenrefreshrequired",
}  # fmt: skip
_DENIED_TYPES = ("NoCredentials", "PartialCredentials", "CredentialRetrieval", "TokenRetrieval", "SSO", "Unauthorized")
_CHANGED = {"412", "preconditionfailed", "conditionalrequestconflict"}
_BUSY = {"429", "500", "503", "internalerror", "operationaborted", "serviceunavailable", "slowdown"}
NO_BUCKET = "nosuchbucket"
# Message and fix for each kind of fault.
_MESSAGES: dict[Fault, tuple[str, str]] = {
    "denied": ("access is denied", "correct the credentials of the store or its permissions, then run it again"),
    "absent": ("the bucket does not exist", "correct the address, or create the bucket"),
    "changed": ("another process has changed it meanwhile", "let one process at a time write there"),
    "busy": ("the store is busy", "run it again later"),
    "unreachable": (
        "cannot be reached",
        "correct the address, the endpoint of the store or the network, then run it again",
    ),
}


class StoreError(UnavailableError):
    """Failure of a request to an object store.

    Args:
        place: Address of the object.
        value: Answer of the store.
        rule: Rule that the answer breaks.
        fix: Advice to the user.
        kind: Kind of the fault. "denied": access is denied. "absent": the bucket does not exist. "changed": another
            process has changed the object, so that a condition on it fails. "busy": the store is busy. "unreachable":
            the store cannot be reached, or the error has no known code.
    """

    def __init__(self, place: str, value: str, rule: str, fix: str, kind: Fault = "unreachable") -> None:
        super().__init__(place, value, rule, fix)
        self.args = (*self.args, kind)  # Unpickling, for example in the parent of a worker process, needs all of them.
        self.kind = kind

    def reworded(self, change: Callable[[str], str]) -> Self:
        """Return the error with each of its four parts changed; see `PleRecError.reworded`."""
        error = super().reworded(change)
        error.kind = self.kind
        return error

    @classmethod
    def of(cls, address: str, error: BaseException) -> StoreError:
        """Return the StoreError for a request to an address that failed with an error of a client library."""
        kind = fault_of(error)
        words, fix = _MESSAGES[kind]
        return cls(address, f"{words} ({short_message(error)})", "ple-rec reads and writes there", fix, kind)


@contextmanager
def translate_errors(address: str) -> Iterator[None]:
    """Translate errors of a client library that leave the block into a `StoreError` about an address.

    Raises:
        StoreError: The request failed.
        OSError: The store answered that the object is absent, exists already or is a prefix.

    Errors of other types leave the block unchanged.
    """
    try:
        yield
    except Exception as error:
        # Clients raise FileNotFoundError for a missing bucket too, but that is a fault.
        is_answer = isinstance(error, _ANSWERS) and code_of(error) != NO_BUCKET
        is_of_client = isinstance(error, OSError) or type(error).__module__.startswith(_CLIENTS)
        if is_answer or not is_of_client:
            raise
        raise StoreError.of(address, error) from error


def request(address: str, call: Callable[[], _T]) -> _T:
    """Return the result of a call to a store; if access is denied, read credentials again and call once more.

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
    """Stream of an object: passes each call on to the client's stream, and translates its errors by `translate_errors`.

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
    """Return the kind of fault that an error of a client library means; "unreachable" for an unknown error."""
    code, name = code_of(error), type(error).__name__
    if code in _DENIED or isinstance(error, PermissionError) or name.startswith(_DENIED_TYPES):
        return "denied"
    if code == NO_BUCKET:
        return "absent"
    if code in _CHANGED:
        return "changed"
    return "busy" if code in _BUSY else "unreachable"


def code_of(error: BaseException) -> str:
    """Return the store's error code in lower case without underscores, such as "accessdenied"; empty if it has none."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(response := getattr(cause, "response", None), dict):
            return str(response.get("Error", {}).get("Code", "")).lower()
        cause = cause.__cause__
    match = _AWS_ERROR.search(str(error))
    return match[1].replace("_", "").lower() if match else ""


def short_message(error: BaseException) -> str:
    """Return the message of a library on one line of at most 300 characters."""
    return " ".join(str(error).split())[:_MAX_MESSAGE]
