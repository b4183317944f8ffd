"""A dataset at an address: the bytes of one on a disk, whole or none, whatever stops the upload."""

from __future__ import annotations

import re
import subprocess
import sys
import uuid
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

import pytest

import ple_rec
from data_prep.output.summary import Summary
from data_prep.output.upload import upload
from data_prep.output.writer import UPLOAD_FILE
from data_prep.pipeline import Pipeline
from data_prep.run import Options
from ple_rec.cli import main
from ple_rec.config.load import load_schema
from ple_rec.config.schema import SUCCESS_FILE
from ple_rec.errors import DataError, UserError
from ple_rec.storage import Location, Remote, location, write_bytes
from ple_rec.storage.store import objects_at
from tests.data_prep.feed_logs import digests
from tests.data_prep.plain_logs import Logs
from tests.object_store import Gate, free_port, gate_to, s3_store, use_store

pytest.importorskip("moto", reason="needs moto[server]")

PARTS = ("output.part_rows=10", "output.row_group_rows=5")
OTHER = ("tables.video_id.min_count=100",)


@pytest.fixture(scope="module", params=["moto", pytest.param("ceph", marks=pytest.mark.slow)])
def store(request: pytest.FixtureRequest) -> Iterator[dict[str, str]]:
    """The environment that names a store with an empty bucket."""
    with s3_store(request) as found:
        yield found


@pytest.fixture(scope="module")
def gate(store: dict[str, str]) -> Iterator[Gate]:
    with gate_to(store["AWS_ENDPOINT_URL"]) as gate:
        yield gate


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Logs:
    """Logs on this machine."""
    return Logs(tmp_path_factory.mktemp("logs") / "logs")


@pytest.fixture(scope="module")
def whole(logs: Logs) -> dict[str, dict[str, str]]:
    """Digests of all files of datasets on this machine."""
    found = {}
    for name, more in (("first", ()), ("other", OTHER)):
        logs.prepare(*PARTS, *more, overwrite=True)
        found[name] = digests(logs.out)
    assert len(found["first"]) > 15
    assert found["first"] != found["other"]
    return found


