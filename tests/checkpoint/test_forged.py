"""A checkpoint from a stranger runs nothing, though its manifest fits: at every door it is refused, with its reason."""

from __future__ import annotations

import io
import os
import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)

from ple_rec.checkpoint.manifest import MANIFEST, Manifest, checksum, read_manifest
from ple_rec.checkpoint.metadata import parse_metadata
from ple_rec.cli import main
from ple_rec.errors import DataError
from tests.tiny import write_tiny

STEP = Path("runs/tiny/checkpoints/step-16")
KEY = "model.towers.0.layers.1.bias"  # which every door that loads a model loads
PLACES = ("metadata", "value", "tensor")
DOORS = {
    "evaluate": ["evaluate", "tiny"],
    "export": ["export", "tiny", "--out", "model"],
    "predict": ["predict", "tiny", "--out", "predictions"],
    "resume": ["train", "--run-dir", "runs/tiny", "--resume"],
    "init-from": ["train", "--config", "tiny.toml", "--run-dir", "runs/next", "--init-from", "runs/tiny"],
}


class Payload:
    """An object that makes a directory where it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory with a finished run."""
    folder = tmp_path_factory.mktemp("trained")
    write_tiny(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["train", "--config", "tiny.toml"]) == 0
    return folder


@pytest.fixture
def marker(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where a payload that runs leaves its directory; the working directory has the run, whole again for each test."""
    monkeypatch.chdir(shutil.copytree(trained, tmp_path / "here"))
    yield tmp_path / "ran"
    assert not (tmp_path / "ran").exists()


def _metadata() -> Any:
    return pickle.loads((STEP / ".metadata").read_bytes())


def _write(metadata: object) -> None:
    (STEP / ".metadata").write_bytes(pickle.dumps(metadata))


def _reseal() -> None:
    """Make the manifest fit the files, as a forger does."""
    before = read_manifest(STEP)
    files = {name: checksum(STEP / name) for name in before.files}
    (STEP / MANIFEST).write_text(Manifest(before.step, before.written_by, files).text())


def _forge(place: str, marker: Path) -> None:
    metadata, payload = _metadata(), Payload(marker)
    if place == "metadata":
        metadata.planner_data[KEY] = payload
    else:
        saved = io.BytesIO()
        torch.save(payload, saved)
        data = STEP / "__0_0.distcp"
        stored = _StorageInfo(data.name, data.stat().st_size, len(saved.getvalue()))
        with data.open("ab") as file:
            file.write(saved.getvalue())
        index = next(index for index in metadata.storage_data if index.fqn == KEY)
        if place == "value":
            metadata.state_dict_metadata[KEY] = BytesStorageMetadata()
            index = MetadataIndex(KEY)
        metadata.storage_data[index] = stored
    _write(metadata)
    _reseal()


def test_the_payload_runs_where_it_is_unpickled(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Payload(tmp_path / "ran")))
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("place", PLACES)
def test_no_door_runs_it(place: str, door: str, marker: Path, capfd: pytest.CaptureFixture[str]) -> None:
    _forge(place, marker)
    assert main(["checkpoint", "verify", "tiny"]) == 0  # checksums do not tell a forger from the run
    capfd.readouterr()
    assert main(DOORS[door]) == 3
    said = capfd.readouterr().err
    assert "names posix.mkdir; a checkpoint holds tensors, numbers and text alone; " in said
    assert str(STEP) in said
    assert "Traceback" not in said
    assert "weights_only" not in said


def test_show_names_what_it_refuses(marker: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _forge("metadata", marker)
    assert main(["checkpoint", "show", "tiny"]) == 3
    assert capsys.readouterr().err.startswith(f"ple-rec: {STEP}/.metadata: names posix.mkdir; a checkpoint holds ")


@pytest.mark.parametrize("door", ["show", *DOORS])
def test_nothing_is_parsed_before_it_is_verified(door: str, marker: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _write(Payload(marker))
    assert main({"show": ["checkpoint", "show", "tiny"], **DOORS}[door]) == 3
    assert f"{STEP}/.metadata: " in (said := capsys.readouterr().err)
    assert "the manifest says " in said


def test_bytes_that_the_manifest_leaves_out_are_refused(marker: Path, capsys: pytest.CaptureFixture[str]) -> None:
    metadata, before = _metadata(), read_manifest(STEP)
    (STEP / MANIFEST).write_text(Manifest(16, before.written_by, {}).text())
    for argv in (["checkpoint", "show", "tiny"], DOORS["evaluate"]):
        assert main(argv) == 3
        assert capsys.readouterr().err.startswith(f"ple-rec: {STEP}/.metadata: unverified; {MANIFEST} lists ")

    (STEP / MANIFEST).write_text(before.text())
    secret = Path("secret").absolute()
    metadata.storage_data[MetadataIndex(KEY, [0])] = _StorageInfo(str(secret), 0, 8)
    _write(metadata)
    _reseal()
    for argv in (["checkpoint", "show", "tiny"], DOORS["evaluate"]):
        assert main(argv) == 3
        assert capsys.readouterr().err.startswith(f"ple-rec: {STEP}/.metadata: reads from {str(secret)!r}; ")

    outside = {**before.files, "../x": before.files[".metadata"]}
    (STEP / MANIFEST).write_text(Manifest(16, before.written_by, outside).text())
    assert main(DOORS["evaluate"]) == 3
    assert "'../x' is not a file of the checkpoint's own directory" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name",
    [
        ("os", "system"),
        ("builtins", "eval"),
        ("builtins", "getattr"),
        ("torch", "load"),
        ("torch", "hub.load"),
        ("torch.serialization", "os.system"),
        ("torch.distributed.checkpoint.metadata", "os.system"),
        ("torch.distributed.checkpoint.metadata", "Metadata.__init__.__globals__"),
    ],
    ids=".".join,
)
def test_a_name_is_taken_as_a_whole(name: tuple[str, str]) -> None:
    def text(value: str) -> bytes:
        return pickle.BINUNICODE + len(value).to_bytes(4, "little") + value.encode()

    content = pickle.PROTO + b"\x04" + text(name[0]) + text(name[1]) + pickle.STACK_GLOBAL + pickle.STOP
    with pytest.raises(DataError, match="a checkpoint holds tensors, numbers and text alone") as refused:
        parse_metadata("x", content, ())
    assert refused.value.value == "names " + ".".join(name)


def test_what_torch_writes_is_read() -> None:
    """Also types of tensors, layouts and formats of memory that no table here has."""
    properties = [
        TensorProperties(dtype, layout, memory_format=memory_format)
        for dtype in (torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.int64, torch.complex64, torch.bool)
        for layout in (torch.strided, torch.sparse_coo)
        for memory_format in (torch.contiguous_format, torch.channels_last)
    ]
    tensors = {str(i): TensorStorageMetadata(each, torch.Size([2, 3]), []) for i, each in enumerate(properties)}
    written = Metadata(
        {**tensors, "value": BytesStorageMetadata()},
        storage_data={MetadataIndex("0", [0, 0], 0): _StorageInfo("a", 0, 1, ["x"])},
    )
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        assert parse_metadata("x", pickle.dumps(written, protocol), ["a"]) == written


@pytest.mark.parametrize("content", [b"", b"\x80\x04N.", pickle.dumps({"a": 1}), b"\x80\x04" + b"(" * 9])
def test_what_is_no_metadata_is_unreadable(content: bytes) -> None:
    with pytest.raises(DataError, match=r"x: unreadable .*; it lists what a checkpoint holds"):
        parse_metadata("x", content, ())
