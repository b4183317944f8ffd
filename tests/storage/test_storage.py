"""Places of files on a disk, in memory and in real object stores, with faults put in.

pytest -m slow tests/storage/test_storage.py     the same over Ceph's gateway; as root, on Debian
"""

from __future__ import annotations

import errno
import json
import os
import socket
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path

import boto3
import pytest
from s3fs import S3FileSystem

from ple_rec.checkpoint.listing import find_checkpoint
from ple_rec.checkpoint.manifest import MANIFEST, FileInfo, check_content, check_size, read_file_info
from ple_rec.errors import DataError, UserError
from ple_rec.storage import (
    Location,
    Remote,
    StoreError,
    atomic_write,
    create_text,
    is_address,
    location,
    make_directory,
    modified_at,
    names_in,
    put_file,
    remove_tree,
    size_of,
    sizes_in,
    stamp_of,
    write_bytes,
    write_text,
)
from ple_rec.storage.handler import FsspecHandler, handlers, manager
from ple_rec.storage.store import objects_at
from tests.object_store import answering, free_port, s3_store, use_store

PART = 50 << 20  # bytes from which s3fs uploads an object in parts


@pytest.fixture(scope="module", params=["disk", "memory", "moto", pytest.param("ceph", marks=pytest.mark.slow)])
def store(request: pytest.FixtureRequest) -> Iterator[str | dict[str, str]]:
    """`disk`, `memory`, or the environment that names a server with an empty bucket."""
    if request.param in ("disk", "memory"):
        yield request.param
    else:
        with s3_store(request) as found:
            yield found


@pytest.fixture
def where(store: str | dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Location:
    """An empty directory, or a prefix with nothing below it."""
    if store == "disk":
        return tmp_path
    if store == "memory":
        return location(f"memory://{uuid.uuid4().hex}")
    assert isinstance(store, dict)
    use_store(store["AWS_ENDPOINT_URL"], monkeypatch)
    for name, value in (store | {"AWS_DEFAULT_REGION": "us-east-1"}).items():
        monkeypatch.setenv(name, value)
    S3FileSystem.clear_instance_cache()
    return location(f"s3://bucket/{uuid.uuid4().hex}/")


@pytest.mark.parametrize("address", ["s3:/a", "gs:/bucket/key", "memory:/a"])
def test_an_address_with_one_slash_is_refused(address: str) -> None:
    scheme, rest = address.split(":/")
    assert is_address(address)
    with pytest.raises(UserError) as caught:
        location(address)
    rule = f"an address has the form {scheme}://bucket/key"
    assert str(caught.value) == f"{address}: has only one slash after the scheme; {rule}. Fix: write {scheme}://{rest}"


@pytest.mark.parametrize("path", ["s3/a", "s3:a", "/s3:/a", "day:/1", "xs3:/a"])
def test_other_colons_are_of_paths(path: str) -> None:
    assert location(path) == Path(path)


def test_a_path_stays_one_and_an_address_keeps_its_slashes() -> None:
    assert location("a/b") == Path("a/b")
    assert location("file:///a/b") == Path("/a/b")
    place = location("s3://bucket/a/b.parquet/")
    assert place == Remote("s3://bucket/a/b.parquet")
    assert (str(place / "c"), place.name, place.suffix, str(place.parent)) == (
        "s3://bucket/a/b.parquet/c",
        "b.parquet",
        ".parquet",
        "s3://bucket/a",
    )


def test_an_address_that_nobody_serves_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused, for iopath takes an unknown scheme for a folder."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        UserError, match=r"^s3x://a: has the unknown scheme s3x://; known schemes are .*, s3://\. Fix: "
    ):
        location("s3x://a")
    with pytest.raises(
        UserError, match=r"^s3://bucket/exp\[1\]: has \[ \]; a store may take the address for a pattern"
    ):
        location("s3://bucket/exp[1]")
    for text in ("s3://", "s3:///", "s3://bucket/..", "s3://bucket/./a"):
        with pytest.raises(UserError, match=r": has no bucket, or a part that is \. or \.\.; .* write s3://bucket/key"):
            location(text)
    assert list(tmp_path.iterdir()) == []


