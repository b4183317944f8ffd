"""The door to object stores: a request that fails raises a `StoreError`, which says what kind of fault it was.

An answer about an object (it is not there, it is there already, it is a prefix) stays the `FileNotFoundError` and the
like that a disk would raise. A `StoreError` is no `OSError`, so that nobody takes a store that refuses for a file that
is damaged.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, Self, TypeVar

from ple_rec.errors import UnavailableError

Fault = Literal["denied", "absent", "changed", "busy", "gone"]

_T = TypeVar("_T")
_SHOWN = 300  # characters of a library's message that ours repeats
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
    """An object store did not do what was asked of it.

    Args:
        place: Address of the object.
        value: Answer of the store.
        rule: Rule that the answer breaks.
        fix: Advice to the user.
        kind: Kind of the fault: access is denied, the bucket is absent, a condition on the object is not met since
            another process has changed it, the store is busy, or it cannot be reached.
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
def at_door(address: str) -> Iterator[None]:
    """Let what the client of a store raises in the block leave it as a `StoreError` about an address.

    Raises:
        StoreError: The request failed.
        OSError: The store answered that the object is not there, or is there already.
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
    """Return the result of one call to a store; if access is denied, credentials are read anew for a second call.

    Raises:
        StoreError, OSError: As of `at_door`.
    """
    try:
        with at_door(address):
            return call()
    except StoreError as error:
        if error.kind != "denied":
            raise
    from ple_rec.storage.client import forget_clients

    forget_clients()
    with at_door(address):
        return call()


class DoorStream:
    """Stream of an object, whose methods raise as `at_door` does.

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
            with at_door(self._address):
                return value(*args, **kwargs)

        return call

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with at_door(self._address):
            self.stream.close()

    def __iter__(self) -> Iterator[Any]:
        with at_door(self._address):
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
    """Return the store's code of an error, in small letters and without underscores; empty where it has none."""
    each: BaseException | None = error
    while each is not None:
        if isinstance(response := getattr(each, "response", None), dict):
            return str(response.get("Error", {}).get("Code", "")).lower()
        each = each.__cause__
    found = _AWS_ERROR.search(str(error))
    return found[1].replace("_", "").lower() if found else ""


def short(error: BaseException) -> str:
    """Return the message of a library on one line, cut where it is long."""
    return " ".join(str(error).split())[:_SHOWN]
