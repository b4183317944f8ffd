"""CSV files: types, what is refused and how, what a later run keeps, and that cells come back as they were."""

from __future__ import annotations

import csv
import datetime
import gzip
import io
import os
import re
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_prep.sources import csv_files, csv_types
from data_prep.sources.files import RawTable, discover
from ple_rec.config.prep import ColumnType, CsvConfig, FilesConfig
from ple_rec.errors import DataError, PleRecError, UserError


def convert(root: Path, **config: Any) -> RawTable:
    files = FilesConfig(files=("*.csv*",), csv=CsvConfig(**config))
    return discover("log", files, root, root / "staging")


def rows(table: RawTable) -> list[dict[str, Any]]:
    return [row for file in table.files for row in pq.read_table(file.path).to_pylist()]


def one(root: Path, content: bytes, name: str = "a.csv", **config: Any) -> RawTable:
    (root / name).write_bytes(content)
    return convert(root, **config)


def refuse(root: Path, content: bytes, message: str, name: str = "a.csv", **config: Any) -> None:
    root.mkdir(exist_ok=True)
    with pytest.raises(PleRecError, match=f"^{re.escape(message)}"):
        one(root, content, name, **config)
    staging = root / "staging"
    assert not staging.exists() or not list(staging.iterdir())


def test_types_are_inferred(tmp_path: Path) -> None:
    content = b"a,b,c,d,e,f,g,h\n1,2.5,x,true,2022-04-08,2022-04-08 01:02:03,12:30,2022-04-08T01:02:03Z\n,,,,,,,\n"
    table = one(tmp_path, content)
    assert table.schema == pa.schema(
        {
            "a": pa.int64(),
            "b": pa.float64(),
            "c": pa.string(),
            "d": pa.bool_(),
            "e": pa.date32(),
            "f": pa.timestamp("us"),
            "g": pa.string(),
            "h": pa.timestamp("us", "UTC"),
        }
    )
    first, second = rows(table)
    assert first["e"] == datetime.date(2022, 4, 8)
    assert first["g"] == "12:30"
    assert set(second.values()) == {None}
    table.check_columns(list("abcdefgh"), "the log")


def test_types_are_those_that_are_declared(tmp_path: Path) -> None:
    types: dict[str, ColumnType] = {
        "a": "int32",
        "b": "float",
        "c": "string",
        "d": "bool",
        "e": "date",
        "f": "double",
        "g": "int64",
    }
    table = one(tmp_path, b"a,b,c,d,e,f,g\n1,2,007,1,2022-04-08,3,4\n", types=types)
    assert [field.type for field in table.schema] == [csv_types.TYPES[kind] for kind in types.values()]
    assert rows(table)[0]["c"] == "007"


def test_a_quoted_cell_of_many_lines(tmp_path: Path) -> None:
    """Python's reader, which counts the rows a second time, takes 128 KiB unless it is told otherwise."""
    note = "x\n" * 100_000
    table = one(tmp_path, f'id,note\n1,a\n2,"{note}"\n3,b\n'.encode())
    assert [row["note"] for row in rows(table)] == ["a", note, "b"]
    assert table.locate(2) == "a.csv, line 100004"


@pytest.mark.parametrize(
    "cell", ["007", "00", "-007", " 007", "00.5", "+7", "+0.5", "0x1A", "0x1a", "0x01A", " 26", "26 ", "-0", "9" * 20]
)
def test_a_number_that_would_not_come_back_as_it_is_spelt_is_text(tmp_path: Path, cell: str) -> None:
    table = one(tmp_path, f"id,n\n1,2\n{cell},3\n,4\n".encode())
    assert [(field.name, field.type) for field in table.schema] == [("id", pa.string()), ("n", pa.int64())]
    assert [row["id"] for row in rows(table)] == ["1", cell, None]


def test_ids_that_mean_the_same_number_stay_apart(tmp_path: Path) -> None:
    cells = ["0x1A", "0x1a", "0x01A", "26", " 26", "026", "12345678901234567890", "12345678901234567891"]
    assert [row["id"] for row in rows(one(tmp_path, "\n".join(["id", *cells]).encode()))] == cells


