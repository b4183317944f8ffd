"""Which files patterns mean, how they are ordered and named, and what is said where nothing matches."""

from __future__ import annotations

import os
import re
import socket
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.sources.files import RawTable, discover
from data_prep.sources.find import find_files, find_one
from data_prep.sources.footers import Meter
from ple_rec.config.prep import FilesConfig
from ple_rec.errors import DataError, UserError


def write(path: Path, rows: int = 2) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"user": pa.array(range(rows), pa.int64())}), path)
    return path


def look(root: Path, *patterns: str, name: str = "log") -> RawTable:
    return discover(name, FilesConfig(files=patterns), root, root / "staging")


def shown(table: RawTable) -> list[str]:
    return [file.display_name for file in table.files]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    names = (
        "log/day=1/part-0.parquet",
        "log/day=1/part-1.parquet",
        "log/day=2/hour=03/part-0.parquet",
        "log/day=2/.part-0.parquet.crc.parquet",
        "log/_temporary/part-9.parquet",
        "users.parquet",
    )
    for number, name in enumerate(names, 2):
        write(tmp_path / name, number)
    (tmp_path / "log/_SUCCESS").touch()
    (tmp_path / "log/README.md").write_text("notes", encoding="utf-8")
    return tmp_path


LOG = ["log/day=1/part-0.parquet", "log/day=1/part-1.parquet", "log/day=2/hour=03/part-0.parquet"]


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        (["log"], LOG),
        (["log/"], LOG),
        (["./log"], LOG),
        (["log/**"], LOG),
        (["log/*"], [*LOG, "log/README.md"]),
        (["log/day=*"], LOG),
        (["log/day=[1]"], LOG[:2]),
        (["log/**/part-0.parquet"], [LOG[0], LOG[2]]),
        (["**/part-1.parquet"], [LOG[1]]),
        (["log/day=?/part-?.parquet"], LOG[:2]),
        (["log/day=2", "log/day=1", "log"], LOG),
        (["log/_temporary"], ["log/_temporary/part-9.parquet"]),
        (["log/_t*"], ["log/_temporary/part-9.parquet"]),
        (["users.parquet"], ["users.parquet"]),
    ],
)
def test_patterns(tree: Path, patterns: list[str], expected: list[str]) -> None:
    found, kind = find_files("log", FilesConfig(files=tuple(patterns), format="parquet"), tree)
    assert sorted(file.display_name for file in found) == sorted(expected)
    assert kind == "parquet"


def test_order_is_that_of_names_whatever_the_patterns_order(tree: Path) -> None:
    assert shown(look(tree, "log/day=2", "log/day=1")) == LOG
    assert look(tree, "log/day=2", "log/day=1").digest() == look(tree, "log").digest()


def test_absolute_patterns_are_named_from_the_root_where_they_lie_below_it(tree: Path, tmp_path: Path) -> None:
    assert shown(look(tree, str(tree / "log"))) == LOG
    outside = look(tree / "log", str(tree / "users.parquet"))
    assert shown(outside) == [str(tree / "users.parquet")]


def test_a_name_with_the_characters_of_patterns_is_a_name_where_it_exists(tmp_path: Path) -> None:
    write(tmp_path / "a[1].parquet")
    assert shown(look(tmp_path, "a[1].parquet")) == ["a[1].parquet"]


def test_a_folder_named_like_a_file(tmp_path: Path) -> None:
    write(tmp_path / "log.parquet/part-0.parquet")
    assert shown(look(tmp_path, "log.parquet")) == shown(look(tmp_path, "*.parquet")) == ["log.parquet/part-0.parquet"]


def test_the_root_may_be_one_file_which_is_the_log(tree: Path) -> None:
    table = discover("log", FilesConfig(files=("log",)), tree / "users.parquet", tree / "staging")
    assert (shown(table), table.rows) == (["users.parquet"], 7)
    side = discover("user", FilesConfig(files=("log",)), tree / "users.parquet", tree / "staging")
    assert shown(side) == LOG


