r"""Ali-CCP's raw files: a writer of small ones in that exact format, what they become, and what is refused."""

from __future__ import annotations

import gzip
import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.sources import ali_ccp, footers
from data_prep.sources.ali_ccp import COMMON, KEY, SKELETON, raw_tables
from data_prep.sources.files import RawTable
from data_prep.sources.find import FoundFile
from data_prep.sources.footers import Meter
from ple_rec.errors import DataError, UserError

Entry = tuple[str, int, float]


def features(entries: Sequence[Entry]) -> str:
    return f"{len(entries)}," + "\x01".join(f"{field}\x02{of}\x03{value}" for field, of, value in entries)


def write(root: Path, files: dict[str, list[str]]) -> None:
    root.mkdir(parents=True, exist_ok=True)
    for name, lines in files.items():
        (root / name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


SAMPLES: list[list[Entry]] = [
    [("301", 7, 1.0), ("205", 11, 1.0), ("206", 12, 1.0), ("210", 21, 1.0), ("210", 22, 1.0), ("508", 31, 2.5)],
    [("210", 23, 1.0), ("216", 14, 1.0), ("210", 24, 0.5), ("207", 13, 1.0)],
    [],
]
USERS: list[list[Entry]] = [
    [("101", 1, 1.0), ("109_14", 41, 3.25), ("109_14", 42, 0.5), ("121", 2, 1.0), ("150_14", 43, 1.5)],
    [("127", 5, 1.0), ("127_14", 44, 1.0)],
]


def small() -> dict[str, list[str]]:
    return {
        "sample_skeleton_train.csv": [
            f"1,1,0,bacff91692951881,{features(SAMPLES[0])}",
            f"2,0,0,bacff91692951881,{features(SAMPLES[1])}",
        ],
        "sample_skeleton_test.csv": [f"3,1,1,0123456789abcdef,{features(SAMPLES[2])}"],
        "common_features_train.csv": [f"bacff91692951881,{features(USERS[0])}"],
        "common_features_test.csv": [f"0123456789abcdef,{features(USERS[1])}"],
    }


def rows(table: RawTable) -> list[dict[str, Any]]:
    return [row for file in table.files for row in pq.read_table(file.path).to_pylist()]


def expected(kind: Any, split: str, first: dict[str, Any], entries: Sequence[Entry]) -> dict[str, Any]:
    """The row that a line should become, the plain way."""
    row = {**first, "split": split}
    for field in kind.single_fields:
        row[f"f{field}"] = next((of for name, of, _ in entries if name == field), None)
    for field in kind.list_fields:
        row[f"f{field}"] = [of for name, of, _ in entries if name == field]
        row[f"f{field}_weights"] = [value for name, _, value in entries if name == field]
    return row


def test_the_small_files(tmp_path: Path) -> None:
    write(tmp_path / "raw", small())
    log, common = raw_tables(tmp_path / "raw", tmp_path / "staging")
    train, test = "bacff91692951881", "0123456789abcdef"
    assert [file.display_name for file in log.files] == ["sample_skeleton_test.csv", "sample_skeleton_train.csv"]
    assert rows(log) == [
        expected(SKELETON, "test", {"click": 1, "buy": 1, KEY: test}, SAMPLES[2]),
        expected(SKELETON, "train", {"click": 1, "buy": 0, KEY: train}, SAMPLES[0]),
        expected(SKELETON, "train", {"click": 0, "buy": 0, KEY: train}, SAMPLES[1]),
    ]
    assert rows(common) == [
        expected(COMMON, "test", {KEY: test}, USERS[1]),
        expected(COMMON, "train", {KEY: train}, USERS[0]),
    ]
    assert (log.name, log.rows, common.name, common.rows) == ("log", 3, "common", 2)
    assert log.schema.field("f205").type == pa.int64()
    assert log.schema.field("f210").type == pa.list_(pa.int64())
    assert log.schema.field("f210_weights").type == pa.list_(pa.float32())
    assert log.locate(2) == "sample_skeleton_train.csv, line 2"
    log.check_columns(log.schema.names, "the log")
    common.check_columns(common.schema.names, "common")


def test_files_in_folders_and_packed(tmp_path: Path) -> None:
    for name, lines in small().items():
        folder = tmp_path / "raw" / ("sample_train" if "train" in name else "sample_test")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.gz").write_bytes(gzip.compress("".join(f"{line}\r\n" for line in lines).encode()))
    log, common = raw_tables(tmp_path / "raw", tmp_path / "staging")
    assert [file.display_name for file in log.files] == [
        "sample_test/sample_skeleton_test.csv.gz",
        "sample_train/sample_skeleton_train.csv.gz",
    ]
    assert (log.rows, common.rows) == (3, 2)
    assert rows(log)[1]["f210"] == [21, 22]


def test_blocks_give_the_same_rows_as_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Random lines, read in blocks that cut them anywhere, against a plain reading."""
    chance = random.Random(0)

    def entries(kind: Any) -> list[Entry]:
        found = [(field, chance.randrange(10**9), 1.0) for field in kind.single_fields if chance.random() < 0.8]
        found += [
            (field, chance.randrange(10**9), chance.randrange(64) / 16)
            for field in kind.list_fields
            for _ in range(chance.randrange(4))
        ]
        chance.shuffle(found)
        return found

    files, log, common = small(), [], []
    files["sample_skeleton_train.csv"], files["common_features_train.csv"] = [], []
    for index in range(300):
        sample, user, key = entries(SKELETON), entries(COMMON), f"{chance.randrange(16**16):016x}"
        files["sample_skeleton_train.csv"].append(f"{index},{index % 2},0,{key},{features(sample)}")
        files["common_features_train.csv"].append(f"{key},{features(user)}")
        log.append(expected(SKELETON, "train", {"click": index % 2, "buy": 0, KEY: key}, sample))
        common.append(expected(COMMON, "train", {KEY: key}, user))
    write(tmp_path / "raw", files)
    for size in (997, 1 << 24):
        monkeypatch.setattr(ali_ccp, "BLOCK_BYTES", size)
        tables = raw_tables(tmp_path / "raw", tmp_path / f"staging{size}")
        assert rows(tables[0])[1:] == log
        assert rows(tables[1])[1:] == common


def test_a_later_run_keeps_what_it_has(tmp_path: Path) -> None:
    write(tmp_path / "raw", small())
    before, _ = raw_tables(tmp_path / "raw", tmp_path / "staging")
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "staging").iterdir()}
    after, _ = raw_tables(tmp_path / "raw", tmp_path / "staging")
    assert after.digest() == before.digest()
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "staging").iterdir()} == stamps
    assert len(stamps) == 4


def test_a_missing_file(tmp_path: Path) -> None:
    files = small()
    del files["common_features_test.csv"]
    write(tmp_path / "raw", files)
    with pytest.raises(UserError, match=r"^ali-ccp: nothing matches '\*\*/common_features_test\.csv' below "):
        raw_tables(tmp_path / "raw", tmp_path / "staging")


GOOD = features(SAMPLES[0])
A_FEATURE = r"a feature reads field_id \x02 feature_id \x03 value, the last two numbers"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("7,0,0,k", "4 cells; a line reads sample_id,click,buy,common_feature_index,feature_num,feature_list"),
        (f"7,yes,0,k,{GOOD}", "click is 'yes'; it is an integer"),
        (f"7,0,,k,{GOOD}", "buy is ''; it is an integer"),
        ("7,0,0,k,2,205\x021\x031.0", "1 features, but feature_num is 2; feature_num is the number of "),
        ("7,0,0,k,1,205\x021", rf"feature '205\x021'; {A_FEATURE}"),
        ("7,0,0,k,1,205\x031\x021.0", rf"feature '205\x031\x021.0'; {A_FEATURE}"),
        ("7,0,0,k,1,205\x02x\x031.0", rf"feature '205\x02x\x031.0'; {A_FEATURE}"),
        ("7,0,0,k,1,205\x021\x03x", rf"feature '205\x021\x03x'; {A_FEATURE}"),
        ("7,0,0,k,1,999\x021\x031.0", "field '999'; the fields of sample_skeleton are 205, 206, 207, 216, 301, 210, "),
        ("7,0,0,k,2,205\x021\x031.0\x01205\x022\x031.0", "field 205 occurs twice; only 210, 508, 509, 702, 853 have "),
        ("", "1 cells; a line reads sample_id,"),
    ],
)
def test_malformed_lines(tmp_path: Path, line: str, message: str) -> None:
    files = small()
    files["sample_skeleton_train.csv"].insert(1, line)
    write(tmp_path / "raw", files)
    with pytest.raises(DataError, match=f"^{re.escape(f'sample_skeleton_train.csv, line 2: {message}')}"):
        raw_tables(tmp_path / "raw", tmp_path / "staging")


def test_lines_that_are_not_utf8(tmp_path: Path) -> None:
    write(tmp_path / "raw", small())
    with (tmp_path / "raw/common_features_test.csv").open("ab") as out:
        out.write(b"\xff,1,101\x021\x031.0\n")
    message = r"^common_features_test\.csv, line 2: reads b'\\xff,1,101.*; text is UTF-8\. Fix: download it again"
    with pytest.raises(DataError, match=message):
        raw_tables(tmp_path / "raw", tmp_path / "staging")


def test_a_field_is_cut_to_its_first_entries(tmp_path: Path) -> None:
    write(tmp_path / "raw", small())
    log, common = raw_tables(tmp_path / "raw", tmp_path / "staging", max_lengths={"109_14": 1, "210": 1})
    of_train = rows(common)[1]
    assert (of_train["f109_14"], of_train["f109_14_weights"]) == ([41], [3.25])
    assert (of_train["f150_14"], of_train["f150_14_weights"]) == ([43], [1.5])
    assert [row["f210"] for row in rows(log)] == [[], [21], [23]]
    assert [row["f210_weights"] for row in rows(log)] == [[], [1.0], [1.0]]
    whole, _ = raw_tables(tmp_path / "raw", tmp_path / "staging")
    assert rows(whole)[1]["f210"] == [21, 22]  # another conversion, not this one


@pytest.mark.parametrize("when", ["before its digest", "after its digest"])
def test_a_file_that_changes_while_it_is_read(when: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, small())

    def identify(file: FoundFile, meter: Meter) -> str:
        if (last := file.display_name == "common_features_test.csv") and when == "before its digest":
            write(tmp_path, small())
        digest = footers.identify(file, meter)
        if last and when == "after its digest":
            write(tmp_path, {"sample_skeleton_test.csv": []})
        return digest

    monkeypatch.setattr(ali_ccp, "identify", identify)
    with pytest.raises(DataError, match=r"\.csv: it has changed while it was read; raw files stay as they are"):
        raw_tables(tmp_path, tmp_path / "staging")