@pytest.mark.parametrize("cell", ["0x1A", " 26", "007", "2.5", "x", "9223372036854775808"])
def test_a_late_cell_that_is_no_plain_integer_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cell: str
) -> None:
    other = "double" if cell == "2.5" else "string"
    monkeypatch.setattr(csv_types, "BLOCK_BYTES", 64)
    content = b"a,b\n" + b"1,2\n" * 100 + b"\n-9223372036854775808,3\n,4\n" + f"{cell},5\n".encode()
    refuse(
        tmp_path,
        content,
        f"a.csv, line 105, column 'a': got {cell!r}; the column is int64, inferred from the first 16 MiB of a.csv. "
        f'Fix: correct the cell, set log.csv.types.a = "{other}", or add it to log.csv.nulls if it means a missing '
        "value",
    )


def test_plain_numbers_stay_numbers_and_declared_ones_lose_their_zeros(tmp_path: Path) -> None:
    content = b"a,b,c,d\n0,0.5,1e+05,007\n-10,-0.25,10,8\n"
    table = one(tmp_path, content, types={"d": "int64"})
    assert [field.type for field in table.schema] == [pa.int64(), pa.float64(), pa.float64(), pa.int64()]
    assert rows(table)[0] == {"a": 0, "b": 0.5, "c": 1e5, "d": 7}


def test_ids_with_zeros_are_text_in_all_files_and_all_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_types, "BLOCK_BYTES", 64)
    (tmp_path / "a.csv").write_bytes(b"id\n" + b"01\n" + b"2\n" * 100 + b"x\n")
    (tmp_path / "b.csv").write_bytes(b"id\n3\n004\n")
    assert [row["id"] for row in rows(convert(tmp_path))] == ["01", *["2"] * 100, "x", "3", "004"]


def test_the_first_file_with_rows_gives_the_types_of_all(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"x,y\n")
    (tmp_path / "b.csv").write_bytes(b"y,x\n1.5,1\n")
    (tmp_path / "c.csv").write_bytes(b"x,y,z\n2,3,4\n")
    table = convert(tmp_path)
    assert rows(table) == [{"y": 1.5, "x": 1}, {"x": 2, "y": 3.0, "z": 4}]
    table.check_columns(["x", "y"], "the log")
    (tmp_path / "c.csv").write_bytes(b"x,y\n2.5,3\n")
    with pytest.raises(
        DataError, match=r"^c\.csv, line 2, column 'x': got '2\.5'; the column is int64, inferred from the"
    ):
        convert(tmp_path)


def test_only_the_first_block_gives_types(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_types, "BLOCK_BYTES", 64)
    content = b"a,b\n" + b"1,2\n" * 100
    refuse(
        tmp_path,
        content + b"3,2.5\n",
        "a.csv, line 102, column 'b': got '2.5'; the column is int64, inferred from the first 16 MiB of a.csv. "
        'Fix: correct the cell, set log.csv.types.b = "double", or add it to log.csv.nulls if it means a missing value',
    )
    assert one(tmp_path, content + b"3,2.5\n", types={"b": "double"}).rows == 101


def test_a_cell_that_does_not_fit_its_declared_type(tmp_path: Path) -> None:
    refuse(
        tmp_path,
        b'a,b\n1,"two\nlines"\n\nx,1\n',
        "a.csv, line 5, column 'a': got 'x'; the column is int32, by log.csv.types.a. "
        'Fix: correct the cell, set log.csv.types.a = "string", or add it to log.csv.nulls if it means a missing value',
        types={"a": "int32"},
    )
    refuse(
        tmp_path, b"a,b\n3000000000,1\n", "a.csv, line 2, column 'a': got '3000000000'; the col", types={"a": "int32"}
    )


def test_a_type_for_no_column(tmp_path: Path) -> None:
    message = (
        "log.csv.types.usr: no file has this column; a type belongs to a column of the files. Fix: did you mean 'user'?"
    )
    refuse(tmp_path, b"user,b\n1,2\n", message, types={"usr": "string"})


