"""Row counts, places of rows, digests, folders' columns, and files that are no sound Parquet files."""

from __future__ import annotations

import datetime
import decimal
import random
import re
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pyarrow.parquet.encryption as pe
import pytest

from data_prep.sources.files import POSITION, RawTable, discover
from ple_rec.config.prep import FilesConfig
from ple_rec.errors import DataError, PleRecError


def look(root: Path, pattern: str = "log", progress: Callable[[str], None] | None = None) -> RawTable:
    return discover("log", FilesConfig(files=(pattern,), format="parquet"), root, root / "staging", progress)


def write(root: Path, name: str, columns: dict[str, pa.Array], group: int = 10) -> Path:
    path = root / "log" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, row_group_size=group)
    return path


def refuse(table: RawTable, needed: str, message: str) -> None:
    with pytest.raises(DataError) as caught:
        table.check_columns([needed], "sparse 'user'")
    assert str(caught.value) == message


def test_rows_row_groups_and_places(tmp_path: Path) -> None:
    write(tmp_path, "b.parquet", {"user": pa.array(range(25))})
    write(tmp_path, "a.parquet", {"user": pa.array(range(4))}, group=3)
    write(tmp_path, "aa.parquet", {"user": pa.array([], pa.int64())})
    table = look(tmp_path)
    assert [file.rows for file in table.files] == [4, 0, 25]
    assert [file.row_groups for file in table.files] == [(3, 1), (0,), (10, 10, 5)]
    assert (table.rows, table.starts) == (29, (0, 4, 4))
    assert [file.size for file in table.files] == [Path(file.path).stat().st_size for file in table.files]
    assert table.locate(0) == "log/a.parquet, row group 0, row 0"
    assert table.locate(3) == "log/a.parquet, row group 1, row 0"
    assert table.locate(4) == "log/b.parquet, row group 0, row 0"
    assert table.locate(28) == "log/b.parquet, row group 2, row 4"
    with pytest.raises(IndexError, match="position 29 of 29 rows"):
        table.locate(29)


def test_every_position_is_located_where_its_value_lies(tmp_path: Path) -> None:
    sizes = [7, 0, 1, 23]
    starts = accumulate(sizes, initial=0)
    for index, (start, size) in enumerate(zip(starts, sizes, strict=False)):
        write(tmp_path, f"{index}.parquet", {"at": pa.array(range(start, start + size), pa.int64())}, group=5)
    table = look(tmp_path)
    for position in range(table.rows):
        found = re.fullmatch(r"(.*), row group (\d+), row (\d+)", table.locate(position))
        assert found is not None
        group = pq.ParquetFile(tmp_path / found[1]).read_row_group(int(found[2]))
        assert group["at"][int(found[3])].as_py() == position


def test_the_digest_changes_with_content_names_and_nothing_else(tmp_path: Path) -> None:
    path = write(tmp_path, "a.parquet", {"user": pa.array([1, 2])})
    before = look(tmp_path).digest()
    path.touch()
    assert look(tmp_path).digest() == before
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    (tmp_path / "log").rename(moved / "log")
    assert look(moved).digest() == before
    (moved / "log/a.parquet").rename(moved / "log/b.parquet")
    assert look(moved).digest() != before
    write(moved, "b.parquet", {"user": pa.array([1, 3])})
    (moved / "log/b.parquet").rename(moved / "log/a.parquet")
    assert look(moved).digest() != before