def test_a_store_is_read_like_a_disk(where: Location) -> None:
    make_directory(where / "step-1")
    write_text(where / "step-1" / "a", "x")
    write_text(where / "latest", "step-1")
    assert names_in(where) == ["latest", "step-1"]
    assert names_in(where / "nothing") == []
    assert [(where / name).is_file() for name in ("latest", "step-1", "best")] == [True, False, False]
    assert [file.name for file in where.glob("la*")] == ["latest"]
    assert sizes_in(where / "step-1") == {"a": 2}
    assert size_of(where / "step-1" / "a") == 2
    assert modified_at(where / "step-1" / "a") is not None
    assert (where / "step-1" / "a").read_text() == "x\n"
    assert read_file_info(where / "step-1" / "a") == FileInfo.from_text("x\n")
    with pytest.raises(FileNotFoundError):
        (where / "step-1" / "b").read_bytes()
    with pytest.raises(DataError, match="missing; the manifest says 2 bytes"):
        check_size(where / "step-1", "b", FileInfo.from_text("x\n"))
    write_text(where / "latest", "step-2")  # over what is there
    assert (where / "latest").read_text() == "step-2\n"
    (where / "latest").unlink()
    (where / "latest").unlink(missing_ok=True)
    write_text(where / "step-1" / "deep" / "b", "x") if isinstance(where, Remote) else None
    remove_tree(where / "step-1")
    assert names_in(where) == []
    remove_tree(where / "step-1")  # which is there no more


def test_an_object_is_read_while_it_is_written_anew(where: Location) -> None:
    if isinstance(where, Remote) and where.address.startswith("memory"):
        pytest.skip("fsspec's memory shows an object from its first byte on; it is a store for tests")
    file = where / "latest"
    write_text(file, "step-1")

    def write() -> None:
        for text in ("step-11", "step-1") * 25:
            write_text(file, text)

    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(write)
        found = {file.read_text()}
        while not writing.done():
            found.add(file.read_text())
        writing.result()
    assert found <= {"step-1\n", "step-11\n"}


def test_a_folder_that_a_console_shows_is_empty(s3: dict[str, str], address: str) -> None:
    client = boto3.client("s3", endpoint_url=s3["AWS_ENDPOINT_URL"])
    client.put_object(Bucket="bucket", Key=f"{address.rpartition('/')[2]}/run/", Body=b"")
    where = location(f"{address}/run")
    assert isinstance(where, Remote)
    assert (names_in(where), objects_at(where)) == ([], [])
    assert names_in(location(address)) == ["run"]


def test_of_several_that_write_a_new_file_one_succeeds(where: Location) -> None:
    file = where / "run.json"

    def write(text: str) -> str | None:
        try:
            create_text(file, text)
        except FileExistsError:
            return None
        return text

    in_memory = isinstance(where, Remote) and where.address.startswith("memory")
    with ThreadPoolExecutor(1 if in_memory else 8) as pool:  # the store in memory knows no threads
        written = [text for text in pool.map(write, map(str, range(8))) if text is not None]
    assert [file.read_text()] == [f"{text}\n" for text in written]


@pytest.mark.parametrize("count", [0, 1, PART + 1])
@pytest.mark.parametrize("before", [b"whole", None])
def test_a_write_that_fails_leaves_what_was_there(where: Location, count: int, before: bytes | None) -> None:
    if isinstance(where, Remote) and where.address.startswith("memory"):
        pytest.skip("fsspec's memory shows an object from its first byte on; it is a store for tests")
    file = where / "part"
    if before is not None:
        write_bytes(file, before)

    def write_and_break() -> None:
        with atomic_write(file) as stream:
            stream.write(bytes(count))
            raise RuntimeError("the writer breaks")

    with pytest.raises(RuntimeError, match="the writer breaks"):
        write_and_break()
    assert (file.read_bytes() if file.is_file() else None) == before
    with atomic_write(file) as stream:
        stream.write(bytes(count))
    assert size_of(file) == count