def test_links_are_followed_but_not_in_circles(tree: Path) -> None:
    (tree / "log/day=1/again").symlink_to(tree / "log")
    (tree / "all").symlink_to(tree / "log")
    assert len(look(tree, "all").files) == len(look(tree, "log").files) == 3


def test_a_link_to_nothing_is_refused(tree: Path) -> None:
    (tree / "log/day=1/part-2.parquet").symlink_to(tree / "gone.parquet")
    expected = re.escape(f"{tree}/log/day=1/part-2.parquet: a link to nothing; every file of a table is read. Fix: ")
    with pytest.raises(DataError, match=expected):
        look(tree, "log")


@pytest.mark.parametrize("pattern", ["log", "log/day=1/part-2.parquet", "log/**/part-2.parquet", "log/day=1/*"])
def test_a_loop_of_links_is_refused_by_its_own_name(tree: Path, pattern: str) -> None:
    (tree / "log/day=1/part-2.parquet").symlink_to("part-3.parquet")
    (tree / "log/day=1/part-3.parquet").symlink_to("part-2.parquet")
    with pytest.raises(
        DataError, match=r"log/day=1/part-[23]\.parquet: a loop of symbolic links; every file of a table"
    ):
        look(tree, pattern)


@pytest.mark.parametrize("pattern", ["loop", "loop/x.parquet", "loop/*.parquet", "."])
def test_a_loop_in_place_of_a_folder_is_refused(tree: Path, pattern: str) -> None:
    (tree / "loop").symlink_to("loop")
    with pytest.raises(DataError, match=rf"^{tree}/loop.*: a loop of symbolic links; "):
        look(tree, pattern)
    with pytest.raises(DataError, match=rf"^{tree}/loop: a loop of symbolic links; "):
        look(tree / "loop", "log")


def test_a_loop_that_no_pattern_means_is_left_alone(tree: Path) -> None:
    (tree / "log/_temporary/part-0.parquet").symlink_to("part-0.parquet")
    (tree / "loop").symlink_to("loop")
    assert shown(look(tree, "log")) == LOG


@pytest.mark.skipif(sys.getfilesystemencoding() != "utf-8", reason="needs a locale whose names of files are UTF-8")
def test_a_name_of_another_encoding_is_refused(tree: Path) -> None:
    (tree / "log/day=1/part-1.parquet").rename(os.fsdecode(bytes(tree / "log/day=1") + b"/\xd3\xc3.parquet"))
    message = rf"^{tree}/log/day=1/\\xd3\\xc3.parquet: its name is not UTF-8; .* Fix: rename it, or its folder$"
    with pytest.raises(UserError, match=message):
        look(tree, "log")


def test_what_is_not_read_of_a_folder_is_told(tree: Path, caplog: pytest.LogCaptureFixture) -> None:
    look(tree, "log/day=1")
    assert caplog.messages == []  # hidden names are no news
    odd(tree / "log")
    (tree / "log/.d.txt").touch()
    assert shown(look(tree, "log", "log/day=*")) == LOG
    assert caplog.messages == [
        "log.files: not read: log/README.md, log/b.parquet.gz, log/c.txt, log/pipe.parquet (a FIFO), log/s (a socket); "
        "a folder stands for its regular .parquet, .csv and .csv.gz files. Fix: move them away, or convert those that "
        "belong to the table"
    ]
    caplog.clear()
    for i in range(20):
        (tree / f"log/{i:02}.json").touch()
    look(tree, "log")
    assert "log/08.json, log/09.json and 15 more; " in caplog.messages[0]


def odd(folder: Path) -> None:
    """Put what is not read into a folder."""
    os.mkfifo(folder / "pipe.parquet")
    (folder / "b.parquet.gz").write_bytes(b"x")
    (folder / "c.txt").write_text("x", encoding="utf-8")
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(os.path.relpath(folder / "s"))  # an address is short


