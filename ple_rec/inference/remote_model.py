"""Upload versions of a model to an object store, and copy them from there to a folder of this machine.

`ple-rec export` writes a trained model as a version: a folder of files, with a manifest (`manifest.json`) that has the
size and SHA-256 of each other file. A version in a store has the same files as one on a disk. A store cannot rename a
folder, so the manifest is uploaded last, and a version without a manifest is incomplete. If several exports upload the
same version at once, only the one that creates the version's first file goes on.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path, PurePosixPath

from ple_rec.errors import DataError
from ple_rec.inference.manifest import (
    EXPORT_AGAIN,
    MANIFEST,
    check_version,
    explain_unreadable,
    parse_manifest,
    read_manifest,
)
from ple_rec.storage import (
    Location,
    Remote,
    StoreError,
    atomic_write,
    explain_errors,
    map_concurrently,
    put_file,
    remove_tree,
)
from ple_rec.storage.cache import cache_folder, download

# Number of files that are copied at the same time. It is small, since the client of a store may need 50 MB for each.
_THREADS = 4


def upload_version(staged: Path, final: Remote) -> None:
    """Upload a version to a store; if this fails, remove the files that were uploaded.

    Args:
        staged: Folder of this machine with all files of the version, including its manifest.
        final: Prefix of the version in the store.

    Raises:
        FileExistsError: Another export has begun to upload a version of this name.
        StoreError: The store cannot be written.
    """
    first, *others = sorted(parse_manifest(staged, read_manifest(staged)))
    with atomic_write(final / first, "xb") as out:
        out.write((staged / first).read_bytes())
    try:
        map_concurrently(lambda name: put_file(staged / name, final / name), others, _THREADS)
        put_file(staged / MANIFEST, final / MANIFEST)
    except BaseException:
        with suppress(OSError, StoreError):
            remove_tree(final)
        raise


def local_version(version: Location) -> Path:
    """Return a folder of this machine with a version; a version in a store is copied to the cache once.

    The SHA-256 of the manifest names the folder in the cache, so a version with other files gets another folder. A
    version on this machine, or an earlier copy, is returned without a check.

    Raises:
        DataError: The manifest is missing or damaged, or a file in the store differs from its entry in the manifest.
        UnavailableError: The store cannot be read, or the copy cannot be written.
    """
    if isinstance(version, Path):
        return version
    with explain_unreadable(version):
        manifest = read_manifest(version)
    folder = cache_folder() / "models" / hashlib.sha256(manifest).hexdigest() / version.name
    if not folder.is_dir():
        with explain_errors(
            folder, "written", "models from stores are copied there; PLE_REC_CACHE names another folder"
        ):
            _download(version, manifest, folder)
    return folder


def checked_version(version: Location) -> Path:
    """Return a folder of this machine with a version whose files match its manifest.

    A copy in the cache that does not match is downloaded again.

    Raises:
        DataError: The manifest is missing or damaged, or a file is missing or differs from its entry.
        UnavailableError: The store cannot be read, or the copy cannot be written.
    """
    folder = local_version(version)
    try:
        check_version(folder)
    except DataError:
        if isinstance(version, Path):
            raise
        shutil.rmtree(folder)
        folder = local_version(version)
    return folder


def _download(version: Remote, manifest: bytes, folder: Path) -> None:
    """Copy the files of a version to a temporary folder, compare their digests, and rename the folder to `folder`."""
    files = parse_manifest(version, manifest)
    for name in files:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts:
            rule = "the files of a version are in its folder"
            raise DataError(str(version / MANIFEST), f"lists {name!r}", rule, EXPORT_AGAIN)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as parent:
        staged = Path(parent) / version.name

        def fetch(name: str) -> None:
            (staged / name).parent.mkdir(parents=True, exist_ok=True)
            download(version / name, staged / name, files[name].digest)

        map_concurrently(fetch, files, _THREADS)
        (staged / MANIFEST).write_bytes(manifest)
        try:
            staged.rename(folder)
        except OSError:
            # If the folder exists now, another process has copied the same version meanwhile, and its copy is used.
            if not folder.is_dir():
                raise
