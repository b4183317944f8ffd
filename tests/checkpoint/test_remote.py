"""Checkpoints in an object store: the same protocol, over a real server that speaks S3.

pytest -m slow tests/checkpoint/test_remote.py     the same over Ceph's gateway; as root, on Debian
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from botocore.exceptions import ClientError
from s3fs import S3FileSystem
from s3fs.errors import translate_boto_error

from ple_rec.checkpoint.load import find_damage, load_state
from ple_rec.checkpoint.store import CheckpointStore
from ple_rec.cli import main
from ple_rec.errors import UserError
from ple_rec.runs.checkpoints import own_checkpoint_place, prepare_directory
from ple_rec.runs.directory import RunDirectory, hold_run
from ple_rec.storage import location, write_bytes, write_checked
from tests.messages import logged
from tests.tiny import write_tiny
from tests.training.small import on_ranks, small_config


def _state(rank: int, step: int) -> dict[str, Any]:
    return {"shared": torch.full((5,), float(step)), f"own.{rank}": torch.tensor([rank, step]), "step": {"n": step}}


def _round_trip(rank: int, world_size: int, address: str) -> dict[str, Any]:
    store = CheckpointStore(location(address), keep=2, asynchronous=True)
    for step in (3, 6, 9):
        store.save(step, _state(rank, step), best=step == 3, written_by={}, file_texts={"config.toml": "a = 1"})
    store.save(12, _state(rank, 12), best=False, written_by={})
    store.wait()
    latest, state = store.latest(), _state(rank, 0)
    assert latest is not None
    load_state(latest, state)
    found = {"state": state, "steps": store.steps(), "damage": [find_damage(latest)]}
    if rank == 0:  # a byte of the data changes
        data = latest / "__1_0.distcp"
        content = bytearray(data.read_bytes())
        content[len(content) // 2] ^= 1
        write_bytes(data, bytes(content))
    torch.distributed.barrier()
    said: list[str] = []
    with logged(said.append):
        good = store.newest_undamaged()
    return found | {"good": None if good is None else good.name, "said": said}


def test_a_store_is_as_good_as_a_disk(address: str) -> None:
    for rank, found in enumerate(on_ranks(_round_trip, 2, address)):
        assert found["state"]["shared"].tolist() == [12.0] * 5
        assert found["state"][f"own.{rank}"].tolist() == [rank, 12]
        assert (found["steps"], found["damage"], found["good"]) == ([3, 9, 12], [None], "step-9")
        assert [text.split(": CRC-32")[0] for text in found["said"]] == (
            [f"step-12 is damaged and skipped: {address}/step-12/__1_0.distcp"] if rank == 0 else []
        )


def _dies(rank: int, world_size: int, address: str) -> list[str]:
    store = CheckpointStore(location(address))
    store.save(3, _state(rank, 3), best=True, written_by={})

    def gone(file: Any, content: bytes, check: Any) -> None:
        if file.name == "manifest.json":
            raise OSError("the connection was lost")
        write_checked(file, content, check)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ple_rec.checkpoint.store.write_checked", gone)
        with pytest.raises(UserError) as caught:
            store.save(6, _state(rank, 6), best=False, written_by={})
    found = store.latest()
    assert found is not None
    store.save(6, _state(rank, 6), best=False, written_by={})
    return [str(caught.value), found.name, str(store.steps())]


def test_a_save_that_breaks_off_is_none(address: str) -> None:
    said, latest, steps = on_ranks(_dies, 1, address)[0]
    assert said.startswith(f"{address}/step-6: cannot be written (the connection was lost); a checkpoint needs room ")
    assert (latest, steps) == ("step-3", "[3, 6]")


def test_a_place_has_one_owner(address: str, tmp_path: Path) -> None:
    config = small_config(tmp_path / "data", {"checkpoint": {"path": address}})
    with hold_run(tmp_path / "a", location(address)) as run:
        prepare_directory(config, run, resuming=False)
    own_checkpoint_place(config, RunDirectory(tmp_path / "a", tmp_path / "a"))
    with pytest.raises(UserError, match=f"^{address}: holds the checkpoints of {tmp_path}/a; "):
        prepare_directory(config, RunDirectory(tmp_path / "b", tmp_path / "b"), resuming=False)


def test_a_store_without_conditional_writes_is_taken(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = S3FileSystem.pipe_file

    def refuses(self: S3FileSystem, path: str, content: bytes, **condition: str) -> Any:
        if not condition:
            return plain(self, path, content)
        error = {"Error": {"Code": "NotImplemented", "Message": "A header is not implemented"}}
        raise translate_boto_error(ClientError(error, "PutObject"))

    monkeypatch.setattr(S3FileSystem, "pipe_file", refuses)
    config = small_config(tmp_path / "data", {"checkpoint": {"path": address}})
    with hold_run(tmp_path / "a", location(address)) as run:
        prepare_directory(config, run, resuming=False)
    with pytest.raises(UserError, match=f"^{address}: holds the checkpoints of {tmp_path}/a; "):
        prepare_directory(config, RunDirectory(tmp_path / "b", tmp_path / "b"), resuming=False)


def _verb(rank: int, world_size: int, here: Path, argv: list[str]) -> int:
    os.chdir(here)
    return main(argv)


def _on(ranks: int, here: Path, argv: list[str]) -> set[int]:
    """Run a verb on ranks, a single one in this process; the exit codes."""
    return {main(argv)} if ranks == 1 else set(on_ranks(_verb, ranks, here, argv, init=False))


@pytest.mark.usefixtures("no_charts")
@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_run_with_its_checkpoints_in_a_store(
    address: str, ranks: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    write_tiny(tmp_path)
    monkeypatch.chdir(tmp_path)
    argv = ["train", "--config", "tiny.toml", "--set", f"checkpoint.path={address}/{{run}}"]
    train = [*argv, "--set", "checkpoint.every=8", "--set", "checkpoint.asynchronous=true"]
    assert _on(ranks, tmp_path, train) == {0}
    assert not (tmp_path / "runs" / "tiny" / "checkpoints").exists()

    capfd.readouterr()
    assert main(["checkpoint", "list", "tiny", "--json"]) == 0
    last = json.loads(capfd.readouterr().out)[-1]
    assert (last["step"], last["path"], last["names"]) == (16, f"{address}/tiny/step-16", ["latest", "best"])
    assert main(["checkpoint", "verify", f"{address}/tiny"]) == 0
    assert capfd.readouterr().out.splitlines()[-1] == "step-16: whole"
    for name in ("config.toml", "plan.json"):
        assert (location(address) / "tiny" / "step-16" / name).read_text() == (
            tmp_path / "runs/tiny" / name
        ).read_text()

    # The run directory is gone, as with its host: it comes back, and the run goes on to the same end.
    whole = (location(address) / "tiny" / "step-16" / "__0_0.distcp").read_bytes()
    shutil.rmtree(tmp_path / "runs" / "tiny")
    assert _on(ranks, tmp_path, train) == {2}
    assert _on(ranks, tmp_path, [*train, "--auto-resume"]) == {0}
    assert (location(address) / "tiny" / "step-16" / "__0_0.distcp").read_bytes() == whole
    assert (tmp_path / "runs" / "tiny" / "metrics.json").is_file()

    more = [*train, "--set", "train.epochs=2", "--run-dir", "runs/tiny", "--resume"]
    assert _on(1, tmp_path, more) == {0}  # on fewer ranks, where there were two
    capfd.readouterr()
    assert main(["evaluate", "tiny", "--checkpoint", "step-24"]) == 0
    assert "click" in capfd.readouterr().out

    # Another run in the same place, a run that is there already, and another place for a run that goes on.
    taken = ["train", "--config", "tiny.toml", "--run-dir", "runs/b", "--set", f"checkpoint.path={address}/tiny"]
    assert main(taken) == 2
    assert capfd.readouterr().err.startswith(
        f"ple-rec: {address}/tiny: holds the checkpoints of {tmp_path}/runs/tiny; each run needs its own place "
    )
    moved = ["train", "--config", "runs/tiny/config.toml", "--resume", "--set", f"checkpoint.path={address}/other"]
    assert main(moved) == 2
    assert "checkpoint.path was " in capfd.readouterr().err
    S3FileSystem.clear_instance_cache()
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    assert main(["checkpoint", "list", f"{address}/x"]) == 2
    assert f"ple-rec: {address}/x: cannot be reached (" in capfd.readouterr().err
