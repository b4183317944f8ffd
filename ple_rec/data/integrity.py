"""Digests of the files of a dataset directory, with which a run checks that it reads the files that were prepared.

`_SUCCESS` contains them:

    {"recipe": ..., "fingerprint": ..., "files": {"stats.json": {"bytes": 917, "sha256": "..."},
     "train/part-00000.parquet": {"bytes": 61204, "sha256": "...", "footer": "..."}, ...}}

`recipe` is a digest of all that determines the dataset's content. `fingerprint` is also in `schema.toml` and in every
Parquet file. `footer` is the SHA-256 of a Parquet file's footer. The footer has the place and size of every page, and
each page has a checksum. So a reader that compares the footer, and lets pyarrow verify the checksums of the pages that
it reads, can be sure of their content without reading the whole file for its SHA-256.

Digests detect damage and files of another dataset, but not a forged `_SUCCESS`. A directory that was written by hand
may have no digests; its files are then read without a check.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ple_rec.config.base import SPLITS
from ple_rec.config.prep import PREP_FILE
from ple_rec.config.schema import (
    HISTORIES_DIR,
    RATES_DIR,
    SCHEMA_FILE,
    STATS_FILE,
    STATS_PAGE,
    SUCCESS_FILE,
    VECTORS_DIR,
    VOCAB_DIR,
)
from ple_rec.errors import DataError, Option
from ple_rec.storage import Location, names_in, size_of
from ple_rec.storage.arrow import open_ranges, translate_arrow_errors
from ple_rec.storage.cache import local_copy

_FILES = (SCHEMA_FILE, PREP_FILE, STATS_FILE, STATS_PAGE)
_DATA_SUFFIXES = (".parquet", ".npy")
_KEYS = {"recipe", "fingerprint", "files"}
_FIX = f"copy the whole dataset directory again, or prepare it again with {Option.OVERWRITE}"
# Number of threads that hash files at once, which is useful since hashing releases Python's global interpreter lock.
_THREADS = 8
# Number of bytes at the end of a Parquet file that are read first. Most footers are shorter, so one read is enough.
_TAIL = 1 << 16


@dataclass(frozen=True)
class FileDigest:
    """Size and digests of a file.

    Args:
        bytes: Size of the file.
        sha256: Hexadecimal SHA-256 of its content.
        footer: Hexadecimal SHA-256 of the footer of a Parquet file, or None for other files.
    """

    bytes: int
    sha256: str
    footer: str | None = None

    @classmethod
    def from_file(cls, file: Location) -> FileDigest:
        """Read a file and return its digest.

        Raises:
            OSError: The file cannot be read.
        """
        footer = hashlib.sha256(read_footer(file)).hexdigest() if file.suffix == ".parquet" else None
        return cls(size_of(file), _sha256(file), footer)


def _sha256(file: Location) -> str:
    stream: Any
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_footer(file: Location) -> bytes:
    """Return the footer of a Parquet file, with the eight bytes after it: its length and the magic number `PAR1`.

    If the file is too short or is not a Parquet file, the result is some of its last bytes.

    Raises:
        OSError: The file cannot be read.
    """
    with translate_arrow_errors(file), open_ranges(file) as ranges:
        size = ranges.size()
        end: bytes = ranges.read_at(min(size, _TAIL), max(0, size - _TAIL))
        length = int.from_bytes(end[-8:-4], "little") + 8
        if length > len(end):
            end = ranges.read_at(min(size, length), max(0, size - length))
        return end[-length:]


def digest_files(folder: Location) -> dict[str, dict[str, Any]]:
    """Return the digests of all files that belong to a dataset but `_SUCCESS`, as the object "files" of `_SUCCESS`.

    These are schema.toml, prep.toml, the statistics and their page, the vocabularies, the frozen tables of vectors, the
    counts of rates, the events of histories and the parts of the splits.

    Raises:
        OSError: A file cannot be read.
    """
    names = _names(folder)
    with ThreadPoolExecutor(_THREADS) as pool:
        digests = pool.map(FileDigest.from_file, (folder / name for name in names))
        return {
            name: {key: value for key, value in asdict(digest).items() if value is not None}
            for name, digest in zip(names, digests, strict=True)
        }


class Digests:
    """Digests of the files of a dataset directory.

    Args:
        folder: Dataset directory.
        files: Digest of each file, by its path relative to the directory; empty if `_SUCCESS` has no digests.
    """

    def __init__(self, folder: Location, files: Mapping[str, FileDigest]) -> None:
        self.folder, self.files = folder, files

    @classmethod
    def read(cls, folder: Location) -> Digests:
        """Read the digests from `_SUCCESS`. If it is empty or missing, the result has no digests.

        Raises:
            DataError: `_SUCCESS` cannot be read, or has content that is not as the module's docstring says.
        """
        file = folder / SUCCESS_FILE
        try:
            text = file.read_text(encoding="utf-8") if file.is_file() else ""
            content = json.loads(text) if text.strip() else {}
            if not isinstance(content, dict) or not isinstance(files := content.get("files", {}), dict):
                raise ValueError("no JSON object of files")
            if unknown := sorted(content.keys() - _KEYS):
                raise ValueError(f"unknown key {unknown[0]!r}")
            return cls(folder, {name: _digest(name, each) for name, each in files.items()})
        except (OSError, ValueError, RecursionError) as error:
            rule = "it must be empty, or contain the digests of the files as JSON"
            raise DataError(str(file), f"unreadable ({error})", rule, _FIX) from error

    def check(self, name: str) -> None:
        """Check the content of a file against its digest; a file without a digest passes.

        Raises:
            DataError: The file is missing, has changed, or cannot be read.
            UserError: The store of the file cannot be read.
        """
        if (expected := self.files.get(name)) is None:
            return
        file = self.folder / name
        try:
            size = size_of(file)
            if size != expected.bytes:
                raise self._changed_error(name, f"{size:,} bytes", f"{expected.bytes:,} bytes")
            actual = _sha256(file)
        except OSError as error:
            raise self._changed_error(name, f"unreadable ({error.strerror or error})", "a file of this name") from error
        if actual != expected.sha256:
            raise self._changed_error(name, f"SHA-256 {actual[:16]}...", f"{expected.sha256[:16]}...")

    def check_footer(self, name: str, footer: bytes) -> None:
        """Check the footer of a Parquet file against its digest; a file without a digest passes.

        Raises:
            DataError: The footer has changed.
        """
        expected = self.files.get(name)
        if expected is None or expected.footer is None:
            return
        if (actual := hashlib.sha256(footer).hexdigest()) != expected.footer:
            raise self._changed_error(name, f"SHA-256 {actual[:16]}... of its footer", f"{expected.footer[:16]}...")

    def local_copy(self, name: str) -> Path:
        """Return the path of a file of the dataset on this machine, after a check of its digest.

        A file in a store is copied to the cache.

        Raises:
            DataError: The file is missing or has changed, or a file of this machine cannot be read.
            UserError: A file of a store cannot be read or copied.
        """
        file, expected = self.folder / name, self.files.get(name)
        copy = local_copy(file, None if expected is None else expected.sha256)
        # `local_copy` compares a new copy with the digest itself.
        if copy == file:
            self.check(name)
        return copy

    def find_changes(self) -> Iterator[DataError]:
        """Read every file, and yield an error for each missing or changed file and for each part without a digest.

        A part is a Parquet file of a split. Without any digests, no file is read.
        """
        for name in sorted({*self.files, *_names(self.folder)} if self.files else ()):
            try:
                self.check(name)
            except DataError as error:
                yield error
            if name not in self.files and name.startswith(SPLITS):
                rule = f"{SUCCESS_FILE} lists all Parquet files of the dataset"
                yield DataError(str(self.folder / name), "not listed", rule, "remove it, or prepare the dataset again")

    def _changed_error(self, name: str, actual: str, expected: str) -> DataError:
        rule = f"{SUCCESS_FILE} says {expected}, so the file has changed since the dataset was prepared"
        own_change = f'; if you changed it yourself, remove "{name}" from "files" in {SUCCESS_FILE}'
        return DataError(str(self.folder / name), actual, rule, _FIX + own_change)


def _digest(name: str, content: object) -> FileDigest:
    """Return the digest of a file from its entry in `_SUCCESS`, and raise ValueError if the entry is not valid."""
    kinds = {"bytes": int, "sha256": str, "footer": str}
    if not isinstance(content, dict) or not {"bytes", "sha256"} <= content.keys() <= kinds.keys():
        raise ValueError(f"{name} has other keys than bytes, sha256 and footer")
    for key, value in content.items():
        if type(value) is not kinds[key] or (key != "bytes" and not re.fullmatch("[0-9a-f]{64}", str(value))):
            raise ValueError(f"{name} has {key} = {value!r}")
    return FileDigest(**content)


def _names(folder: Location) -> list[str]:
    """Return the paths, relative to the directory, of all files that belong to the dataset, except `_SUCCESS`."""
    names = list(_FILES)
    arrays = [f"{HISTORIES_DIR}/{name}" for name in names_in(folder / HISTORIES_DIR) if not name.endswith(".parquet")]
    for subfolder in (VOCAB_DIR, VECTORS_DIR, RATES_DIR, HISTORIES_DIR, *arrays, *SPLITS):
        names += [f"{subfolder}/{name}" for name in names_in(folder / subfolder) if name.endswith(_DATA_SUFFIXES)]
    return sorted(name for name in names if (folder / name).is_file())
