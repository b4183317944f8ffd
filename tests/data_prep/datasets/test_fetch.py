from __future__ import annotations

import gzip
import hashlib
import io
import logging
import socket
import sys
import tarfile
import threading
import tracemalloc
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from data_prep.datasets import fetch as fetching
from data_prep.datasets.fetch import (
    DatasetFile,
    FetchError,
    PackageArchive,
    Url,
    cache_folder,
    fetch,
    find_files,
    store_in_cache,
)
from ple_rec.errors import DataError, UserError

WANTED = (DatasetFile("a.data", ("alias_a.csv",)), DatasetFile("b.test"))
BOTH = {"a.data": b"1, 2\n", "b.test": b"3, 4\n"}


def tar_of(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def zip_of(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "files",
    [
        BOTH,
        {"alias_a.csv": BOTH["a.data"], "b.test.gz": gzip.compress(BOTH["b.test"])},
        {"x.tar.gz": tar_of({"deep/folder/alias_a.csv": BOTH["a.data"], "../../b.test": BOTH["b.test"]})},
        {"x.zip": zip_of({"x.tar.gz": tar_of(BOTH), "names.txt": b"-"})},
        {"x.zip": zip_of({"x.zip": zip_of(BOTH)})},
        BOTH | {"0.tar.gz": tar_of({"a.data": b"not this", "b.test": b"nor this"})},
        {"a.data": BOTH["a.data"], "x.tar.gz": tar_of(BOTH), "unrelated.txt": b"-"},
    ],
    ids=["plain", "alias and gz", "tar", "tar in zip", "zip in zip", "plain wins", "plain and tar"],
)
def test_finds_the_files_in_a_folder(files: dict[str, bytes], tmp_path: Path) -> None:
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    before = sorted(tmp_path.iterdir())
    assert find_files(tmp_path, WANTED) == BOTH
    assert sorted(tmp_path.iterdir()) == before


def test_finds_the_files_in_an_archive(tmp_path: Path) -> None:
    path = tmp_path / "x.tgz"
    path.write_bytes(tar_of(BOTH))
    assert find_files(path, WANTED) == BOTH


def test_leaves_out_what_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "b.test").write_bytes(b"3")
    assert find_files(tmp_path, WANTED) == {"b.test": b"3"}


