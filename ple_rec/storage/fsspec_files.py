"""Objects of every scheme as a file system of fsspec, for libraries that read files through one, such as DuckDB."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from fsspec import AbstractFileSystem

from ple_rec.storage.arrow import open_ranges
from ple_rec.storage.handler import handlers
from ple_rec.storage.location import Remote
from ple_rec.storage.store import object_at


class AddressFileSystem(AbstractFileSystem):  # type: ignore[misc]  # fsspec has no type hints
    """Objects of every scheme, for reading; a path is an address, whatever its characters mean in a pattern.

    Attributes:
        protocol: The schemes.
    """

    cachable = False

    def __init__(self) -> None:
        super().__init__()
        self.protocol = tuple(prefix.removesuffix("://") for prefix in handlers())
        self._sizes: dict[str, int] = {}

    def open(self, path: str, mode: str = "rb", **_: Any) -> Any:
        """Open an object for reading by ranges."""
        return open_ranges(Remote(path))

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        """Return name, size and kind of an object."""
        if path not in self._sizes:
            self._sizes[path] = object_at(Remote(path)).size
        return {"name": path, "size": self._sizes[path], "type": "file"}

    def glob(self, path: str, **_: Any) -> list[str]:
        """Return the one address."""
        return [path]

    def modified(self, path: str) -> datetime:
        """Return the same time always: who reads through this knows that the objects stay as they are."""
        return datetime.fromtimestamp(0, tz=UTC)
