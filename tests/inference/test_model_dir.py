"""A version is there whole or not at all, and a changed one is refused."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, TextIO

import pytest

from ple_rec.cli import main
from ple_rec.data import vocabulary_index
from ple_rec.errors import DataError, UserError
from ple_rec.inference import publish
from ple_rec.inference import ranker as ranker_module
from ple_rec.inference.manifest import MANIFEST, check_version
from ple_rec.inference.model_dir import check_model_dir, latest_version, model_name, new_version, version_names
from ple_rec.inference.program import PROGRAM, write_program
from ple_rec.inference.publish import explain_write_errors
from ple_rec.inference.ranker import Ranker
from tests.data_prep.test_no_room import longest_file
from tests.inference.exported import export_run, set_latest
from tests.rank_processes import fork_server
from tests.tiny import environment, wait_until


def test_versions_follow_one_another_and_stay(tmp_path: Path) -> None:
    for text in ("one", "two"):
        with new_version(tmp_path / "m") as folder:
            (folder / "file").write_text(text)
    assert version_names(tmp_path / "m") == ["v1", "v2"]
    assert latest_version(tmp_path / "m").name == "v2"
    assert (tmp_path / "m/versions/v1/file").read_text() == "one"
    with (
        pytest.raises(UserError, match=r"v1: exists already; a version is never changed"),
        new_version(tmp_path / "m", "v1"),
    ):
        pass
    with new_version(tmp_path / "m", "v11"):
        pass
    with new_version(tmp_path / "m"):
        pass
    assert latest_version(tmp_path / "m").name == "v12"
    set_latest(tmp_path / "m", "v1")
    assert latest_version(tmp_path / "m").name == "v1"


def test_the_file_that_is_written_is_named_if_there_is_no_room_for_its_copy(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.write_bytes(bytes(1000))
    with longest_file(100), pytest.raises(UserError) as caught, explain_write_errors(tmp_path):
        shutil.copyfile(old, new)
    assert str(caught.value).startswith(f"{new}: File too large; a model and its side tables need disk space")


def test_an_index_that_a_version_lacks_is_built_outside_of_it(
    feed_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where the format of indices is another than that of the export."""
    version = latest_version(shutil.copytree(feed_model, tmp_path / "model"))
    before = {path.relative_to(version) for path in version.rglob("*")}
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(vocabulary_index, "VERSION", b"another")
    for _ in range(2):  # the second finds nothing that was put there
        ranker = Ranker(version, threads=1)
        ranker.answer([ranker.read_rank(ranker.examples[0]["request"])])
    assert {path.relative_to(version) for path in version.rglob("*")} == before
    assert len([*(tmp_path / "cache/ple_rec/vocab").glob("*.index")]) == len([*version.glob("vocab/*.parquet")])


def test_a_failed_export_leaves_nothing(tmp_path: Path) -> None:
    def fail() -> None:
        with new_version(tmp_path / "m") as folder:
            (folder / "file").write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert not any((tmp_path / "m/versions").iterdir())
    with pytest.raises(UserError, match="has no file latest"):
        latest_version(tmp_path / "m")


@pytest.fixture
def one_pid(monkeypatch: pytest.MonkeyPatch) -> int:
    """As in containers, where every export has the same process id."""
    monkeypatch.setattr(os, "getpid", lambda: 1)
    return 1


def test_what_a_killed_export_of_the_same_process_id_has_left_goes(
    one_pid: int, tmp_path: Path, repository: Path
) -> None:
    code = (
        f"import os, pathlib; exit_, os.getpid = os._exit, lambda: {one_pid}\n"
        "from ple_rec.inference.model_dir import new_version\n"
        f"with new_version(pathlib.Path({str(tmp_path / 'm')!r})) as folder:\n"
        "    (folder / 'half').touch(); exit_(9)"
    )
    killed = subprocess.run([sys.executable, "-c", code], check=False, env=environment(repository))
    assert killed.returncode == 9
    (left,) = (tmp_path / "m/versions").iterdir()
    with new_version(tmp_path / "m") as folder:
        assert not left.exists()
        (folder / "file").touch()
    assert [path.name for path in (tmp_path / "m/versions").iterdir()] == ["v1"]


def test_what_goes_on_and_what_is_no_exports_stays(one_pid: int, tmp_path: Path) -> None:
    strange = [tmp_path / "m/versions" / name for name in (".v1.old", f".v1.{2**22 + 1}", ".vault.backup")]
    with new_version(tmp_path / "m") as first:
        (first / "file").write_text("first")
        for folder in strange:
            folder.mkdir()
        with new_version(tmp_path / "m", "v2") as second:
            (second / "file").write_text("second")
        assert (first / "file").read_text() == "first"
    assert {path.name for path in (tmp_path / "m/versions").iterdir()} == {"v1", "v2", *(f.name for f in strange)}
    assert (tmp_path / "m/versions/v1/file").read_text() == "first"


