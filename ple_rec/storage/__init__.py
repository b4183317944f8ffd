"""Files that a user names, on this machine or in an object store; nothing else opens those of a store.

    location.py      places: paths and addresses, and what is said where one cannot be reached
    files.py         what can be done with files at either kind of place
    handler.py       iopath's handlers of stores; imported when a store is used
    lease.py         ownership of a prefix
    cache.py         copies on this machine, by digest
    listing.py       what lies below a prefix, with sizes and tags
    arrow.py         objects as files of pyarrow
    fsspec_files.py  objects as files of fsspec, for DuckDB

Every address goes through iopath's `PathManager`, which knows the handler of each scheme.
"""

from ple_rec.storage.files import (
    at_once,
    atomic_write,
    create_text,
    free_bytes,
    make_directory,
    modified_at,
    names_in,
    put_file,
    remove_tree,
    size_of,
    sizes_in,
    stamp_of,
    write_bytes,
    write_text,
)
from ple_rec.storage.location import (
    Location,
    Remote,
    explain_errors,
    is_address,
    is_remote,
    location,
    short,
    translate_errors,
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