RAGGED = "Fix: correct the row; a cell that holds a delimiter or a line end must stand in quotes"
OPEN = "a cell begins with a quote that is not closed; a cell in quotes ends at a quote before a delimiter"
HEADER = "Fix: correct the line, or set log.csv.header = false and log.csv.columns"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a,b\n1,2\n3\n", f"a.csv, line 3: 1 cells ('3'); every row has 2. {RAGGED}"),
        (b"a,b\n1,2\n3,4,5\n", f"a.csv, line 3: 3 cells ('3,4,5'); every row has 2. {RAGGED}"),
        (b"", "a.csv: the file is empty; the first line names the columns. Fix: remove it, or write it again"),
        (
            b"a,b,a\n1,2,3\n",
            f"a.csv, line 1: 'a' stands twice; the first line gives every column a name of its own. {HEADER}",
        ),
        (
            b"a,,c\n1,2,3\n",
            f"a.csv, line 1: column 2 has no name; the first line gives every column a name of its own. {HEADER}",
        ),
        (b"a,__position\n1,2\n", "a.csv, line 1: has a column '__position'; prep uses this name itself"),
        (
            b"a,b\n1,x\n2,\xff\xfe\n",
            "a.csv, line 3, column 'b': reads '2,\ufffd\ufffd'; text is UTF-8. Fix: convert the file",
        ),
        (b"a\xff,b\n1,2\n", "a.csv, line 1: reads 'a\ufffd,b'; text is UTF-8. Fix: convert the file"),
        (
            "a,b\n1,2\n".encode("utf-16"),
            "a.csv: begins with the byte order mark of UTF-16; text is UTF-8. Fix: convert the file, e.g. ",
        ),
        (
            gzip.compress(b"a,b\n1,2\n", mtime=0),  # the test's name holds these bytes
            "a.csv: is a gzip file; a file is unpacked if its name ends in .gz. Fix: ",
        ),
        (b'a,b\n1,"x\n2,3\n4,5\n', f"a.csv, line 2: {OPEN}"),
        (b'a,b\n0,0\n1,"x\n2,3\n3,"y\n4,5\n', f"a.csv, line 3: {OPEN}"),
        (b'a,b\n1,"x" y\n2,"x\n3,4\n', f"a.csv, line 3: {OPEN}"),
    ],
)
def test_what_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    refuse(tmp_path, content, message)


def test_a_quote_that_never_ends_in_a_long_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_types, "BLOCK_BYTES", 256)
    content = b"a,b\n" + b"1,x\n" * 100 + b'1,"x\n' + b"1,x\n" * 1000
    refuse(tmp_path, content, "a.csv, line 102: a row does not end; a cell that begins with a quote ends with one")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"\xef\xbb\xbfa,b\n1,2\n", [{"a": 1, "b": 2}]),
        (b"a,b\r\n1,2\r\n3,4\r\n", [{"a": 1, "b": 2}, {"a": 3, "b": 4}]),
        (b"a,b\n1,2", [{"a": 1, "b": 2}]),
        (b"\na,b\n\n1,2\n\n", [{"a": 1, "b": 2}]),
        (b'a,b\n1,"x\r\ny"\n', [{"a": 1, "b": "x\r\ny"}]),
        (b'a,b\n1,"say ""hi"", twice"\n', [{"a": 1, "b": 'say "hi", twice'}]),
        (b'a,b\n1,5" disk\n2,x\n\n', [{"a": 1, "b": '5" disk'}, {"a": 2, "b": "x"}]),
        (b"a,b\n1,x\x00y\n", [{"a": 1, "b": "x\x00y"}]),
        (b'"a, too",b\n1,2\n', [{"a, too": 1, "b": 2}]),
        (b"a,b\n", []),
    ],
)
def test_what_is_read(tmp_path: Path, content: bytes, expected: list[dict[str, Any]]) -> None:
    assert rows(one(tmp_path, content)) == expected


def test_other_delimiters_nulls_and_no_header(tmp_path: Path) -> None:
    table = one(tmp_path, b"1\tNULL\n2\t\n", delimiter="\t", nulls=("NULL",), header=False, columns=("a", "b"))
    assert rows(table) == [{"a": 1, "b": None}, {"a": 2, "b": ""}]
    (tmp_path / "a.csv").write_bytes(b"")
    assert convert(tmp_path, header=False, columns=("a", "b")).rows == 0
    refuse_rows = "a.csv, line 1: 2 cells ('1,2'); every row has 3. Fix: "
    (tmp_path / "a.csv").write_bytes(b"1,2\n")
    with pytest.raises(DataError, match=f"^{re.escape(refuse_rows)}"):
        convert(tmp_path, header=False, columns=("a", "b", "c"))


