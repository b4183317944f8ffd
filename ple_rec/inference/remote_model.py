"""Versions of a model in an object store, laid out as on a disk.

A store has no rename: a version is there once its manifest is, which comes last. Nothing of a version is written over,
for it belongs to the export that has created its first file.
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

_THREADS = 4  # files that are copied at the same time, of each of which a client may hold 50 MB


def upload_version(staged: Path, final: Remote) -> None:
    """Move a sealed version into a store.

    Args:
        staged: Folder of the version.
        final: Prefix of the version.

    Raises:
        FileExistsError: Another export has begun to make it.
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
    """Return the folder of a version: itself, or a copy in the cache of this machine of one that lies in a store.

    Versions are kept there by the digest of the manifest.

    Raises:
        DataError: The manifest is damaged, or a file is not the one that it lists.
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
    """Return the folder of a version whose files are those of its manifest; a copy that is damaged is made anew.

    Raises:
        DataError, UnavailableError: As of `local_version`, or a file of a version on this machine is damaged.
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
            if not folder.is_dir():  # it is, where another process was faster
                raise
