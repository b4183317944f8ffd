"""Clients of stores: options, credentials, errors by kind, names from a store, and copies on this machine."""

from __future__ import annotations

import os
import pickle
import shutil
from pathlib import Path

import boto3
import pytest

from ple_rec.cli import main
from ple_rec.data.integrity import Digests
from ple_rec.errors import DataError, UserError
from ple_rec.storage import Remote, StoreError, location, names_in, write_bytes, write_text
from ple_rec.storage.cache import CACHE_VARIABLE, cache_folder, local_copy
from ple_rec.storage.client import arrow_client, s3_options
from ple_rec.storage.store import objects_at, put, tag_of
from ple_rec.storage.store_errors import translate_errors
from tests.object_store import refusing
from tests.tiny import write_tiny

DIGEST_OF_ONE = "7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed"  # of "one"


def _remote(address: str) -> Remote:
    where = location(address)
    assert isinstance(where, Remote)
    return where


def test_writings_under_a_condition(address: str) -> None:
    file = _remote(f"{address}/a")
    first = put(file, b"one", create=True)
    assert tag_of(file) == first
    with pytest.raises(FileExistsError):
        put(file, b"two", create=True)
    second = put(file, b"two", tag=first)
    with pytest.raises(StoreError, match="another process has changed it meanwhile") as caught:
        put(file, b"three", tag=first)
    assert caught.value.kind == "changed"
    assert file.read_bytes() == b"two"
    file.unlink()
    with pytest.raises(StoreError) as caught:
        put(file, b"three", tag=second)
    assert caught.value.kind == "changed"


