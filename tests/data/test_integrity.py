"""Damage to a prepared dataset: whatever happens to its bytes, no run reads other values than were prepared."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from data_prep import prepare, write_tables
from data_prep.output.parts import write_part
from data_prep.output.writer import existing_recipe_digest
from data_prep.run import Options
from ple_rec.cli import main
from ple_rec.config.schema import DenseFeature, SparseFeature, Task
from ple_rec.data.dataset import DatasetDirectory, read_columns
from ple_rec.data.encode import Encoder
from ple_rec.errors import DataError, UserError

PREP = """
name = "clicks"
on_bad_row = "refuse"
log = {files = ["log.csv"], format = "csv"}
sparse = [{name = "user"}, {name = "city"}]
dense = [{name = "price", normaliser = "standard"}]
tasks = [{name = "click", kind = "binary"}]
split = {by = "hash", value = "user", valid = 0.2, test = 0.2}
"""


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset that `write_tables` wrote, one part a split."""
    rng = np.random.default_rng(0)

    def rows(n: int) -> pa.Table:
        return pa.table(
            {
                "user": rng.integers(0, 50, n).astype(np.int32),
                "items": [rng.integers(0, 9, rng.integers(0, 4)).astype(np.int32) for _ in range(n)],
                "price": rng.normal(size=n).astype(np.float32),
                "click": rng.integers(0, 2, n).astype(np.float32),
            }
        )

    out = tmp_path_factory.mktemp("tables") / "data"
    write_tables(
        out,
        name="clicks",
        splits={"train": rows(400), "valid": rows(40), "test": rows(40)},
        sparse=[SparseFeature(name="user", table="user"), SparseFeature(name="items", table="items", bag=True)],
        dense=[DenseFeature(name="price", normaliser="none")],
        tasks=[Task(name="click", kind="binary", label="click")],
        row_group_rows=100,
    )
    return out


def read(path: Path) -> list[pa.Table]:
    dataset = DatasetDirectory(path)
    names = dataset.select(drop=(), tasks=()).all_column_names()
    return [read_columns(group, names) for group in dataset.row_groups("train", names)]