def test_a_cell_in_quotes_is_missing_too_whatever_the_type_of_its_column(tmp_path: Path) -> None:
    words = ("word", "1", "2.5", "true", "2024-05-01", "2024-05-01 07:30:00", "2024-05-01 07:30:00Z", "3")
    content = "\n".join([",".join("abcdefgh"), ",".join(['"NULL"'] * 8), ",".join(["NULL"] * 8), ",".join(words)])
    table = one(tmp_path, content.encode(), nulls=("", "NULL"), types={"h": "int32"})
    missing = dict.fromkeys("abcdefgh")
    assert rows(table)[:2] == [missing, missing]
    assert None not in rows(table)[2].values()
    assert [str(kind) for kind in table.schema.types[:3]] == ["string", "int64", "double"]


def test_a_column_without_any_value_is_refused_where_it_is_needed(tmp_path: Path) -> None:
    table = one(tmp_path, b"a,b\n1,\n2,\n")
    with pytest.raises(
        DataError,
        match=r"^a\.csv, column 'b': type null; no row has a value, so its type is unknown\. "
        r"Fix: write it with a type, or for CSV files set csv\.types",
    ):
        table.check_columns(["b"], "the log")
    convert(tmp_path, types={"b": "double"}).check_columns(["b"], "the log")


PACKED = gzip.compress(b"a,b\n" + b"".join(b"%d,%d\n" % (i, i * i) for i in range(10_000)), mtime=0)


def test_gzip(tmp_path: Path) -> None:
    table = one(tmp_path, PACKED + gzip.compress(b"5,6\n"), "a.csv.gz")
    assert (table.rows, rows(table)[-1]) == (10_001, {"a": 5, "b": 6})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (PACKED[:-4], "a.csv.gz: the gzip file is cut short; it must be unpacked to its end. Fix: copy it again"),
        (PACKED[:-2000], "a.csv.gz: the gzip file is cut short; it must be unpacked to its end. Fix: copy it again"),
        (
            PACKED[:900] + bytes(9) + PACKED[909:],
            "a.csv.gz: the gzip file is damaged, or no gzip file; it must be unpacked to its end.",
        ),
        (b"a,b\n1,2\n", "a.csv.gz: the gzip file is damaged, or no gzip file; it must be unpacked to its end."),
    ],
)
def test_damaged_gzip(tmp_path: Path, content: bytes, message: str) -> None:
    refuse(tmp_path, content, message, "a.csv.gz")


def test_the_table_speaks_of_the_users_file(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"a\n1\n2\n")
    (tmp_path / "b.csv").write_bytes(b"a\n3\n")
    table = convert(tmp_path)
    assert [file.display_name for file in table.files] == ["a.csv", "b.csv"]
    assert [file.size for file in table.files] == [6, 4]
    assert (table.starts, table.locate(2)) == ((0, 2), "b.csv, line 2")
    assert Path(table.files[0].path).is_absolute()
    assert Path(table.files[0].path).parent == tmp_path / "staging"
    digest = table.digest()
    assert discover("log", FilesConfig(files=("*.csv",)), tmp_path, tmp_path / "other").digest() == digest


def test_row_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_files, "ROW_GROUP_ROWS", 100)
    monkeypatch.setattr(csv_types, "BLOCK_BYTES", 256)
    table = one(tmp_path, b"a\n" + b"".join(b"%d\n" % i for i in range(250)))
    assert table.files[0].row_groups == (100, 100, 50)
    assert [row["a"] for row in rows(table)] == list(range(250))


def test_a_later_run_converts_only_what_changed(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"a\n1\n")
    (tmp_path / "b.csv").write_bytes(b"a\n2\n")
    first, second = (Path(file.path) for file in convert(tmp_path).files)
    for path in (first, second):
        os.utime(path, ns=(0, 0))
    (tmp_path / "b.csv").write_bytes(b"a\n3\n")
    table = convert(tmp_path)
    assert (table.files[0].path, first.stat().st_mtime_ns) == (str(first), 0)
    assert rows(table) == [{"a": 1}, {"a": 3}]
    assert convert(tmp_path, types={"a": "string"}).files[0].path != str(first)


def test_a_conversion_that_is_damaged_is_made_again(tmp_path: Path) -> None:
    path = Path(one(tmp_path, b"a\nx1\n").files[0].path)
    content = path.read_bytes()
    for damaged in (b"", content[:-9], b"a\nx1\n", content.replace(b"x1", b"y1", 1)):
        path.write_bytes(damaged)
        convert(tmp_path)
        assert path.read_bytes() == content