def test_a_folder_with_nothing_to_read_is_refused_with_what_it_has(tmp_path: Path) -> None:
    (tmp_path / "log/day=1").mkdir(parents=True)
    odd(tmp_path / "log/day=1")
    with pytest.raises(
        UserError,
        match=r"^log\.files: nothing matches 'log' below .*; not read: log/day=1/b\.parquet\.gz, log/day=1/c\.txt, "
        r"log/day=1/pipe\.parquet \(a FIFO\), log/day=1/s \(a socket\); a folder stands for .* Fix: convert them",
    ):
        look(tmp_path, "log")


@pytest.mark.parametrize("pattern", ["pipe.parquet", "*.parquet", "{root}/pipe.parquet"])
def test_a_fifo_that_is_named_is_refused_and_not_waited_for(tmp_path: Path, pattern: str) -> None:
    os.mkfifo(tmp_path / "pipe.parquet")
    with pytest.raises(UserError, match=r"^pipe\.parquet: is a FIFO; raw files are regular files, .*Fix: write its"):
        look(tmp_path, pattern.format(root=tmp_path))
    with pytest.raises(UserError, match=r"/pipe\.parquet: is a FIFO; "):
        look(tmp_path / "pipe.parquet", "log")


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("logs/*/*.parquet", "{root} has log, users.parquet. Fix: did you mean 'log/*/*.parquet'?"),
        ("user.parquet", "{root} has log, users.parquet. Fix: did you mean 'users.parquet'?"),
        ("log/dy=1", "{root}/log has README.md, _SUCCESS, _temporary, day=1, day=2. Fix: did you mean 'log/day=1'?"),
        ("nothing-like-it", "{root} has log, users.parquet. Fix: correct the pattern or --from; "),
        ("logs/*.csv", "{root} has log, users.parquet. Fix: correct the pattern or --from; "),
    ],
)
def test_nothing_matches(tree: Path, pattern: str, message: str) -> None:
    start = f"log.files: nothing matches {pattern!r} below {tree}; {message.format(root=tree)}"
    with pytest.raises(UserError, match=f"^{re.escape(start)}"):
        look(tree, pattern)


def test_nothing_matches_below_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empties").mkdir()
    with pytest.raises(UserError, match=r"/empty has nothing\. Fix: correct the pattern or --from; "):
        look(tmp_path / "empty", "log.parquet")


def test_one_pattern_of_several_that_matches_nothing_is_refused(tree: Path) -> None:
    with pytest.raises(UserError, match=r"^sides\.user\.files: nothing matches 'log/day=3'"):
        look(tree, "log/day=1", "log/day=3", name="user")


def test_a_missing_root(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone: no such file or folder; --from names the raw files\. Fix: "):
        look(tmp_path / "gone", "log")


def test_formats(tree: Path) -> None:
    (tree / "log/day=1/more.csv").write_text("user\n1\n", encoding="utf-8")
    with pytest.raises(
        UserError,
        match=r"^log\.files: log/day=1/more\.csv is csv but log/day=1/part-0\.parquet is parquet; .*"
        r'Fix: convert one kind to the other, or read one kind only: log.format = "csv" skips all other files of a '
        "folder, with their rows",
    ):
        look(tree, "log")
    assert [f.display_name for f in find_files("log", FilesConfig(files=("log",), format="csv"), tree)[0]] == [
        "log/day=1/more.csv"
    ]
    with pytest.raises(UserError, match=r"^log\.files, log/README\.md: its name shows no format; .*: set log"):
        look(tree, "log/README.md")


def test_a_small_file_is_read_by_its_own_unit() -> None:
    told: list[str] = []
    Meter("log: digesting 1 file", 2_048, told.append).add(512)
    assert told == ["log: digesting 1 file: 512 B of 2.00 KiB"]


def test_find_one(tree: Path) -> None:
    assert find_one("x", "part-1.parquet", tree).display_name == "log/day=1/part-1.parquet"
    with pytest.raises(UserError, match=r"^x: log/day=.*/part-0\.parquet both exist; only one of them is read\. Fix: "):
        find_one("x", "part-0.parquet", tree)
    with pytest.raises(UserError, match=r"^x: nothing matches '\*\*/part-7\.parquet' below "):
        find_one("x", "part-7.parquet", tree)