def test_a_new_file_that_cannot_be_written_whole_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(file: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left on device"):
            create_text(tmp_path / "run.json", "x")
    assert names_in(tmp_path) == []
    create_text(tmp_path / "run.json", "x")  # once there is room


def test_a_write_to_where_a_folder_is_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(IsADirectoryError):
        write_text(tmp_path / "a", "x")
    assert names_in(tmp_path) == ["a"]


def test_what_was_written_anew_has_another_stamp_and_another_suffix_another_address(where: Location) -> None:
    file = where / "plan.json"
    write_text(file, "x")
    before = stamp_of(file)
    assert stamp_of(file) == before
    time.sleep(0.02)  # the clock of a file system goes in steps of some milliseconds
    write_text(file, "y")
    assert stamp_of(file) != before
    assert file.with_suffix(".html") == where / "plan.html"
    assert [place.is_dir() for place in (where, file, where / "none")] == [True, False, False]


def test_a_file_is_put_in_its_place(where: Location, tmp_path: Path) -> None:
    (tmp_path / "made").write_bytes(b"whole")
    put_file(tmp_path / "made", where / "part")
    assert (where / "part").read_bytes() == b"whole"
    assert not (tmp_path / "made").exists()
    (tmp_path / "made").write_bytes(b"again")
    put_file(tmp_path / "made", where / "part")
    assert (where / "part").read_bytes() == b"again"


def test_a_connection_that_breaks_is_no_damage(monkeypatch: pytest.MonkeyPatch) -> None:
    where = location("memory://places/two")
    write_text(where / "a", "x")
    content = FileInfo.from_text("x\n")
    check_content(where, "a", content)
    with pytest.raises(DataError, match=r"CRC-32 \w{8}; the manifest says 00000000; its bytes changed"):
        check_content(where, "a", FileInfo(2, "00000000"))

    def breaks(*args: object, **kwargs: object) -> None:
        raise ConnectionResetError("reset by peer")

    monkeypatch.setattr(FsspecHandler, "_open", breaks)
    with pytest.raises(StoreError, match="reset by peer"):
        check_content(where, "a", content)


@pytest.mark.parametrize("fault", ["denied", "unreachable"])
def test_what_cannot_be_read_is_not_taken_for_absent(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with answering(403) if fault == "denied" else nullcontext(f"http://127.0.0.1:{free_port()}") as endpoint:
        use_store(endpoint, monkeypatch)
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
        place = location("s3://bucket/a")
        assert isinstance(place, Remote)
        for ask in (
            place.is_file,
            place.read_bytes,
            lambda: names_in(place),
            lambda: size_of(place),
            lambda: write_text(place, "x"),
            lambda: create_text(place, "x"),
            lambda: remove_tree(place),
        ):
            with pytest.raises(StoreError, match=r"^s3://bucket/a: ") as raised:
                ask()
            assert raised.value.kind == fault


@pytest.fixture
def own_handler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, repository: Path) -> Iterator[None]:
    """A package with the handler that docs/training.md shows, installed as pip installs one."""
    page = (repository / "docs" / "training.md").read_text()
    (tmp_path / "blob_handler.py").write_text("#" + page.split("```python\n# setup.cfg:")[1].partition("\n```")[0])
    info = tmp_path / "blob_handler-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: blob-handler\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[ple_rec.path_handlers]\nblob = blob_handler:BlobHandler\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    handlers.cache_clear()
    manager.cache_clear()
    yield
    handlers.cache_clear()
    manager.cache_clear()


@pytest.mark.usefixtures("own_handler")
def test_a_package_brings_a_scheme_of_its_own() -> None:
    where = location("blob://shelf/run")
    write_text(where / "a", "x")
    assert (names_in(where), (where / "a").read_text()) == (["a"], "x\n")


def test_a_listing_that_is_late_hides_no_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    where = location(f"memory://{uuid.uuid4().hex}")
    write_text(where / "step-8" / MANIFEST, json.dumps({"version": 2, "step": 8, "written_by": {}, "files": {}}))
    write_text(where / "latest", "step-8")
    monkeypatch.setattr(FsspecHandler, "_ls", lambda *_, **__: [])
    assert find_checkpoint(where, "latest") == where / "step-8"


@pytest.mark.slow
def test_a_store_that_takes_connections_and_does_not_answer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        use_store(f"http://127.0.0.1:{silent.getsockname()[1]}", monkeypatch)
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
        begun = time.monotonic()
        with pytest.raises(StoreError, match=r"[Tt]imeout"):
            names_in(location("s3://bucket/a"))
        assert time.monotonic() - begun < 60  # it waits 15 s; five attempts of five retries took seven minutes