@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_files_of_the_same_content_are_told(kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A link, a hard link and a copy; not two files without rows."""
    folder = tmp_path / "log"
    folder.mkdir()
    for name, rows in (("a", 3), ("b", 2), ("none", 0), ("none too", 0)):
        table = pa.table({"x": pa.array(range(rows), pa.int64())})
        (pq.write_table if kind == "parquet" else pacsv.write_csv)(table, folder / f"{name}.{kind}")
    files = FilesConfig(files=("log",))
    assert discover("log", files, tmp_path, tmp_path / "staging").rows == 5
    assert caplog.messages == []
    (folder / f"c.{kind}").symlink_to(f"a.{kind}")
    (folder / f"d.{kind}").hardlink_to(folder / f"b.{kind}")
    (folder / f"e.{kind}").write_bytes((folder / f"a.{kind}").read_bytes())
    assert discover("log", files, tmp_path, tmp_path / "staging").rows == 13
    assert caplog.messages == [
        f"log.files: log/c.{kind} repeats log/a.{kind}, log/d.{kind} repeats log/b.{kind}, log/e.{kind} repeats "
        f"log/a.{kind}; files of the same content are all read, and their rows count twice. "
        "Fix: keep one of them"
    ]


def test_progress_is_told(tmp_path: Path) -> None:
    write(tmp_path, "a.parquet", {"user": pa.array([1, 2])})
    lines: list[str] = []
    look(tmp_path, progress=lines.append)
    assert re.fullmatch(r"log: digesting 1 file: \d+ B of \d+ B", lines[0])


def test_folders_give_columns(tmp_path: Path) -> None:
    for day, city in (("01", "new%20york"), ("2", "paris")):
        write(tmp_path, f"day={day}/city={city}/a.parquet", {"user": pa.array([1])})
    table = look(tmp_path)
    assert [dict(file.partitions) for file in table.files] == [
        {"day": "01", "city": "new york"},
        {"day": "2", "city": "paris"},
    ]
    assert table.schema == pa.schema({"user": pa.int64(), "day": pa.int64(), "city": pa.string()})
    table.check_columns(["user", "day", "city"], "the log")
    write(tmp_path, "day=x/city=rome/a.parquet", {"user": pa.array([1])})
    assert look(tmp_path).schema.field("day").type == pa.string()


def test_folders_that_would_become_the_same_number_are_text(tmp_path: Path) -> None:
    for user in ("7", "007"):
        write(tmp_path, f"user={user}/a.parquet", {"x": pa.array([1])})
    assert look(tmp_path).schema.field("user").type == pa.string()


def test_folders_of_the_root_give_no_columns(tmp_path: Path) -> None:
    write(tmp_path, "day=1/a.parquet", {"user": pa.array([1])})
    assert look(tmp_path / "log/day=1", "*.parquet").schema.names == ["user"]
    assert look(tmp_path / "log", "day=1").schema.names == ["user", "day"]


def test_a_folder_without_the_column_of_another(tmp_path: Path) -> None:
    write(tmp_path, "day=1/a.parquet", {"user": pa.array([1])})
    write(tmp_path, "b.parquet", {"user": pa.array([1])})
    refuse(
        look(tmp_path),
        "day",
        "log/b.parquet, column 'day': there is no such column; sparse 'user' needs it in every file. "
        "Fix: use one of user",
    )


def test_a_folder_without_a_value(tmp_path: Path) -> None:
    write(tmp_path, "day=__HIVE_DEFAULT_PARTITION__/a.parquet", {"user": pa.array([1])})
    refuse(
        look(tmp_path),
        "day",
        "log/day=__HIVE_DEFAULT_PARTITION__/a.parquet, column 'day': the folder day=__HIVE_DEFAULT_PARTITION__ gives "
        "it no value; sparse 'user' needs one in every row. Fix: leave the folder out of the pattern, or write the "
        "column into the files",
    )


def test_a_column_of_the_folder_and_of_the_file(tmp_path: Path) -> None:
    write(tmp_path, "Day=1/a.parquet", {"day": pa.array([2]), "user": pa.array([1])})
    table = look(tmp_path)
    table.check_columns(["user"], "the log")
    refuse(
        table,
        "day",
        "log/Day=1/a.parquet, column 'day': the folder Day=1 also gives it; a column comes from the file or "
        "from the folder. Fix: rename the folder, or write the files without the column",
    )


def test_a_missing_column(tmp_path: Path) -> None:
    write(tmp_path, "a.parquet", {"user_id": pa.array([1]), "Video": pa.array([1])})
    start = "there is no such column; sparse 'user' needs it in every file. Fix: "
    refuse(look(tmp_path), "usr_id", f"log/a.parquet, column 'usr_id': {start}did you mean 'user_id'?")
    refuse(look(tmp_path), "video", f"log/a.parquet, column 'video': {start}did you mean 'Video'?")
    refuse(look(tmp_path), "zzzz", f"log/a.parquet, column 'zzzz': {start}use one of user_id, Video")


def test_names_that_stand_twice(tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    pq.write_table(pa.table([[1], [2], [3]], names=["user", "user", "x"]), tmp_path / "log/a.parquet")
    rule = (
        "engines cannot tell columns apart whose names differ at most in case. "
        "Fix: write the file with names that differ"
    )
    refuse(look(tmp_path), "user", f"log/a.parquet, column 'user': the file has it twice; {rule}")
    look(tmp_path).check_columns(["x"], "the log")
    pq.write_table(pa.table([[1], [2]], names=["user", "User"]), tmp_path / "log/a.parquet")
    refuse(look(tmp_path), "user", f"log/a.parquet, column 'user': the file has 'user' and 'User'; {rule}")


def test_types_that_differ_between_files(tmp_path: Path) -> None:
    write(tmp_path, "a.parquet", {"user": pa.array([1]), "x": pa.array([1])})
    write(tmp_path, "b.parquet", {"x": pa.array([2]), "user": pa.array(["1"])})
    table = look(tmp_path)
    table.check_columns(["x"], "the log")
    refuse(
        table,
        "user",
        "log/b.parquet, column 'user': type string, but int64 in log/a.parquet; a column has one type in all files of "
        "a table. Fix: write the files with one type",
    )


PLAIN = [
    (pa.array(["a"]).dictionary_encode(), pa.string()),
    (pa.array(["a"], pa.large_string()), pa.string()),
    (pa.array(["a"], pa.string_view()), pa.string()),
    (pa.array([[1]], pa.large_list(pa.int32())), pa.list_(pa.int32())),
    (pa.array([[1.0, 2.0]], pa.list_(pa.float32(), 2)), pa.list_(pa.float32())),
    (pa.array([["a"]], pa.list_(pa.large_string())), pa.list_(pa.string())),
    *(
        (pa.array([1], kind), kind)
        for kind in (pa.int8(), pa.uint8(), pa.int16(), pa.uint32(), pa.int64(), pa.uint64())
    ),
    *((pa.array([1.0], kind), kind) for kind in (pa.float32(), pa.float64())),
    *((pa.array([0], pa.timestamp(unit)), pa.timestamp(unit)) for unit in ("ms", "us", "ns")),
    (pa.array([0], pa.timestamp("s")), pa.timestamp("ms")),  # Parquet has no seconds
    (pa.array([0], pa.timestamp("us", "Asia/Shanghai")), pa.timestamp("us", "UTC")),  # nor zones, only UTC
    (pa.array([True]), pa.bool_()),
    (pa.array([datetime.date(2022, 4, 8)]), pa.date32()),
    (pa.array([datetime.date(2022, 4, 8)], pa.date64()), pa.date32()),
]


@pytest.mark.parametrize(("array", "kind"), PLAIN, ids=[str(array.type) for array, _ in PLAIN])
def test_types_that_are_ordinary_input(tmp_path: Path, array: pa.Array, kind: pa.DataType) -> None:
    write(tmp_path, "a.parquet", {"x": array})
    write(tmp_path, "b.parquet", {"x": array.slice(0, 0)})
    table = look(tmp_path)
    table.check_columns(["x"], "the log")
    assert table.schema.field("x").type == kind


OTHER = [
    (
        pa.array([{"a": 1}]),
        "columns hold numbers, text, booleans, dates, timestamps or lists. Fix: write its fields",
    ),
    (pa.array([[{"a": 1}]]), "lists hold integers, floats or strings. Fix: write it as one of these"),
    (pa.array([[[1]]]), "lists hold integers, floats or strings. Fix: write it as one of these"),
    (pa.array([decimal.Decimal("1.50")], pa.decimal256(40, 2)), "engines read decimals of at most 38 digits. Fix: "),
    (pa.array([b"a"]), "bytes are not text. Fix: write it as a string"),
    (pa.array([b"ab"], pa.binary(2)), "bytes are not text. Fix: write it as a string"),
    (pa.nulls(1), "no row has a value, so its type is unknown. Fix: write it with a type"),
    (pa.array([1], pa.time32("ms")), "a time without a day. Fix: write it as an integer"),
    (pa.array([1], pa.duration("us")), "sparse 'user' cannot use it. Fix: write it as an integer"),
]


@pytest.mark.parametrize(("array", "message"), OTHER, ids=[str(array.type) for array, _ in OTHER])
def test_types_that_are_refused_where_they_are_needed(tmp_path: Path, array: pa.Array, message: str) -> None:
    write(tmp_path, "a.parquet", {"x": array, "user": pa.array([1])})
    look(tmp_path).check_columns(["user"], "the log")
    with pytest.raises(DataError, match=r"^log/a\.parquet, column 'x': type .*" + re.escape(f"; {message}")):
        look(tmp_path).check_columns(["x"], "sparse 'user'")


def encrypted(path: Path) -> None:
    class Client(pe.KmsClient):
        def wrap_key(self, key: bytes, master: str) -> bytes:
            return key

        def unwrap_key(self, key: bytes, master: str) -> bytes:
            return key

    factory = pe.CryptoFactory(lambda config: Client())
    config = pe.EncryptionConfiguration(footer_key="f", column_keys={"k": ["user"]})
    properties = factory.file_encryption_properties(pe.KmsConnectionConfig(), config)
    table = pa.table({"user": [1]})
    with pq.ParquetWriter(path, table.schema, encryption_properties=properties) as writer:
        writer.write_table(table)


BAD: dict[str, tuple[bytes | None, str]] = {
    "empty": (b"", "the file is empty; it must be a sound Parquet file. Fix: copy or write the file again"),
    "text": (
        b"user,video\n1,2\n3,4\n",
        "begins with b'user,video\\n1,2\\n3'; it must be a sound Parquet file, which begins with b'PAR1'. "
        'Fix: rename it to end in .csv, or set format = "csv" and name the files themselves',
    ),
    "bytes": (bytes(range(100)), "begins with b'\\x00\\x01\\x02"),
    "gzip": (b"\x1f\x8b" + bytes(40), "a gzip file; it must be a sound Parquet file. Fix: unpack it"),
    "magic": (b"PAR1", "the file is truncated or damaged (Parquet file size is 4 bytes"),
    "encrypted": (None, "the file is encrypted; encrypted Parquet files cannot be read. Fix: write it unencrypted"),
}


@pytest.mark.parametrize("kind", BAD)
def test_files_that_are_no_parquet(tmp_path: Path, kind: str) -> None:
    write(tmp_path, "a.parquet", {"user": pa.array([1])})
    content, message = BAD[kind]
    path = tmp_path / "log/b.parquet"
    if content is None:
        encrypted(path)
    else:
        path.write_bytes(content)
    with pytest.raises(DataError, match=f"^{re.escape(f'log/b.parquet: {message}')}"):
        look(tmp_path)


@pytest.mark.parametrize("keep", [0.2, 0.9, 0.999])
def test_a_truncated_file(tmp_path: Path, keep: float) -> None:
    path = write(tmp_path, "a.parquet", {"user": pa.array(range(1000))})
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(DataError, match=r"^log/a\.parquet: the file is truncated or damaged \("):
        look(tmp_path)


def test_a_column_with_the_name_that_prep_needs(tmp_path: Path) -> None:
    write(tmp_path, "a.parquet", {POSITION: pa.array([1])})
    with pytest.raises(DataError, match=r"^log/a\.parquet: has a column '__position'; prep uses this name itself"):
        look(tmp_path)


def test_damaged_footers_are_refused_or_count_the_same_rows(tmp_path: Path) -> None:
    """Bytes of the footer are changed at random: never another exception, and never another number of rows."""
    path = write(tmp_path, "a.parquet", {"user": pa.array(range(50)), "bag": pa.array([[1], []] * 25)})
    content = path.read_bytes()
    length = int.from_bytes(content[-8:-4], "little")
    chance = random.Random(0)
    refused = 0
    for _ in range(300):
        changed = bytearray(content)
        for _ in range(chance.choice((1, 1, 4))):
            changed[chance.randrange(len(content) - 8 - length, len(content))] = chance.randrange(256)
        path.write_bytes(changed)
        try:
            table = look(tmp_path)
            table.check_columns(["user", "bag"], "the log")
        except PleRecError:
            refused += 1
        else:
            assert table.rows == 50
    assert refused > 100
