"""What lies below a prefix of a store: sizes, and what tells one content of an object from another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ple_rec.storage.files import names_in, size_of
from ple_rec.storage.location import Remote, translate_errors

_TAGS = ("ETag", "etag", "mtime")  # as the stores of fsspec name them


@dataclass(frozen=True)
class Object:
    """An object of a listing.

    Args:
        name: Key below the prefix that was listed; empty where the prefix is the object.
        size: Bytes.
        tag: Text that changes with the content, such as the store's ETag; None where the store tells none.
    """

    name: str
    size: int
    tag: str | None


def objects_at(where: Remote) -> list[Object]:
    """Return the object at an address, or all objects below it, in any order; nothing where nothing is there.

    Raises:
        OSError: The store cannot be read.
    """
    from ple_rec.storage.handler import FsspecHandler, handler_of

    handler = handler_of(where.address)
    if not isinstance(handler, FsspecHandler):
        return [object_at(where)] if where.is_file() else list(_walk(where, ""))
    from fsspec.core import url_to_fs

    with translate_errors():
        store, prefix = url_to_fs(where.address, use_listings_cache=False)  # other processes write there too
        try:
            found = store.find(prefix, detail=True)
        except FileNotFoundError:  # a bucket that is not there
            return []
    names = {path.removeprefix(prefix).strip("/"): info for path, info in found.items() if not path.endswith("/")}
    return [_object(name, info) for name, info in names.items()]


def object_at(file: Remote) -> Object:
    """Return size and tag of an object, under an empty name.

    Raises:
        OSError: It is not there, or the store cannot be read.
    """
    from ple_rec.storage.handler import FsspecHandler, handler_of

    handler = handler_of(file.address)
    if not isinstance(handler, FsspecHandler):
        return Object("", size_of(file), None)
    with translate_errors():
        return _object("", handler.filesystem(file.address).info(file.address))


def _object(name: str, info: Mapping[str, Any]) -> Object:
    return Object(name, int(info["size"]), next((str(info[key]) for key in _TAGS if info.get(key)), None))


def _walk(where: Remote, above: str) -> Iterator[Object]:
    for name in names_in(where):
        if (below := where / name).is_file():
            yield Object(f"{above}{name}", size_of(below), None)
        else:
            yield from _walk(below, f"{above}{name}/")
