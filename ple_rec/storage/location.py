"""Places of files that a user names: a path on this machine, or an address in an object store (`s3://bucket/key`).

A store has neither renames nor directories, and an object appears once it is complete; this module relies on no more.
Credentials and endpoint of S3 come from the environment (`AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT_URL`, ...).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import IO, Any, cast

from ple_rec.errors import UnavailableError, UserError
from ple_rec.storage.store_errors import StoreStream, request, short

SCHEMES = ("s3", "gs", "gcs", "abfs", "abfss", "az", "hdfs", "memory")  # Stores that fsspec serves.
S3 = "s3://"
_ONE_SLASH = re.compile(rf"({'|'.join(SCHEMES)}):/(?!/)")
_PATTERN = set("*?[]")


@dataclass(frozen=True)
class Remote:
    """Address in an object store, with the methods of `pathlib.Path` that a store can serve.

    Args:
        address: Scheme, bucket and key, without a slash at the end.
    """

    address: str

    def __str__(self) -> str:
        return self.address

    def __truediv__(self, name: str) -> Remote:
        return Remote(f"{self.address}/{name}")

    @property
    def name(self) -> str:
        """The last part of the key."""
        return self.address.rpartition("/")[2]

    @property
    def suffix(self) -> str:
        """The suffix of the name, such as `.parquet`."""
        return Path(self.name).suffix

    def with_suffix(self, suffix: str) -> Remote:
        """Return the address with another suffix of its name."""
        return self.parent / Path(self.name).with_suffix(suffix).name

    @property
    def parent(self) -> Remote:
        """The prefix above; a bucket is its own parent."""
        above = self.address.rpartition("/")[0]
        return self if above.endswith("/") else Remote(above)

    def open(self, mode: str = "rb") -> IO[Any]:
        """Open the object as a stream of bytes; to write, call `atomic_write` instead.

        Raises:
            FileNotFoundError: The object does not exist.
            StoreError: The store cannot be read.
        """
        from ple_rec.storage.handler import manager

        stream: Any = StoreStream(request(self.address, lambda: manager().open(self.address, mode)), self.address)
        return cast("IO[Any]", stream)

    def read_bytes(self) -> bytes:
        """Return the content of the object at one moment; raises as `open` does."""
        from ple_rec.storage.handler import FsspecHandler, handler_of

        handler = handler_of(self.address)
        if isinstance(handler, FsspecHandler):  # One request reads one version of the object.
            return request(self.address, lambda: bytes(handler.filesystem(self.address).cat_file(self.address)))
        with self.open() as stream:
            return bytes(stream.read())

    def read_text(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """Return the content of the object as text; raises as `open` does."""
        return self.read_bytes().decode(encoding, errors)

    def is_file(self) -> bool:
        """Return True if the object exists.

        Raises:
            StoreError: The store cannot be read.
        """
        from ple_rec.storage.handler import manager

        return request(self.address, lambda: bool(manager().isfile(self.address)))

    def is_dir(self) -> bool:
        """Return True if objects lie below the prefix; raises as `is_file` does."""
        from ple_rec.storage.handler import manager

        return request(self.address, lambda: bool(manager().isdir(self.address)))

    def exists(self) -> bool:
        """Return True if the object exists, or objects lie below it as a prefix; raises as `is_file` does."""
        from ple_rec.storage.handler import manager

        return request(self.address, lambda: bool(manager().exists(self.address)))

    def absolute(self) -> Remote:
        """Return the address itself, which is always absolute."""
        return self

    def is_absolute(self) -> bool:
        """Return True, because an address is always absolute."""
        return True

    def glob(self, pattern: str) -> Iterator[Remote]:
        """Yield the objects directly below the prefix whose names match a pattern, sorted by name.

        Raises:
            StoreError: The store cannot be read.
        """
        from ple_rec.storage.files import names_in

        return (self / name for name in names_in(self) if fnmatch(name, pattern))

    def unlink(self, missing_ok: bool = False) -> None:
        """Remove the object.

        Raises:
            FileNotFoundError: The object does not exist.
            StoreError: The object cannot be removed.
        """
        from ple_rec.storage.handler import manager

        try:
            request(self.address, lambda: manager().rm(self.address))
        except FileNotFoundError:
            if not missing_ok:
                raise


Location = Path | Remote


def location(address: str | Path | Remote) -> Location:
    """Return the path or address that a text names, without a look at the place itself.

    Raises:
        UserError: No handler serves the scheme, the package that it needs is not installed, the address has one slash
            behind its scheme, or it has characters that some stores take for a pattern.
    """
    if isinstance(address, Path | Remote):
        return address
    if not address:
        raise UserError("''", "an empty text", "a place is a path or an address", "name one")
    if not is_address(address):
        return Path(address.removeprefix("file://"))
    if one := _ONE_SLASH.match(address):
        rule, fix = f"an address reads {one[1]}://bucket/key", f"write {one[1]}://{address[one.end() :]}"
        raise UserError(address, "one slash", rule, fix)
    from ple_rec.storage.handler import FsspecHandler, handler_of, handlers

    scheme, _, rest = address.partition("://")
    handler = handler_of(address)
    if handler is None:
        known = ", ".join(sorted(handlers()))
        raise UserError(address, f"unknown scheme {scheme}://", f"it is a path, or one of {known}", "use s3://")
    if not rest.strip("/") or not {".", ".."}.isdisjoint(rest.split("/")):
        raise UserError(
            address,
            "has no bucket, or a part that is . or ..",
            "a store takes a key as it stands",
            f"write {scheme}://bucket/key",
        )
    if strange := sorted(set(rest) & _PATTERN):
        raise UserError(
            address,
            f"has {' '.join(strange)}",
            "a store may take it for a pattern of several addresses",
            "name it by letters, digits, - _ . and /",
        )
    if isinstance(handler, FsspecHandler):
        try:
            handler.filesystem(address)
        except ImportError as error:
            raise UserError(
                address, f"{scheme}:// cannot be used here ({error})", "a package serves it", "pip install '.[s3]'"
            ) from error
    return Remote(address.rstrip("/"))


def is_address(text: str) -> bool:
    """Return True if a text is an address of a store, and False for a path of this machine.

    `s3:/bucket`, which `pathlib.Path` makes of an address, counts as one, and `location` refuses it.
    """
    return ("://" in text and not text.startswith("file://")) or _ONE_SLASH.match(text) is not None


def is_remote(where: Location) -> bool:
    """Return True if a place lies in an object store."""
    return isinstance(where, Remote)


@contextmanager
def explain_errors(
    where: Location, action: str = "read", why: str = "ple-rec reads and writes there"
) -> Iterator[None]:
    """Turn an OSError in the block into an UnavailableError; a StoreError is one already.

    Args:
        where: Place that the block reads or writes.
        action: Past participle for the message "cannot be ...", such as `read`.
        why: Clause for the message that says why the place is used.
    """
    try:
        yield
    except OSError as error:
        fix = "correct the path or the permission, or free space"
        raise UnavailableError(str(where), f"cannot be {action} ({short(error)})", why, fix) from error
