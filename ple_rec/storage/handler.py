"""Handlers of iopath for object stores, and the registry of all handlers by scheme.

iopath's `PathManager` sends each address to the handler of its scheme. `FsspecHandler` serves the stores of fsspec;
installed packages may add handlers.
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import entry_points
from typing import IO, Any

from iopath.common.file_io import PathHandler, PathManager

from ple_rec.storage.client import fsspec_options, s3_options
from ple_rec.storage.location import SCHEMES
from ple_rec.storage.store_errors import NO_BUCKET, code_of

ENTRY_POINTS = "ple_rec.path_handlers"


class FsspecHandler(PathHandler):  # type: ignore[misc]  # iopath has no type hints
    """Path handler of iopath for the stores that fsspec serves.

    It offers only the operations of an object store: an object appears when it is complete, and directories do not
    exist. It raises the errors of fsspec and of its clients. Some clients' `exists` returns False if access is denied;
    this handler raises an error.
    """

    schemes = SCHEMES

    def _get_supported_prefixes(self) -> list[str]:
        return [f"{scheme}://" for scheme in self.schemes]

    def filesystem(self, path: str) -> Any:
        """Return the fsspec file system of an address, which fsspec caches.

        Raises:
            ImportError: The package that serves the scheme is not installed.
            UserError: As `s3_options` does.
        """
        import fsspec

        scheme, _, _ = path.partition("://")
        options = fsspec_options(s3_options()) if scheme == "s3" else {}
        # Other processes write to the store too, so listings are not cached.
        filesystem = fsspec.filesystem(scheme, use_listings_cache=False, **options)
        if scheme == "s3":
            filesystem.retries = 1  # s3fs would repeat requests that botocore has already repeated, for minutes.
        return filesystem

    def _open(self, path: str, mode: str = "r", buffering: int = -1, **kwargs: Any) -> IO[Any]:
        self._check_kwargs(kwargs)
        stream: IO[Any] = self.filesystem(path).open(path, mode)
        return stream

    def _isfile(self, path: str, **kwargs: Any) -> bool:
        return self._type(path) == "file"

    def _isdir(self, path: str, **kwargs: Any) -> bool:
        return self._type(path) == "directory"

    def _exists(self, path: str, **kwargs: Any) -> bool:
        return self._type(path) is not None

    def _type(self, path: str) -> str | None:
        try:
            return str(self.filesystem(path).info(path)["type"])
        except FileNotFoundError as error:
            if code_of(error) == NO_BUCKET:
                raise
            return None

    def _ls(self, path: str, **kwargs: Any) -> list[str]:
        store = self.filesystem(path)
        folder = store._strip_protocol(path).rstrip("/")  # Web consoles of stores create an empty object for a folder.
        names = [name.rstrip("/") for name in store.ls(path, detail=False)]
        return [name.rpartition("/")[2] for name in names if name != folder]

    def _mkdirs(self, path: str, **kwargs: Any) -> None:
        """Do nothing: a store has no directories."""

    def _rm(self, path: str, **kwargs: Any) -> None:
        self.filesystem(path).rm_file(path)


@cache
def handlers() -> dict[str, PathHandler]:
    """Return the handlers by prefix, such as `s3://`: `FsspecHandler`, and those of installed packages.

    A package adds a handler by an entry point of the group `ple_rec.path_handlers`, which names a subclass of
    `iopath.common.file_io.PathHandler` with `_open`, `_isfile`, `_ls` and `_rm`. It replaces `FsspecHandler` for the
    prefixes that both serve.
    """
    package_handlers = [entry.load()() for entry in entry_points(group=ENTRY_POINTS)]
    return {
        prefix: handler
        for handler in (FsspecHandler(), *package_handlers)
        for prefix in handler._get_supported_prefixes()
    }


def handler_of(address: str) -> PathHandler | None:
    """Return the handler of an address; None if no handler serves its scheme."""
    return handlers().get(address[: address.index("://") + 3])


@cache
def manager() -> PathManager:
    """Return iopath's manager with all handlers.

    It takes an address of an unknown scheme for a local path, so `ple_rec.storage.location` refuses these before.
    """
    path_manager = PathManager()
    for handler in handlers().values():
        path_manager.register_handler(handler)
    return path_manager
