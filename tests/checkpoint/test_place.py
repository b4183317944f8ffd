"""Addresses of checkpoints, and what a store that breaks off says."""

from __future__ import annotations

import errno
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from upath import UPath

from ple_rec.checkpoint.manifest import File, check_content, check_size, checksum
from ple_rec.checkpoint.place import create_text, is_there, names_in, place, remove_tree, sizes_in, write_text
from ple_rec.errors import DataError, UserError


def test_addresses() -> None:
    assert place("a/b") == Path("a/b")
    assert place("file:///a/b") == Path("/a/b")
    with pytest.raises(UserError, match=r"^nix://a: unknown scheme nix://; it is a path, or an address that fsspec "):
        place("nix://a")
    with pytest.raises(UserError, match=r"^s3://bucket/exp\[1\]: has \[ \]; a removal below it would "):
        place("s3://bucket/exp[1]")


@pytest.mark.parametrize("remote", [False, True])
def test_a_store_is_read_like_a_disk(remote: bool, tmp_path: Path) -> None:
    where = place("memory://places/one") if remote else tmp_path
    write_text(where / "step-1" / "a", "x") if remote else None
    if not remote:
        (where / "step-1").mkdir()
        write_text(where / "step-1" / "a", "x")
    write_text(where / "latest", "step-1")
    assert names_in(where) == ["latest", "step-1"]
    assert names_in(where / "nothing") == []
    assert (is_there(where / "latest"), is_there(where / "step-1"), is_there(where / "best")) == (True, False, False)
    assert sizes_in(where / "step-1") == {"a": 2}
    assert checksum(where / "step-1" / "a") == File.of_text("x\n")
    with pytest.raises(DataError, match="missing; the manifest says 2 bytes"):
        check_size(where / "step-1", "b", File.of_text("x\n"))
    remove_tree(where / "step-1")
    assert names_in(where) == ["latest"]
    remove_tree(where / "step-1")  # which is there no more


@pytest.mark.parametrize("remote", [False, True])
def test_of_several_that_write_a_new_file_one_succeeds(remote: bool, tmp_path: Path) -> None:
    file = place("memory://places/three") / "run.json" if remote else tmp_path / "run.json"

    def write(text: str) -> str | None:
        try:
            create_text(file, text)
        except FileExistsError:
            return None
        return text

    with ThreadPoolExecutor(1 if remote else 8) as pool:  # the store in memory knows no threads
        written = [text for text in pool.map(write, map(str, range(8))) if text is not None]
    assert [file.read_text()] == [f"{text}\n" for text in written]


def test_a_new_file_that_cannot_be_written_whole_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(file: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left on device"):
            create_text(tmp_path / "run.json", "x")
    assert names_in(tmp_path) == []
    create_text(tmp_path / "run.json", "x")  # once there is room


def test_a_connection_that_breaks_is_no_damage(monkeypatch: pytest.MonkeyPatch) -> None:
    where = place("memory://places/two")
    assert isinstance(where, UPath)
    write_text(where / "a", "x")
    content = File.of_text("x\n")
    check_content(where, "a", content)
    with pytest.raises(DataError, match=r"CRC-32 \w{8}; the manifest says 00000000; its bytes changed"):
        check_content(where, "a", File(2, "00000000"))

    def breaks(*args: object, **kwargs: object) -> None:
        raise ConnectionResetError("reset by peer")

    monkeypatch.setattr(type(where.fs), "open", breaks)
    with pytest.raises(OSError, match="reset by peer"):
        check_content(where, "a", content)
