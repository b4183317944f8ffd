from __future__ import annotations

import errno
import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.engines.base import PART
from data_prep.output.parts import ParquetPartSink, write_part
from data_prep.output.stage import check_place, dataset_directory, open_stage
from data_prep.output.writer import existing_recipe_digest, finish
from ple_rec.config.load import load_schema
from ple_rec.config.schema import (
    FINGERPRINT_KEY,
    SCHEMA_FILE,
    SUCCESS_FILE,
    DatasetSchema,
    DenseFeature,
    SplitInfo,
    Task,
)
from ple_rec.errors import UserError


def complete(folder: Path, recipe: str = "r1") -> None:
    folder.mkdir(exist_ok=True)
    (folder / SCHEMA_FILE).write_text("")
    (folder / SUCCESS_FILE).write_text(json.dumps({"recipe": recipe, "fingerprint": "f"}))


@contextmanager
def staged(out: Path, replace: bool = False) -> Iterator[Path]:
    """The folder that becomes `out`, without what a stage holds beside the dataset."""
    with dataset_directory(out, overwrite=replace, resumes=False) as stage:
        stage.begin("f")
        yield stage.folder


def fail_inside(out: Path, error: BaseException) -> None:
    with staged(out) as stage:
        (stage / "x").write_text("1")
        raise error


def test_free_places(tmp_path: Path) -> None:
    assert existing_recipe_digest(tmp_path) is None
    assert existing_recipe_digest(tmp_path / "new") is None


def test_a_complete_directory(tmp_path: Path) -> None:
    complete(tmp_path / "d")
    assert existing_recipe_digest(tmp_path / "d") == "r1"
    (tmp_path / "d" / SUCCESS_FILE).write_text("")
    assert existing_recipe_digest(tmp_path / "d") == ""


@pytest.mark.parametrize("what", ["a file", "a folder of something else", "no _SUCCESS"])
def test_a_place_that_is_taken(what: str, tmp_path: Path) -> None:
    out = tmp_path / "d"
    if what == "a file":
        out.write_text("mine")
    elif what == "no _SUCCESS":
        complete(out)
        (out / SUCCESS_FILE).unlink()
    else:
        out.mkdir()
        (out / "thesis.tex").write_text("mine")
    with pytest.raises(UserError) as caught:
        existing_recipe_digest(out)
    assert str(caught.value) == (
        f"{out}: exists and is not a dataset directory; prep writes to a new or empty folder, and deletes no "
        "files of yours. Fix: name another --out, or move the files"
    )


