"""Read-only fsspec file system for all object stores that ple-rec supports.

DuckDB, for example, reads objects through such a file system. A path in it is the full address of an object, such as
`s3://bucket/name`; the part before `://` is its scheme.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from fsspec import AbstractFileSystem

from ple_rec.storage.arrow import open_ranges
from ple_rec.storage.handler import handlers
from ple_rec.storage.location import Remote
from ple_rec.storage.store import object_at


class AddressFileSystem(AbstractFileSystem):  # type: ignore[misc]  # fsspec has no type hints
    """Read-only file system of the objects of all registered schemes.

    A path is the address of one object. It is never read as a pattern, so a `*` in it means the character itself.

    Attributes:
        protocol: Names of the registered schemes, such as `s3`.
    """

    # By default, fsspec would share one instance, and the sizes that it remembers, between all callers.
    cachable = False

    def __init__(self) -> None:
        super().__init__()
        self.protocol = tuple(prefix.removesuffix("://") for prefix in handlers())
        self._sizes: dict[str, int] = {}

    def open(self, path: str, mode: str = "rb", **_: Any) -> Any:
        """Open an object for reading, by byte ranges, without a copy of the whole object."""
        return open_ranges(Remote(path))

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        """Return name, size in bytes and type of an object; an instance asks the store for each size only once."""
        if path not in self._sizes:
            self._sizes[path] = object_at(Remote(path)).size
        return {"name": path, "size": self._sizes[path], "type": "file"}

    def glob(self, path: str, **_: Any) -> list[str]:
        """Return the given address as the only match, since an address is never a pattern here."""
        return [path]

    def modified(self, path: str) -> datetime:
        """Return a constant as the time of the last change, because objects do not change while they are read."""
        return datetime.fromtimestamp(0, tz=UTC)