def test_no_bit_of_a_part_flips_unseen(tables: Path) -> None:
    whole = read(tables)
    file = tables / "train/part-00000.parquet"
    content = file.read_bytes()
    rng = np.random.default_rng(1)
    refused = 0
    try:
        for place in rng.integers(0, len(content) * 8, 300):
            damaged = bytearray(content)
            damaged[place // 8] ^= 1 << (place % 8)
            file.write_bytes(damaged)
            try:
                assert read(tables) == whole  # of bytes that no value comes from
            except DataError as error:
                refused += str(file) in str(error)
            assert list(DatasetDirectory(tables).digests.find_changes())
    finally:
        file.write_bytes(content)
    assert refused > 250


def test_labels_that_are_inverted_in_a_whole_file_are_refused(tables: Path) -> None:
    file = tables / "train/part-00000.parquet"
    content = file.read_bytes()
    fingerprint = DatasetDirectory(tables).schema.fingerprint
    table = pq.read_table(file)
    inverted = table.set_column(
        table.schema.names.index("click"), "click", pc.subtract(pa.scalar(1.0, pa.float32()), table["click"])
    )
    try:
        write_part(file, inverted, fingerprint, 25)
        with pytest.raises(DataError, match=r"train/part-00000\.parquet: SHA-256 .* of its footer; _SUCCESS says"):
            read(tables)
    finally:
        file.write_bytes(content)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset that `prepare` made of raw values, with vocabularies; to be copied."""
    folder = tmp_path_factory.mktemp("made")
    rng = np.random.default_rng(0)
    lines = ["user,city,price,click"]
    lines += [f"u{rng.integers(30)},c{rng.integers(5)},{rng.random():.3f},{rng.integers(2)}" for _ in range(300)]
    (folder / "log.csv").write_text("\n".join(lines) + "\n")
    (folder / "clicks.toml").write_text(PREP)
    prepare(folder / "clicks.toml", folder / "data", Options(source=str(folder)))
    return folder


@pytest.fixture
def prepared(made: Path, tmp_path: Path) -> Path:
    """A copy of the dataset, beside its raw file and configuration."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    return tmp_path / "data"


def shuffle(file: Path) -> None:
    table = pq.read_table(file)
    raw = table["raw"].take(pa.array(np.roll(np.arange(len(table)), 1)))
    pq.write_table(table.set_column(table.schema.names.index("raw"), "raw", raw), file)


def double(file: Path) -> None:
    file.write_text(file.read_text().replace("0.", "1."))


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


@pytest.mark.parametrize(
    ("name", "damage", "use"),
    [
        ("vocab/user.parquet", shuffle, lambda path: Encoder(path, DatasetDirectory(path).schema.sparse)),
        ("prep.toml", cut, lambda path: Encoder(path, DatasetDirectory(path).schema.sparse)),
        ("stats.json", double, lambda path: DatasetDirectory(path).statistics()),
        ("stats.json", double, lambda path: DatasetDirectory(path).label_counts("train")),
        ("schema.toml", cut, DatasetDirectory),
    ],
)
def test_what_a_file_is_used_for_waits_for_its_digest(
    prepared: Path, name: str, damage: Callable[[Path], None], use: Callable[[Path], object]
) -> None:
    damage(prepared / name)
    with pytest.raises(DataError, match=rf"data/{name}: .*_SUCCESS says .* remove \"{name}\" from \"files\""):
        use(prepared)


def test_verify(prepared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(prepared)]) == 0
    assert "data: whole: 9 files, " in capsys.readouterr().out
    shuffle(prepared / "vocab/city.parquet")
    double(prepared / "stats.json")
    (prepared / "valid/part-00000.parquet").unlink()
    (prepared / "train/part-00009.parquet").write_bytes((prepared / "train/part-00000.parquet").read_bytes())
    assert main(["verify", str(prepared)]) == 3
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{prepared}: DAMAGED"
    named = [line.split(":")[0].removeprefix(f"  {prepared}/") for line in lines[1:]]
    assert named[:4] == ["stats.json", "train/part-00009.parquet", "valid/part-00000.parquet", "vocab/city.parquet"]
    (prepared / "_SUCCESS").write_text("")
    assert main(["verify", str(prepared)]) == 3  # rows that schema.toml counts are missing


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "Expecting property name"),
        ("[]", "no JSON object of files"),
        ('{"files": []}', "no JSON object of files"),
        ('{"file": {}}', "unknown key 'file'"),
        ('{"files": {"stats.json": {"bytes": 1}}}', "stats.json has other keys than bytes, sha256 and footer"),
        ('{"files": {"stats.json": {"bytes": "917", "sha256": "0"}}}', "stats.json has bytes = '917'"),
        ("[" * 100_000, "maximum recursion depth exceeded"),
    ],
)
def test_damaged_digests_are_refused(prepared: Path, text: str, said: str) -> None:
    (prepared / "_SUCCESS").write_text(text)
    with pytest.raises(DataError, match=rf"_SUCCESS: unreadable \({said}"):
        DatasetDirectory(prepared)


def test_a_dataset_of_another_user_is_told(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose folder may not be entered."""
    stat = Path.stat

    def refused(path: Path, **options: Any) -> os.stat_result:
        if path.parent == prepared:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return stat(path, **options)

    monkeypatch.setattr(Path, "stat", refused)
    with pytest.raises(
        UserError, match=r"data: cannot be read \(.*Permission denied.*\); the files of a dataset are read"
    ):
        DatasetDirectory(prepared)
    with pytest.raises(UserError, match=r"data: cannot be read \(Permission denied\); prep checks the place"):
        existing_recipe_digest(prepared)


def test_a_part_that_is_a_fifo_is_refused_and_not_waited_for(
    prepared: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    os.mkfifo(fifo := prepared / "valid" / "part-9.parquet")
    assert main(["verify", str(prepared)]) == 3
    assert (
        f"{fifo}: unreadable (is not a regular file); a part is a Parquet file. Fix: copy it" in capsys.readouterr().out
    )


def test_a_dataset_without_digests_is_read_as_it_is(prepared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = json.loads((prepared / "_SUCCESS").read_text())
    del content["files"]
    for text in ("", json.dumps(content)):
        (prepared / "_SUCCESS").write_text(text)
        assert main(["verify", str(prepared)]) == 0
        assert "it has no digests" in capsys.readouterr().out
