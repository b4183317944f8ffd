"""A dataset directory is made one way, whatever it is made of: looked for, refused, locked, replaced, published."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pytest

from data_prep.output import stage
from data_prep.output.stage import open_stage
from data_prep.output.tables import write_tables
from data_prep.output.writer import existing_recipe_digest, is_damaged
from data_prep.synthetic.mmoe import Mmoe
from data_prep.synthetic.prepare import prepare_design
from ple_rec.config.schema import DenseFeature, Task
from ple_rec.errors import UserError
from tests.data_prep.feed_logs import digests
from tests.data_prep.plain_logs import Logs

Content = Literal["first", "other"]
Make = Callable[[Content, bool], None]  # with the flag to overwrite


def of_logs(root: Path) -> Make:
    logs = Logs(root / "logs")
    logs.out = root / "out"

    def make(content: Content, overwrite: bool) -> None:
        logs.prepare(f"name={content}", overwrite=overwrite)

    return make


def of_tables(root: Path) -> Make:
    def make(content: Content, overwrite: bool) -> None:
        rows = pa.table({"x": [1.0, 2.0], "y": [0.0, 1.0]})
        write_tables(
            root / "out",
            name=content,
            splits={"train": rows, "valid": rows, "test": rows},
            sparse=(),
            dense=(DenseFeature(name="x"),),
            tasks=(Task(name="y", kind="binary", label="y"),),
            overwrite=overwrite,
        )

    return make


def of_a_design(root: Path) -> Make:
    def make(content: Content, overwrite: bool) -> None:
        prepare_design(Mmoe(1000 if content == "first" else 1001, 0.75, dim=4), root / "out", overwrite=overwrite)

    return make


@pytest.fixture(params=[of_logs, of_tables, of_a_design])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    made: Make = request.param(tmp_path)
    return made


def beside(out: Path) -> list[str]:
    return [path.name for path in out.parent.iterdir() if path.name.startswith(".")]


def test_a_directory_from_its_first_making_to_its_last(make: Make, tmp_path: Path) -> None:
    out = tmp_path / "out"
    make("first", False)
    first, written = digests(out), (out / "_SUCCESS").stat().st_mtime_ns
    make("first", False)
    make("first", True)
    assert (out / "_SUCCESS").stat().st_mtime_ns == written
    with pytest.raises(UserError, match=r"a dataset directory is replaced on request only\. Fix: pass .*overwrite"):
        make("other", False)
    assert digests(out) == first
    make("other", True)
    assert digests(out) != first
    (out / "stats.json").write_text("{}")
    make("other", True)
    assert not is_damaged(out)
    (out / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"also holds notes\.txt; prep deletes no files of yours"):
        make("first", True)
    assert (out / "notes.txt").read_text() == "mine"
    (out / "_SUCCESS").unlink()
    with pytest.raises(UserError, match="exists and is not a dataset directory"):
        make("first", True)


def test_a_place_that_another_run_has_locked(make: Make, tmp_path: Path) -> None:
    with open_stage(tmp_path / "out"), pytest.raises(UserError, match="another run is preparing this dataset"):
        make("first", False)
    make("first", False)
    assert beside(tmp_path / "out") == []


def test_a_dataset_that_another_run_has_made_meanwhile(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends after this run has looked at the place, and before this one has locked it."""
    make("first", False)
    (tmp_path / "out").rename(tmp_path / "ended")
    first = digests(tmp_path / "ended")

    def ended(out: Path) -> None:
        if existing_recipe_digest(out) is None:
            shutil.copytree(tmp_path / "ended", out)

    monkeypatch.setattr(stage, "recover", ended)
    written = (tmp_path / "ended" / "_SUCCESS").stat().st_mtime_ns
    make("first", False)
    assert (tmp_path / "out" / "_SUCCESS").stat().st_mtime_ns == written
    shutil.rmtree(tmp_path / "out")
    with pytest.raises(UserError, match="a dataset directory is replaced on request only"):
        make("other", False)
    assert digests(tmp_path / "out") == first
