"""Object stores, against a real server that speaks S3, and others."""

from __future__ import annotations

import hashlib
import io
import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from iopath.common.file_io import PathHandler

from data_prep.engines.duck import DuckEngine
from data_prep.sources.files import RawTable, discover
from data_prep.sources.find import find_files
from data_prep.sources.table import POSITION, refuse_changes
from ple_rec.config.prep import FilesConfig
from ple_rec.errors import DataError, UserError
from ple_rec.storage import Remote, handler
from ple_rec.storage.client import arrow_client
from tests.object_store import answering, free_port, object_store, put, put_table, use_store

pytest.importorskip("moto", reason="needs moto[server]")


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with object_store("raw") as url:
        yield url


@pytest.fixture
def store(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    use_store(endpoint, monkeypatch)
    for day, size in ((1, 3), (2, 5)):
        put_table(f"raw/logs/day={day}/part-0.parquet", pa.table({"user": list(range(size))}))
    put("raw/logs/_SUCCESS", b"")
    return "s3://raw"


def look(root: str | Path, staging: Path, *patterns: str) -> RawTable:
    return discover("log", FilesConfig(files=patterns), root, staging)


@pytest.mark.parametrize("pattern", ["logs", "logs/", "logs/day=*", "logs/**/part-0.parquet", "s3://raw/logs"])
def test_patterns_below_a_bucket(store: str, tmp_path: Path, pattern: str) -> None:
    table = look(store, tmp_path, pattern)
    assert [file.path for file in table.files] == [f"s3://raw/logs/day={day}/part-0.parquet" for day in (1, 2)]
    assert [file.display_name for file in table.files] == [f"logs/day={day}/part-0.parquet" for day in (1, 2)]
    assert [file.rows for file in table.files] == [3, 5]
    assert table.schema == pa.schema({"user": pa.int64(), "day": pa.int64()})
    assert table.locate(4) == "logs/day=2/part-0.parquet, row group 0, row 1"


def test_an_address_with_a_local_root(store: str, tmp_path: Path) -> None:
    table = look(tmp_path, tmp_path / "staging", "s3://raw/logs/day=2/part-0.parquet")
    assert [(file.display_name, file.rows) for file in table.files] == [("s3://raw/logs/day=2/part-0.parquet", 5)]
    assert [dict(file.partitions) for file in table.files] == [{"day": "2"}]


def test_the_identity_is_that_of_the_content(store: str, tmp_path: Path) -> None:
    before = look(store, tmp_path, "logs").digest()
    put_table("raw/logs/day=1/part-0.parquet", pa.table({"user": [0, 1, 2]}))
    assert look(store, tmp_path, "logs").digest() == before
    put_table("raw/logs/day=1/part-0.parquet", pa.table({"user": [0, 1, 3]}))
    assert look(store, tmp_path, "logs").digest() != before


@pytest.mark.parametrize("content", [{"user": [9, 8, 7, 6, 5]}, {"user": [1]}, None], ids=["other", "fewer", "gone"])
@pytest.mark.parametrize("late", [False, True], ids=["before its footer", "after its footer"])
def test_an_object_that_changes_while_it_is_read(
    store: str, tmp_path: Path, content: dict[str, list[int]] | None, late: bool
) -> None:
    def change() -> None:
        if content is None:
            arrow_client().delete_file("raw/logs/day=2/part-0.parquet")
        else:
            put_table("raw/logs/day=2/part-0.parquet", pa.table(content))

    said = "it can no longer be read" if content is None else "it has changed while it was read; raw files stay as they"
    config = FilesConfig(files=("logs",))
    found = find_files("log", config, store)
    with pytest.raises((DataError, UserError), match=rf"logs/day=2/part-0\.parquet: .*({said}|No such file)"):  # noqa: PT012
        if not late:
            change()
        table = discover("log", config, store, tmp_path, listing=found)
        with refuse_changes(table.files):
            change()


def test_csv(store: str, tmp_path: Path) -> None:
    put("raw/text/a.csv", b"user,x\n1,2\n3,4\n")
    table = look(store, tmp_path, "text")
    assert pq.read_table(table.files[0].path).to_pylist() == [{"user": 1, "x": 2}, {"user": 3, "x": 4}]
    assert table.files[0].display_name == "text/a.csv"


def test_nothing_matches(store: str, tmp_path: Path) -> None:
    message = "log.files: nothing matches 'log/*.parquet' below s3://raw; s3://raw has logs"
    with pytest.raises(UserError, match=re.escape(message) + r".*Fix: correct the pattern or --from"):
        look(store, tmp_path, "log/*.parquet")


def test_an_object_that_is_no_parquet_file(store: str, tmp_path: Path) -> None:
    put("raw/bad/a.parquet", b"PAR1 and no more")
    with pytest.raises(DataError, match=r"^bad/a\.parquet: the file is truncated or damaged \("):
        look(store, tmp_path, "bad")


def test_a_bucket_that_is_not_there(store: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^s3://gone/logs: the bucket does not exist \("):
        look("s3://gone", tmp_path, "logs")


def test_a_store_that_does_not_answer(store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    with pytest.raises(UserError, match=r"^s3://raw/logs: cannot be reached \(.*\); "):
        look(store, tmp_path, "logs")


def test_the_identity_of_an_object_of_s3_stays_as_datasets_have_it(store: str, tmp_path: Path) -> None:
    """Else every dataset that was prepared from S3 would be another one to the next run."""
    put("raw/kept/a.csv", b"user\n1\n")
    (file,), _ = find_files("log", FilesConfig(files=("kept",)), store)
    with arrow_client().open_input_stream("raw/kept/a.csv") as stream:
        (tag,) = [value for name, value in stream.metadata().items() if name in ("ETag", b"ETag")]
    assert re.fullmatch(rb'"[0-9a-f]{32}-1"', tag)
    assert file.stamp == (hashlib.sha256(f"{tag!r} 7".encode()).hexdigest(),)


def test_a_scheme_that_nothing_serves(tmp_path: Path) -> None:
    for root, pattern in (("s3x://raw", "logs"), (str(tmp_path), "s3x://raw/logs/*.parquet")):
        with pytest.raises(UserError, match=r"^s3x://raw\S*: has the unknown scheme s3x://; known schemes are .*s3://"):
            look(root, tmp_path, pattern)


def test_a_store_that_does_not_let_us_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with answering(403) as url:
        use_store(url, monkeypatch)
        with pytest.raises(UserError, match=r"^s3://raw/logs: access is denied \(Forbidden\); "):
            look("s3://raw", tmp_path, "logs")


class Notes(PathHandler):
    """A company's own store, which tells neither sizes nor ETags; here a folder."""

    root = Path()

    def _get_supported_prefixes(self) -> list[str]:
        return ["notes://"]

    def _at(self, path: str) -> Path:
        return self.root / path.removeprefix("notes://")

    def _open(self, path: str, mode: str = "r", buffering: int = -1, **kwargs: Any) -> IO[Any]:
        if mode == "rb":
            return io.BytesIO(self._at(path).read_bytes())
        self._at(path).parent.mkdir(parents=True, exist_ok=True)
        return self._at(path).open(mode)

    def _isfile(self, path: str, **kwargs: Any) -> bool:
        return self._at(path).is_file()

    def _ls(self, path: str, **kwargs: Any) -> list[str]:
        return [each.name for each in self._at(path).iterdir()]


@pytest.fixture
def notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """`notes://`, as if a package had brought it."""
    monkeypatch.setattr(Notes, "root", tmp_path / "notes")
    monkeypatch.setattr(handler, "entry_points", lambda group: [SimpleNamespace(load=lambda: Notes)])
    for registry in (handler.handlers, handler.manager):
        registry.cache_clear()
    yield
    for registry in (handler.handlers, handler.manager):
        registry.cache_clear()


def put_users(folder: Remote, day: int, users: list[int]) -> None:
    written = io.BytesIO()
    pq.write_table(pa.table({"user": users}), written)
    with (folder / f"logs/day={day}/part [1].parquet").open("wb") as stream:
        stream.write(written.getvalue())


@pytest.mark.parametrize("scheme", ["memory", "notes"])
@pytest.mark.usefixtures("notes")
def test_other_stores_are_read_by_the_same_code(scheme: str, tmp_path: Path) -> None:
    folder = Remote(f"{scheme}://{uuid.uuid4().hex}")
    for day, users in ((1, [0, 1]), (2, [0, 1, 2])):
        put_users(folder, day, users)
    table = look(str(folder), tmp_path, "logs/day=*/*.parquet")
    assert [file.display_name for file in table.files] == [f"logs/day={day}/part [1].parquet" for day in (1, 2)]
    duck = DuckEngine(tmp_path, threads=1)
    found = duck.fetch(duck.scan(table, ["user", "day"]).order_by(POSITION))
    duck.close()
    assert found.drop_columns(POSITION).to_pydict() == {"user": [0, 1, 0, 1, 2], "day": [1, 1, 2, 2, 2]}
    with pytest.raises(DataError, match=r"part \[1\]\.parquet: it has changed"), refuse_changes(table.files):
        put_users(folder, 2, [0, 1, 3])
