"""Locations of files that a user names: a path on this machine, or an address in an object store (`s3://bucket/key`).

`location` turns a text into a `Path` or a `Remote`, which have the same methods for reading. All that this module needs
of a store is that an object appears when it is complete; a store has neither renames nor directories. Credentials and
endpoint of S3 come from the environment (`AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT_URL`, ...).
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
from ple_rec.storage.store_errors import StoreStream, request, short_message

SCHEMES = ("s3", "gs", "gcs", "abfs", "abfss", "az", "hdfs", "memory")  # Stores that fsspec serves.
S3 = "s3://"
# An address that `pathlib.Path` or a typing error has shortened to one slash, such as `s3:/bucket`.
_ONE_SLASH = re.compile(rf"({'|'.join(SCHEMES)}):/(?!/)")
_WILDCARDS = set("*?[]")


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
        """The prefix without the last part of the key; a bucket is its own parent."""
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
        """Return the content of the object; on the stores of fsspec, of a single version. Raises as `open` does."""
        from ple_rec.storage.handler import FsspecHandler, handler_of

        handler = handler_of(self.address)
        if isinstance(handler, FsspecHandler):  # A single request cannot mix two versions of the object.
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
        """Return True if the store has objects below the prefix; raises as `is_file` does."""
        from ple_rec.storage.handler import manager

        return request(self.address, lambda: bool(manager().isdir(self.address)))

    def exists(self) -> bool:
        """Return True if the object exists, or objects below the address as a prefix; raises as `is_file` does."""
        from ple_rec.storage.handler import manager

        return request(self.address, lambda: bool(manager().exists(self.address)))

    def absolute(self) -> Remote:
        """Return the address itself, which is always absolute."""
        return self

    def is_absolute(self) -> bool:
        """Return True, because an address is always absolute."""
        return True

    def glob(self, pattern: str) -> Iterator[Remote]:
        """Yield the objects and prefixes directly below this prefix whose names match a pattern, sorted by name.

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
    """Return the path or address that a text names, without access to the file or the store.

    A `Path` or `Remote` is returned as it is, and a text `file://PATH` gives the path.

    Raises:
        UserError: The text is empty, no handler serves the scheme, the package that the scheme needs is not installed,
            or the address is malformed: one slash after its scheme, no bucket, a part `.` or `..`, or characters that
            some stores take for a pattern. Also if the environment sets invalid options of S3.
    """
    if isinstance(address, Path | Remote):
        return address
    if not address:
        raise UserError("''", "is empty", "a location is a path or an address", "name one")
    if not is_address(address):
        return Path(address.removeprefix("file://"))
    if match := _ONE_SLASH.match(address):
        rule, fix = f"an address has the form {match[1]}://bucket/key", f"write {match[1]}://{address[match.end() :]}"
        raise UserError(address, "has only one slash after the scheme", rule, fix)
    from ple_rec.storage.handler import FsspecHandler, handler_of, handlers

    scheme, _, rest = address.partition("://")
    handler = handler_of(address)
    if handler is None:
        known = ", ".join(sorted(handlers()))
        raise UserError(address, f"has the unknown scheme {scheme}://", f"known schemes are {known}", "use s3://")
    if not rest.strip("/") or not {".", ".."}.isdisjoint(rest.split("/")):
        raise UserError(
            address,
            "has no bucket, or a part that is . or ..",
            "a store does not resolve . and .. in a key",
            f"write {scheme}://bucket/key",
        )
    if wildcards := sorted(set(rest) & _WILDCARDS):
        raise UserError(
            address,
            f"has {' '.join(wildcards)}",
            "a store may take the address for a pattern",
            "use letters, digits, - _ . and /",
        )
    if isinstance(handler, FsspecHandler):
        try:
            handler.filesystem(address)
        except ImportError as error:
            raise UserError(
                address,
                f"{scheme}:// cannot be used ({error})",
                "the scheme needs a package that is not installed",
                "pip install '.[s3]'",
            ) from error
    return Remote(address.rstrip("/"))


def is_address(text: str) -> bool:
    """Return True if a text is an address of a store, and False for a path of this machine.

    `s3:/bucket` counts as an address, which `location` then refuses: `pathlib.Path` turns `s3://bucket` into it.
    """
    return ("://" in text and not text.startswith("file://")) or _ONE_SLASH.match(text) is not None


def is_remote(place: Location) -> bool:
    """Return True if a location is in an object store."""
    return isinstance(place, Remote)


@contextmanager
def explain_errors(
    place: Location, action: str = "read", why: str = "ple-rec reads and writes there"
) -> Iterator[None]:
    """Turn an OSError in the block into an UnavailableError; a StoreError is one already.

    Args:
        place: Location that the block reads or writes.
        action: Past participle for the message "cannot be ...", such as `read`.
        why: Clause for the message that says why the location is used.
    """
    try:
        yield
    except OSError as error:
        fix = "correct the path or the permission, or free space"
        raise UnavailableError(str(place), f"cannot be {action} ({short_message(error)})", why, fix) from error
