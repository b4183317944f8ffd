"""A model in an object store: a version is there whole or not at all, and is read from a copy on this machine."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import ple_rec
from ple_rec.cli import main
from ple_rec.errors import DataError, UnavailableError, UserError
from ple_rec.inference import remote_model
from ple_rec.inference.manifest import MANIFEST, check_version
from ple_rec.inference.model_dir import (
    check_model_dir,
    latest_version,
    new_version,
    refuse_exported_model,
    version_names,
)
from ple_rec.inference.remote_model import checked_version, local_version
from ple_rec.storage import Location, Remote, location, names_in, put_file, remove_tree, write_bytes, write_text
from ple_rec.storage.cache import cache_folder
from tests.object_store import free_port, put_folder, use_store
from tests.tiny import environment


@pytest.fixture
def model(address: str) -> Remote:
    """An address below which nothing lies; copies go to a folder of the test."""
    found = location(address)
    assert isinstance(found, Remote)
    return found


def make(model: Location, text: str, wanted: str | None = None) -> None:
    """Export a version of two files."""
    with new_version(model, wanted) as folder:
        (folder / "a").write_text(text)
        (folder / "vocab").mkdir()
        (folder / "vocab" / "b").write_text(text)


def served(model: Remote) -> str:
    """Return the name and the content of the version that a reader opens."""
    folder = local_version(latest_version(model))
    check_version(folder)
    assert (folder / "a").read_text() == (folder / "vocab" / "b").read_text()
    return f"{folder.name} {(folder / 'a').read_text()}"


def test_versions_follow_one_another_and_stay(model: Remote) -> None:
    with pytest.raises(UserError, match=f"^{model}: has no file latest; .* Fix: export a run to it"):
        latest_version(model)
    make(model, "one")
    assert served(model) == "v1 one"
    make(model, "two")
    assert served(model) == "v2 two"
    with pytest.raises(UserError, match=r"versions/v1: exists already; a version is never changed"):
        make(model, "three", "v1")
    make(model, "eleven", "v11")
    make(model, "twelve")
    assert served(model) == "v12 twelve"
    assert version_names(model) == ["v1", "v2", "v11", "v12"]
    write_text(model / "latest", "v1")
    assert served(model) == "v1 one"
    write_text(model / "latest", "v3")
    with pytest.raises(DataError, match=r"versions/v3/manifest\.json: unreadable"):
        served(model)
    write_text(model / "latest", "../v1")
    with pytest.raises(
        DataError, match=r"names '\.\./v1'; .* Fix: write the name of an existing version into it: v1, v2, v11, "
    ):
        latest_version(model)


def test_a_copy_that_is_damaged_is_made_anew(model: Remote) -> None:
    make(model, "one")
    copy = checked_version(latest_version(model))
    (copy / "a").write_text("two")
    assert checked_version(latest_version(model)) == copy
    assert (copy / "a").read_text() == "one"
    shutil.rmtree(copy)
    assert [path for path in cache_folder().rglob("*") if path.is_file()] == []  # It has all that was copied.


def test_a_digest_that_is_a_path_is_damage(model: Remote) -> None:
    make(model, "one")
    file = latest_version(model) / MANIFEST
    content = json.loads(file.read_text())
    content["files"]["a"]["sha256"] = "../../../x"
    write_text(file, json.dumps(content))
    with pytest.raises(DataError, match=r"manifest\.json: unreadable \(a has the SHA-256 '\.\./"):
        local_version(latest_version(model))


def test_of_two_that_make_a_version_the_first_has_it(model: Remote) -> None:
    def race() -> None:
        with new_version(model) as late:
            (late / "a").write_text("late")
            make(model, "soon")

    with pytest.raises(UserError, match=r"v1: was written by another process meanwhile; .* run the command again$"):
        race()
    assert served(model) == "v1 soon"


def test_an_export_that_fails_leaves_nothing(model: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    make(model, "one")

    def breaks(file: Path, target: Location) -> None:
        if file.name == MANIFEST:
            raise ConnectionResetError("reset by peer")
        put_file(file, target)

    with monkeypatch.context() as patch:
        patch.setattr(remote_model, "put_file", breaks)
        with pytest.raises(UnavailableError, match=f"^{model}: cannot be used .reset by peer.; .* Fix: "):
            make(model, "two")
    assert version_names(model) == ["v1"]
    assert served(model) == "v1 one"


def test_an_export_that_is_killed_leaves_the_old_version_served(
    model: Remote, tmp_path: Path, repository: Path
) -> None:
    make(model, "one")
    code = (
        "import os; from ple_rec.inference import remote_model, model_dir\n"
        "from ple_rec.storage import location, put_file\n"
        "def put(file, target):\n"
        "    put_file(file, target)\n"
        "    os._exit(9)\n"
        "remote_model.put_file = put\n"
        f"with model_dir.new_version(location({str(model)!r})) as folder:\n"
        "    [(folder / name).write_text('two') for name in 'abcd']"
    )
    killed = subprocess.run([sys.executable, "-c", code], check=False, env=environment(repository))
    assert killed.returncode == 9
    assert "a" in names_in(model / "versions" / "v2")
    assert MANIFEST not in names_in(model / "versions" / "v2")
    assert served(model) == "v1 one"
    make(model, "three")
    assert served(model) == "v3 three"


def test_a_version_is_fetched_once(model: Remote) -> None:
    make(model, "one")
    folder = local_version(latest_version(model))
    remove_tree(model / "versions/v1/vocab")
    (model / "versions/v1/a").unlink()
    assert local_version(latest_version(model)) == folder


def test_what_is_not_as_the_manifest_says_is_refused(model: Remote, tmp_path: Path) -> None:
    make(model, "one")
    write_bytes(model / "versions/v1/vocab/b", b"two")
    with pytest.raises(DataError, match=r"versions/v1/vocab/b: SHA-256 "):
        local_version(latest_version(model))
    (model / "versions/v1/vocab/b").unlink()
    with pytest.raises(UnavailableError, match=r"versions/v1/vocab/b: cannot be copied "):
        local_version(latest_version(model))
    write_bytes(model / "versions/v1/vocab/b", b"one")
    assert served(model) == "v1 one"
    manifest = json.loads((model / "versions/v1" / MANIFEST).read_text())
    files = {f"../../{name}": file for name, file in manifest["files"].items()}
    for name in ("../../a", "/a"):
        forged = {"files": {name: files["../../a"]}}
        write_bytes(model / "versions/v1" / MANIFEST, json.dumps(forged).encode())
        with pytest.raises(DataError, match=f"manifest.json: lists '{name}'; the files of a version are in its folder"):
            local_version(latest_version(model))


def test_a_prefix_of_something_else_is_refused(model: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    write_text(model / "thesis.txt", "x")
    with pytest.raises(UserError, match=r"^--out: s3://.* holds thesis.txt; a model has a folder of its own"):
        check_model_dir(model)
    with pytest.raises(UserError, match=r"^--out: s3://.*thesis.txt is a file"):
        check_model_dir(model / "thesis.txt")
    use_store(f"http://127.0.0.1:{free_port()}", monkeypatch)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    away = location("s3://bucket/away")
    with pytest.raises(UnavailableError, match=r"^s3://bucket/away: cannot be reached "):
        check_model_dir(away)
    with pytest.raises(UnavailableError, match=r"^s3://bucket/away/latest: cannot be reached "):
        latest_version(away)


def test_a_model_answers_from_a_store_as_from_a_disk(
    feed: Path,
    feed_model: Path,
    model: Remote,
    tmp_path: Path,
    same_program: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)  # an address is made no folder
    assert main(["export", str(feed / "run"), "--out", str(model), "--examples", "24"]) == 0
    assert f"model: {model}/versions/v1\n\nnext: ple-rec serve {model}" in capsys.readouterr().out
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("s3")]
    here, there = ple_rec.load_model(feed_model), ple_rec.load_model(str(model))
    request = here._ranker.examples[0]["request"]
    assert there.rank(request["user"], request["items"]).equals(here.rank(request["user"], request["items"]))
    assert len(there.card) == len(here.card)
    assert ple_rec.load_model(f"{model}/versions/v1").version == "v1"
    with pytest.raises(UserError, match=f"^{model}: is an exported model; this command needs the trained run"):
        refuse_exported_model(str(model))
    shutil.copytree(feed_model, tmp_path / "copy")
    put_folder(tmp_path / "copy", f"bucket/{model.name}-copy")  # as `aws s3 sync` does
    assert ple_rec.load_model(f"{model}-copy").version == "v1"
    exported = ple_rec.load_run(feed / "run").export(str(model), version="v7")
    assert exported.version == "v7"
    assert latest_version(model).name == "v7"


def test_flags_that_name_files_of_this_machine_refuse_addresses(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "m", "--token-file", "s3://bucket/token"]) == 2
    assert "--token-file: got 's3://bucket/token'; expected a path on this machine. Fix: " in capsys.readouterr().err
    assert main(["export", "run", "--out", "s4://bucket/model"]) == 2
    assert "s4://bucket/model: has the unknown scheme s4://" in capsys.readouterr().err