def test_an_error_keeps_its_kind_between_processes_and_in_other_words() -> None:
    with pytest.raises(StoreError) as caught, translate_errors("s3://bucket/a"):
        raise PermissionError("Forbidden")
    error = caught.value
    assert pickle.loads(pickle.dumps(error)).kind == error.reworded(str.upper).kind == error.kind == "denied"
    assert not isinstance(error, OSError)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("AWS_ENDPOINT_URL", "localhost:9000", "AWS_ENDPOINT_URL: got localhost:9000; "),
        ("AWS_MAX_ATTEMPTS", "many", "AWS_MAX_ATTEMPTS: got many; "),
        ("AWS_MAX_ATTEMPTS", "0", "AWS_MAX_ATTEMPTS: got 0; "),
    ],
)
def test_options_that_are_none_are_refused_by_name(
    name: str, value: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(name, value)
    assert main(["runs", "s3://bucket/runs"]) == 2
    assert capsys.readouterr().err.startswith(f"ple-rec: {said}")
    with pytest.raises(UserError, match=f"^{said}"):
        arrow_client()


def test_both_clients_take_the_endpoint_of_a_profile(
    address: str, s3: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ENDPOINT_URL", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name)
    (tmp_path / "config").write_text(f"[profile own]\nendpoint_url = {s3['AWS_ENDPOINT_URL']}\nregion = eu-west-1\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_PROFILE", "own")
    options = s3_options()
    assert (options.endpoint, options.region) == (s3["AWS_ENDPOINT_URL"], "eu-west-1")
    write_text(_remote(address) / "a", "x")
    with arrow_client().open_input_file(f"{address.removeprefix('s3://')}/a") as stream:
        assert stream.read() == b"x\n"


def test_credentials_that_were_corrected_are_taken(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    file = _remote(address) / "a"
    write_text(file, "x")
    endpoint, right = os.environ["AWS_ENDPOINT_URL"], os.environ["AWS_ACCESS_KEY_ID"]
    with refusing(endpoint, after=0, key="wrong") as gate:
        monkeypatch.setenv("AWS_ENDPOINT_URL", gate)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "wrong")
        with pytest.raises(StoreError, match="access is denied") as caught:
            file.read_text()
        assert caught.value.kind == "denied"
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", right)
        assert file.read_text() == "x\n"


def test_a_bucket_that_is_not_there_is_not_one_without_runs(
    address: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["runs", "s3://no-such-bucket/runs"]) == 2
    assert "s3://no-such-bucket/runs: the bucket does not exist (" in capsys.readouterr().err
    assert main(["runs", address]) == 2  # which is an empty place of a bucket that is there
    assert "no such directory" in capsys.readouterr().err


def test_names_that_lead_elsewhere_are_not_taken_from_a_store(address: str, s3: dict[str, str]) -> None:
    client = boto3.client("s3", endpoint_url=s3["AWS_ENDPOINT_URL"])
    prefix = address.removeprefix("s3://bucket/")
    for key in ("a/ok", "a/../../evil", "a/b/../evil", "a//evil", "a/x\\evil"):
        client.put_object(Bucket="bucket", Key=f"{prefix}/{key}", Body=b"x")
    where = _remote(f"{address}/a")
    assert [found.name for found in objects_at(where)] == ["ok"]
    assert names_in(where) == ["b", "ok"]


def test_a_digest_that_is_a_path_is_damage(address: str, tmp_path: Path) -> None:
    write_text(_remote(address) / "_SUCCESS", '{"files": {"vocab/user.parquet": {"bytes": 1, "sha256": "../../x"}}}')
    with pytest.raises(DataError, match=r"_SUCCESS: unreadable \(vocab/user.parquet has sha256 = '\.\./\.\./x'\)"):
        Digests.read(_remote(address))


def test_a_copy_that_is_damaged_or_swapped_is_made_anew(address: str) -> None:
    file = _remote(address) / "a"
    write_bytes(file, b"one")
    copy = local_copy(file, DIGEST_OF_ONE)
    copy.write_bytes(b"swapped")
    assert local_copy(file, DIGEST_OF_ONE).read_bytes() == b"one"
    with pytest.raises(
        DataError, match=r"SHA-256 7692c3ad3540bb80\.\.\.; the file that was written has 0000000000000000"
    ):
        local_copy(file, "0" * 64)


def test_a_cache_that_cannot_be_written_is_named(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = _remote(address) / "a"
    write_bytes(file, b"one")
    (tmp_path / "file").touch()
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "file"))
    with pytest.raises(
        UserError, match=rf"^{tmp_path}/file: cannot be written \(.*\); copies of files .* {CACHE_VARIABLE} names"
    ):
        local_copy(file)


def test_without_a_home_the_folder_of_copies_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in (CACHE_VARIABLE, "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", none)
    with pytest.raises(UserError, match=f"^{CACHE_VARIABLE}: is not set, and neither is HOME; "):
        cache_folder()


@pytest.mark.usefixtures("no_charts")
def test_a_store_that_refuses_is_never_told_as_damage(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    write_tiny(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--config", "tiny.toml", "--run-dir", f"{address}/run"]) == 0
    endpoint = os.environ["AWS_ENDPOINT_URL"]
    run = f"{address}/run"
    verbs: dict[str, tuple[list[str], range]] = {
        "verify": (["checkpoint", "verify", run], range(0, 60, 7)),
        "diff": (["diff", run, run], range(0, 60, 7)),
        "evaluate": (["evaluate", run], range(1, 60, 24)),
    }
    for verb, requests in verbs.values():
        refused = 0
        for after in requests:
            with refusing(endpoint, after=after) as gate, monkeypatch.context() as patch:
                patch.setenv("AWS_ENDPOINT_URL", gate)
                capfd.readouterr()
                code = main(verb)
                said = capfd.readouterr().err
            if code == 0:
                break
            refused += 1
            assert (code, "access is denied" in said) == (2, True), (verb, after, said)
        assert refused


def test_readers_change_no_object(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    import ple_rec

    write_tiny(tmp_path)
    monkeypatch.chdir(tmp_path)
    run = ple_rec.train("tiny.toml", run_dir=f"{address}/run")
    before = {found.name: found.tag for found in objects_at(_remote(address))}
    loaded = ple_rec.load_run(f"{address}/run")
    shutil.rmtree(cache_folder(), ignore_errors=True)
    assert loaded.status == "finished"
    assert loaded.history.num_rows
    assert loaded.predict().num_rows
    assert repr(loaded)
    for verb in (["runs", address], ["checkpoint", "list", f"{address}/run"], ["evaluate", f"{address}/run"]):
        assert main(verb) == 0
    assert {found.name: found.tag for found in objects_at(_remote(address))} == before
    # What another process has changed meanwhile is seen.
    write_text(_remote(f"{address}/run") / "metrics.json", "{")
    assert "damaged" in repr(run)