def test_the_stage_becomes_the_directory(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "d"
    with staged(out) as stage:
        assert stage.parent == out.parent
        (stage / "x").write_text("1")
        assert not out.exists()
    assert [path.name for path in out.parent.iterdir()] == ["d"]
    assert (out / "x").read_text() == "1"


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    with staged(tmp_path / "d") as stage:
        (tmp_path / "d").mkdir()
        (stage / "x").write_text("1")
    assert (tmp_path / "d" / "x").exists()


def test_replacing(tmp_path: Path) -> None:
    complete(tmp_path / "d")
    with staged(tmp_path / "d", replace=True) as stage:
        complete(stage, "r2")
    assert existing_recipe_digest(tmp_path / "d") == "r2"
    assert [path.name for path in tmp_path.iterdir()] == ["d"]


def test_replacing_spares_a_file_of_the_user(tmp_path: Path) -> None:
    complete(tmp_path / "d")
    (tmp_path / "d" / "notes.txt").write_text("mine")
    with pytest.raises(UserError) as caught, staged(tmp_path / "d", replace=True) as stage:
        complete(stage, "r2")
    assert str(caught.value) == (
        f"{tmp_path / 'd'}: also holds notes.txt; prep deletes no files of yours. Fix: move them, or name another --out"
    )
    assert existing_recipe_digest(tmp_path / "d") == "r1"
    assert [path.name for path in tmp_path.iterdir()] == ["d"]


def test_a_link_stays_a_link_and_what_it_leads_to_is_replaced(tmp_path: Path) -> None:
    complete(tmp_path / "d")
    (tmp_path / "link").symlink_to("d")
    with staged(tmp_path / "link", replace=True) as stage:
        complete(stage, "r2")
    assert (tmp_path / "link").is_symlink()
    assert existing_recipe_digest(tmp_path / "d") == "r2"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d", "link"]


@pytest.mark.parametrize("there", [True, False])
def test_a_link_to_an_empty_folder_and_a_link_to_nothing_are_filled(there: bool, tmp_path: Path) -> None:
    if there:
        (tmp_path / "d").mkdir()
    (tmp_path / "link").symlink_to("d")
    with staged(tmp_path / "link") as stage:
        complete(stage)
    assert existing_recipe_digest(tmp_path / "d") == "r1"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d", "link"]


def test_places_that_nothing_can_be_moved_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for out, what in (("/proc", "is a mount point"), (".", "is the working directory, or holds it")):
        with pytest.raises(UserError) as caught:
            check_place(Path(out))
        assert str(caught.value) == (
            f"{out}: {what}; a dataset is written beside this folder and then takes its place. "
            "Fix: name a folder inside it"
        )
    with pytest.raises(UserError, match="is the working directory"), staged(Path()):
        pass
    assert list(tmp_path.iterdir()) == []


def test_an_old_directory_that_cannot_be_removed_is_told_and_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As that of another user; neither this run fails, nor a later one."""
    complete(tmp_path / "d")
    remove = shutil.rmtree

    def refuse(path: Path, *arguments: Any, **options: Any) -> None:
        if ".old-" in path.name:
            raise PermissionError(errno.EACCES, "Permission denied")
        remove(path, *arguments, **options)

    monkeypatch.setattr(shutil, "rmtree", refuse)
    with staged(tmp_path / "d", replace=True) as stage:
        complete(stage, "r2")
    with open_stage(tmp_path / "d"):
        pass
    assert existing_recipe_digest(tmp_path / "d") == "r2"
    (old,) = tmp_path.glob(".d.old-*")
    said = f"{old}: the dataset that has been replaced cannot be removed (Permission denied). Fix: remove it"
    assert caplog.messages == [said, said]


def test_a_full_disk(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        fail_inside(tmp_path / "d", OSError(errno.ENOSPC, "No space left on device"))
    assert str(caught.value) == (
        f"{tmp_path / 'd'}: could not be written (No space left on device); a dataset needs a writable place with "
        "enough room. Fix: free some space or name another --out; nothing was left behind"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_failed_swap_puts_the_old_directory_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    complete(tmp_path / "d")
    rename = Path.rename

    def refuse(self: Path, target: Path) -> Path:
        if target.name == "d" and ".old-" not in self.name:
            raise OSError(errno.EIO, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    expected = pytest.raises(UserError, match=r"could not be written \(Input/output error\)")
    with expected, staged(tmp_path / "d", replace=True) as stage:
        complete(stage, "r2")
    assert existing_recipe_digest(tmp_path / "d") == "r1"
    assert [path.name for path in tmp_path.iterdir()] == ["d"]


def test_all_is_on_the_disk_before_it_stands_in_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files and folders are synced before the rename, the folder of the dataset after it."""
    done: list[tuple[str, int]] = []
    sync, rename = os.fsync, Path.rename

    def synced(descriptor: int) -> None:
        done.append(("sync", os.fstat(descriptor).st_ino))
        sync(descriptor)

    def renamed(path: Path, target: Path) -> Path:
        done.append(("rename", path.stat().st_ino))
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "rename", renamed)
    for replace in (False, True):
        done.clear()
        with staged(tmp_path / "d", replace=replace) as stage:
            complete(stage)
            (stage / "train").mkdir()
            (stage / "train" / "part-00000.parquet").write_text("rows")
        out = tmp_path / "d"
        inodes = [path.stat().st_ino for path in (out, *out.rglob("*"))]
        moved = done.index(("rename", out.stat().st_ino))
        assert sorted(done[: len(inodes)]) == sorted(("sync", inode) for inode in inodes)
        assert moved >= len(inodes)
        assert done[moved + 1 :] == [("sync", tmp_path.stat().st_ino)]