def test_of_two_that_make_a_version_the_first_has_it(one_pid: int, tmp_path: Path) -> None:
    def race() -> None:
        with new_version(tmp_path / "m") as late:
            (late / "file").write_text("late")
            with new_version(tmp_path / "m") as soon:
                (soon / "file").write_text("soon")

    with pytest.raises(UserError, match=r"v1: was written by another process meanwhile; .* run the command again$"):
        race()
    assert [path.name for path in (tmp_path / "m/versions").iterdir()] == ["v1"]
    assert (tmp_path / "m/versions/v1/file").read_text() == "soon"
    check_version(tmp_path / "m/versions/v1")


def test_a_folder_that_another_takes_before_it_is_locked_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[Path] = []
    try_lock = publish.try_lock

    def late(path: Path) -> TextIO | None:
        if not taken:
            taken.append(path.parent)
            with try_lock(path) or nullcontext():
                shutil.rmtree(path.parent)
        return try_lock(path)

    monkeypatch.setattr("ple_rec.inference.publish.try_lock", late)
    with new_version(tmp_path / "m") as folder:
        assert folder.parent != taken[0]
        (folder / "file").touch()
    assert [path.name for path in (tmp_path / "m/versions").iterdir()] == ["v1"]


def test_an_export_that_cannot_write_latest_leaves_no_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, *args: Any, **named: Any) -> Any:
        if path.name.startswith(".latest."):
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return opened(path, *args, **named)

    opened = Path.open
    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(UserError, match="No space left on device"), new_version(tmp_path / "m") as folder:
        (folder / "file").write_text("whole")
    assert not any((tmp_path / "m/versions").iterdir())


def _write_program(version: Path, folder: Path) -> None:
    """Write the program of a version, and end with the number of the error."""
    signature = Ranker(version, threads=1).signature
    try:
        write_program(ranker_module._load_dense_model(version, signature, "fp32"), signature, folder)
    except OSError as error:
        os._exit(error.errno or 1)


def test_a_program_that_the_disk_has_no_room_for_is_told(feed_model: Path, tmp_path: Path) -> None:
    """In a process of its own, which torch would end by SIGABRT."""
    (tmp_path / PROGRAM).symlink_to("/dev/full")
    process = fork_server().Process(target=_write_program, args=(latest_version(feed_model), tmp_path))
    process.start()
    process.join(60)
    assert process.exitcode == errno.ENOSPC


@pytest.fixture
def elsewhere() -> Iterator[Path]:
    """A folder that every user may enter, while this process is a user who may not read all."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)
        yield Path(folder)


@contextmanager
def as_nobody() -> Iterator[None]:
    """Without the rights of root, where this user is root."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


@pytest.mark.parametrize("closed", ["latest", "versions", "versions/v1", "versions/v1/vocab", "versions/v1/dense.pt2"])
def test_what_this_user_may_not_read_is_told(feed_model: Path, elsewhere: Path, closed: str) -> None:
    model = shutil.copytree(feed_model, elsewhere / "m")
    (model / closed).chmod(0)
    with as_nobody(), pytest.raises(DataError) as caught:
        check_version(latest_version(model))
    (model / closed).chmod(0o755)
    assert str(caught.value).startswith(str(model / closed))
    assert "this user may not read it; " in str(caught.value)
    assert "Fix: chmod -R a+rX " in str(caught.value)


def test_an_out_that_this_user_may_not_read_is_told(elsewhere: Path) -> None:
    (elsewhere / "m").mkdir(mode=0)
    with as_nobody(), pytest.raises(UserError, match=r"Permission denied; .* give another folder for the model"):
        check_model_dir(elsewhere / "m")
    with as_nobody(), pytest.raises(UserError, match="Permission denied"), new_version(elsewhere / "m"):
        pass
    (elsewhere / "m").chmod(0o755)


def test_a_file_system_without_locks_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*args: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", no_locks)
    with (
        pytest.raises(UserError, match=r"lock: cannot be locked \(No locks available\); "),
        new_version(tmp_path / "m"),
    ):
        pass
    assert not any((tmp_path / "m/versions").iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["dense.pt2", "config.toml", "examples.json", MANIFEST])
def test_a_killed_export_leaves_nothing_that_serves(feed: Path, tmp_path: Path, moment: str) -> None:
    model = tmp_path / "m"
    process = fork_server().Process(target=main, args=(["export", str(feed / "run"), "--out", str(model)],))
    process.start()

    def there() -> bool:
        return process.exitcode is not None or any(model.glob(f"versions/.v1.*/v1/{moment}"))

    assert wait_until(there, 60)
    process.kill()
    process.join()
    if not (model / "latest").exists():  # it may have ended in the moment between
        with pytest.raises(UserError, match="has no file latest"):
            latest_version(model)
    else:
        check_version(latest_version(model))
    export_run(feed / "run", model)
    check_version(latest_version(model))
    assert not [path.name for path in (model / "versions").iterdir() if path.name.startswith(".")]