def test_no_such_place(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        find_files(tmp_path / "no", WANTED)
    assert str(caught.value) == (
        f"{tmp_path / 'no'}: does not exist; it must be a folder or an archive. Fix: check the path"
    )


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("x.zip", b"<html>sign in</html>", "File is not a zip file"),
        ("x.tar.gz", tar_of(BOTH)[:40], "Compressed file ended before the end-of-stream marker was reached"),
        ("a.data.gz", gzip.compress(b"1" * 1000)[:-9], "Compressed file ended before the end-of-stream marker"),
        ("x.tar", b"no tar", "truncated header"),
    ],
    ids=["zip", "tar.gz", "gz", "tar"],  # the bytes of two of them hold the time; test processes must agree
)
def test_a_damaged_archive(name: str, content: bytes, what: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        find_files(tmp_path, WANTED)
    assert str(caught.value).startswith(f"{tmp_path / name}: damaged ({what}")
    assert str(caught.value).endswith("); it must be whole and without a password. Fix: get it again")


LIMIT = 4_000


def pax_bomb(size: int) -> bytes:
    """A tar whose first header says that it is a name of so many bytes, and is."""
    info = tarfile.TarInfo("././@PaxHeader")
    info.type, info.size = tarfile.XHDTYPE, size
    return gzip.compress(info.tobuf(tarfile.USTAR_FORMAT) + bytes(size))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.data", bytes(LIMIT + 1)),
        ("a.data.gz", gzip.compress(bytes(LIMIT + 1))),
        ("x.zip", zip_of({"a.data": bytes(LIMIT + 1)})),
        ("x.zip", zip_of({"a.data.gz": gzip.compress(bytes(LIMIT + 1))})),
        ("x.zip", zip_of({"a.data": bytes(LIMIT // 2), "again/a.data": bytes(LIMIT // 2), "b.test": b"1"})),
        ("x.zip", zip_of({"unwanted.zip": bytes(LIMIT + 1)})),
        ("x.tgz", tar_of({"unwanted": bytes(LIMIT)} | BOTH)),
        ("x.tgz", pax_bomb(LIMIT)),
        ("x.tar", gzip.decompress(tar_of({"a.data": bytes(LIMIT)}))),
    ],
    ids=["plain", "gz", "zip", "gz in zip", "together", "archive in zip", "skipped in tar", "header of tar", "tar"],
)
def test_more_than_fits(name: str, content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "MAX_BYTES", LIMIT)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        find_files(tmp_path, WANTED)
    assert str(caught.value) == (
        f"{tmp_path / name}: more than 4,000 bytes when decompressed; at most 4,000 bytes is read of a file. "
        "Fix: name the raw files, or a folder that holds them alone"
    )


def test_as_much_as_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "MAX_BYTES", LIMIT)
    exact = {"a.data": bytes(LIMIT - 1), "b.test": b"1"}
    (tmp_path / "x.zip").write_bytes(zip_of(exact))
    assert find_files(tmp_path, WANTED) == exact


def traced_peak(place: Path) -> int:
    """Bytes allocated at most while the place, which holds too much, is searched."""
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=": more than 1,048,575 bytes when decompressed; "):
            find_files(place, WANTED)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_no_more_than_a_part_of_a_bomb_is_decompressed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "MAX_BYTES", (1 << 20) - 1)
    bomb = bytes(32 << 20)
    (tmp_path / "x.zip").write_bytes(zip_of({"a.data": bomb}))
    (tmp_path / "a.data.gz").write_bytes(gzip.compress(bomb))
    (tmp_path / "x.tgz").write_bytes(tar_of({"a.data": bomb}))
    del bomb
    for name in ("x.zip", "a.data.gz", "x.tgz"):
        assert traced_peak(tmp_path / name) < 8 << 20, name


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_method_without_bounds_is_refused(method: int, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w", method) as archive:
        archive.writestr("a.data", b"1")
    with pytest.raises(DataError) as caught:
        find_files(tmp_path, WANTED)
    assert str(caught.value) == (
        f"{tmp_path / 'x.zip'}: compressed by another method than deflate; zipfile has no limit on what it "
        "decompresses by other methods. Fix: name the raw files, or a folder that holds them alone"
    )


def test_archives_in_archives_in_archives(tmp_path: Path) -> None:
    (tmp_path / "x.zip").write_bytes(zip_of({"1.zip": zip_of({"2.tar.gz": tar_of(BOTH)})}))
    with pytest.raises(DataError) as caught:
        find_files(tmp_path, WANTED)
    assert str(caught.value) == (
        f"{tmp_path / 'x.zip'}: nested more than 2 archives deep; an archive may hold archives of files only. "
        "Fix: name the raw files, or a folder that holds them alone"
    )


def test_a_link_in_an_archive_is_not_followed(tmp_path: Path) -> None:
    link = tarfile.TarInfo("a.data")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
    with tarfile.open(tmp_path / "x.tgz", "w:gz") as archive:
        archive.addfile(link)
    assert find_files(tmp_path, WANTED) == {}


def test_an_unreadable_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.data").write_bytes(b"1")

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(UserError) as caught:
        find_files(tmp_path, WANTED)
    assert str(caught.value) == f"{tmp_path / 'a.data'}: Permission denied; it must be readable. Fix: check its mode"


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def site(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    folder = tmp_path / "site"
    folder.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}", folder
        server.shutdown()
        thread.join()


def test_downloads_an_archive(site: tuple[str, Path]) -> None:
    address, folder = site
    (folder / "x+y.zip").write_bytes(zip_of(BOTH))
    assert fetch(Url("there", f"{address}/x+y.zip", "x.zip"), WANTED) == BOTH


def test_a_download_that_is_not_there(site: tuple[str, Path]) -> None:
    with pytest.raises(FetchError, match=r"^(Not Found|File not found)$"):
        fetch(Url("there", f"{site[0]}/x.zip", "x.zip"), WANTED)


def test_a_download_that_is_something_else(site: tuple[str, Path]) -> None:
    (site[1] / "x.zip").write_bytes(b"<html>sign in</html>")
    with pytest.raises(FetchError, match=r"^the download is damaged \(File is not a zip file\)$"):
        fetch(Url("there", f"{site[0]}/x.zip", "x.zip"), WANTED)
    (site[1] / "x.zip").write_bytes(zip_of({"b.test": b"3"}))
    with pytest.raises(FetchError, match=r"^the download has no a\.data$"):
        fetch(Url("there", f"{site[0]}/x.zip", "x.zip"), WANTED)


def test_a_server_that_never_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "CONNECT_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/x.zip"
        with pytest.raises(FetchError, match=r"^timed out$"):
            fetch(Url("there", url, "x.zip"), WANTED)


def test_a_download_that_takes_too_long(site: tuple[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "DOWNLOAD_SECONDS", -1.0)
    (site[1] / "x.zip").write_bytes(zip_of(BOTH))
    with pytest.raises(FetchError, match=r"^not complete after -1 s$"):
        fetch(Url("there", f"{site[0]}/x.zip", "x.zip"), WANTED)


def test_a_download_that_is_too_large(site: tuple[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    content = zip_of(BOTH)
    (site[1] / "x.zip").write_bytes(content)
    monkeypatch.setattr(fetching, "MAX_BYTES", len(content))
    assert fetch(Url("there", f"{site[0]}/x.zip", "x.zip"), WANTED) == BOTH
    monkeypatch.setattr(fetching, "MAX_BYTES", len(content) - 1)
    with pytest.raises(FetchError, match=rf"^more than {len(content) - 1} bytes$"):
        fetch(Url("there", f"{site[0]}/x.zip", "x.zip"), WANTED)


def test_a_download_that_grows_too_large(site: tuple[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    (site[1] / "x.zip").write_bytes(zip_of({"a.data": bytes(LIMIT + 1)}))
    monkeypatch.setattr(fetching, "MAX_BYTES", LIMIT)
    with pytest.raises(FetchError, match=r"^the download is more than 4,000 bytes when decompressed$"):
        fetch(Url("there", f"{site[0]}/x.zip", "x.zip"), WANTED)


def test_the_bounds_that_hold() -> None:
    assert (fetching.MAX_BYTES, fetching.MAX_DEPTH, fetching._size_text(fetching.MAX_BYTES)) == (1 << 30, 2, "1 GiB")


SETUP = b"import pathlib; pathlib.Path(__file__).with_name('was_run').touch(); raise SystemExit('a build script ran')\n"


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package index on this machine, with one source archive whose build script ends whatever runs it."""
    members = {"tiny-data-1.0/setup.py": SETUP, "tiny-data-1.0/PKG-INFO": b"Name: tiny-data\nVersion: 1.0\n"}
    members |= {f"tiny-data-1.0/data/{name}": content for name, content in BOTH.items()}
    folder = tmp_path / "shelf"
    (folder / "simple" / "tiny-data").mkdir(parents=True)
    (folder / "files").mkdir()
    (folder / "files" / "tiny-data-1.0.tar.gz").write_bytes(tar_of(members))
    links = [f'<a href="../../files/tiny-data-{v}.tar.gz#sha256=0">tiny-data-{v}.tar.gz</a>' for v in ("0.9", "1.0")]
    (folder / "simple" / "tiny-data" / "index.html").write_text("<html>" + "<br/>".join(links) + "</html>")
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{server.server_port}/simple/")
        yield folder
        server.shutdown()
        thread.join()


def archive(sha256: str, project: str = "tiny-data", file: str = "tiny-data-1.0.tar.gz") -> PackageArchive:
    return PackageArchive("the package", project, file, sha256)


def test_a_package_archive_is_unpacked_and_not_run(shelf: Path) -> None:
    digest = hashlib.sha256((shelf / "files" / "tiny-data-1.0.tar.gz").read_bytes()).hexdigest()
    assert fetch(archive(digest), WANTED) == BOTH
    assert not list(shelf.rglob("was_run"))


@pytest.mark.usefixtures("shelf")
def test_a_package_archive_by_another_checksum_is_not_even_opened() -> None:
    with pytest.raises(FetchError, match=r"^tiny-data-1.0.tar.gz has the SHA-256 [0-9a-f]{64}, not 0{64}$"):
        fetch(archive("0" * 64), WANTED)


@pytest.mark.usefixtures("shelf")
def test_a_package_that_is_nowhere() -> None:
    with pytest.raises(FetchError, match=r"^File not found$"):
        fetch(archive("0" * 64, project="no-such-data"), WANTED)
    with pytest.raises(FetchError, match=r"^the package index has no tiny-data-2.0.tar.gz$"):
        fetch(archive("0" * 64, file="tiny-data-2.0.tar.gz"), WANTED)


def test_the_index_is_that_of_pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIP_INDEX_URL", raising=False)
    (tmp_path / "pip.conf").write_text("[global]\nindex-url = https://index.example/simple\n")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    assert fetching._pip_setting("index-url") == "https://index.example/simple"
    monkeypatch.setenv("PIP_INDEX_URL", "https://other.example/simple")
    assert fetching._pip_setting("index-url") == "https://other.example/simple"
    monkeypatch.delenv("PIP_INDEX_URL")
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    assert fetching._pip_setting("index-url") is None


def test_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache_folder("census") == tmp_path / "cache" / "ple_rec" / "census"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder("census") == tmp_path / ".cache" / "ple_rec" / "census"
    store_in_cache(cache_folder("census"), BOTH)
    assert find_files(cache_folder("census"), WANTED) == BOTH
    assert sorted(path.name for path in cache_folder("census").iterdir()) == ["a.data.gz", "b.test.gz"]


def test_a_cache_that_cannot_be_written_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_bytes(b"")
    with caplog.at_level(logging.WARNING):
        store_in_cache(tmp_path / "file", BOTH)
    assert f"{tmp_path / 'file'}: the raw files could not be kept" in caplog.text