def test_a_full_disk(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"a\n1\n")
    made = Path(convert(tmp_path).files[0].path)
    made.unlink()
    made.with_suffix(".tmp").symlink_to("/dev/full")
    message = (
        r"prep --out: no space left \(.*No space left.*\); the parts .* Fix: free some space or name another --out"
    )
    with pytest.raises(UserError, match=message):
        convert(tmp_path)
    assert not list(made.parent.iterdir())


def test_a_staging_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "staging").touch()
    (tmp_path / "a.csv").write_bytes(b"a\n1\n")
    with pytest.raises(UserError, match=r"staging: cannot be written \(File exists\); CSV files are converted there"):
        convert(tmp_path)


CELLS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    table=st.integers(1, 4).flatmap(
        lambda width: st.lists(st.lists(CELLS | st.none(), min_size=width, max_size=width), min_size=1, max_size=12)
    ),
    end=st.sampled_from(["\n", "\r\n"]),
    delimiter=st.sampled_from([",", "\t", ";", "|"]),
    packed=st.booleans(),
)
def test_text_comes_back_as_it_was(table: list[list[str | None]], end: str, delimiter: str, packed: bool) -> None:
    """Whatever the text: quotes, delimiters and line ends inside of cells too. A null is written as `\\N`."""
    names = [f"c{index}" for index in range(len(table[0]))]
    out = io.StringIO()
    writer = csv.writer(out, delimiter=delimiter, lineterminator=end, quoting=csv.QUOTE_ALL)
    writer.writerow(names)
    writer.writerows([["\\N" if cell is None else cell for cell in row] for row in table])
    content = out.getvalue().encode()
    expected = [dict(zip(names, (None if cell == "\\N" else cell for cell in row), strict=True)) for row in table]
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / ("a.csv.gz" if packed else "a.csv")).write_bytes(gzip.compress(content) if packed else content)
        types = dict.fromkeys(names, "string")
        assert rows(convert(Path(folder), types=types, delimiter=delimiter, nulls=("\\N",))) == expected


NUMBERS = st.fixed_dictionaries(
    {
        "i": st.integers(-(2**63), 2**63 - 1) | st.none(),
        "d": st.floats(allow_nan=False) | st.none(),
        "b": st.booleans() | st.none(),
        "t": st.dates() | st.none(),
    }
)


@settings(max_examples=40, deadline=None)
@given(st.lists(NUMBERS, max_size=20))
def test_numbers_come_back_as_they_were(table: list[dict[str, Any]]) -> None:
    out = io.StringIO()
    writer = csv.DictWriter(out, ["i", "d", "b", "t"])
    writer.writeheader()
    writer.writerows(table)
    types = {"i": "int64", "d": "double", "b": "bool", "t": "date"}
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "a.csv").write_text(out.getvalue(), encoding="utf-8")
        assert rows(convert(Path(folder), types=types)) == table


@settings(max_examples=80, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 60), st.sampled_from([b'"', b",", b"\n", b"\r", b"\xff", b"", b"x"])),
        min_size=1,
        max_size=3,
    )
)
def test_damaged_text_is_refused_or_keeps_its_rows(changes: list[tuple[int, bytes]]) -> None:
    """Bytes are put in at random: a `DataError`, or a row for every line that Python's reader finds too."""
    content = b"aa,bb,cc\n1,x,2.5\n22,yy,3.5\n333,zzz,4.5\n4444,v,5.5\n" * 1
    for at, put in changes:
        content = content[:at] + put + content[at + 1 :]
    with tempfile.TemporaryDirectory() as folder:
        try:
            table = one(Path(folder), content)
        except PleRecError:
            return
    reader = csv.reader(io.StringIO(content.decode(), newline=""))
    assert table.rows == sum(bool(row) for row in reader) - 1


def read_rows(text: str) -> tuple[list[int], bool]:
    """Read CSV by a reader of this test's own: the line ends inside each row, and whether the last cell never ends.

    A quote at the begin of a cell opens it; in an open cell two quotes are one, and a single one closes it.
    """
    rows: list[int] = []
    at_begin, is_open, in_row, ends = True, False, False, 0
    i = 0
    while i < len(text):
        char = text[i]
        if is_open and char == '"' and text[i + 1 : i + 2] == '"':
            i += 1
        elif char == '"' and (is_open or at_begin):
            is_open, in_row = not is_open, True
        elif char == "\n" and not is_open:
            rows += [ends] if in_row else []
            in_row, ends = False, 0
        else:
            ends += char == "\n"
            in_row = True
        at_begin = not is_open and (char == "," or (char == "\n"))
        i += 1
    return rows + ([ends] if in_row else []), is_open