@pytest.fixture
def s3(gate: Gate, store: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Remote:
    """An empty prefix."""
    use_store(gate.url, monkeypatch)
    for name, value in (store | {"AWS_ENDPOINT_URL": gate.url}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setenv("PLE_REC_CACHE", str(tmp_path / "cache"))
    gate.left = None
    gate.uploaded.clear()
    return Remote(f"s3://bucket/{uuid.uuid4().hex}")


def prepared(logs: Logs, out: Location, *more: str, overwrite: bool = False, **options: str | Location) -> Summary:
    from data_prep.run import prepare

    settings = {"source": str(logs.raw)} | options
    return prepare(str(logs.toml), out, Options(threads=1, overrides=(*PARTS, *more), overwrite=overwrite, **settings))  # type: ignore[arg-type]


def there(out: Remote) -> dict[str, str]:
    """Digests of all objects below a prefix."""
    return {found.name: sha256((out / found.name).read_bytes()).hexdigest() for found in objects_at(out)}


def names(gate: Gate, out: Remote) -> list[str]:
    """Names of the files of a dataset that were uploaded, in order."""
    prefix = f"/{out.address.removeprefix('s3://')}/"
    return [path.removeprefix(prefix) for path in gate.uploaded if "_PROBE" not in path and UPLOAD_FILE not in path]


@pytest.mark.parametrize("scheme", ["s3", "memory"])
def test_from_a_store_to_a_store(scheme: str, s3: Remote, logs: Logs, tmp_path: Path) -> None:
    place = s3 if scheme == "s3" else Remote(f"memory://{uuid.uuid4().hex}")
    for day in range(1, 5):
        write_bytes(place / "raw/log" / logs.file(day).name, logs.file(day).read_bytes())
    raw, out = str(place / "raw"), place / "out"
    local = tmp_path / "local"
    prepared(logs, local, source=raw)
    summary = prepared(logs, out, source=raw)
    assert there(out) == digests(local)
    assert (summary.out, summary.reused) == (out, False)
    assert str(summary).splitlines()[-1] == f"  look at {out}/stats.html"
    assert [path for path in (tmp_path / "cache" / "prep").rglob("*") if path.is_file()] == []

    assert prepared(logs, out, source=raw).reused
    with pytest.raises(UserError, match=rf"^{out}: holds a dataset of another configuration .*min_count.*--overwrite"):
        prepared(logs, out, *OTHER, source=raw)
    prepared(logs, out, *OTHER, source=raw, overwrite=True)
    prepared(logs, local, *OTHER, source=raw, overwrite=True)
    assert there(out) == digests(local)


def test_success_is_last(gate: Gate, s3: Remote, logs: Logs, whole: dict[str, dict[str, str]]) -> None:
    prepared(logs, s3)
    assert sorted(names(gate, s3)) == sorted(whole["first"])
    assert names(gate, s3)[-1] == SUCCESS_FILE


def test_a_store_that_goes_away_in_mid_upload(
    gate: Gate, s3: Remote, logs: Logs, whole: dict[str, dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    gate.left = 8
    rule = "the dataset is complete on this machine, but its address is not a dataset until all files are there"
    with pytest.raises(
        UserError,
        match=rf"^{s3}/[\w./-]+: could not be uploaded \(.*\); {rule}. Fix: run the same command again, which",
    ):
        prepared(logs, s3)
    gate.left = None
    came = names(gate, s3)
    assert 1 < len(came) < len(whole["first"])
    with pytest.raises(DataError):
        load_schema(s3)

    monkeypatch.setattr(Pipeline, "run", None)  # nothing is prepared again
    assert not prepared(logs, s3).reused
    assert there(s3) == whole["first"]
    assert sorted(names(gate, s3)) == sorted(whole["first"])  # each was uploaded once


KILLED = """
import os, sys
from data_prep.output import upload
from ple_rec.cli import main
left, write = int(sys.argv[1]), upload.atomic_write

def killing(*arguments):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), 9)
    return write(*arguments)

upload.atomic_write = killing
sys.exit(main(sys.argv[2:]))
"""


def verb(logs: Logs, out: Remote, *more: str) -> list[str]:
    sets = [word for key in PARTS for word in ("--set", key)]
    return ["prep", str(logs.toml), "--from", str(logs.raw), "--out", str(out), "--threads", "1", *sets, *more]


def test_a_run_that_is_killed_in_mid_upload_goes_on(
    gate: Gate, s3: Remote, logs: Logs, whole: dict[str, dict[str, str]], capsys: pytest.CaptureFixture[str]
) -> None:
    command = [sys.executable, "-c", KILLED, "9", *verb(logs, s3)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == -9, done.stderr
    came = names(gate, s3)
    assert 1 < len(came) < len(whole["first"])
    with pytest.raises(DataError):
        load_schema(s3)

    assert main(verb(logs, s3, "--set", OTHER[0])) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    value = r"another dataset has been or is being uploaded there, by \S+ since 20\d\d-.* UTC"
    assert re.search(
        rf"{s3}: {value}; .* Fix: name another --out, or pass --overwrite when the other run has ended", said
    )

    write_bytes(s3 / "train/part-99999.parquet", b"of a run that was slower")
    assert main(verb(logs, s3)) == 0
    both = capsys.readouterr()
    room = r"is made in /.*\.partial first: it needs about [\d.]+ \w+ there, [\d.]+ \w+ are free"
    assert re.search(rf"{s3} {room}", both.err)
    assert both.out.splitlines()[0].startswith(f"{s3}: prepared, fingerprint ")
    assert there(s3) == whole["first"]
    again = [name for name, count in Counter(names(gate, s3)).items() if count > 1]
    assert len(again) <= 5  # that were on their way, and the part too many


def test_a_run_that_is_stopped_while_it_replaces_a_dataset(
    gate: Gate, s3: Remote, logs: Logs, whole: dict[str, dict[str, str]]
) -> None:
    prepared(logs, s3)
    gate.left = 9
    with pytest.raises(UserError, match="could not be uploaded"):
        prepared(logs, s3, *OTHER, overwrite=True)
    gate.left = None
    assert 1 < len(there(s3)) < len(whole["other"])
    with pytest.raises(DataError):
        load_schema(s3)
    with pytest.raises(UserError, match="another dataset has been or is being uploaded"):
        prepared(logs, s3)
    prepared(logs, s3, *OTHER)  # its upload has begun, so it needs no flag
    assert there(s3) == whole["other"]


def test_another_upload_gives_way_on_request(
    gate: Gate, s3: Remote, logs: Logs, whole: dict[str, dict[str, str]]
) -> None:
    gate.left = 9
    with pytest.raises(UserError, match="could not be uploaded"):
        prepared(logs, s3)
    gate.left = None
    prepared(logs, s3, *OTHER, overwrite=True)
    assert there(s3) == whole["other"]


def test_a_dataset_that_is_damaged_is_made_again(s3: Remote, logs: Logs, whole: dict[str, dict[str, str]]) -> None:
    prepared(logs, s3)
    part = s3 / "train/part-00001.parquet"
    write_bytes(part, part.read_bytes()[::-1])
    assert prepared(logs, s3).reused
    assert not prepared(logs, s3, overwrite=True).reused
    assert there(s3) == whole["first"]
    assert prepared(logs, s3, overwrite=True).reused


def test_what_is_no_dataset_is_not_touched(gate: Gate, s3: Remote, logs: Logs) -> None:
    write_bytes(s3 / "train/notes.txt", b"mine")
    for overwrite in (False, True):
        with pytest.raises(UserError, match=rf"^{s3}: exists and is not a dataset directory; .*deletes no files"):
            prepared(logs, s3, overwrite=overwrite)
    assert list(there(s3)) == ["train/notes.txt"]
    out = s3 / "out"
    prepared(logs, out)
    write_bytes(out / "notes.txt", b"mine")
    before = there(out)
    with pytest.raises(
        UserError, match=rf"^{out}: also holds notes.txt; prep deletes no files of yours. Fix: move them"
    ):
        prepared(logs, out, *OTHER, overwrite=True)
    assert there(out) == before


def test_two_hosts_that_upload_the_same_dataset_at_once(
    s3: Remote, logs: Logs, whole: dict[str, dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_MAX_ATTEMPTS")  # moto fails now and then where two write one object at once
    logs.prepare(*PARTS, overwrite=True)
    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(upload, logs.out, s3, overwrite=False, say=lambda _: None) for _ in range(2)]:
            done.result()
    assert there(s3) == whole["first"]


def test_an_upload_that_another_run_has_taken_the_place_of_writes_no_success(
    s3: Remote, logs: Logs, whole: dict[str, dict[str, str]], tmp_path: Path
) -> None:
    other = tmp_path / "other"
    prepared(logs, other, *OTHER)
    logs.prepare(*PARTS, overwrite=True)
    taken: list[str] = []

    def take(line: str) -> None:
        taken.append(line)
        if len(taken) == 1:
            upload(other, s3, overwrite=True, say=lambda _: None)

    with pytest.raises(UserError, match=rf"^{s3}.*: (another dataset has been or is|the store lists it with)"):
        upload(logs.out, s3, overwrite=False, say=take)
    upload(other, s3, overwrite=True, say=lambda _: None)
    assert there(s3) == whole["other"]


@pytest.mark.parametrize("fault", ["no bucket", "no store", "no scheme"])
def test_what_cannot_be_written_is_said_before_the_run(
    fault: str, s3: Remote, logs: Logs, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = {"no bucket": "s3://other/out", "no scheme": "s4://bucket/out"}.get(fault, str(s3))
    said = {"no scheme": "has the unknown scheme s4://"}.get(
        fault, "(cannot be (written|reached)|the bucket does not exist|access is denied)"
    )
    if fault == "no store":
        use_store(f"http://127.0.0.1:{free_port()}", monkeypatch)
    monkeypatch.setattr(Pipeline, "run", None)
    with pytest.raises(UserError, match=rf"^{address}: {said}"):
        prepared(logs, location(address))


def test_executors_on_other_machines_need_a_folder_that_they_all_see(
    s3: Remote, logs: Logs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PLE_REC_CACHE")
    monkeypatch.setattr("data_prep.run.find_spark_problem", lambda: None)
    message = rf"^--out {s3}: --master spark://a:7077, and no PLE_REC_CACHE; executors write .* Fix: let PLE_REC_CACHE"
    with pytest.raises(UserError, match=message):
        prepared(logs, s3, engine="spark", master="spark://a:7077")


def test_a_folder_with_less_room_than_the_raw_files_is_warned_of(
    s3: Remote, logs: Logs, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("data_prep.run.free_bytes", lambda _: 1000)
    prepared(logs, s3)
    assert re.search(r"cache/prep/.*: 1000 B are free, the raw files have .*; the dataset is made there", caplog.text)


def test_a_day_is_appended_to_a_dataset_of_a_store(s3: Remote, tmp_path: Path) -> None:
    logs = Logs(tmp_path / "logs", days=5)
    first = ('log.files=["log/day [1-4].parquet"]',)
    fifth = ('log.files=["log/day 5.parquet"]', "append.valid=0.3", "append.test=0.3")
    places: list[Location] = [s3, tmp_path]
    for place in places:
        prepared(logs, place / "first", *first)
        prepared(logs, place / "fifth", *fifth, append="day=5", parent=place / "first")
    assert there(s3 / "fifth") == digests(tmp_path / "fifth")
    with pytest.raises(UserError, match=rf"^--out {s3}/first: is --parent"):
        prepared(logs, s3 / "first", *fifth, append="day=5", parent=s3 / "first")


def test_generated_data_at_an_address(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLE_REC_CACHE", str(tmp_path / "cache"))
    out = Remote(f"memory://{uuid.uuid4().hex}")
    verb = ["prep", "mmoe-synthetic", "--rows", "1000", "--dim", "4", "--threads", "1", "--out"]
    for place in (str(out), str(tmp_path / "local")):
        assert main([*verb, place]) == 0
    assert there(out) == digests(tmp_path / "local")
    assert main([*verb, str(out)]) == 0
    assert f"{out}: already prepared" in capsys.readouterr().out
    assert main(["prep", "tencent-synthetic", "--raw", "--out", str(out)]) == 2
    assert f"--out: {out}; raw logs are written to this machine. Fix: name a local folder" in capsys.readouterr().err


def test_the_api_takes_addresses(s3: Remote, logs: Logs) -> None:
    dataset = ple_rec.prepare(logs.toml, str(s3), source=logs.raw, threads=1)
    assert dataset.path == s3
    assert dataset.read("train").num_rows == dataset.rows["train"] == 48
