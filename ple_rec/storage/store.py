"""Requests to object stores of every scheme: list, inspect, write and remove, the last two also on a condition.

A condition says that the object must not exist yet, or must still have a tag, such as its ETag. On S3 a write on a
condition is one request. On other stores, and on stores of S3's kind that know no conditions, the condition is checked
before the write, so two writers at the same moment may both succeed.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from ple_rec.storage.handler import FsspecHandler, handler_of, manager
from ple_rec.storage.location import S3, Remote
from ple_rec.storage.store_errors import StoreError, code_of, request, translate_errors

_TAG_KEYS = ("ETag", "etag", "mtime")  # Keys of a tag in the answers of fsspec's stores.
# Keys of the time of the last write; the first one that an answer has counts.
_TIME_KEYS = ("LastModified", "last_modified", "updated", "mtime", "created")
_CONDITIONS_UNSUPPORTED = "notimplemented"  # Error code of a store of S3's kind that does not know conditions.


@dataclass(frozen=True)
class StoredObject:
    """An object of a store, without its content.

    Args:
        name: Key relative to the address that was asked for; empty if that is the address of the object itself.
        size: Size in bytes.
        tag: Text that changes with the content, such as the store's ETag; None if the store has none.
        modified: Time of the last write by the store's clock; None if the store does not tell.
    """

    name: str
    size: int
    tag: str | None
    modified: datetime | None = None


def objects_at(remote: Remote) -> list[StoredObject]:
    """Return the object at an address, or all objects below it, in any order; an empty list if there are none.

    Objects whose names no file on a disk could have (`..`, an empty part) are left out; ple-rec writes no such objects.

    Raises:
        StoreError: The store cannot be read.
    """
    handler = handler_of(remote.address)
    if not isinstance(handler, FsspecHandler):
        return [object_at(remote)] if remote.is_file() else list(_list_recursively(remote, ""))

    def find() -> tuple[str, Mapping[str, Mapping[str, Any]]]:
        client = handler.filesystem(remote.address)
        prefix = client._strip_protocol(remote.address)
        return prefix, client.find(prefix, detail=True)

    try:
        prefix, infos = request(remote.address, find)
    except FileNotFoundError:
        return []
    # Consoles of stores show a folder by an empty object whose key ends with a slash.
    files = {path: info for path, info in infos.items() if not path.endswith("/")}
    names = {path.removeprefix(prefix).removeprefix("/"): info for path, info in files.items()}
    return [_stored_object(name, info) for name, info in names.items() if is_safe(name)]


def is_safe(name: str) -> bool:
    """Return True if each part of a key can name a file: not empty, `.` or `..`, no backslash, no null.

    An empty key, which is that of the listed prefix itself, is safe.
    """
    return {"", ".", ".."}.isdisjoint(name.split("/") if name else ()) and not {"\\", "\0"} & set(name)


def object_at(remote: Remote) -> StoredObject:
    """Return an object, with an empty name; handlers of installed packages tell its size only.

    Raises:
        FileNotFoundError: The object does not exist.
        StoreError: The store cannot be read.
    """
    handler = handler_of(remote.address)
    if isinstance(handler, FsspecHandler):
        return _stored_object(
            "", request(remote.address, lambda: handler.filesystem(remote.address).info(remote.address))
        )
    with remote.open() as stream:
        return StoredObject("", stream.seek(0, 2), None)


def tag_of(remote: Remote) -> str:
    """Return a text that changes with the content of an object: the store's tag, or else a digest.

    Raises:
        FileNotFoundError, StoreError: As `object_at` does.
    """
    return object_at(remote).tag or hashlib.sha256(remote.read_bytes()).hexdigest()


def tag_or_none(remote: Remote) -> str | None:
    """Return the tag of an object, as `tag_of` does; None if the object does not exist."""
    try:
        return tag_of(remote)
    except FileNotFoundError:
        return None


def tag_and_age(remote: Remote) -> tuple[str, float]:
    """Return the tag of an object and its age in seconds.

    On S3 the store's clock alone tells the age. On other stores the time of writing is compared with the clock of this
    machine; the age is 0 if the store does not tell that time.

    Raises:
        FileNotFoundError, StoreError: As `object_at` does.
    """
    handler = handler_of(remote.address)
    if remote.address.startswith(S3) and isinstance(handler, FsspecHandler):
        bucket, _, key = remote.address.removeprefix(S3).partition("/")

        def head() -> Any:
            return handler.filesystem(remote.address).call_s3("head_object", Bucket=bucket, Key=key)

        answer = request(remote.address, head)
        now = parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"])
        return str(answer["ETag"]), float((now - answer["LastModified"]).total_seconds())
    modified = object_at(remote).modified
    return tag_of(remote), 0.0 if modified is None else time.time() - modified.timestamp()


def put(remote: Remote, content: bytes, *, tag: str | None = None, create: bool = False) -> str:
    """Write an object and return its tag.

    Args:
        remote: Address of the object.
        content: Content of the object.
        tag: Tag that the object must still have; None to replace any content.
        create: True if the object must not exist yet.

    Raises:
        FileExistsError: `create` is set, and the object exists.
        StoreError: The store cannot be written; the kind is "changed" if the object has another tag or was removed.
    """
    handler = handler_of(remote.address)
    if isinstance(handler, FsspecHandler) and remote.address.startswith(S3):
        condition = {"IfNoneMatch": "*"} if create else {} if tag is None else _if_match(tag)

        def send() -> Any:
            return handler.filesystem(remote.address).pipe_file(remote.address, content, **condition)

        try:
            return str(request(remote.address, send)["ETag"])
        except FileNotFoundError as error:  # S3 answers so to a condition on an object that was removed.
            raise changed_error(remote) from error
        except StoreError as error:
            if create and error.kind == "changed":
                raise FileExistsError(str(remote)) from error
            if not condition or code_of(error) != _CONDITIONS_UNSUPPORTED:
                raise
    if create and remote.is_file():
        raise FileExistsError(str(remote))
    if tag is not None and (not remote.is_file() or tag_of(remote) != tag):
        raise changed_error(remote)
    with translate_errors(remote.address):
        stream = manager().open(remote.address, "wb")
        stream.write(content)
        stream.close()
    return tag_of(remote)


def delete(remote: Remote, tag: str) -> None:
    """Remove an object if it still has the given tag; on stores other than S3, remove it whatever its tag.

    Raises:
        StoreError: The object cannot be removed; the kind is "changed" if it has another tag.
    """
    handler = handler_of(remote.address)
    if isinstance(handler, FsspecHandler) and remote.address.startswith(S3):
        bucket, _, key = remote.address.removeprefix(S3).partition("/")
        client = handler.filesystem(remote.address)
        request(remote.address, lambda: client.call_s3("delete_object", Bucket=bucket, Key=key, **_if_match(tag)))
    else:
        remote.unlink(missing_ok=True)


def _if_match(tag: str) -> dict[str, str]:
    return {"IfMatch": tag.strip('"')}  # Ceph takes no quotes in a condition.


def changed_error(remote: Remote) -> StoreError:
    """Return the error for an object that another process has changed."""
    fix = "let one process at a time write there"
    return StoreError(
        str(remote), "another process has changed it meanwhile", "one process at a time writes there", fix, "changed"
    )


def _stored_object(name: str, info: Mapping[str, Any]) -> StoredObject:
    tag = next((str(info[key]) for key in _TAG_KEYS if info.get(key)), None)
    times = [info[key] for key in _TIME_KEYS if info.get(key)]
    modified = next(map(_parse_time, times), None)
    return StoredObject(name, int(info["size"] or 0), tag, modified)


def _parse_time(value: Any) -> datetime | None:
    if isinstance(value, datetime):
        return value if value.tzinfo else value.replace(tzinfo=UTC)
    if isinstance(value, int | float):
        return datetime.fromtimestamp(value, tz=UTC)
    try:
        return datetime.fromisoformat(str(value))
    except ValueError:
        return None


def _list_recursively(remote: Remote, above: str) -> Iterator[StoredObject]:
    from ple_rec.storage.files import names_in

    for name in names_in(remote):
        below = remote / name
        if below.is_file():
            yield StoredObject(f"{above}{name}", object_at(below).size, None)
        else:
            yield from _list_recursively(below, f"{above}{name}/")