PARTS = ["1", ",", '"', "\n", "x,", '2,"', '"\n', "3,y\n", '"z",w\n', "\n\n"]


@pytest.mark.parametrize("header", [True, False])
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(parts=st.lists(st.sampled_from(PARTS), max_size=16))
def test_no_row_is_lost_without_a_word(parts: list[str], header: bool) -> None:
    """What is converted has all rows, or the file is refused: no quote swallows rows."""
    text = ("a,b\n" if header else "") + "".join(parts)
    expected, is_open = read_rows(text.rstrip("\n"))  # a line end that is swallowed at the end is no row
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "a.csv").write_text(text)
        columns = {} if header else {"columns": ("a", "b")}
        try:
            found = convert(Path(folder), header=header, **columns).rows
        except DataError:
            return
    assert found == len(expected) - header
    assert not (is_open and expected[-1]), "a cell that never ends has swallowed rows"


@pytest.mark.parametrize("rows_behind", [0, 1, 5])
@pytest.mark.parametrize("end", ["", "\n"])
@pytest.mark.parametrize("header", [True, False])
def test_an_open_quote_that_swallows_the_last_rows_is_refused(
    tmp_path: Path, header: bool, end: str, rows_behind: int
) -> None:
    lines = ["a,b"] * header + [f"{i},x" for i in range(300)] + ['300,"x', "301,y"] + ["302,z"] * rows_behind
    columns: dict[str, Any] = {} if header else {"columns": ("a", "b")}
    refuse(tmp_path, ("\n".join(lines) + end).encode(), f"a.csv, line {301 + header}: {OPEN}", header=header, **columns)


def test_a_blank_line_of_a_single_column_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It may mean a missing value, which a row of several columns says by its delimiters."""
    assert rows(one(tmp_path, b'a\n1\n\n""\n3\n')) == [{"a": 1}, {"a": None}, {"a": 3}]
    assert [each.message for each in caplog.records] == [
        'a.csv: blank lines (1) are not read as rows; in a file with one column, a missing value is written as "". '
        "Fix: remove them, or write them so"
    ]


def test_line_ends_of_old(tmp_path: Path) -> None:
    """A lone carriage return; the lines of messages are those that an editor shows."""
    table = one(tmp_path, b'a,b\r1,"x\ry"\r\r2,z\r')
    assert rows(table) == [{"a": 1, "b": "x\ry"}, {"a": 2, "b": "z"}]
    assert table.locate(1) == "a.csv, line 5"
    refuse(tmp_path / "empty", b"a,b\r1,2\r3\r", "a.csv, line 3: 1 cells ('3'); every row has 2.")


@pytest.mark.parametrize(
    ("content", "lines", "config"),
    [
        (b"a,b\n1,2\n3,4\n", [2, 3], {}),
        (b'\n\na,b\n1,"x\n\ny"\n\n3,4\n', [4, 8], {}),
        (b"1,2\r\n3,4\r\n", [1, 2], {"header": False, "columns": ("a", "b")}),
    ],
)
def test_a_row_is_told_by_its_line(tmp_path: Path, content: bytes, lines: list[int], config: dict[str, Any]) -> None:
    table = one(tmp_path, content, **config)
    assert [table.locate(row) for row in range(table.rows)] == [f"a.csv, line {line}" for line in lines]


def test_nanoseconds_are_to_be_cut(tmp_path: Path) -> None:
    refuse(
        tmp_path,
        b"a,b\n2024-05-01 00:00:00.123456789,1\n",
        "a.csv, line 2, column 'a': got '2024-05-01 00:00:00.123456789'; the column is timestamp[us], inferred from "
        "the first 16 MiB of a.csv. Fix: correct the cell (YYYY-MM-DD HH:MM:SS, at most 6 digits of a second), or add "
        "it ",
    )


def test_a_long_cell_in_quotes(tmp_path: Path) -> None:
    cell = "\n".join(["line"] * 70_000)
    assert rows(one(tmp_path, f'a,b\n1,"{cell}"\n2,x\n'.encode()))[0] == {"a": 1, "b": cell}