def test_every_changed_byte_is_refused(feed_model: Path, tmp_path: Path) -> None:
    version = shutil.copytree(latest_version(feed_model), tmp_path / "v1")
    check_version(version)
    files = sorted(path for path in version.rglob("*") if path.is_file())
    assert len(files) > 20
    for path in files:
        content = path.read_bytes()
        place = len(content) // 2
        changed = bytes([content[place] ^ 1]) if content else b"x"  # `_SUCCESS` is empty
        path.write_bytes(content[:place] + changed + content[place + 1 :])
        with pytest.raises(DataError) as error:
            Ranker(version)
        assert path.name == MANIFEST or str(path) in str(error.value)
        path.write_bytes(content)
    check_version(version)


def test_missing_cut_and_further_files_are_refused(feed_model: Path, tmp_path: Path) -> None:
    version = shutil.copytree(latest_version(feed_model), tmp_path / "v1")
    (version / "stats.json").rename(tmp_path / "stats.json")
    with pytest.raises(DataError, match=r"stats.json: is missing; manifest.json lists it"):
        check_version(version)
    (tmp_path / "stats.json").rename(version / "stats.json")
    (version / "more").write_text("x")
    with pytest.raises(DataError, match=r"more: was added; manifest.json does not list it"):
        check_version(version)
    (version / "more").unlink()
    os.truncate(version / "schema.toml", 10)
    with pytest.raises(DataError, match=r"schema.toml: has 10 bytes; manifest.json says"):
        check_version(version)
    (version / MANIFEST).write_text(json.dumps({"files": ["a"]}))
    with pytest.raises(DataError, match=r"manifest.json: unreadable"):
        check_version(version)


def test_latest_that_names_nothing(tmp_path: Path) -> None:
    (tmp_path / "versions").mkdir()
    for text in ("v7", "../../etc", "", "\udcff"):
        (tmp_path / "latest").write_bytes(text.encode("utf-8", "surrogateescape"))
        with pytest.raises(DataError, match="latest: "):
            latest_version(tmp_path)


def test_a_wrong_latest_is_mended_by_a_version_that_is_there(tmp_path: Path) -> None:
    for name in ("v1", "v2", "v10"):
        (tmp_path / "versions" / name).mkdir(parents=True)
    (tmp_path / "latest").write_text("v9\n")
    with pytest.raises(
        DataError, match=r"names 'v9'; .* Fix: write the name of an existing version into it: v1, v2, v10"
    ):
        latest_version(tmp_path)


def test_a_folder_of_something_else_is_refused(feed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    export_run(feed / "run", tmp_path, code=2)
    assert "holds thesis.tex; a model has a folder of its own" in capsys.readouterr().err
    export_run(feed / "run", tmp_path / "thesis.tex", code=2)
    assert "is a file" in capsys.readouterr().err


def test_what_is_no_model_is_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    def said(folder: str) -> str:
        with pytest.raises(UserError) as caught:
            latest_version(Path(folder))
        return str(caught.value)

    rule = "`ple-rec export RUN --out MODEL_DIR` writes a model to a folder"
    assert said("models/nope") == (
        f"models/nope: no such directory; {rule}. Fix: export a run to it, or give the folder of a model"
    )
    run = Path("runs/census-demo")
    run.mkdir(parents=True)
    (run / "config.toml").touch()
    fix = "ple-rec export runs/census-demo --out models/census-demo"
    assert said("runs/census-demo") == f"runs/census-demo: is a run, not an exported model; {rule}. Fix: {fix}"
    with new_version(Path("models/census")) as folder:
        (folder / "config.toml").touch()
    for inside in ("models/census/versions/v1", "models/census/versions"):
        assert said(inside).startswith(f"{inside}: is a folder inside a model; ")
        assert said(inside).endswith("Fix: give models/census")
    Path("models/empty").mkdir()
    assert said("models/empty") == (
        f"models/empty: has no file latest; {rule}. Fix: export a run to it, or give the folder of a model"
    )


def test_the_name_of_a_model(tmp_path: Path) -> None:
    assert model_name(tmp_path) is None
    with new_version(tmp_path / "m") as folder:
        (folder / "model.json").write_text('{"name": "tiny"}')
    assert model_name(tmp_path / "m") == model_name(tmp_path / "m/versions/v1") == "tiny"
    (tmp_path / "m/latest").write_text("v7\n")
    assert model_name(tmp_path / "m") is None
