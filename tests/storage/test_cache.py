"""Copies of objects on this machine."""

from __future__ import annotations

import hashlib
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

from ple_rec.errors import DataError, UserError
from ple_rec.storage import Location, location, write_bytes
from ple_rec.storage.cache import cache_folder, local_copy


@pytest.fixture
def where(address: str) -> Location:
    """A prefix of a store; copies go to a folder of the test."""
    return location(address)


def copied(file: str, digest: str | None) -> str:
    return str(local_copy(location(file), digest))


def test_the_folder_is_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/a")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("PLE_REC_CACHE", raising=False)
    assert cache_folder() == Path("/home/a/.cache/ple_rec")
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert cache_folder() == Path("/x/ple_rec")
    monkeypatch.setenv("PLE_REC_CACHE", "/y")
    assert cache_folder() == Path("/y")


def test_a_path_is_returned_as_it_is(tmp_path: Path) -> None:
    assert local_copy(tmp_path / "not there") == tmp_path / "not there"


def test_an_object_is_copied_once_by_its_digest(where: Location) -> None:
    digest = hashlib.sha256(b"content").hexdigest()
    write_bytes(where / "a.parquet", b"content")
    copy = local_copy(where / "a.parquet", digest)
    assert (copy.name, copy.read_bytes()) == ("a.parquet", b"content")
    assert local_copy(where / "elsewhere" / "a.parquet", digest) == copy  # which is not even there
    with pytest.raises(
        DataError, match=r"a.parquet: SHA-256 ed7002b439e9ac84\.\.\.; the file that was written has 0{16}\.\.\."
    ):
        local_copy(where / "a.parquet", "0" * 64)


def test_an_object_without_a_digest_is_copied_again_when_it_has_changed(where: Location) -> None:
    for content in (b"one", b"other"):
        write_bytes(where / "b.parquet", content)
        assert local_copy(where / "b.parquet").read_bytes() == content


def test_several_processes_get_one_whole_copy(where: Location, tmp_path: Path) -> None:
    content = bytes(range(256)) * (64 << 10)
    write_bytes(where / "c", content)
    with ProcessPoolExecutor(4, mp_context=get_context("spawn")) as pool:
        names = set(pool.map(copied, [str(where / "c")] * 4, [hashlib.sha256(content).hexdigest()] * 4))
    (name,) = names
    assert Path(name).read_bytes() == content
    assert sorted(path.name for path in Path(name).parent.iterdir()) == ["c", "lock"]


def test_what_cannot_be_copied_is_told_with_the_folder_of_copies(where: Location, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"not there: cannot be copied \("):
        local_copy(where / "not there", "0" * 64)
    write_bytes(where / "d", b"content")
    (tmp_path / "cache" / "files").rename(tmp_path / "moved")
    (tmp_path / "cache" / "files").write_text("")
    with pytest.raises(UserError, match=r"/cache: cannot be written \(.*Not a directory.*; copies of files "):
        local_copy(where / "d")
