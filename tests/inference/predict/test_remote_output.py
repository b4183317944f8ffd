"""Predictions in an object store: the bytes of a disk, gone on with after any stop, and never mixed with others."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from ple_rec.cli import main
from ple_rec.inference.predict import output
from ple_rec.storage import Location, Remote, location, names_in, put_file, write_text
from tests.object_store import free_port, put_folder, use_store
from tests.rank_processes import fork_server

SMALL = ["--part-rows", "24"]


@pytest.fixture
def out(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Remote:
    """An address below which nothing lies; the working directory is the test's."""
    monkeypatch.chdir(tmp_path)
    found = location(address)
    assert isinstance(found, Remote)
    return found


def predict(feed: Path, out: Location, *argv: str) -> int:
    return main(["predict", str(feed / "run"), "--out", str(out), *SMALL, *argv])


def contents(folder: Location) -> dict[str, bytes]:
    """Return what lies there but for the lock, and without the times of `_SUCCESS`."""
    found = {name: (folder / name).read_bytes() for name in names_in(folder) if name != "_lock"}
    if "_SUCCESS" in found:
        said: dict[str, Any] = json.loads(found["_SUCCESS"])
        found["_SUCCESS"] = json.dumps({key: value for key, value in said.items() if "second" not in key}).encode()
    return found


def test_a_store_gets_the_bytes_of_a_disk(
    feed: Path, out: Remote, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict(feed, tmp_path / "out") == 0
    before = set(tmp_path.iterdir())
    assert predict(feed, out) == 0
    assert contents(out) == contents(tmp_path / "out")
    assert len(names_in(out)) > 3
    assert set(tmp_path.iterdir()) == before  # neither a folder `s3:` nor a lock
    capsys.readouterr()
    assert predict(feed, out) == 0
    assert f"{out}: " in (said := capsys.readouterr().out)
    assert "all predicted before" in said


def test_raw_logs_of_a_store_are_predicted_to_one(feed: Path, out: Remote, tmp_path: Path) -> None:
    put_folder(feed / "raw", f"bucket/{out.name}-raw")
    source = f"{out}-raw"
    raw = feed / "raw"
    assert predict(feed, tmp_path / "out", "--data", str(raw / "log"), "--from", str(raw)) == 0
    assert predict(feed, out, "--data", f"{source}/log", "--from", source) == 0
    parts = {name: content for name, content in contents(out).items() if name.startswith("part-")}
    assert parts == {name: content for name, content in contents(tmp_path / "out").items() if name in parts}


def test_a_dataset_of_a_store_is_predicted_as_that_of_a_disk(feed: Path, out: Remote, tmp_path: Path) -> None:
    put_folder(feed / "data", f"bucket/{out.name}-data")
    assert predict(feed, tmp_path / "out", "--data", str(feed / "data"), "--split", "valid", "test") == 0
    assert predict(feed, out, "--data", f"{out}-data", "--split", "valid", "test") == 0
    assert contents(out) == contents(tmp_path / "out")


def _predict_until_the_third_part(argv: list[str], environment: dict[str, str]) -> None:
    """End as by `kill -9` while the third part is on its way."""

    def put(file: Path, target: Location) -> None:
        if target.name == "part-00002.parquet":
            os._exit(9)
        put_file(file, target)

    os.environ.update(environment)
    vars(output)["put_file"] = put
    main(argv)


def test_a_killed_call_is_gone_on_with(
    feed: Path, out: Remote, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["predict", str(feed / "run"), "--out", str(out), *SMALL]
    process = fork_server().Process(target=_predict_until_the_third_part, args=(argv, dict(os.environ)))
    process.start()
    process.join()
    assert process.exitcode == 9
    assert names_in(out) == ["_predict.json", "part-00000.parquet", "part-00001.parquet"]
    assert predict(feed, out) == 0
    assert "resuming after 2 part(s)" in capsys.readouterr().err
    assert predict(feed, tmp_path / "whole") == 0
    found, whole = contents(out), contents(tmp_path / "whole")
    assert found.pop("_SUCCESS")
    assert whole.pop("_SUCCESS")
    assert found == whole


def test_a_store_that_breaks_or_is_away_is_said(
    feed: Path, out: Remote, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def breaks(file: Path, target: Location) -> None:
        raise ConnectionResetError("reset by peer")

    with monkeypatch.context() as patch:
        patch.setattr(output, "put_file", breaks)
        assert predict(feed, out) == 2
    assert f"{out}/part-00000.parquet: cannot be written (reset by peer); " in capsys.readouterr().err
    assert names_in(out) == ["_predict.json"]
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    use_store(f"http://127.0.0.1:{free_port()}", monkeypatch)
    assert predict(feed, out, "--overwrite") == 2
    assert f"{out}: cannot be reached (" in capsys.readouterr().err


def test_what_is_there_is_neither_mixed_nor_lost(
    feed: Path, out: Remote, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict(feed, out) == 0
    whole = contents(out)
    assert predict(feed, out, "--split", "valid") == 2
    assert f"{out}: holds predictions of another input (" in capsys.readouterr().err
    assert contents(out) == whole
    (out / "part-00001.parquet").unlink()
    assert predict(feed, out) == 0
    assert f"{out}: does not have the " in capsys.readouterr().err
    assert contents(out)["part-00001.parquet"] == whole["part-00001.parquet"]
    assert predict(feed, out, "--split", "valid", "--overwrite") == 0
    assert predict(feed, tmp_path / "valid", "--split", "valid") == 0
    assert contents(out) == contents(tmp_path / "valid")
    write_text(out / "thesis.txt", "x")
    assert predict(feed, out, "--overwrite") == 2
    assert f"{out}: holds thesis.txt, which `ple-rec predict` did not write" in capsys.readouterr().err
