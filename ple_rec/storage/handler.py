"""The path handler of iopath that serves the stores of fsspec, and the registry of all handlers."""

from __future__ import annotations

from functools import cache
from importlib.metadata import entry_points
from typing import IO, Any

from iopath.common.file_io import PathHandler, PathManager

from ple_rec.storage.client import fsspec_options, s3_options
from ple_rec.storage.door import NO_BUCKET, code_of
from ple_rec.storage.location import SCHEMES

ENTRY_POINTS = "ple_rec.path_handlers"


class FsspecHandler(PathHandler):  # type: ignore[misc]  # iopath has no type hints
    """Objects of the stores that fsspec speaks to.

    Only what an object store can do is here: an object is there once it is whole, and there are no directories to make.
    Errors are those of fsspec and of its clients; "denied" is never taken for "absent", as some clients' `exists` does.
    """

    schemes = SCHEMES  # a handler of another package has its own

    def _get_supported_prefixes(self) -> list[str]:
        return [f"{scheme}://" for scheme in self.schemes]

    def filesystem(self, path: str) -> Any:
        """Return the fsspec file system of an address, which fsspec keeps for the next call.

        Raises:
            ImportError: The package that speaks to the store is not installed.
            UserError: As of `s3_options`.
        """
        import fsspec

        scheme, _, _ = path.partition("://")
        options = fsspec_options(s3_options()) if scheme == "s3" else {}
        found = fsspec.filesystem(scheme, use_listings_cache=False, **options)  # Other processes write there, too.
        if scheme == "s3":
            found.retries = 1  # those of botocore are enough: five times as many would wait for minutes
        return found

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
        own = store._strip_protocol(path).rstrip("/")  # an empty object, by which consoles of stores show a folder
        names = [name.rstrip("/") for name in store.ls(path, detail=False)]
        return [name.rpartition("/")[2] for name in names if name != own]

    def _mkdirs(self, path: str, **kwargs: Any) -> None:
        """Do nothing: a store has no directories."""

    def _rm(self, path: str, **kwargs: Any) -> None:
        self.filesystem(path).rm_file(path)


@cache
def handlers() -> dict[str, PathHandler]:
    """Return the handler of each prefix, such as `s3://`: that of fsspec's stores, and those of installed packages.

    A package brings its own by an entry point of the group `ple_rec.path_handlers`, which names a subclass of
    `iopath.common.file_io.PathHandler` with `_open`, `_isfile`, `_ls` and `_rm`. It comes before ours where both serve
    a prefix.
    """
    brought = [entry.load()() for entry in entry_points(group=ENTRY_POINTS)]
    return {prefix: each for each in (FsspecHandler(), *brought) for prefix in each._get_supported_prefixes()}


def handler_of(address: str) -> PathHandler | None:
    """Return the handler of an address; None where no handler serves its scheme."""
    return handlers().get(address[: address.index("://") + 3])


@cache
def manager() -> PathManager:
    """Return iopath's manager of these handlers.

    An address of any other scheme would be a local path to it, so `ple_rec.storage.location` refuses such ones first.
    """
    found = PathManager()
    for handler in handlers().values():
        found.register_handler(handler)
    return found
