"""Files that a user names, on this machine or in an object store. Only this package opens objects of a store.

    location.py      paths and addresses
    files.py         operations that are the same for files and objects
    locks.py         locks on files of this machine
    store_errors.py  errors of stores
    store.py         requests to stores: list, inspect, write on a condition
    client.py        options and clients of S3
    handler.py       handlers of stores for iopath; imported at the first use of a store
    lease.py         exclusive ownership of a prefix
    cache.py         copies of objects on this machine
    arrow.py         files and objects as files of pyarrow
    fsspec_files.py  objects as files of fsspec, for DuckDB

Objects are opened, listed and removed by iopath's `PathManager`, which knows the handler of each scheme. Requests that
its handlers do not offer, such as conditional writes and byte ranges of S3, go to the clients of fsspec and pyarrow.
"""

from ple_rec.storage.files import (
    atomic_write,
    create_text,
    free_bytes,
    make_directory,
    map_concurrently,
    modified_at,
    names_in,
    put_file,
    remove_tree,
    size_of,
    sizes_in,
    stamp_of,
    unlink_checked,
    write_bytes,
    write_checked,
    write_text,
)
from ple_rec.storage.location import Location, Remote, explain_errors, is_address, is_remote, location
from ple_rec.storage.store_errors import StoreError, short_message

__all__ = [
    "Location",
    "Remote",
    "StoreError",
    "atomic_write",
    "create_text",
    "explain_errors",
    "free_bytes",
    "is_address",
    "is_remote",
    "location",
    "make_directory",
    "map_concurrently",
    "modified_at",
    "names_in",
    "put_file",
    "remove_tree",
    "short_message",
    "size_of",
    "sizes_in",
    "stamp_of",
    "unlink_checked",
    "write_bytes",
    "write_checked",
    "write_text",
]