def test_a_file_system_without_sync_of_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sync = os.fsync

    def refuse(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", refuse)
    with staged(tmp_path / "d") as stage:
        complete(stage)
    assert existing_recipe_digest(tmp_path / "d") == "r1"


def test_a_disk_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    message = r"could not be written \(Input/output error\)"
    with pytest.raises(UserError, match=message), staged(tmp_path / "d") as stage:
        complete(stage)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("what", [".d.partial", ".d.lock"])
def test_what_is_in_the_way_is_named(what: str, tmp_path: Path) -> None:
    """A file in place of the folder where a dataset grows, or a lock that cannot be opened."""
    (tmp_path / what).touch() if what == ".d.partial" else (tmp_path / what).mkdir()
    said = "File exists" if what == ".d.partial" else "Is a directory"
    message = rf"^{tmp_path / what}: could not be written \({said}\); .* Fix: remove it, or name another --out$"
    with pytest.raises(UserError, match=message), staged(tmp_path / "d"):
        pass


def test_what_a_stopped_run_left_is_not_taken_over(tmp_path: Path) -> None:
    left = tmp_path / ".d.partial" / "train"
    left.mkdir(parents=True)
    (left / "part-00000.parquet").write_text("half of another dataset")
    with staged(tmp_path / "d") as stage:
        assert sorted(path.name for path in stage.iterdir()) == ["state.json", "work"]
        (stage / "x").write_text("1")
    assert [path.name for path in (tmp_path / "d").iterdir()] == ["x"]


def test_one_process_at_a_time(tmp_path: Path) -> None:
    with open_stage(tmp_path / "d"), pytest.raises(UserError) as caught, staged(tmp_path / "d"):
        pass
    assert str(caught.value) == (
        f"{tmp_path / 'd'}: another run is preparing this dataset; one run writes a dataset directory at a time. "
        "Fix: wait for it, or name another --out"
    )


def test_any_other_failure_cleans_up_too(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        fail_inside(tmp_path / "d", KeyboardInterrupt())
    assert list(tmp_path.iterdir()) == []


LIMITED = """
import resource, sys
from pathlib import Path
import pyarrow as pa
from data_prep.output.parts import write_part
from data_prep.output.stage import dataset_directory
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
with dataset_directory(Path(sys.argv[1]), overwrite=False, resumes=False) as stage:
    stage.begin("f")
    write_part(stage.folder / "part-00000.parquet", pa.table({"x": [str(i * i) for i in range(50_000)]}), "f", 10_000)
"""


def test_a_file_that_the_system_cuts_short(tmp_path: Path) -> None:
    command = [sys.executable, "-c", LIMITED, str(tmp_path / "d")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "UserError" in done.stderr
    assert f"{tmp_path / 'd'}: could not be written (" in done.stderr
    assert "File too large" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_last_files(tmp_path: Path) -> None:
    schema = DatasetSchema(
        version=1,
        name="d",
        fingerprint="f",
        dense=(DenseFeature(name="age"),),
        tasks=(Task(name="click", kind="binary", label="label_click"),),
        splits={split: SplitInfo(rows=1, row_groups=1) for split in ("train", "valid", "test")},
    )
    (tmp_path / "d").mkdir()
    finish(tmp_path / "d", schema, "r1", {"rows": {"train": 1}})
    assert load_schema(tmp_path / "d") == schema
    assert existing_recipe_digest(tmp_path / "d") == "r1"
    assert json.loads((tmp_path / "d" / "stats.json").read_text()) == {"rows": {"train": 1}}
    assert {path.name for path in (tmp_path / "d").iterdir()} == {"schema.toml", "stats.json", "vocab", "_SUCCESS"}
    with pytest.raises(ValueError, match="not JSON compliant"):
        finish(tmp_path / "d", schema, "r2", {"mean": float("nan")})
    assert existing_recipe_digest(tmp_path / "d") == "r1"


def test_parts(tmp_path: Path) -> None:
    table = pa.table({"few": pa.array([1, 2] * 50_000, pa.int32()), "many": pa.array(range(100_000), pa.int32())})
    made = write_part(tmp_path / "p", table, "f00", 30_000)
    file = pq.ParquetFile(tmp_path / "p")
    assert file.schema_arrow.metadata[FINGERPRINT_KEY] == b"f00"
    assert file.read().equals(table)
    sizes = [file.metadata.row_group(g).num_rows for g in range(file.metadata.num_row_groups)]
    assert sizes == [30_000, 30_000, 30_000, 10_000]
    assert (made.rows, made.row_groups) == (100_000, 4)
    assert [file.metadata.row_group(0).column(c).has_dictionary_page for c in (0, 1)] == [True, False]
    assert [path.name for path in tmp_path.iterdir()] == ["p"]


@pytest.mark.parametrize("ends", ["given up", "finished"])
def test_two_attempts_at_a_part_do_not_share_a_file(ends: str, tmp_path: Path) -> None:
    """As Spark makes them, where one is slow: whatever becomes of one, the part is whole."""
    layout = ParquetPartSink(tmp_path, pa.schema([("x", pa.int64())]), "f", (), 2)
    batch = pa.RecordBatch.from_pydict({PART: pa.array([0] * 5, pa.int32()), "x": list(range(5))})

    def batches() -> Iterator[pa.RecordBatch]:
        yield batch.slice(0, 3)
        assert [file.rows for file in layout.write(iter([batch]))] == [5]  # the other attempt, from end to end
        if ends == "given up":
            raise KeyboardInterrupt
        yield batch.slice(3)

    with suppress(KeyboardInterrupt):
        list(layout.write(batches()))
    assert pq.read_table(layout.path(0))["x"].to_pylist() == list(range(5))
    assert [path.name for path in tmp_path.iterdir()] == ["part-00000.parquet"]


def test_files_of_attempts_that_were_killed_are_not_published(tmp_path: Path) -> None:
    with staged(tmp_path / "d") as stage:
        complete(stage)
        (stage / "train").mkdir()
        (stage / "train" / "part-00000.0a1b2c3d.unfinished").write_bytes(b"PAR1")
    assert list((tmp_path / "d" / "train").iterdir()) == []


def test_a_part_is_the_same_however_its_rows_are_cut(tmp_path: Path) -> None:
    table = pa.table({"x": pa.array(range(1000), pa.int32()), "bag": [[i] * (i % 3) for i in range(1000)]})
    cut = pa.concat_tables([table[:7], table[7:7], table[7:501], table[501:]])
    write_part(tmp_path / "one", table, "f", 64)
    write_part(tmp_path / "two", cut, "f", 64)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
