"""Upload versions of a model to an object store, and copy them from there to a folder of this machine.

`ple-rec export` writes a trained model as a version: a folder of files, with a manifest (`manifest.json`) that has the
size and SHA-256 of each other file. A version in a store has the same files as one on a disk. A store cannot rename a
folder, so the manifest is uploaded last, and a version without a manifest is incomplete. If several exports upload the
same version at once, only the one that creates its first file goes on.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path, PurePosixPath

from ple_rec.errors import DataError
from ple_rec.inference.manifest import EXPORT_AGAIN, MANIFEST, check_version, files_of, read_manifest, readable
from ple_rec.storage import Location, Remote, StoreError, at_once, atomic_write, explain_errors, put_file, remove_tree
from ple_rec.storage.cache import cache_folder, download

# Number of files that are copied at the same time. It is small, since the client of a store may need 50 MB for each.
_THREADS = 4


def upload_version(staged: Path, final: Remote) -> None:
    """Upload a version to a store; if this fails, what was uploaded is removed.

    Args:
        staged: Folder of this machine with all files of the version, including its manifest.
        final: Prefix of the version in the store.

    Raises:
        FileExistsError: Another export has begun to upload a version of this name.
        StoreError: The store cannot be written.
    """
    first, *others = sorted(files_of(staged, read_manifest(staged)))
    with atomic_write(final / first, "xb") as out:
        out.write((staged / first).read_bytes())
    try:
        at_once(lambda name: put_file(staged / name, final / name), others, _THREADS)
        put_file(staged / MANIFEST, final / MANIFEST)
    except BaseException:
        with suppress(OSError, StoreError):
            remove_tree(final)
        raise


def local_version(version: Location) -> Path:
    """Return a folder of this machine with a version; a version in a store is copied to the cache once.

    The SHA-256 of the manifest names the folder in the cache, so a version with other files gets another folder.

    Raises:
        DataError: The manifest is damaged, or a file in the store differs from its entry in the manifest.
        UnavailableError: The store cannot be read, or the copy cannot be written.
    """
    if isinstance(version, Path):
        return version
    with readable(version):
        manifest = read_manifest(version)
    folder = cache_folder() / "models" / hashlib.sha256(manifest).hexdigest() / version.name
    if not folder.is_dir():
        with explain_errors(folder, "written", "the model is copied there, or to where PLE_REC_CACHE says"):
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
    files = files_of(version, manifest)
    for name in files:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts:
            rule = "its files lie in its folder"
            raise DataError(str(version / MANIFEST), f"lists {name!r}", rule, EXPORT_AGAIN)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as parent:
        staged = Path(parent) / version.name

        def fetch(name: str) -> None:
            (staged / name).parent.mkdir(parents=True, exist_ok=True)
            download(version / name, staged / name, files[name].digest)

        at_once(fetch, files, _THREADS)
        (staged / MANIFEST).write_bytes(manifest)
        try:
            staged.rename(folder)
        except OSError:
            # If the folder exists now, another process has copied the same version meanwhile, and its copy will do.
            if not folder.is_dir():
                raise
