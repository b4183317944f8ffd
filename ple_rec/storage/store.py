"""Requests to object stores of every scheme: list, inspect, write, write under a condition.

On S3 a write under a condition is one request. On other stores the condition is checked before the write, so two
writers at the same moment may both succeed.
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

_TAGS = ("ETag", "etag", "mtime")  # Names of a tag in the answers of fsspec's stores.
_TIMES = ("LastModified", "last_modified", "updated", "mtime", "created")
_CONDITIONS_REFUSED = "notimplemented"


@dataclass(frozen=True)
class Object:
    """An object of a listing.

    Args:
        name: Key below the listed prefix; empty if the prefix is the object.
        size: Size in bytes.
        tag: Text that changes with the content, such as the store's ETag; None if the store has none.
        modified: Time of the last write by the store's clock; None if the store does not tell.
    """

    name: str
    size: int
    tag: str | None
    modified: datetime | None = None


def objects_at(where: Remote) -> list[Object]:
    """Return the object at an address, or all objects below it, in any order; none if there are none.

    Objects whose names no file on a disk could have (`..`, an empty part) are left out; ple-rec writes none.

    Raises:
        StoreError: The store cannot be read.
    """
    handler = handler_of(where.address)
    if not isinstance(handler, FsspecHandler):
        return [object_at(where)] if where.is_file() else list(_walk(where, ""))

    def find() -> tuple[str, Mapping[str, Mapping[str, Any]]]:
        client = handler.filesystem(where.address)
        prefix = client._strip_protocol(where.address)
        return prefix, client.find(prefix, detail=True)

    try:
        prefix, infos = request(where.address, find)
    except FileNotFoundError:
        return []
    # Consoles of stores show a folder by an empty object whose key ends with a slash.
    files = {path: info for path, info in infos.items() if not path.endswith("/")}
    names = {path.removeprefix(prefix).removeprefix("/"): info for path, info in files.items()}
    return [_object(name, info) for name, info in names.items() if is_safe(name)]


def is_safe(name: str) -> bool:
    """Return True if each part of a key can be the name of a file: not empty, `.` or `..`, no backslash, no null."""
    return {"", ".", ".."}.isdisjoint(name.split("/") if name else ()) and not {"\\", "\0"} & set(name)


def object_at(where: Remote) -> Object:
    """Return size, tag and time of an object, with an empty name.

    Raises:
        FileNotFoundError: The object does not exist.
        StoreError: The store cannot be read.
    """
    handler = handler_of(where.address)
    if isinstance(handler, FsspecHandler):
        return _object("", request(where.address, lambda: handler.filesystem(where.address).info(where.address)))
    with where.open() as stream:
        return Object("", stream.seek(0, 2), None)


def tag_of(where: Remote) -> str:
    """Return a text that changes with the content of an object: the store's tag, or else a digest.

    Raises:
        FileNotFoundError, StoreError: As `object_at` does.
    """
    return object_at(where).tag or hashlib.sha256(where.read_bytes()).hexdigest()


def tag_or_none(where: Remote) -> str | None:
    """Return the tag of an object, as `tag_of` does; None if the object does not exist."""
    try:
        return tag_of(where)
    except FileNotFoundError:
        return None


def tag_and_age(where: Remote) -> tuple[str, float]:
    """Return the tag of an object and its age in seconds.

    On S3 the store's clock alone tells the age. On other stores the time of writing is compared with the clock of this
    machine.

    Raises:
        FileNotFoundError, StoreError: As `object_at` does.
    """
    handler = handler_of(where.address)
    if where.address.startswith(S3) and isinstance(handler, FsspecHandler):
        bucket, _, key = where.address.removeprefix(S3).partition("/")

        def head() -> Any:
            return handler.filesystem(where.address).call_s3("head_object", Bucket=bucket, Key=key)

        answer = request(where.address, head)
        now = parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"])
        return str(answer["ETag"]), float((now - answer["LastModified"]).total_seconds())
    modified = object_at(where).modified
    return tag_of(where), 0.0 if modified is None else time.time() - modified.timestamp()


def put(where: Remote, content: bytes, *, tag: str | None = None, create: bool = False) -> str:
    """Write an object and return its tag.

    Args:
        where: Address of the object.
        content: Whole content of the object.
        tag: Tag that the object must still have; None to replace any content.
        create: True if the object must not exist yet.

    Raises:
        FileExistsError: `create` is set, and the object exists.
        StoreError: The store cannot be written; the kind is "changed" if the object has another tag.
    """
    handler = handler_of(where.address)
    if isinstance(handler, FsspecHandler) and where.address.startswith(S3):
        condition = {"IfNoneMatch": "*"} if create else {} if tag is None else _if_match(tag)

        def send() -> Any:
            return handler.filesystem(where.address).pipe_file(where.address, content, **condition)

        try:
            return str(request(where.address, send)["ETag"])
        except FileNotFoundError as error:  # S3 answers so to a condition on an object that was removed.
            raise changed(where) from error
        except StoreError as error:
            if create and error.kind == "changed":
                raise FileExistsError(str(where)) from error
            if not condition or code_of(error) != _CONDITIONS_REFUSED:
                raise
    if create and where.is_file():
        raise FileExistsError(str(where))
    if tag is not None and (not where.is_file() or tag_of(where) != tag):
        raise changed(where)
    with translate_errors(where.address):
        stream = manager().open(where.address, "wb")
        stream.write(content)
        stream.close()
    return tag_of(where)


def delete(where: Remote, tag: str) -> None:
    """Remove an object if it still has a tag; a store without conditions removes it in any case.

    Raises:
        StoreError: The object cannot be removed; the kind is "changed" if it has another tag.
    """
    handler = handler_of(where.address)
    if isinstance(handler, FsspecHandler) and where.address.startswith(S3):
        bucket, _, key = where.address.removeprefix(S3).partition("/")
        client = handler.filesystem(where.address)
        request(where.address, lambda: client.call_s3("delete_object", Bucket=bucket, Key=key, **_if_match(tag)))
    else:
        where.unlink(missing_ok=True)


def _if_match(tag: str) -> dict[str, str]:
    return {"IfMatch": tag.strip('"')}  # Ceph takes no quotes in a condition.


def changed(where: Remote) -> StoreError:
    """Return the error of an object that another process has changed."""
    fix = "let one process at a time write there"
    return StoreError(
        str(where), "another process has changed it meanwhile", "one process at a time writes there", fix, "changed"
    )


def _object(name: str, info: Mapping[str, Any]) -> Object:
    tag = next((str(info[key]) for key in _TAGS if info.get(key)), None)
    times = [info[key] for key in _TIMES if info.get(key)]
    modified = next(map(_time, times), None)
    return Object(name, int(info["size"] or 0), tag, modified)


def _time(value: Any) -> datetime | None:
    if isinstance(value, datetime):
        return value if value.tzinfo else value.replace(tzinfo=UTC)
    if isinstance(value, int | float):
        return datetime.fromtimestamp(value, tz=UTC)
    try:
        return datetime.fromisoformat(str(value))
    except ValueError:
        return None


def _walk(where: Remote, above: str) -> Iterator[Object]:
    from ple_rec.storage.files import names_in

    for name in names_in(where):
        below = where / name
        if below.is_file():
            yield Object(f"{above}{name}", object_at(below).size, None)
        else:
            yield from _walk(below, f"{above}{name}/")
