"""The one door to files that a user names, on this machine or in an object store.

    location.py   places, and what can be done at either kind
    handler.py    iopath's handlers of stores; imported when a store is used
    listing.py    sizes and ETags of the objects below a prefix
    fsspec_files.py  the door as a file system of fsspec, for DuckDB
    cache.py      copies on this machine of objects that must be files here

Every address goes through iopath's `PathManager`, which knows the handler of each scheme.
"""

from ple_rec.storage.location import (
    Location,
    Remote,
    at_once,
    atomic_write,
    create_text,
    explain_errors,
    free_bytes,
    is_address,
    is_remote,
    location,
    make_directory,
    modified_at,
    names_in,
    put_file,
    remove_tree,
    short,
    size_of,
    sizes_in,
    stamp_of,
    translate_errors,
    write_bytes,
    write_text,
)

__all__ = [
    "Location",
    "Remote",
    "at_once",
    "atomic_write",
    "create_text",
    "explain_errors",
    "free_bytes",
    "is_address",
    "is_remote",
    "location",
    "make_directory",
    "modified_at",
    "names_in",
    "put_file",
    "remove_tree",
    "short",
    "size_of",
    "sizes_in",
    "stamp_of",
    "translate_errors",
    "write_bytes",
    "write_text",
]
